"""When a level is far enough to look where its best pixel is."""

import math
from bisect import bisect_right

from icestream.errors import InvalidScan

STEP = 0.1
"""After the first share of a level that begins the next one, each further such share looks again."""


def shares(first: float) -> tuple[float, ...]:
    """The shares of a level at which a scan looks: the first one, steps above it, and 1.

    Raises:
        InvalidScan: The first one is not a share.
    """
    # Written so that NaN fails as well.
    if not 0 < first <= 1:
        raise InvalidScan(
            f"the predictive threshold is {first}; it is above 0 and at most 1, which waits for all"
        )
    n_steps = math.ceil((1 - first) / STEP - 1e-9)
    return *(round(first + STEP * step, 12) for step in range(n_steps)), 1.0


class Milestones:
    """Shares of one level, each passed as the level grows, and again where new pixels set it back."""

    def __init__(self, shares: tuple[float, ...]) -> None:
        self.is_settled = False
        """Whether the first one was ever passed: the level then tells where the best pixel is."""
        self._shares = shares
        self._n_passed = 0

    def passes(self, share_done: float) -> bool:
        """Whether the level has just passed one or more."""
        n_before, self._n_passed = self._n_passed, bisect_right(self._shares, share_done)
        self.is_settled |= self._n_passed > 0
        return self._n_passed > n_before

    def set_back(self, share_done: float) -> None:
        """Let milestones be passed again that lie ahead now that pixels were added."""
        self._n_passed = min(self._n_passed, bisect_right(self._shares, share_done))
