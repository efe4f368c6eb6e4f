"""The decode state of low-rank attention, and how the tokens after it are laid out in blocks."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class LowRankState:
    """What is kept of the tokens seen so far: k·(2D + 1) + 2·window·2D numbers a head.

    ``recent`` (B, H, 2·window, 2D): keys and values of the block that is being filled and of the
    one before; the token at position p lies at p modulo 2·window. ``slots`` (B, H, K, 2D) and
    ``weight`` (B, H, K), float32: the sums over all blocks before those two. ``count`` (B,): the
    tokens seen, which is the next one's position.
    """

    recent: Tensor
    slots: Tensor
    weight: Tensor
    count: Tensor

    @classmethod
    def empty(cls, key: Tensor, slot_count: int, window: int) -> "LowRankState":
        """The state before the first token, for keys like ``key`` (B, H, T, D)."""
        batch, heads, _, size = key.shape
        exact = torch.float32
        return cls(
            recent=key.new_zeros(batch, heads, 2 * window, 2 * size),
            slots=key.new_zeros(batch, heads, slot_count, 2 * size, dtype=exact),
            weight=key.new_zeros(batch, heads, slot_count, dtype=exact),
            count=key.new_zeros(batch, dtype=torch.long),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "LowRankState":
        """The state with ``change`` applied to each tensor (copies, a choice of rows, a device)."""
        return LowRankState(*(change(getattr(self, field.name)) for field in fields(self)))

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


@dataclass
class Layout:
    """Where tokens lie once each row is laid out in the blocks of its own text.

    There is a block of keys before the first block of queries. L = (blocks + 1)·window.
    """

    window: int
    blocks: int  # of queries
    positions: Tensor  # (B, L) each key's position; beside the text, that of its first or last
    present: Tensor  # (B, L) boolean: there is a token here
    key_columns: Tensor  # (B, L) of state.recent, then the new keys
    query_columns: Tensor  # (B, blocks·window) of the new queries
    output_columns: Tensor  # (B, T) of the blocks' output
    first_position: Tensor  # (B,) of the first key; may be negative
    end: Tensor  # (B,) tokens seen in all

    def state_after(self, state: LowRankState, key_value: Tensor, write: Tensor) -> LowRankState:
        """The state at ``end``, from keys and values (B, H, L, 2D) and write weights in blocks."""
        window, end = self.window, self.end[:, None]
        filling = end // window  # the block that the next token lies in
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
    """Rows that begin where ``state`` ends and hold the tokens that ``mask`` (B, T) names."""
    begin, device = state.count[:, None], state.count.device
    if mask is None:
        mask = torch.ones(len(begin), length, dtype=torch.bool, device=device)
    order = (~mask).long().argsort(dim=1, stable=True)  # the columns of a row's tokens, then pads
    end = begin + mask.sum(1, keepdim=True)
    first_block = begin // window
    blocks = -(-(length + window - 1) // window)  # wherever in its block a row begins
    first = (first_block - 1) * window
    positions = first + torch.arange((blocks + 1) * window, device=device)
    number = positions - begin  # among the new tokens; negative: one of the state's
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
    """Of (B, H, S, C) the ``columns`` (B, T) of each row: (B, H, T, C)."""
    _, heads, _, features = tensor.shape
    return tensor.gather(2, columns[:, None, :, None].expand(-1, heads, -1, features))
