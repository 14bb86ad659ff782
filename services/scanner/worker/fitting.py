"""Running a batch's fit within its time."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self

from icestream.scans.pixels import PixelFits

_CANCELLING_S = 1.0


class Interrupted(Exception):
    """The worker stops; somebody else is to do this."""


class Fitting:
    """Runs fits, and ends those that take too long.

    Each runs in a task of its own, because a reco may be deaf to its cancellation: then it is left behind.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._running: set[asyncio.Task[PixelFits]] = set()
        self._is_interrupted = False

    async def run(self, fit: Coroutine[Any, Any, PixelFits]) -> PixelFits:
        """The fits, if they come in time.

        Raises:
            TimeoutError: They took too long.
            Interrupted: `interrupt` was called.
            Exception: Whatever the fit raises.
        """
        task = asyncio.create_task(fit)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        done, _ = await asyncio.wait({task}, timeout=self._timeout_s)
        if not done:
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCELLING_S)
            raise TimeoutError(f"no fits after {self._timeout_s:g} s")
        if task.cancelled():
            raise Interrupted if self._is_interrupted else RuntimeError("the reco cancelled itself")
        return task.result()

    def interrupt(self) -> None:
        """End every fit that still runs, for good."""
        self._is_interrupted = True
        for task in self._running:
            task.cancel()


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """When a worker began with a batch."""

    started_unix_ns: int
    started_s: float

    @classmethod
    def start(cls) -> Self:
        """From now on."""
        return cls(time.time_ns(), time.perf_counter())

    def elapsed_s(self) -> float:
        """Until now."""
        return time.perf_counter() - self.started_s
