"""What a training writes down about the model's inside, every so many steps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.heads import losses_of_both, repeated_tokens, score_patterns
from lumenspark.inspect.pages.content import Curve
from lumenspark.inspect.trace import in_evaluation, token_losses, trace

TEXT_TOKENS = 1024  # of the validation text that the lens looks at
TINY = 1e-12  # for the norm of weights that are all zero
ROWS = 4  # of random tokens that the heads are scored on


class Recorder:
    """Looks into a model between two steps: at its heads, its residual stream, and the step itself.

    The figures are named ``group/name``: ``induction/2.1`` for layer 2, head 1, ``lens loss/…`` in
    nats per token, ``residual norm/…`` as the root of the mean square over features and tokens, and
    for the token embeddings, each block and all others ``gradient norm/…`` (before clipping) and
    ``update/…``, the norm of the step's change over that of the weights. They are of the weights in
    training, not of their average. The model is left as it was.
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        """``ids`` (B, T): the text that the lens looks at, in windows.

        Raises UserError where the context is too short to say random tokens twice.
        """
        self.model = model
        self.ids = ids.to(model.device)
        self.random_rows = repeated_tokens(model, rows=ROWS)
        self.parts = _parts(model)
        self._before: dict[str, list[Tensor]] = {}

    def before_step(self) -> None:
        """Remember the weights, to know what the step has done to them."""
        self._before = {
            part: [parameter.detach().clone() for parameter in parameters]
            for part, parameters in self.parts.items()
        }

    def record(self, gradient_scale: float) -> dict[str, float]:
        """The figures after a step, whose gradients were clipped to 1 / ``gradient_scale``."""
        figures = look_at_heads(self.model, *self.random_rows)
        figures |= look_at_stream(self.model, self.ids)
        figures |= self._step(gradient_scale)
        return {name: float(f"{value:.6g}") for name, value in figures.items()}

    def _step(self, gradient_scale: float) -> dict[str, float]:
        figures = {}
        for part, parameters in self.parts.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            figures[f"gradient norm/{part}"] = gradient_scale * _norm(gradients)
            before = self._before[part]
            moved = [new.detach() - old for new, old in zip(parameters, before, strict=True)]
            figures[f"update/{part}"] = _norm(moved) / max(_norm(before), TINY)
        self._before = {}
        return figures


@in_evaluation
def look_at_heads(model: Any, ids: Tensor, begin: int, length: int) -> dict[str, float]:
    """Head scores on what :func:`repeated_tokens` gave, and the losses there."""
    found = trace(model, ids, ["blocks.*.attention.pattern"])
    scores = score_patterns(found, begin, length)
    figures = {
        f"{name}/{layer}.{head}": value
        for name, layers in scores.items()
        for layer, heads in enumerate(layers.tolist())
        for head, value in enumerate(heads)
    }
    first, second = losses_of_both(found, begin, length)
    return figures | {"random tokens/first time": first, "random tokens/second time": second}


@in_evaluation
def look_at_stream(model: Any, ids: Tensor) -> dict[str, float]:
    """The logit lens's loss and the size of the residual stream, from embedding to the end."""
    architecture = architecture_of(model)
    found = trace(model, ids, ["embed", "blocks.*.residual"])
    figures = {}
    for name, stream in found.tensors.items():
        logits = architecture.head(architecture.final_norm(stream))
        figures[f"lens loss/{name}"] = float(token_losses(logits, found.ids, None).nanmean())
        figures[f"residual norm/{name}"] = float(stream.float().square().mean().sqrt())
    return figures


def recorded_series(lines: Iterable[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """The curves that a run's metrics hold, by group and name; none where nothing was recorded."""
    series: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for line in lines:
        for key, value in line.items():
            group, slash, name = key.partition("/")
            if slash:
                steps, values = series.setdefault(group, {}).setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    return {group: dict(curves) for group, curves in series.items()}


def _parts(model: Any) -> dict[str, list[Tensor]]:
    """The model's parameters: those of the embeddings, of each block, and the rest."""
    blocks = [list(block.block.parameters()) for block in architecture_of(model).blocks]
    embeddings = list(model.get_input_embeddings().parameters())
    parts = {"embed": embeddings} | {f"blocks.{i}": block for i, block in enumerate(blocks)}
    named = {id(parameter) for part in parts.values() for parameter in part}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in named]
    return parts | {"other": rest} if rest else parts


def _norm(tensors: list[Tensor]) -> float:
    """The norm of all their numbers together."""
    if not tensors:
        return 0.0
    return float(torch.stack(torch._foreach_norm(tensors)).norm())
