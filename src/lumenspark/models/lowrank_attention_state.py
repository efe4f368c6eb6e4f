"""The decode state of low-rank attention, and the block layout of the tokens that follow it."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class LowRankState:
    """The state after some tokens: K·(2D + 1) + 2·window·2D numbers per head.

    ``recent`` (B, H, 2·window, 2D): keys and values of the block being filled and of the one
    before; position p is stored at p modulo 2·window. ``slots`` (B, H, K, 2D) and ``weight``
    (B, H, K), float32: the sums over all earlier blocks. ``count`` (B,): tokens seen, which is the
    position of the next one.
    """

    recent: Tensor
    slots: Tensor
    weight: Tensor
    count: Tensor

    @classmethod
    def empty(cls, key: Tensor, slot_count: int, window: int) -> "LowRankState":
        """The state before the first token, for keys of the shape and dtype of ``key``."""
        batch, heads, _, size = key.shape
        exact = torch.float32
        return cls(
            recent=key.new_zeros(batch, heads, 2 * window, 2 * size),
            slots=key.new_zeros(batch, heads, slot_count, 2 * size, dtype=exact),
            weight=key.new_zeros(batch, heads, slot_count, dtype=exact),
            count=key.new_zeros(batch, dtype=torch.long),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "LowRankState":
        """The state with ``change`` applied to each tensor (to copy, select rows or move it)."""
        return LowRankState(*(change(getattr(self, field.name)) for field in fields(self)))

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


@dataclass
class Layout:
    """The layout of each row in the blocks of its own text.

    One block of keys precedes the first block of queries. L = (blocks + 1)·window.
    """

    window: int
    blocks: int  # of queries
    positions: Tensor  # (B, L) each key's position; outside the text, that of its first or last
    present: Tensor  # (B, L) boolean: True at tokens
    key_columns: Tensor  # (B, L) into state.recent, then the new keys
    query_columns: Tensor  # (B, blocks·window) into the new queries
    output_columns: Tensor  # (B, T) into the output by blocks
    first_position: Tensor  # (B,) of the first key; can be negative
    end: Tensor  # (B,) tokens seen in total

    def state_after(self, state: LowRankState, key_value: Tensor, write: Tensor) -> LowRankState:
        """The state at ``end``, from keys and values (B, H, L, 2D) and write weights in blocks."""
        window, end = self.window, self.end[:, None]
        filling = end // window  # the block of the next token
        place = torch.arange(self.blocks * window, device=end.device)
        in_slots = self.first_position[:, None] + place < (filling - 1) * window
        write = write.float() * in_slots[:, None, :, None]
        slots = write.transpose(-1, -2) @ key_value[:, :, : len(place)].float()
        columns = torch.arange(2 * window, device=end.device)
        oldest = (filling - 1) * window
        positions = oldest + (columns - oldest) % (2 * window)  # (B, 2·window)
        kept = (positions >= 0) & (positions < end)
        places = (positions - self.first_position[:, None]).clamp(0, key_value.shape[2] - 1)
        recent = take(key_value, places).masked_fill(~kept[:, None, :, None], 0.0)
        return LowRankState(recent, state.slots + slots, state.weight + write.sum(2), self.end)


def lay_out(mask: Tensor | None, state: LowRankState, length: int, window: int) -> Layout:
    """The layout of the tokens marked in ``mask`` (B, T), which continue from ``state``."""
    begin, device = state.count[:, None], state.count.device
    if mask is None:
        mask = torch.ones(len(begin), length, dtype=torch.bool, device=device)
    order = (
        (~mask).long().argsort(dim=1, stable=True)
    )  # columns of a row's tokens, then of its pads
    end = begin + mask.sum(1, keepdim=True)
    first_block = begin // window
    blocks = -(-(length + window - 1) // window)  # for any start within a block
    first = (first_block - 1) * window
    positions = first + torch.arange((blocks + 1) * window, device=device)
    number = positions - begin  # among the new tokens; negative: a token of the state
    new_columns = order.gather(1, number.clamp(0, length - 1))
    return Layout(
        window=window,
        blocks=blocks,
        positions=positions.clamp(min=0).minimum((end - 1).clamp(min=0)),
        present=(positions >= 0) & (positions < end),
        key_columns=torch.where(number < 0, positions % (2 * window), 2 * window + new_columns),
        query_columns=new_columns[:, window:],
        output_columns=(begin + mask.long().cumsum(1) - 1 - first - window).clamp(min=0),
        first_position=first[:, 0],
        end=end[:, 0],
    )


def take(tensor: Tensor, columns: Tensor) -> Tensor:
    """Select ``columns`` (B, T) of each row of (B, H, S, C): (B, H, T, C)."""
    _, heads, _, features = tensor.shape
    return tensor.gather(2, columns[:, None, :, None].expand(-1, heads, -1, features))
