"""Attention heads: scores on repeated random tokens, and ablation of each head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.inputs import Text
from lumenspark.inspect.patch import Edit, patch, zero
from lumenspark.inspect.trace import Trace, in_evaluation, trace

LONGEST = 64  # repeated tokens, even in a longer context


@dataclass(eq=False)
class HeadScores:
    """Scores of H heads in L layers for well-known head behaviours.

    ``scores`` holds (L, H) by name: the mean attention, from 0 to 1, to the *previous token*, to
    the earlier occurrence of the same token (*duplicate token*), to the token after that
    (*induction*; Olsson et al. 2022, arXiv 2209.11895) and to the first token (*attention sink*;
    Xiao et al. 2023, arXiv 2309.17453); and the *entropy* of the attention in nats.
    ``first_loss`` and ``second_loss`` are in nats per token, on random tokens and on their
    repetition; induction lowers the second.
    """

    scores: dict[str, Tensor]
    first_loss: float
    second_loss: float

    def __str__(self) -> str:
        lines = [f"{'head':>6}" + "".join(f"{name:>17}" for name in self.scores)]
        layers, heads = next(iter(self.scores.values())).shape
        for layer in range(layers):
            for head in range(heads):
                values = (f"{float(each[layer, head]):17.3f}" for each in self.scores.values())
                lines.append(f"{f'{layer}.{head}':>6}" + "".join(values))
        return "\n".join(lines)

    def strongest(self, name: str) -> tuple[int, int]:
        """The layer and head with the highest score ``name``."""
        scores = self.scores[name]
        layer, head = divmod(int(scores.argmax()), scores.shape[1])
        return layer, head


@in_evaluation
def head_scores(
    model: Any, *, rows: int = 8, length: int | None = None, seed: int = 0
) -> HeadScores:
    """Score all heads on ``rows`` rows of ``length`` random tokens, repeated once in each row.

    Rows start with the model's beginning-of-text token, if it has one. ``length`` defaults to the
    largest that fits into the context, at most 64. The model runs in evaluation mode; scores are
    deterministic for a seed.

    Raises UserError if the rows exceed the context.
    """
    ids, begin, length = repeated_tokens(model, rows, length, seed)
    found = trace(model, ids, ["blocks.*.attention.pattern"])
    first_loss, second_loss = losses_of_both(found, begin, length)
    return HeadScores(score_patterns(found, begin, length), first_loss, second_loss)


def score_patterns(found: Trace, begin: int, length: int) -> dict[str, Tensor]:
    """Scores (L, H) by name, from the patterns of all layers on :func:`repeated_tokens`."""
    patterns = found.tensors.values()
    return {
        name: torch.stack([score(pattern, begin, length) for pattern in patterns]).float().cpu()
        for name, score in SCORES.items()
    }


def losses_of_both(found: Trace, begin: int, length: int) -> tuple[float, float]:
    """Nats per token, on the random tokens and on their repetition."""
    second = begin + length
    return float(found.loss[:, 1:second].mean()), float(found.loss[:, second:].mean())


def repeated_tokens(
    model: Any, rows: int = 8, length: int | None = None, seed: int = 0
) -> tuple[Tensor, int, int]:
    """Random ids, repeated once in each row: (rows, begin + 2·length); ``begin``; ``length``.

    ``begin`` is the column of the first random token: 1 after a beginning-of-text token, else 0.
    """
    config = model.config
    context = config.max_position_embeddings
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    special = {config.bos_token_id, config.pad_token_id, *ends} - {None}
    begin = 0 if config.bos_token_id is None else 1
    longest = (context - begin) // 2
    length = min(longest, LONGEST) if length is None else length
    if not 2 <= length <= longest:
        raise UserError(
            f"{length} repeated tokens: choose from 2 to {longest} for a context of {context}"
        )
    plain = torch.tensor([token for token in range(config.vocab_size) if token not in special])
    noise = torch.Generator().manual_seed(seed)
    drawn = plain[torch.randint(len(plain), (rows, length), generator=noise)]
    first = torch.full((rows, begin), config.bos_token_id or 0)
    return torch.cat([first, drawn, drawn], dim=1), begin, length


def entropy(pattern: Tensor) -> Tensor:
    """The entropy of each query's attention in nats: (B, H, T, S) to (B, H, T)."""
    return torch.special.entr(pattern.float()).sum(-1)


def _offset(offset: int, pattern: Tensor, queries: slice) -> Tensor:
    """The mean attention (H,) of ``queries`` to the token ``offset`` positions earlier."""
    return pattern.diagonal(-offset, dim1=-2, dim2=-1)[..., queries].mean((0, 2))


# (pattern (B, H, T, T), first column of the random tokens, their number) -> (H,).
# The diagonal at offset d starts with query d, so its last ``length`` entries are the repetition.
SCORES: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "previous token": lambda pattern, begin, length: _offset(1, pattern, slice(None)),
    "duplicate token": lambda pattern, begin, length: _offset(
        length, pattern, slice(-length, None)
    ),
    "induction": lambda pattern, begin, length: _offset(length - 1, pattern, slice(-length, None)),
    "attention sink": lambda pattern, begin, length: pattern[:, :, 1:, 0].mean((0, 2)),
    "entropy": lambda pattern, begin, length: entropy(pattern).mean((0, 2)),
}


@in_evaluation
def ablate_heads(
    model: Any,
    text: Text,
    edit: Edit = zero,
    *,
    positions: slice = slice(None),
    tokenizer: Any = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """The increase of the loss on ``text`` when each head is ablated: (L, H) nats per token.

    ``edit`` is applied to the head's output in the residual stream: ``zero`` or ``mean``.
    ``positions`` selects the tokens whose loss counts. Negative if ablation lowers the loss.
    """
    sizes = architecture_of(model).sizes

    def loss() -> float:
        found = trace(model, text, tokenizer=tokenizer, attention_mask=attention_mask)
        return float(found.loss[:, positions].nanmean())

    whole = loss()
    costs = torch.zeros(sizes.layers, sizes.heads)
    for layer in range(sizes.layers):
        for head in range(sizes.heads):
            with patch(model, {f"blocks.{layer}.attention.heads[{head}]": edit}):
                costs[layer, head] = loss() - whole
    return costs
