"""Whether events are taken in right now: a model that is away should not cost every event a try."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from icestream.errors import IceStreamError, Overloaded

_FIRST_PROBE_S = 0.1
_SLOWEST_PROBE_S = 2.0

_log = structlog.get_logger()


class Intake:
    """Open while the model answers; closed from its first failure until a probe of it succeeds."""

    def __init__(self, probe: Callable[[], Awaitable[None]], on_change: Callable[[str | None], None]) -> None:
        """Start open.

        Args:
            probe: Raises an `IceStreamError` while the model is away.
            on_change: Told the problem when the intake closes and None when it opens.
        """
        self._probe = probe
        self._on_change = on_change
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether events are taken in."""
        return self._is_open.is_set()

    async def opened(self) -> None:
        """Wait until events may be taken in."""
        await self._is_open.wait()

    def close(self, error: IceStreamError) -> None:
        """Take nothing in until the model answers again; closing twice is closing once."""
        if not self.is_open:
            return
        self._is_open.clear()
        self._on_change(str(error))
        self._probing = asyncio.create_task(self._open_when_back(error))

    async def stop(self) -> None:
        """End the probing, if any."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _open_when_back(self, error: IceStreamError) -> None:
        started_s = time.monotonic()
        pause_s = error.retry_after_s if isinstance(error, Overloaded) else _FIRST_PROBE_S
        _log.warning("intake paused", reason=error.reason, problem=str(error))
        while True:
            # Jitter keeps several routers from knocking at the same moment.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                await self._probe()
            except IceStreamError:
                pause_s = min(2 * pause_s, _SLOWEST_PROBE_S)
            except Exception:
                # A mistake of ours must not keep the intake closed for ever.
                _log.exception("the model could not be asked")
                pause_s = min(2 * pause_s, _SLOWEST_PROBE_S)
            else:
                break
        self._is_open.set()
        self._on_change(None)
        _log.warning("intake resumed", paused_s=round(time.monotonic() - started_s, 2))


def postponement_s(n_delivered: int) -> float:
    """How long the broker keeps an event before it is handed out again: 0.25 s, doubling, to 30 s."""
    longest_s = min(0.25 * 2.0 ** min(n_delivered - 1, 10), 30.0)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311
