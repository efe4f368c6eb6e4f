"""Contrasting texts: activation patching, which localises the difference, and steering vectors."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumenspark.errors import UserError, quoted
from lumenspark.inspect.architectures import architecture_of, inspect_names
from lumenspark.inspect.hooks import tensor_hooks
from lumenspark.inspect.inputs import Text
from lumenspark.inspect.model_hooks import HookFunction
from lumenspark.inspect.selection import select_name, select_names
from lumenspark.inspect.trace import Trace, in_evaluation, trace

ROWS_AT_ONCE = 64


@dataclass(eq=False)
class PatchingEffects:
    """How far each activation of the clean text restores the clean prediction.

    ``effects`` (L, T) or (L, H): the logit difference between the correct and the incorrect token
    at the last position, scaled to 0 on the corrupted text and 1 on the clean text. ``clean`` and
    ``corrupted`` are the unscaled differences on the two texts.
    """

    tensor: str
    columns: list[str]  # tokens of the corrupted text, or head indices
    effects: Tensor = field(repr=False)
    clean: float
    corrupted: float


@in_evaluation
def activation_patching(
    model: Any,
    clean: Text,
    corrupted: Text,
    correct: str | int,
    incorrect: str | int,
    *,
    tensor: str = "residual",
    tokenizer: Any = None,
) -> PatchingEffects:
    """Run ``corrupted`` with one activation at a time replaced by its value on ``clean``.

    (Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262.) ``tensor`` is a name
    without its block. Tensors (B, T, …) such as ``residual``, ``attention.out`` and ``mlp.out``
    are patched by layer and position; tensors by head such as ``attention.heads`` by layer and
    head, at all positions. ``correct`` and ``incorrect`` are single tokens, as text or as ids.

    Raises UserError if the texts differ in length, ``correct`` or ``incorrect`` is not one token,
    or the logit difference is the same on both texts.
    """
    names = select_names(model, [f"blocks.*.{tensor}"])
    if len(names) != architecture_of(model).sizes.layers:
        raise UserError(f"{tensor} matches {len(names)} tensors: name one tensor per block")
    kept = trace(model, clean, names, tokenizer=tokenizer)
    plain = trace(model, corrupted, tokenizer=tokenizer)
    _check_shapes(kept, plain)
    pair = [_one_token(each, kept) for each in (correct, incorrect)]
    top, bottom = (_difference(found.logits, pair).item() for found in (kept, plain))
    if top == bottom:
        raise UserError(
            "the logit difference is the same on the corrupted and on the clean text: there is "
            "nothing to localise"
        )
    by_head = inspect_names(model)[names[0]][1] != "T"
    rows = [_patched(model, name, kept[name], plain.ids, pair) for name in names]
    effects = (torch.stack(rows) - bottom) / (top - bottom)
    heads = [str(head) for head in range(effects.shape[1])]
    return PatchingEffects(tensor, heads if by_head else plain.tokens[0], effects, top, bottom)


@in_evaluation
def steering_vector(
    model: Any, toward: list[str], away: list[str], name: str, *, tokenizer: Any = None
) -> Tensor:
    """Mean of tensor ``name`` at the last tokens of ``toward`` minus that of ``away``: (E,).

    (Turner et al. 2023, arXiv 2308.10248.) Use: ``patch(model, {name: add(2 * vector)})``.
    Raises UserError unless ``name`` is one tensor of the residual stream's shape (B, T, E).
    """
    name = select_name(model, name)
    ends = [
        trace(model, list(texts), [name], tokenizer=tokenizer)[name] for texts in (toward, away)
    ]
    if ends[0].ndim != 3:
        raise UserError(f"{name} has heads: steer with a tensor such as blocks.0.residual")
    return ends[0][:, -1].mean(0) - ends[1][:, -1].mean(0)


def _patched(model: Any, name: str, clean: Tensor, ids: Tensor, pair: list[int]) -> Tensor:
    """The logit differences (C,) with one column (position or head) of ``name`` from ``clean``."""
    columns = torch.arange(clean.shape[1], device=clean.device)
    differences = []
    for few in columns.split(ROWS_AT_ONCE):
        with tensor_hooks(model, {name: _take_column(clean[0], few)}):
            logits = model(input_ids=ids.expand(len(few), -1), logits_to_keep=1).logits
        differences.append(_difference(logits, pair))
    return torch.cat(differences)


def _take_column(clean: Tensor, columns: Tensor) -> HookFunction:
    """Replace column ``columns[i]`` of batch row i by that of the clean pass."""

    def change(tensor: Tensor, mask: Tensor | None) -> Tensor:
        changed = tensor.clone()
        changed[torch.arange(len(columns), device=tensor.device), columns] = clean[columns]
        return changed

    return change


def _difference(logits: Tensor, pair: list[int]) -> Tensor:
    """Logit of the correct minus the incorrect token at the last position: (B,)."""
    correct, incorrect = pair
    return (logits[:, -1, correct] - logits[:, -1, incorrect]).float()


def _one_token(token: str | int, found: Trace) -> int:
    tokenizer = found.tokenizer
    if isinstance(token, int):
        if not 0 <= token < found.logits.shape[-1]:
            raise UserError(f"{token} is not a token id: the last is {found.logits.shape[-1] - 1}")
        return token
    if tokenizer is None:
        raise UserError(f"there is no tokenizer to encode {quoted(token)}: pass token ids")
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise UserError(f"{quoted(token)} is {len(ids)} tokens: choose text of a single token")
    return int(ids[0])


def _check_shapes(clean: Trace, corrupted: Trace) -> None:
    if len(clean.ids) != 1 or len(corrupted.ids) != 1:
        raise UserError("give one clean text and one corrupted text, not lists")
    if clean.ids.shape != corrupted.ids.shape:
        raise UserError(
            f"the texts have {clean.ids.shape[-1]} and {corrupted.ids.shape[-1]} tokens: give "
            "texts of equal length"
        )
