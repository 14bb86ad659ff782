"""Whether messages are taken in right now: while the database is away they wait at the broker."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from icestream.errors import IceStreamError

_FIRST_PROBE_S = 0.1
_SLOWEST_PROBE_S = 5.0
# Longer than any postponement: what failed has come back by then, unless another recorder took it.
_PROBATION_S = 40.0

_log = structlog.get_logger()


class Intake:
    """Open while the database takes rows; closed from its first failure until a probe of it succeeds."""

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Start open.

        Args:
            probe: Raises an `IceStreamError` while the database takes nothing.
        """
        self._probe = probe
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._problem: str | None = None
        self._pause_s = _FIRST_PROBE_S
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages are taken in."""
        return self._is_open.is_set()

    def problem(self) -> str | None:
        """What is wrong with the database; None while all is well.

        It stands until rows are written again, or none has failed for a while: on a full disk a probe may find
        room where a transaction does not.
        """
        return self._problem

    async def opened(self) -> None:
        """Return as soon as the intake is open."""
        await self._is_open.wait()

    def close(self, error: IceStreamError) -> None:
        """Close after a failure of the database; harmless to repeat."""
        if self.is_open:
            self._is_open.clear()
            self._problem = str(error)
            if self._probing is not None:
                self._probing.cancel()
            self._probing = asyncio.create_task(self._open_when_back(error))

    def confirm(self) -> None:
        """Rows were written: the next failure is a new one. Until then probes get slower."""
        self._pause_s = _FIRST_PROBE_S
        if self.is_open:
            self._problem = None

    async def stop(self) -> None:
        """End the probing, if any."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _open_when_back(self, error: IceStreamError) -> None:
        started_s = time.monotonic()
        _log.warning("intake paused", reason=error.reason, problem=str(error))
        while True:
            # Jitter keeps several recorders from knocking at the same moment.
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311
            self._pause_s = min(2 * self._pause_s, _SLOWEST_PROBE_S)
            try:
                await self._probe()
            except IceStreamError as problem:
                self._problem = str(problem)
            except Exception:
                # A mistake of ours must not keep the intake closed for ever.
                _log.exception("the database could not be asked")
            else:
                break
        self._is_open.set()
        _log.warning("intake resumed", paused_s=round(time.monotonic() - started_s, 2))
        await asyncio.sleep(_PROBATION_S)
        self._problem = None


def postponement_s(n_delivered: int) -> float:
    """How long the broker keeps a message before it is handed out again: 0.25 s, doubling, to 30 s."""
    longest_s = min(0.25 * 2.0 ** min(n_delivered - 1, 10), 30.0)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311
