"""The decode state of low-rank attention as a transformers cache of constant size."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from .lowrank_attention_state import LowRankState

Snapshot = list[tuple[LowRankState | None, int]]


class LowRankCacheLayer(CacheLayerMixin):
    """The state of one attention layer, which reads and replaces ``state``."""

    def __init__(self) -> None:
        super().__init__()
        self.state: LowRankState | None = None
        self.columns = 0  # processed so far, pads included

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """No-op: the attention layer creates the state."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Raise TypeError: the state has no list of keys and values."""
        raise TypeError("low-rank attention has no list of keys and values to append to")

    def advance(self, state: LowRankState, columns: int) -> None:
        """Set the state after ``columns`` more columns."""
        self.set_state(state, self.columns + columns)

    def set_state(self, state: LowRankState | None, columns: int) -> None:
        """Set the state after ``columns`` columns in total."""
        self.state, self.columns, self.is_initialized = state, columns, state is not None

    def get_seq_length(self) -> int:
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.set_state(None, 0)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace row i by row ``beam_idx[i]``."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.state is not None:
            self.state = self.state.map(lambda part: part[indices.to(part.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self.state = self.state.map(lambda part: part.repeat_interleave(repeats, dim=0))

    def crop(self, tokens_to_remove: int) -> None:
        """Raises ValueError: writes to a slot cannot be undone."""
        if tokens_to_remove:
            raise ValueError(
                "tokens cannot be removed from the state of low-rank attention: take a snapshot() "
                "before them, and restore() it"
            )


class LumensparkCache(Cache):
    """The decode state of all layers: K·(2D + 1) + 2·window·2D numbers per head at any length.

    Pass it to ``generate(past_key_values=…)`` or to the model, and again to continue.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[LowRankCacheLayer() for _ in range(layers)])

    @property
    def max_cache_len(self) -> int:
        """-1: no limit, as for dynamic caches."""
        return -1

    @property
    def nbytes(self) -> int:
        """Current size in bytes."""
        return sum(layer.state.nbytes for layer in self.layers if layer.state is not None)

    def snapshot(self) -> Snapshot:
        """A copy of the cache for :meth:`restore`, to undo the tokens that follow."""
        return [(_copy(layer.state), layer.columns) for layer in self.layers]

    def restore(self, snapshot: Snapshot) -> None:
        """Return to ``snapshot``, which stays usable."""
        for layer, (state, columns) in zip(self.layers, snapshot, strict=True):
            layer.set_state(_copy(state), columns)


def _copy(state: LowRankState | None) -> LowRankState | None:
    return None if state is None else state.map(torch.clone)
