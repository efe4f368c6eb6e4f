"""Causal low-rank attention: its settings, and how its slots are written and read.

Each head keeps K slots for distant tokens and attends exactly to the last blocks of ``window``
tokens. A token that leaves the window is written to the slots with weights that sum to 1. A slot
holds the weighted mean of the keys and values written to it, and the logarithm of its total weight
is added to its logit, so that it counts for as many tokens as it represents. With one token per
slot this is dense attention. (Linformer, Wang et al. 2020, arXiv 2006.04768, made causal; ABC, Peng
et al. 2022, arXiv 2110.02488, is the family.)

Three forms compute the same: ``naive`` (the definition), ``chunk`` (training and prefill) and
``recurrent`` (one token from a state).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

# Write weights of tokens: from keys (B, H, T, D) and positions in each row's text (1 or B, T) to
# (B, H, T, K), non-negative, each token's summing to 1.
Project = Callable[[Tensor, Tensor], Tensor]

# A slot with less total weight than this counts as empty. (A token has weight 1.)
EMPTY = 1e-20

Result = TypeVar("Result")


@dataclass(frozen=True)
class LowRankSettings:
    """One attention layer's settings."""

    project: Project | None  # None: no slots, only the window
    window: int  # tokens in a block; a token attends to its own block and the previous one
    scaling: float  # of the logits

    def write_weights(self, key: Tensor, positions: Tensor) -> Tensor:
        """The weights with which tokens are written to the slots: (B, H, T, K), K = 0 for none."""
        if self.project is None:
            return key.new_zeros(*key.shape[:3], 0)
        write = self.project(key, positions)
        return write.expand(key.shape[0], *write.shape[1:])


def slot_means(sums: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The content of the slots, and the term added to their logits.

    ``sums`` (..., K, C): weighted sums of the tokens written; ``weight`` (..., K): their total
    weights. Returns the means (..., K, C), zero for an empty slot, and the logarithm of the weight
    (..., K), -inf for an empty slot; both with finite gradients.
    """
    empty = weight < EMPTY
    weight = weight.masked_fill(empty, 1.0)
    means = (sums / weight[..., None]).masked_fill(empty[..., None], 0.0)
    return means, weight.log().masked_fill(empty, -math.inf)


def without_autocast(function: Callable[..., Result]) -> Callable[..., Result]:
    """Run ``function`` in the dtypes of its arguments: autocast would round the slots' sums."""

    @wraps(function)
    def exact(query: Tensor, *args: Any, **kwargs: Any) -> Result:
        if not torch.amp.is_autocast_available(query.device.type):  # as on the meta device
            return function(query, *args, **kwargs)
        with torch.autocast(query.device.type, enabled=False):
            return function(query, *args, **kwargs)

    return exact
