"""Windows of a token sequence: shuffled for training, and by two protocols for evaluation.

NumPy only. ``ids`` may be memory-mapped: functions read only what they return.
"""

import numpy as np
import numpy.typing as npt

from lumenspark.errors import UserError

Int64s = npt.NDArray[np.int64]


class TrainingWindows:
    """An endless shuffled sequence of windows of ``context + 1`` ids over one packed stream.

    The stream is circular: the first id follows the last. An epoch consists of
    ``len(ids) // context`` adjacent windows, each starting with the last id of the previous one:
    every id is predicted at most once per epoch, and all but at most ``context - 1`` are. There is
    no padding. Each epoch has a random offset and a random order, drawn from ``(seed, epoch)``.

    A batch depends on the arguments alone (the order of the current epoch is only cached), so a
    resumed run sees the same batches.

    Args:
        ids: the token ids of a split, any unsigned integer type.
        context: context length T in tokens; a window has T + 1 ids.
        seed: any integer >= 0.

    Raises:
        UserError: the stream is shorter than a window.
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
        """Windows ``first`` to ``first + count - 1``, counted from the start of training.

        Returns:
            (count, T + 1): inputs are ``[:, :-1]``, targets ``[:, 1:]``.
        """
        return np.take(self.ids, self.positions(first, count)).astype(np.int64)

    def positions(self, first: int, count: int) -> Int64s:
        """Positions in ``ids`` of the tokens of :meth:`batch`, (count, T + 1)."""
        begins = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, position = divmod(first + done, self.windows_per_epoch)
            part = self._epoch_begins(epoch)[position : position + count - done]
            begins[done : done + len(part)] = part
            done += len(part)
        return (begins[:, None] + np.arange(self.context + 1)) % len(self.ids)

    def _epoch_begins(self, epoch: int) -> Int64s:
        """Start positions of the windows of an epoch, in training order."""
        if epoch != self._epoch:
            random = np.random.default_rng((self.seed, epoch))
            phase = random.integers(len(self.ids))
            order = random.permutation(self.windows_per_epoch)
            self._begins = (phase + order * self.context) % len(self.ids)
            self._epoch = epoch
        return self._begins


def card_windows(offsets: npt.ArrayLike, context: int = 64, overlap: int = 8) -> Int64s:
    """The windows of the card's protocol: within documents, overlapping by a few ids.

    A document's first window starts with it; each further one starts with the last ``overlap`` ids
    of the previous window. Windows never cross documents, and each has a new id and a prediction
    (so at least two ids). Every next-token prediction inside a window counts: those between two
    overlapping ids count twice.

    Args:
        offsets: (documents + 1,): document i is ``ids[offsets[i]:offsets[i + 1]]``.
        context: ids in a full window.
        overlap: ids shared with the previous window, from 0 to ``context - 1``.

    Returns:
        (W, 2): begin and end positions of each window.

    Raises:
        UserError: ``overlap`` leaves no new id.
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
    """The windows of the strided protocol: over one stream, each id predicted exactly once.

    A window ``ids[begin:end]`` has at most ``context`` ids and scores ``ids[first_target:end]``;
    ids before ``first_target`` are context only. Each window scores ``stride`` ids (the first one
    ``context - 1``, the last one the rest), so an id is predicted from at least
    ``context - stride`` ids, or from all before it.

    With ``stride == context``, windows have one more id, so that ``context`` inputs predict
    ``context`` targets, as in lm_eval.

    Args:
        length: ids in the stream.
        context: ids in a full window.
        stride: ids scored per window, from 1 (most context, slowest) to ``context``.

    Returns:
        (W, 3): begin, first_target, end of each window. Every position from 1 to ``length - 1`` is
        in exactly one ``range(first_target, end)``; id 0 is not predicted.

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
