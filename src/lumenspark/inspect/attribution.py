"""Direct logit attribution: each component's contribution to a logit."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import Architecture, architecture_of
from lumenspark.inspect.attention_hooks import output_matrix
from lumenspark.inspect.inputs import Text, check_range
from lumenspark.inspect.trace import Trace, in_evaluation, trace


@dataclass(eq=False)
class Attribution:
    """Contributions of P components to the logit of one target token at each position.

    ``values`` (P, B, T) sum over the components to the ``logits`` (B, T) of the ``targets``
    (B, T). They are exact: the final norm's scale is held at its value in this pass.
    """

    parts: list[str]
    values: Tensor = field(repr=False)
    logits: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    trace: Trace = field(repr=False)

    def at(self, position: int, row: int = 0) -> dict[str, float]:
        """The contributions at one position, largest magnitude first."""
        shares = self.values[:, row, position].tolist()
        pairs = zip(self.parts, shares, strict=True)
        return dict(sorted(pairs, key=lambda pair: -abs(pair[1])))


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
    """Split logits into contributions of the embeddings, each head and each feed-forward layer.

    ``targets`` are token ids, (B, T) or one for all positions; by default the next token of the
    text and, at the last position, the most likely one. With ``against``, contributions are to the
    difference from those tokens' logits. Biases, if any, are a component of their own. ``text``
    and the remaining arguments are those of :func:`trace`; the model runs in evaluation mode.

    Raises UserError for ids of the wrong shape or outside the vocabulary.
    """
    architecture = architecture_of(model)
    last = f"blocks.{architecture.sizes.layers - 1}.residual"
    names = ["embed", "blocks.*.attention.heads", "blocks.*.mlp.out", last]
    found = trace(model, text, names, tokenizer=tokenizer, attention_mask=attention_mask)
    wanted = _next_tokens(found) if targets is None else _ids_like(found, targets)
    weight = architecture.head.weight[wanted]  # (B, T, E)
    bias = getattr(architecture.head, "bias", None)
    offset = torch.zeros_like(found.logits[..., 0]) if bias is None else bias[wanted]
    logits = found.logits.gather(-1, wanted[..., None])[..., 0]
    if against is not None:
        other = _ids_like(found, against)
        weight = weight - architecture.head.weight[other]
        offset = offset - (0 if bias is None else bias[other])
        logits = logits - found.logits.gather(-1, other[..., None])[..., 0]
    parts, values = [], []
    norm = _FrozenNorm(architecture.final_norm, found[last], weight)
    for part, vector in _stream_parts(architecture, found):
        parts.append(part)
        values.append(norm.share(vector))
    constant = norm.constant() + offset
    if constant.any():
        parts.append("final_norm.bias and head.bias")
        values.append(constant)
    return Attribution(parts, torch.stack(values), logits, wanted, found)


class _FrozenNorm:
    """The final norm with its scale held fixed, projected on the targets: linear in its input."""

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
        """The contribution of a summand (B, T, E) of the stream to the logits (B, T)."""
        return (self._centred(vector.float()) * self.direction).sum(-1) * self.scale

    def constant(self) -> Tensor:
        """The contribution of the norm's own bias."""
        if self.bias is None:
            return torch.zeros_like(self.scale)
        return (self.weight * self.bias).sum(-1)

    def _centred(self, vector: Tensor) -> Tensor:
        return vector - vector.mean(-1, keepdim=True) if self.centres else vector


def _stream_parts(architecture: Architecture, found: Trace) -> list[tuple[str, Tensor]]:
    """All summands of the final residual stream, by name."""
    parts = [("embed", found["embed"])]
    for layer, block in enumerate(architecture.blocks):
        name = f"blocks.{layer}"
        heads = found[f"{name}.attention.heads"]
        for head in range(heads.shape[1]):
            parts.append((f"{name}.attention.heads[{head}]", heads[:, head]))
        _, bias = output_matrix(block.attention_output, architecture.sizes, heads)
        if bias.any():
            parts.append((f"{name}.attention.bias", bias.expand_as(found["embed"])))
        parts.append((f"{name}.mlp.out", found[f"{name}.mlp.out"]))
    return parts


def _next_tokens(found: Trace) -> Tensor:
    """(B, T): the next token of the text; at the last position, the most likely one."""
    return torch.cat([found.ids[:, 1:], found.logits[:, -1:].argmax(-1)], dim=1)


def _ids_like(found: Trace, ids: Tensor | int) -> Tensor:
    wanted = torch.as_tensor(ids, device=found.ids.device)
    check_range(wanted, found.logits.shape[-1])
    try:
        return wanted.expand_as(found.ids)
    except RuntimeError as error:
        raise UserError(
            f"targets of shape {tuple(wanted.shape)} do not fit: give one id, or one per token, "
            f"{tuple(found.ids.shape)}"
        ) from error
