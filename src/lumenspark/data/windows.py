"""From a stream of token ids to windows: shuffled ones to train on, and two kinds to evaluate with.

Numpy only. ``ids`` may be memory-mapped: no function here reads more of it than it returns.
"""

import numpy as np
import numpy.typing as npt

from lumenspark.errors import UserError

Int64s = npt.NDArray[np.int64]


class TrainingWindows:
    """An endless shuffled sequence of windows of ``context + 1`` ids over one packed stream.

    The stream is a ring: after its last id comes its first, so that no phase wastes an end. An
    epoch lays ``len(ids) // context`` windows side by side, each one beginning on the last id of
    the one before: every id is predicted at most once an epoch, and at most ``context - 1`` of
    them are not. There is no padding. Each epoch begins at a new random place in the ring and has
    a new random order, both drawn from ``(seed, epoch)``.

    Nothing is remembered between calls but the current epoch's order: a batch depends on the
    arguments alone, so a resumed run sees what an uninterrupted one would have seen.

    Args:
        ids: one split as it lies in its file, any unsigned integer type.
        context: tokens a model reads at once, T; a window holds T + 1.
        seed: any integer >= 0.

    Raises:
        UserError: the stream is shorter than one window.
    """

    def __init__(self, ids: npt.NDArray[np.integer], context: int, seed: int) -> None:
        if len(ids) < context + 1:
            raise UserError(
                f"the train split has {len(ids):,} tokens and one window needs {context + 1:,}: "
                "give more text, or a smaller context"
            )
        self.ids = ids
        self.context = context
        self.seed = seed
        self.windows_per_epoch = len(ids) // context
        self._epoch = -1
        self._begins = np.empty(0, np.int64)

    def batch(self, first: int, count: int) -> Int64s:
        """Windows number ``first`` to ``first + count - 1``, counted from the start of training.

        Returns:
            (count, T + 1): inputs are ``[:, :-1]``, targets are ``[:, 1:]``.
        """
        return np.take(self.ids, self.positions(first, count)).astype(np.int64)

    def positions(self, first: int, count: int) -> Int64s:
        """Where in ``ids`` the tokens of :meth:`batch` lie, (count, T + 1)."""
        begins = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, position = divmod(first + done, self.windows_per_epoch)
            part = self._epoch_begins(epoch)[position : position + count - done]
            begins[done : done + len(part)] = part
            done += len(part)
        return (begins[:, None] + np.arange(self.context + 1)) % len(self.ids)

    def _epoch_begins(self, epoch: int) -> Int64s:
        """Where each window of this epoch begins in the ring, in the order they are trained on."""
        if epoch != self._epoch:
            random = np.random.default_rng((self.seed, epoch))
            phase = random.integers(len(self.ids))
            order = random.permutation(self.windows_per_epoch)
            self._begins = (phase + order * self.context) % len(self.ids)
            self._epoch = epoch
        return self._begins


def card_windows(offsets: npt.ArrayLike, context: int = 64, overlap: int = 8) -> Int64s:
    """The windows of the card's protocol: inside one document, each repeating a few ids.

    A document's first window begins with it; each further one begins with the last ``overlap``
    ids of the window before. None goes beyond its document, none is without a new id, and none is
    without a prediction (so a window has two ids at least). Every next-token prediction inside a
    window counts: those between two overlapping ids count twice.

    Args:
        offsets: (documents + 1,): document i is ``ids[offsets[i]:offsets[i + 1]]``.
        context: ids in a full window.
        overlap: ids that a window shares with the one before, from 0 to ``context - 1``.

    Returns:
        (W, 2): begin and end of each window, as positions in ids.

    Raises:
        UserError: ``overlap`` does not leave room for a new id.
    """
    if context < 2 or not 0 <= overlap < context:
        raise UserError(
            f"windows of {context} tokens cannot overlap by {overlap}: "
            "the context must be at least 2, the overlap from 0 to one less than the context"
        )
    bounds = np.asarray(offsets, np.int64)
    lengths = np.diff(bounds)
    step = context - overlap
    further = -(-np.maximum(lengths - context, 0) // step)  # rounded up
    counts = 1 + further
    number = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    begin = np.repeat(bounds[:-1], counts) + number * step
    end = np.minimum(begin + context, np.repeat(bounds[1:], counts))
    return np.stack([begin, end], axis=1)[end - begin >= 2]


def strided_windows(length: int, context: int, stride: int) -> Int64s:
    """The windows of the clean protocol: over one stream, each id predicted exactly once.

    A window is ``ids[begin:end]``, at most ``context`` of them, and scores the predictions of
    ``ids[first_target:end]``; what lies before ``first_target`` only serves as context. Each
    window scores ``stride`` ids (the first one ``context - 1``, the last what is left) and
    reaches back as far as ``context`` allows. So an id is predicted from at least
    ``context - stride`` ids, or from everything before it.

    Where ``stride`` is ``context``, a window has one id more: a model reads ``context`` of them and
    predicts as many. These are the windows of lm_eval.

    Args:
        length: ids in the stream.
        context: ids in a full window.
        stride: ids that each window scores, from 1 (most context, slowest) to ``context``.

    Returns:
        (W, 3): begin, first_target, end of each window. Every target from 1 to ``length - 1`` lies
        in exactly one ``range(first_target, end)``; id 0 has nothing to be predicted from.

    Raises:
        UserError: ``stride`` is out of range.
    """
    if not 1 <= stride <= context:
        raise UserError(
            f"a stride of {stride} does not fit windows of {context} tokens: "
            f"choose it from 1 to {context}"
        )
    if length < 2:
        return np.empty((0, 3), np.int64)
    width = max(context, stride + 1)
    end = np.minimum(np.arange(width, length + stride, stride, dtype=np.int64), length)
    if not len(end):  # the whole stream is shorter than one window
        end = np.array([length], np.int64)
    begin = np.maximum(end - width, 0)
    first_target = np.concatenate([[1], end[:-1]])
    return np.stack([begin, first_target, end], axis=1)
