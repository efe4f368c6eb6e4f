"""The batches of each optimizer step, determined by seed and step alone."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lumenspark.data.windows import TrainingWindows
from lumenspark.recipe import Recipe

Ids = npt.NDArray[np.integer]


class Batches:
    """Micro-batches of training windows, with their teacher samples if there are teachers.

    Shapes: A micro-batches per optimizer step (gradient accumulation), B windows per micro-batch, T
    tokens of context, S teacher samples per token.
    """

    def __init__(self, ids: Ids, recipe: Recipe, teacher_samples: Ids | None = None) -> None:
        """``ids`` (n,): the train split; ``teacher_samples`` (n, S): samples per token."""
        self.windows = TrainingWindows(ids, recipe.model.context, recipe.seed)
        self.teacher_samples = teacher_samples
        self._accumulation = recipe.train.gradient_accumulation_steps
        self._windows_per_step = recipe.train.batch_size * self._accumulation
        self._device = recipe.device

    def token_ids(self, step: int) -> Tensor:
        """The windows of a step, (A, B, T + 1)."""
        first, count = step * self._windows_per_step, self._windows_per_step
        return self._micro_batches(torch.from_numpy(self.windows.batch(first, count)))

    def micro_batches(self, step: int) -> list[tuple[Tensor, Tensor | None]]:
        """For each forward pass of a step: windows (B, T + 1), and teacher samples (B, T, S)."""
        windows = self.token_ids(step)
        if self.teacher_samples is None:
            return [(window, None) for window in windows]
        first, count = step * self._windows_per_step, self._windows_per_step
        targets = self.windows.positions(first, count)[:, 1:]
        samples = torch.from_numpy(self.teacher_samples[targets].astype(np.int64))
        return list(zip(windows, self._micro_batches(samples), strict=True))

    def _micro_batches(self, rows: Tensor) -> Tensor:
        return rows.to(self._device).unflatten(0, (self._accumulation, -1))
