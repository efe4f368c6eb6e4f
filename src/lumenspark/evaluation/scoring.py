"""Cross-entropy summed over windows of token ids, for validation and evaluation."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lumenspark.data.tokens import TokenSplit
from lumenspark.data.windows import card_windows
from lumenspark.errors import UserError

CARD_CONTEXT = 64
CARD_OVERLAP = 8
# Of one forward pass: 32 MiB in float32, and as much again for their softmax. Batches of 2**20 to
# 2**25 logits are equally fast on a CPU.
LOGITS_PER_BATCH = 2**23

Progress = Callable[[int, int], None]  # targets scored so far, and in total


def rows_per_batch(length: int, vocab_size: int) -> int:
    """Windows of ``length`` tokens in one forward pass, so that its logits fit into 32 MiB."""
    return max(1, LOGITS_PER_BATCH // (length * vocab_size))


def card_loss(
    model: Any,
    tokens: TokenSplit,
    *,
    context: int = CARD_CONTEXT,
    overlap: int = CARD_OVERLAP,
    limit_windows: int | None = None,
) -> tuple[float, int]:
    """Mean cross-entropy in nats by the card's protocol, and the number of targets.

    ``tokens`` are framed documents. ``limit_windows`` scores that many windows, evenly spaced over
    the split, for validation during training. A surrounding autocast applies; exit it before
    training continues, since it caches weights cast without gradients. The loss may be non-finite.
    Pass the uncompiled model, since lengths of windows vary.

    Raises UserError for a split without predictions.
    """
    windows = document_windows(tokens.offsets, context, overlap)
    if len(windows) == 0:
        raise UserError("this split has fewer than two tokens in each document: give it more text")
    if limit_windows is not None and limit_windows < len(windows):
        windows = windows[np.arange(limit_windows) * len(windows) // limit_windows]
    nats, targets = sum_nats(model, tokens.ids, windows)
    return nats / targets, targets


def document_windows(offsets: np.ndarray, context: int, overlap: int) -> np.ndarray:
    """The card's windows as (W, 3): every token after a window's first is a target."""
    begin, end = card_windows(offsets, context, overlap).T
    return np.stack([begin, begin + 1, end], axis=1)


def sum_nats(
    model: Any, ids: np.ndarray, windows: np.ndarray, progress: Progress | None = None
) -> tuple[float, int]:
    """The sum of -ln p over all targets, and their number.

    ``windows`` (W, 3) holds begin, first target and end, as positions in ``ids``. The logits are
    turned into losses in float32 and summed in float64, whatever the model's dtype.
    """
    import torch

    total = int((windows[:, 2] - windows[:, 1]).sum())
    nats, done = 0.0, 0
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows in _batches(windows, model.get_input_embeddings().weight.shape[0]):
                nats += _batch_nats(model, ids, rows)
                done += int((rows[:, 2] - rows[:, 1]).sum())
                if progress is not None:
                    progress(done, total)
    finally:
        model.train(training)
    return nats, total


def sum_nats_like_lm_eval(
    model: Any, ids: np.ndarray, windows: np.ndarray, progress: Progress | None = None
) -> tuple[float, int]:
    """As :func:`sum_nats`, with lm_eval's rounding, so that sums are equal to the last digit.

    Log-probabilities are computed and summed in the dtype of the logits, one window per batch.
    """
    import torch

    total = int((windows[:, 2] - windows[:, 1]).sum())
    nats, done = 0.0, 0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for begin, first_target, end in windows.tolist():
                row = torch.from_numpy(ids[begin:end].astype(np.int64)).to(model.device)
                log_p = torch.log_softmax(model(row[None, :-1]).logits[0], dim=-1)
                targets = row[first_target - begin :].to(log_p.device)
                chosen = log_p[first_target - begin - 1 :].gather(-1, targets[:, None])
                nats -= float(chosen.squeeze(-1).sum())
                done += len(targets)
                if progress is not None:
                    progress(done, total)
    finally:
        model.train(training)
    return nats, total


def _batches(windows: np.ndarray, vocabulary: int) -> Iterator[np.ndarray]:
    """Batches of windows of similar length, longest first, which minimises padding.

    Sorted further by the position of the first target, since a batch needs no logits before the
    first target of all its rows.
    """
    begin, first_target, end = windows.T
    order = np.lexsort((first_target - begin, begin - end))
    start = 0
    while start < len(order):
        longest = windows[order[start]]
        rows = rows_per_batch(int(longest[2] - longest[0]), vocabulary)
        yield windows[order[start : start + rows]]
        start += rows


def _batch_nats(model: Any, ids: np.ndarray, windows: np.ndarray) -> float:
    """The sum of -ln p over the targets of a few windows (B, 3), in one forward pass.

    Shorter rows are padded on the right. No mask is needed: in a causal model, tokens to the right
    of a target do not affect its prediction.
    """
    import torch
    from torch.nn.functional import cross_entropy

    begin, first_target, end = (column[:, None] for column in windows.T)
    positions = begin + np.arange(int((end - begin).max()))  # (B, T)
    rows = torch.from_numpy(ids[np.minimum(positions, end - 1)].astype(np.int64))
    counted = torch.from_numpy((positions >= first_target) & (positions < end))
    targets = rows.masked_fill(~counted, -100)

    inputs = rows[:, :-1].to(model.device)
    logits = model(input_ids=inputs, use_cache=False).logits  # (B, T - 1, V)
    start = int((first_target - begin).min())
    losses = cross_entropy(
        logits[:, start - 1 :].flatten(0, 1).float(),
        targets[:, start:].flatten().to(logits.device),
        reduction="none",
    )
    return float(losses.cpu().double().sum())  # mps lacks float64
