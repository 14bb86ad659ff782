"""When the next event is due."""

import asyncio
import time
from collections.abc import Iterator

import numpy as np

_SHORTEST_SLEEP_S = 0.001


def due_times_s(rate: float | None, rng: np.random.Generator | None) -> Iterator[float]:
    """Yield when each event is due, in seconds after the first one's predecessor.

    Args:
        rate: Events/s; None makes every event due at once.
        rng: Draws exponential gaps of that mean rate; None keeps the gaps equal.
    """
    due_s = 0.0
    while True:
        if rate is not None:
            due_s += (1.0 if rng is None else float(rng.exponential())) / rate
        yield due_s


class Pace:
    """Holds a publisher to the due times; after a delay it catches up, so that the mean rate is kept."""

    def __init__(self, rate: float | None, rng: np.random.Generator | None = None) -> None:
        self._due_times_s = due_times_s(rate, rng)
        self._started_s: float | None = None

    async def next(self) -> None:
        """Wait until the next event is due."""
        if self._started_s is None:
            self._started_s = time.monotonic()
        early_s = self._started_s + next(self._due_times_s) - time.monotonic()
        # The event loop sleeps no shorter; at high rates events leave in small bursts.
        if early_s > _SHORTEST_SLEEP_S:
            await asyncio.sleep(early_s)
