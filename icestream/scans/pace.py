"""How fast the workers of a scan are."""

import math
from bisect import bisect_right

WINDOW_SHARE = 0.25
"""The latest quarter of all fits tells how fast the rest will be,"""
MIN_WINDOW = 400
"""but at least so many. Source: Skymap Scanner."""


class FitTimes:
    """How long fits take on their workers."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self._fitting_s = 0.0
        self._n_fits = 0
        self._fastest_s = math.inf
        self._slowest_s = 0.0

    def add(self, n_fits: int, worker_s: float, *, succeeded: bool) -> None:
        """Count what one worker did in one go; what was given up tells nothing of how long a fit takes."""
        self.total_s += worker_s
        if not succeeded or n_fits == 0:
            return
        self._n_fits += n_fits
        self._fitting_s += worker_s
        self._fastest_s = min(self._fastest_s, worker_s / n_fits)
        self._slowest_s = max(self._slowest_s, worker_s / n_fits)

    @property
    def mean_s(self) -> float:
        """Per fit; 0 before the first."""
        return self._fitting_s / max(self._n_fits, 1)

    @property
    def fastest_s(self) -> float:
        """Per fit, of the fastest batch; 0 before the first."""
        return self._fastest_s if self._n_fits else 0.0

    @property
    def slowest_s(self) -> float:
        """Per fit, of the slowest batch; 0 before the first."""
        return self._slowest_s


class Pace:
    """When fits came in."""

    def __init__(self) -> None:
        self.first_started_unix_ns = 0
        """When the first worker began; 0 before the first result."""
        self._n_fits: list[int] = []  # up to and with each result
        self._ended_unix_ns: list[int] = []  # never descending: clocks of workers differ

    def add(self, n_fits: int, started_unix_ns: int, worker_s: float) -> None:
        """Count one result; one that does not say when it began counts as following the one before."""
        ended_unix_ns = started_unix_ns + round(worker_s * 1e9) if started_unix_ns > 0 else 0
        if started_unix_ns > 0:
            first = self.first_started_unix_ns or started_unix_ns
            self.first_started_unix_ns = min(first, started_unix_ns)
        self._n_fits.append(n_fits + (self._n_fits[-1] if self._n_fits else 0))
        self._ended_unix_ns.append(max(ended_unix_ns, self._ended_unix_ns[-1] if self._ended_unix_ns else 0))

    def seconds_per_fit(self) -> float:
        """Time from fit to fit among the latest ones, of all workers together; NaN while it is unknown."""
        if not self._n_fits or not self.first_started_unix_ns:
            return math.nan
        n_done = self._n_fits[-1]
        window = max(WINDOW_SHARE * n_done, MIN_WINDOW)
        # The result before the window's first one: at its end the window begins.
        before = bisect_right(self._n_fits, n_done - window) - 1
        if before < 0:
            n_before, began_unix_ns = 0, self.first_started_unix_ns
        else:
            n_before, began_unix_ns = self._n_fits[before], self._ended_unix_ns[before]
        # The window's first results may be the ones that say no time.
        began_unix_ns = max(began_unix_ns, self.first_started_unix_ns)
        return max(self._ended_unix_ns[-1] - began_unix_ns, 0) / 1e9 / (n_done - n_before)
