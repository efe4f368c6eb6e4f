"""Distillation from teachers' predictions, sampled once for every token of the train split.

A text has one next token. A teacher predicts a distribution over the vocabulary, which carries more
information about the language (Hinton et al. 2015, arXiv 1503.02531). A few samples of each
distribution are stored. The samples are unbiased, unlike the most likely tokens alone, and reading
them costs almost nothing, for any number of teachers.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ROWS = 64  # windows in one forward pass
MIN_CONTEXT = 1 / 4  # fraction of a window that precedes every sampled prediction, at least


def sample_predictions(
    model: Any, ids: npt.NDArray[np.integer], context: int, samples: int, seed: int
) -> npt.NDArray[np.integer]:
    """Samples of the distributions that ``model`` predicts for each token of ``ids``.

    ``ids`` is a ring, as for :class:`~lumenspark.data.windows.TrainingWindows`: the last id
    precedes the first. The model runs in evaluation mode, and under the caller's autocast.

    Args:
        ids: (n,) the train split.
        context: tokens per window, T.
        samples: samples per prediction, S.
        seed: seed of the random numbers.

    Returns:
        (n, S) of the dtype of ``ids``: row i holds samples of token i, predicted from the T/4 to T
        tokens before it.
    """
    sampled = context - int(context * MIN_CONTEXT)  # predictions used of each window
    generator = torch.Generator().manual_seed(seed)
    predictions = np.empty((len(ids), samples), ids.dtype)
    training = model.training
    model.eval()
    try:
        for first in range(0, len(ids), ROWS * sampled):
            targets = np.arange(first, min(first + ROWS * sampled, len(ids)))
            begins = targets[::sampled] + sampled - 1 - context  # the last follows the window
            rows = ids[(begins[:, None] + np.arange(context)) % len(ids)]
            probabilities = _next_token_probabilities(model, rows, sampled)[: len(targets)]
            predictions[targets] = systematic_samples(probabilities, samples, generator).numpy()
    finally:
        model.train(training)
    return predictions


@torch.no_grad()
def _next_token_probabilities(model: Any, rows: npt.NDArray[np.integer], last: int) -> Tensor:
    """Probabilities after each of the ``last`` tokens of windows (B, T): (B * last, V), float32."""
    inputs = torch.from_numpy(rows.astype(np.int64)).to(model.device)
    logits = model(input_ids=inputs, use_cache=False, logits_to_keep=last).logits
    return logits.flatten(0, 1).float().softmax(-1)


def systematic_samples(probabilities: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """``samples`` draws from each row of ``probabilities`` (N, V), evenly spread: (N, S).

    Draw j of a row is its quantile (j + u) / S, with one random u per row. A token of probability p
    is drawn S·p times on average, and at most one draw more or less. The result is on the CPU.
    """
    cumulative = probabilities.cumsum(-1)
    begin = torch.rand((len(cumulative), 1), generator=generator).to(cumulative.device)
    quantiles = (begin + torch.arange(samples, device=cumulative.device)) / samples
    # Rounding: a row's sum is not exactly 1.
    places = torch.searchsorted(cumulative, quantiles * cumulative[:, -1:])
    return places.clamp_(max=cumulative.shape[-1] - 1).cpu()
