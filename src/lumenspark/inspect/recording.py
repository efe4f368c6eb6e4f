"""Inspection metrics during training: head scores, logit lens, norms."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.heads import losses_of_both, repeated_tokens, score_patterns
from lumenspark.inspect.pages.content import Curve
from lumenspark.inspect.trace import in_evaluation, token_losses, trace

TEXT_TOKENS = 1024  # of validation text, for the logit lens
TINY = 1e-12  # lower bound for the norm of weights
ROWS = 4  # of random tokens, for head scores


class Recorder:
    """Metrics of a model between two steps: its heads, its residual stream, and the step itself.

    Metrics are named ``group/name``: ``induction/2.1`` for layer 2, head 1; ``lens loss/…`` in
    nats per token; ``residual norm/…``, the root mean square over features and tokens; and for the
    token embeddings, each block and the remaining parameters ``gradient norm/…`` (before clipping)
    and ``update/…``, the norm of the step's update relative to that of the weights. All refer to
    the weights in training, not to their average. The model is not changed.
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        """``ids`` (B, T): windows of text for the logit lens.

        Raises UserError if the context is too short for repeated random tokens.
        """
        self.model = model
        self.ids = ids.to(model.device)
        self.random_rows = repeated_tokens(model, rows=ROWS)
        self.parts = _parts(model)
        self._before: dict[str, list[Tensor]] = {}

    def before_step(self) -> None:
        """Keep a copy of the weights, to measure the step's update."""
        self._before = {
            part: [parameter.detach().clone() for parameter in parameters]
            for part, parameters in self.parts.items()
        }

    def record(self, gradient_scale: float) -> dict[str, float]:
        """The metrics after a step whose gradients were clipped by 1 / ``gradient_scale``."""
        metrics = head_metrics(self.model, *self.random_rows)
        metrics |= stream_metrics(self.model, self.ids)
        metrics |= self._step(gradient_scale)
        return {name: float(f"{value:.6g}") for name, value in metrics.items()}

    def _step(self, gradient_scale: float) -> dict[str, float]:
        metrics = {}
        for part, parameters in self.parts.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            metrics[f"gradient norm/{part}"] = gradient_scale * _norm(gradients)
            before = self._before[part]
            moved = [new.detach() - old for new, old in zip(parameters, before, strict=True)]
            metrics[f"update/{part}"] = _norm(moved) / max(_norm(before), TINY)
        self._before = {}
        return metrics


@in_evaluation
def head_metrics(model: Any, ids: Tensor, begin: int, length: int) -> dict[str, float]:
    """Head scores and losses on :func:`repeated_tokens`."""
    found = trace(model, ids, ["blocks.*.attention.pattern"])
    scores = score_patterns(found, begin, length)
    metrics = {
        f"{name}/{layer}.{head}": value
        for name, layers in scores.items()
        for layer, heads in enumerate(layers.tolist())
        for head, value in enumerate(heads)
    }
    first, second = losses_of_both(found, begin, length)
    return metrics | {"random tokens/first time": first, "random tokens/second time": second}


@in_evaluation
def stream_metrics(model: Any, ids: Tensor) -> dict[str, float]:
    """Loss of the logit lens and RMS of the residual stream, from the embeddings on."""
    architecture = architecture_of(model)
    found = trace(model, ids, ["embed", "blocks.*.residual"])
    metrics = {}
    for name, stream in found.tensors.items():
        logits = architecture.head(architecture.final_norm(stream))
        metrics[f"lens loss/{name}"] = float(token_losses(logits, found.ids, None).nanmean())
        metrics[f"residual norm/{name}"] = float(stream.float().square().mean().sqrt())
    return metrics


def recorded_series(lines: Iterable[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """The curves in a run's metrics by group and name; empty if nothing was recorded."""
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
    """The model's parameters: the embeddings, each block, and the rest."""
    blocks = [list(block.block.parameters()) for block in architecture_of(model).blocks]
    embeddings = list(model.get_input_embeddings().parameters())
    parts = {"embed": embeddings} | {f"blocks.{i}": block for i, block in enumerate(blocks)}
    named = {id(parameter) for part in parts.values() for parameter in part}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in named]
    return parts | {"other": rest} if rest else parts


def _norm(tensors: list[Tensor]) -> float:
    """The norm of all tensors, concatenated."""
    if not tensors:
        return 0.0
    return float(torch.stack(torch._foreach_norm(tensors)).norm())
