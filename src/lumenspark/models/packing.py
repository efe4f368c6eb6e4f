"""Packed texts: several in one row, separated by positions that restart (padding-free batches).

Shapes: position ids (B, T), masks (B, T) boolean, False at pads. The tokens of a text are
consecutive in their row, with positions in steps of 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Text boundaries as DataCollatorWithFlattening passes them to flash attention: offsets, indices.
FLASH_ARGUMENTS = ("cu_seq_lens_q", "seq_idx")


def read_positions(
    position_ids: Tensor | None, arguments: Mapping[str, Any], rows: int, length: int
) -> Tensor | None:
    """The position ids (B, T): as given, or from the arguments of flash attention.

    Raises ValueError for other shapes and for contradictory arguments.
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
                raise ValueError(f"position_ids and {name} disagree: omit {name}")
            position_ids = meant
    return position_ids


def _positions_said(name: str, said: Tensor, rows: int, length: int) -> Tensor:
    """The positions for ``cu_seq_lens_q`` (texts + 1,) or ``seq_idx`` (1, T)."""
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
    """The index (B, T) of each token's text within its row.

    A text starts where a position is not the previous one plus 1; the previous one is that of the
    column before, or of the last token before the pads in between.
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
    """Raises ValueError for a token mask with values other than 0 and 1, such as text indices."""
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
            "the attention mask has values other than 0 (a pad) and 1 (a token): separate texts in "
            "one row by position_ids that restart at 0"
        )


def recent_mask(mask: Any, length: int) -> Tensor | None:
    """The last ``length`` columns of a mask (B, S), as boolean: (B, length)."""
    return None if mask is None else mask[:, -length:].bool()


def is_packed(position_ids: Tensor | None, mask: Any, in_a_graph: bool = False) -> bool:
    """Whether any row has more than one text. Synchronises with the device.

    With a mask (B, 1, T, S) nothing is derived from positions. ``in_a_graph`` is returned inside
    a graph of torch.compile, where values are unknown.
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
    """Whether tensor values are unknown, during compilation or tracing."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def same_text(position_ids: Any, mask: Any) -> Any:
    """A mask function of transformers: True where query and key belong to one text."""
    numbers = text_numbers(position_ids, recent_mask(mask, position_ids.shape[1]))

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return numbers[batch, query] == numbers[batch, key]

    return seen


@dataclass
class Texts:
    """Some of the texts of a batch, one per row: N texts of at most L tokens."""

    columns: Tensor  # (N, L) into the concatenated rows of the batch; arbitrary outside the text
    present: Tensor  # (N, L) boolean: True at tokens
    full: bool  # all are present

    @property
    def tokens(self) -> Tensor:
        """The column of each token, in the order of ``present``."""
        return self.columns[self.present]


@torch.compiler.disable
def low_rank_texts(position_ids: Tensor, mask: Tensor | None, known: Tensor | None) -> Any:
    """Rows for low-rank attention: ``mask`` itself, or for packed rows a list of :class:`Texts`.

    ``known`` (B,): tokens in the cache. Low-rank attention counts the tokens of a text, so
    positions have to do the same. Texts of similar length are grouped, so that padding at most
    doubles the number of tokens.

    Raises ValueError for other positions.
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
            "low-rank attention counts the tokens of a text from 0, cached ones included, so "
            "position_ids must do the same: restart them at 0 for each further text in "
            "a row (without a cache), or omit them"
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
    """The group of the ``texts`` (N,); ``number``, ``places`` and ``columns`` are per token."""
    row_of = torch.full_like(lengths, -1)
    row_of[texts] = torch.arange(len(texts), device=texts.device)
    row = row_of[number]
    here = row >= 0
    longest = int(lengths[texts].max())
    layout = torch.zeros(len(texts), longest, dtype=torch.long, device=texts.device)
    layout[row[here], places[here]] = columns[here]
    present = torch.arange(longest, device=texts.device) < lengths[texts][:, None]
    return Texts(layout, present, full=bool(here.sum() == layout.numel()))
