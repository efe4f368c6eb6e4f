"""Random choices that are the same on every machine, and their entropy.

The generator is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
OOPSLA 2014), in integers alone.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from math import isqrt, log2
from typing import TypeVar

Item = TypeVar("Item")

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_BITS = [0.0] + [log2(n) for n in range(1, 1025)]


def mixed(number: int) -> int:
    """A 64-bit number in which each bit depends on all bits of ``number``."""
    number &= _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


@cache
def _zipf(count: int, halves: int) -> tuple[list[int], list[float]]:
    """Cumulative weights 10^6 / k^(``halves`` / 2), in integers, and the bits of each k."""
    weights = [10**9 // isqrt(k**halves * 10**6) for k in range(1, count + 1)]
    total = sum(weights)
    return list(accumulate(weights)), [log2(total / weight) for weight in weights]


class Choices:
    """A sequence of random choices determined by ``seeds``.

    ``bits`` sums the information of all choices so far: -log2 of the probability of each. It is a
    lower bound of the text's information only if the text shows each counted choice; what it may
    never show is drawn by :meth:`later` or :meth:`pick_unseen`.
    """

    __slots__ = ("_state", "bits")

    def __init__(self, *seeds: int) -> None:
        self._state = 0
        for seed in seeds:
            self._state = mixed(self._state + seed * _STEP + _STEP)
        self.bits = 0.0

    def _draw(self, count: int) -> int:
        self._state = (self._state + _STEP) & _MASK
        return (mixed(self._state) * count) >> 64

    def below(self, count: int) -> int:
        """A number from 0 to ``count`` - 1, all equally likely. ``count``: at most 1,024."""
        self.bits += _BITS[count]
        return self._draw(count)

    def chance(self, share: int, of: int) -> bool:
        """True with probability ``share`` / ``of``."""
        happens = self._draw(of) < share
        self.bits += _BITS[of] - _BITS[share if happens else of - share]
        return happens

    def pick_evenly(self, options: Sequence[Item]) -> Item:
        """One of ``options``, all equally likely."""
        return options[self.below(len(options))]

    def pick(self, options: Sequence[Item], halves: int = 1) -> Item:
        """One of ``options``, earlier ones more often, as words in a language are.

        Number k, counted from 1, has a probability proportional to 1 / k^(``halves`` / 2).
        """
        return options[self._by_weight(*_zipf(len(options), halves))]

    def _by_weight(self, ends: list[int], bits: list[float]) -> int:
        number = bisect_right(ends, self._draw(ends[-1]))
        self.bits += bits[number]
        return number

    def pick_other(self, options: Sequence[Item], taken: Sequence[Item]) -> Item:
        """One of ``options`` that is not in ``taken``."""
        return self.pick([option for option in options if option not in taken])

    def pick_unseen(self, options: Sequence[Item]) -> Item:
        """One of ``options``, not counted in ``bits``: for what the text may never show."""
        return options[self._draw(len(options))]

    def later(self, options: Sequence[Item]) -> Callable[[], Item]:
        """One of ``options``, drawn when it is first asked for, and then always the same."""
        drawn: list[Item] = []

        def item() -> Item:
            if not drawn:
                drawn.append(self.pick(options))
            return drawn[0]

        return item
