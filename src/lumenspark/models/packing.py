"""Packed texts: several in one row, told apart by positions that begin anew (padding-free batches).

Shapes: position ids (B, T), masks (B, T) boolean, False at pads. A text's tokens follow one another
in their row, with positions in steps of 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# How DataCollatorWithFlattening tells flash attention where texts begin; the second numbers them.
FLASH_ARGUMENTS = ("cu_seq_lens_q", "seq_idx")


def read_positions(
    position_ids: Tensor | None, arguments: Mapping[str, Any], rows: int, length: int
) -> Tensor | None:
    """The position ids (B, T), be they given or said by the lengths that flash attention takes.

    Raises ValueError for other shapes, and where what is given contradicts itself.
    """
    if position_ids is not None:
        if position_ids.ndim != 2 or position_ids.shape not in ((1, length), (rows, length)):
            raise ValueError(
                f"position_ids have the shape {tuple(position_ids.shape)}: give one position for "
                f"each token, ({rows}, {length})"
            )
        position_ids = position_ids.expand(rows, -1)
    for name in FLASH_ARGUMENTS:
        if (said := arguments.get(name)) is not None:
            meant = _positions_said(name, said, rows, length)
            if position_ids is not None and not torch.equal(meant.to(position_ids), position_ids):
                raise ValueError(f"position_ids and {name} disagree: leave {name} out")
            position_ids = meant
    return position_ids


def _positions_said(name: str, said: Tensor, rows: int, length: int) -> Tensor:
    """The positions that ``cu_seq_lens_q`` (texts + 1,) or ``seq_idx`` (1, T) means."""
    places = torch.arange(length, device=said.device)
    if name == "seq_idx":
        numbers = said.reshape(-1)
        changes = (numbers[1:] != numbers[:-1]).nonzero()[:, 0] + 1
        begins = torch.cat([changes.new_zeros(1), changes])
        end = len(numbers)
    else:
        begins, end = said[:-1].long(), int(said[-1])
    if rows != 1 or end != length or begins[:1].tolist() != [0]:
        raise ValueError(f"{name} does not divide one row of {length} tokens: give position_ids")
    return (places - begins[torch.searchsorted(begins, places, right=True) - 1])[None]


def text_numbers(position_ids: Tensor, mask: Tensor | None) -> Tensor:
    """A number for each token (B, T), the same in one text and no other of its row.

    A text begins where a position is not one more than the one before it, be that the column's or
    the token's before the pads between.
    """
    before = torch.cat([position_ids[:, :1] - 1, position_ids[:, :-1]], dim=1)
    begins = position_ids != before + 1
    if mask is not None:
        columns = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        latest = columns.masked_fill(~mask, -1).cummax(dim=1).values  # token up to each column
        previous = torch.cat([latest.new_full((len(latest), 1), -1), latest[:, :-1]], dim=1)
        token_before = position_ids.gather(1, previous.clamp(min=0))
        begins &= mask & (previous >= 0) & (position_ids != token_before + 1)
    return begins.cumsum(dim=1)


def check_mask(mask: Any, length: int) -> None:
    """Raises ValueError for a mask of tokens with other numbers than 0 and 1, such as of texts."""
    if not isinstance(mask, Tensor) or mask.ndim == 4:
        return
    if mask.ndim != 2:
        raise ValueError(
            f"the attention mask has {mask.ndim} dimensions: give (batch, tokens), or four"
        )
    if mask.dtype == torch.bool or length == 1 or traced():
        return
    if bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(
            "the attention mask holds other numbers than 0 (a pad) and 1 (a token): tell texts in "
            "one row apart by position_ids that begin at 0 again"
        )


def recent_mask(mask: Any, length: int) -> Tensor | None:
    """Which of the ``length`` newest tokens are no pads: (B, length) boolean, of a mask (B, S)."""
    return None if mask is None else mask[:, -length:].bool()


def is_packed(position_ids: Tensor | None, mask: Any, in_a_graph: bool = False) -> bool:
    """Whether a row holds more than one text. Waits for the device, where there is more to know.

    A mask (B, 1, T, S) says for itself what sees what. ``in_a_graph`` is the answer in a graph of
    torch.compile, where the numbers in tensors are not known.
    """
    if position_ids is None or position_ids.shape[1] == 1:
        return False
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        return False
    if traced():
        return in_a_graph
    numbers = text_numbers(position_ids, recent_mask(mask, position_ids.shape[1]))
    return bool(numbers[:, -1].any())


def traced() -> bool:
    """Whether the numbers in tensors are not known now, because a graph is made."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def same_text(position_ids: Any, mask: Any) -> Any:
    """Whether a query and a key are of one text, in the form that transformers takes."""
    numbers = text_numbers(position_ids, recent_mask(mask, position_ids.shape[1]))

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return numbers[batch, query] == numbers[batch, key]

    return seen


@dataclass
class Texts:
    """Some of the texts of a batch, as rows of their own: N of at most L tokens."""

    columns: Tensor  # (N, L) of the batch's rows laid end to end; beside the text, any
    present: Tensor  # (N, L) boolean: there is a token here
    full: bool  # everywhere

    @property
    def tokens(self) -> Tensor:
        """The column of each token, in the order of ``present``'s."""
        return self.columns[self.present]


@torch.compiler.disable
def low_rank_texts(position_ids: Tensor, mask: Tensor | None, known: Tensor | None) -> Any:
    """How low-rank attention is to read the rows: ``mask`` itself, or a list of :class:`Texts`.

    ``known`` (B,) tokens came before, by the cache. Low-rank attention counts a text's tokens, so
    that is what positions have to do. Texts of similar length are taken together, so that there
    are at most twice as many places as tokens.

    Raises ValueError for positions that do otherwise.
    """
    present = torch.ones_like(position_ids, dtype=torch.bool) if mask is None else mask
    count = present.long().cumsum(1) - 1
    expected = count if known is None else count + known[:, None]
    if bool((position_ids == expected)[present].all()):
        return mask
    positions = position_ids[present]
    rows = torch.arange(len(present), device=present.device)[:, None].expand_as(present)[present]
    first = torch.cat([rows.new_ones(1, dtype=torch.bool), rows[1:] != rows[:-1]])
    goes_on = torch.cat([first[:1], positions[1:] == positions[:-1] + 1]) & ~first
    if known is not None or not bool((goes_on | (positions == 0)).all()):
        raise ValueError(
            "low-rank attention counts a text's tokens from 0, cached ones included, so "
            "position_ids must do so too: give such, begin at 0 again where a new text begins in "
            "a row (without a cache), or leave them out"
        )
    number = (positions == 0).long().cumsum(0) - 1
    lengths = number.bincount()
    sizes = torch.tensor([(n - 1).bit_length() for n in lengths.tolist()], device=number.device)
    columns = present.flatten().nonzero()[:, 0]
    return [
        _together((sizes == size).nonzero()[:, 0], lengths, number, positions, columns)
        for size in sizes.unique().tolist()
    ]


def _together(
    texts: Tensor, lengths: Tensor, number: Tensor, places: Tensor, columns: Tensor
) -> Texts:
    """The ``texts`` (N,) among all; ``number``, ``places`` and ``columns`` are each token's."""
    row_of = torch.full_like(lengths, -1)
    row_of[texts] = torch.arange(len(texts), device=texts.device)
    row = row_of[number]
    here = row >= 0
    longest = int(lengths[texts].max())
    layout = torch.zeros(len(texts), longest, dtype=torch.long, device=texts.device)
    layout[row[here], places[here]] = columns[here]
    present = torch.arange(longest, device=texts.device) < lengths[texts][:, None]
    return Texts(layout, present, full=bool(here.sum() == layout.numel()))
