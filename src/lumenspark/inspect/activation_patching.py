"""Experiments with two texts: where a difference between them lies, and steering along it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import architecture_of, inspect_names
from lumenspark.inspect.hooks import tensor_hooks
from lumenspark.inspect.inputs import Text
from lumenspark.inspect.model_hooks import HookFunction
from lumenspark.inspect.selection import matching
from lumenspark.inspect.trace import Trace, in_evaluation, trace

ROWS_AT_ONCE = 64


@dataclass(eq=False)
class PatchingEffects:
    """How much of the clean text's answer comes back when one activation is taken from it.

    ``effects`` (L, T) or (L, H): 0 where the model still answers as on the corrupted text, 1 where
    it answers as on the clean one. ``clean`` and ``corrupted`` are the logit differences between
    the right and the wrong answer at the last token.
    """

    tensor: str
    columns: list[str]  # tokens of the corrupted text, or numbers of heads
    effects: Tensor = field(repr=False)
    clean: float
    corrupted: float


@in_evaluation
def activation_patching(
    model: Any,
    clean: Text,
    corrupted: Text,
    answer: str | int,
    wrong: str | int,
    *,
    tensor: str = "residual",
    tokenizer: Any = None,
) -> PatchingEffects:
    """Run ``corrupted`` with one activation at a time as it was on ``clean`` (Vig et al. 2020,
    arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262).

    ``tensor`` is a name without its block: for ``residual``, ``attention.out``, ``mlp.out`` and
    their like, layer by position; for those with heads, such as ``attention.heads``, layer by head
    (all positions at once). ``answer`` and ``wrong`` are single tokens, as text or as ids.

    Raises UserError where the texts differ in length, an answer is more than one token, or the
    model answers both texts alike.
    """
    names = matching([f"blocks.*.{tensor}"], inspect_names(model))
    if len(names) != architecture_of(model).sizes.layers:
        raise UserError(f"{tensor} stands for {len(names)} tensors: name one that each block has")
    kept = trace(model, clean, names, tokenizer=tokenizer)
    plain = trace(model, corrupted, tokenizer=tokenizer)
    _check_shapes(kept, plain)
    pair = [_one_token(each, kept) for each in (answer, wrong)]
    top, bottom = (_difference(found.logits, pair).item() for found in (kept, plain))
    if top == bottom:
        raise UserError(
            "the model prefers the answer as much on the corrupted text as on the clean one: there "
            "is no difference whose place could be found"
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
    """The mean of the tensor ``name`` at the last tokens of ``toward``, less ``away``'s: (E,).

    (Turner et al. 2023, arXiv 2308.10248.) Add it: ``patch(model, {name: add(2 * vector)})``.
    Raises UserError for a tensor that is not of the residual stream's shape (B, T, E).
    """
    if matching([name], inspect_names(model)) != [name]:
        raise UserError(f"{name} stands for several tensors: steer by one, like blocks.0.residual")
    ends = [
        trace(model, list(texts), [name], tokenizer=tokenizer)[name] for texts in (toward, away)
    ]
    if ends[0].ndim != 3:
        raise UserError(
            f"{name} has a part for each head: steer by a tensor like blocks.0.residual"
        )
    return ends[0][:, -1].mean(0) - ends[1][:, -1].mean(0)


def _patched(model: Any, name: str, clean: Tensor, ids: Tensor, pair: list[int]) -> Tensor:
    """The logit difference with one column (position, or head) of ``name`` clean: for each (C,)."""
    columns = torch.arange(clean.shape[1], device=clean.device)
    differences = []
    for few in columns.split(ROWS_AT_ONCE):
        with tensor_hooks(model, {name: _take_column(clean[0], few)}):
            logits = model(input_ids=ids.expand(len(few), -1), logits_to_keep=1).logits
        differences.append(_difference(logits, pair))
    return torch.cat(differences)


def _take_column(clean: Tensor, columns: Tensor) -> HookFunction:
    """Row i of the batch gets column ``columns[i]`` from the clean pass."""

    def change(tensor: Tensor, mask: Tensor | None) -> Tensor:
        changed = tensor.clone()
        changed[torch.arange(len(columns), device=tensor.device), columns] = clean[columns]
        return changed

    return change


def _difference(logits: Tensor, pair: list[int]) -> Tensor:
    """How much the right answer is ahead of the wrong one at the last token: (B,)."""
    answer, wrong = pair
    return (logits[:, -1, answer] - logits[:, -1, wrong]).float()


def _one_token(answer: str | int, found: Trace) -> int:
    tokenizer = found.tokenizer
    if isinstance(answer, int):
        if not 0 <= answer < found.logits.shape[-1]:
            raise UserError(f"{answer} is no token id: they go to {found.logits.shape[-1] - 1}")
        return answer
    if tokenizer is None:
        raise UserError(f"no tokenizer is known to read {answer!r}: give the answers as token ids")
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise UserError(f"{answer!r} is {len(ids)} tokens, and an answer must be one: try another")
    return int(ids[0])


def _check_shapes(clean: Trace, corrupted: Trace) -> None:
    if len(clean.ids) != 1 or len(corrupted.ids) != 1:
        raise UserError("give one clean text and one corrupted one, not lists of them")
    if clean.ids.shape != corrupted.ids.shape:
        raise UserError(
            f"the texts have {clean.ids.shape[-1]} and {corrupted.ids.shape[-1]} tokens: give two "
            "texts of as many tokens each"
        )
