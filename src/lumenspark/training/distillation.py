"""Distillation: a model learns from what others predict, its teachers, and not from the text alone.

One text names one next token; a teacher says how likely each of the vocabulary is, which says more
about the language, and less about the accident of this text (Hinton et al. 2015, arXiv 1503.02531).
Each teacher is asked once about every token of the train split. Of its answer a few samples are
kept: their mean is the distribution itself, so nothing is cut off, and reading them while training
costs next to nothing, however many teachers there are.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ROWS = 64  # windows in one forward pass
LEAST_CONTEXT = 1 / 4  # of a window: what a teacher has read, at least, before it is asked


def sample_predictions(
    model: Any, ids: npt.NDArray[np.integer], context: int, samples: int, seed: int
) -> npt.NDArray[np.integer]:
    """What ``model`` expects at each place of ``ids``, as samples from its distributions.

    ``ids`` is a ring, as :class:`~lumenspark.data.windows.TrainingWindows` takes it: before the
    first id comes the last. An autocast that surrounds the call applies. The model's mode is left
    as it was; it predictions in evaluation mode.

    Args:
        ids: (n,) the train split.
        context: tokens that the model reads at once, T.
        samples: how many are kept of each answer, S.
        seed: of the random numbers.

    Returns:
        (n, S) of the dtype of ``ids``: row i holds tokens that may stand at place i, given what
        stands before it (T/4 to T tokens).
    """
    asked = context - int(context * LEAST_CONTEXT)  # predictions that are used of each window
    generator = torch.Generator().manual_seed(seed)
    predictions = np.empty((len(ids), samples), ids.dtype)
    training = model.training
    model.eval()
    try:
        for first in range(0, len(ids), ROWS * asked):
            targets = np.arange(first, min(first + ROWS * asked, len(ids)))
            begins = targets[::asked] + asked - 1 - context  # the last target follows the window
            rows = ids[(begins[:, None] + np.arange(context)) % len(ids)]
            probabilities = _next_token_probabilities(model, rows, asked)[: len(targets)]
            predictions[targets] = systematic_samples(probabilities, samples, generator).numpy()
    finally:
        model.train(training)
    return predictions


@torch.no_grad()
def _next_token_probabilities(model: Any, rows: npt.NDArray[np.integer], last: int) -> Tensor:
    """After each of the ``last`` tokens of windows (B, T): (B * last, V), float32."""
    inputs = torch.from_numpy(rows.astype(np.int64)).to(model.device)
    logits = model(input_ids=inputs, use_cache=False, logits_to_keep=last).logits
    return logits.flatten(0, 1).float().softmax(-1)


def systematic_samples(probabilities: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """``samples`` draws from each row of ``probabilities`` (N, V), evenly spread: (N, S).

    Draw j of a row lies at its quantile (j + u) / S with one random u. So a token of probability p
    is drawn S·p times on average, and never more than one draw away from that. The result lies on
    the CPU.
    """
    cumulative = probabilities.cumsum(-1)
    begin = torch.rand((len(cumulative), 1), generator=generator).to(cumulative.device)
    quantiles = (begin + torch.arange(samples, device=cumulative.device)) / samples
    # Rounding leaves a row's sum a little beside 1.
    places = torch.searchsorted(cumulative, quantiles * cumulative[:, -1:])
    return places.clamp_(max=cumulative.shape[-1] - 1).cpu()
