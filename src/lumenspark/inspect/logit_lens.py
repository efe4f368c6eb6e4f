"""Lenses: what the model would say after each block, and which part says it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import Anatomy, anatomy_of
from lumenspark.inspect.attention_hooks import exit_map
from lumenspark.inspect.inputs import Text, check_range, token_pieces
from lumenspark.inspect.trace import Trace, in_evaluation, token_losses, trace


@dataclass(eq=False)
class LogitLens:
    """What the model would predict if it ended after each of R rows: the embedding, each block.

    ``ids`` and ``probabilities`` (R, B, T, top) are the likeliest next tokens; ``loss`` (R, B, T)
    is in nats, as :attr:`Trace.loss`. The last row is the model itself.
    """

    rows: list[str]
    ids: Tensor = field(repr=False)
    probabilities: Tensor = field(repr=False)
    loss: Tensor = field(repr=False)
    trace: Trace = field(repr=False)

    @property
    def curve(self) -> list[float]:
        """Each row's mean loss in nats."""
        return [float(row.nanmean()) for row in self.loss]

    def guesses(self, row: int = 0, top: int = 1) -> list[list[str]]:
        """The likeliest next tokens of each of the R rows, as text: of one text of the batch."""
        tokenizer = self.trace.tokenizer
        return [token_pieces(tokenizer, ids[row, :, top - 1].tolist()) for ids in self.ids]

    def _repr_html_(self) -> str:
        from lumenspark.inspect.notebook import lens_html

        return lens_html(self)


@dataclass(eq=False)
class Attribution:
    """Which part of the model says how much for one target token at each position.

    ``values`` (P, B, T) are the parts' shares in the logits (B, T) of the ``targets`` (B, T); over
    the parts they sum to it. A share is exact for the scale that the last norm had there.
    """

    parts: list[str]
    values: Tensor = field(repr=False)
    logits: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    trace: Trace = field(repr=False)

    def at(self, position: int, row: int = 0) -> dict[str, float]:
        """The parts' shares at one position, the largest first."""
        shares = self.values[:, row, position].tolist()
        pairs = zip(self.parts, shares, strict=True)
        return dict(sorted(pairs, key=lambda pair: -abs(pair[1])))

    def _repr_html_(self) -> str:
        from lumenspark.inspect.notebook import attribution_html

        return attribution_html(self)


@in_evaluation
def logit_lens(
    model: Any,
    text: Text,
    *,
    top: int = 5,
    tokenizer: Any = None,
    attention_mask: Tensor | None = None,
) -> LogitLens:
    """The last norm and the output layer on the residual stream after each block.

    (nostalgebraist 2020, "interpreting GPT: the logit lens".) ``text`` and what comes with it are
    as in :func:`trace`; the model is run in evaluation mode. Raises UserError for a ``top`` that is
    larger than the vocabulary.
    """
    anatomy = anatomy_of(model)
    if not 1 <= top <= anatomy.sizes.vocabulary:
        raise UserError(f"top is {top}: take from 1 to {anatomy.sizes.vocabulary}")
    found = trace(
        model,
        text,
        ["embed", "blocks.*.residual"],
        tokenizer=tokenizer,
        attention_mask=attention_mask,
    )
    ids, probabilities, losses = [], [], []
    for name in found.tensors:
        logits = anatomy.head(anatomy.final_norm(found[name]))
        likeliest = logits.float().softmax(-1).topk(top)
        ids.append(likeliest.indices)
        probabilities.append(likeliest.values)
        losses.append(token_losses(logits, found.ids, found.mask))
    return LogitLens(
        rows=list(found.tensors),
        ids=torch.stack(ids),
        probabilities=torch.stack(probabilities),
        loss=torch.stack(losses),
        trace=found,
    )


@in_evaluation
def attribution(
    model: Any,
    text: Text,
    *,
    targets: Tensor | int | None = None,
    against: Tensor | int | None = None,
    tokenizer: Any = None,
    attention_mask: Tensor | None = None,
) -> Attribution:
    """Direct logit attribution: the embedding's, each head's and each feed-forward layer's share.

    ``targets`` are token ids, (B, T) or one for all; unless given, the token that comes next, and
    at the last position the likeliest one. ``against`` makes it the difference to other tokens'
    logits. What biases add is a part of its own, where there are any. ``text`` and what comes with
    it are as in :func:`trace`; the model is run in evaluation mode.

    Raises UserError for ids that do not fit.
    """
    anatomy = anatomy_of(model)
    last = f"blocks.{anatomy.sizes.layers - 1}.residual"
    names = ["embed", "blocks.*.attention.heads", "blocks.*.mlp.out", last]
    found = trace(model, text, names, tokenizer=tokenizer, attention_mask=attention_mask)
    wanted = _next_tokens(found) if targets is None else _ids_like(found, targets)
    weight = anatomy.head.weight[wanted]  # (B, T, E)
    bias = getattr(anatomy.head, "bias", None)
    offset = torch.zeros_like(found.logits[..., 0]) if bias is None else bias[wanted]
    logits = found.logits.gather(-1, wanted[..., None])[..., 0]
    if against is not None:
        other = _ids_like(found, against)
        weight = weight - anatomy.head.weight[other]
        offset = offset - (0 if bias is None else bias[other])
        logits = logits - found.logits.gather(-1, other[..., None])[..., 0]
    parts, values = [], []
    norm = _FrozenNorm(anatomy.final_norm, found[last], weight)
    for part, vector in _stream_parts(anatomy, found):
        parts.append(part)
        values.append(norm.share(vector))
    constant = norm.constant() + offset
    if constant.any():
        parts.append("final_norm.bias and head.bias")
        values.append(constant)
    return Attribution(parts, torch.stack(values), logits, wanted, found)


class _FrozenNorm:
    """The last norm with the scale that it had, seen from the logits: linear in its input."""

    def __init__(self, norm: Any, stream: Tensor, weight: Tensor) -> None:
        self.centres = isinstance(norm, nn.LayerNorm)
        self.bias = getattr(norm, "bias", None)
        self.weight = weight.float()
        self.direction = self.weight * norm.weight.float()
        centred = self._centred(stream.float())
        epsilon = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
        epsilon = torch.finfo(stream.dtype).eps if epsilon is None else epsilon
        self.scale = (centred.square().mean(-1) + epsilon).rsqrt()

    def share(self, vector: Tensor) -> Tensor:
        """What a summand (B, T, E) of the stream adds to the logits (B, T)."""
        return (self._centred(vector.float()) * self.direction).sum(-1) * self.scale

    def constant(self) -> Tensor:
        """What the norm's own bias adds."""
        if self.bias is None:
            return torch.zeros_like(self.scale)
        return (self.weight * self.bias).sum(-1)

    def _centred(self, vector: Tensor) -> Tensor:
        return vector - vector.mean(-1, keepdim=True) if self.centres else vector


def _stream_parts(anatomy: Anatomy, found: Trace) -> list[tuple[str, Tensor]]:
    """Everything that is added up in the residual stream, by name."""
    parts = [("embed", found["embed"])]
    for layer, block in enumerate(anatomy.blocks):
        name = f"blocks.{layer}"
        heads = found[f"{name}.attention.heads"]
        for head in range(heads.shape[1]):
            parts.append((f"{name}.attention.heads[{head}]", heads[:, head]))
        _, bias = exit_map(block.attention_exit, anatomy.sizes, heads)
        if bias.any():
            parts.append((f"{name}.attention.bias", bias.expand_as(found["embed"])))
        parts.append((f"{name}.mlp.out", found[f"{name}.mlp.out"]))
    return parts


def _next_tokens(found: Trace) -> Tensor:
    """(B, T): the token that came next; after the last, the likeliest one."""
    return torch.cat([found.ids[:, 1:], found.logits[:, -1:].argmax(-1)], dim=1)


def _ids_like(found: Trace, ids: Tensor | int) -> Tensor:
    wanted = torch.as_tensor(ids, device=found.ids.device)
    check_range(wanted, found.logits.shape[-1])
    try:
        return wanted.expand_as(found.ids)
    except RuntimeError as error:
        raise UserError(
            f"targets of the shape {tuple(wanted.shape)} do not fit: give one id, or one for each "
            f"token, {tuple(found.ids.shape)}"
        ) from error
