"""The end of a process that stands still: no timeout is heard where a reco computes for ever without a pause."""

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def ended_at_standstill(*, after_s: float) -> AsyncIterator[None]:
    """End the process, with a traceback and status 1, when its event loop does not run for so long.

    The broker gives its batches to others meanwhile, and whoever started the process starts it again.
    """
    ended = asyncio.Event()
    winding = asyncio.create_task(_wind_up_again(ended, after_s))
    try:
        yield
    finally:
        ended.set()
        await winding
        faulthandler.cancel_dump_traceback_later()


async def _wind_up_again(ended: asyncio.Event, after_s: float) -> None:
    while not ended.is_set():
        # A thread of the interpreter's own counts, which needs neither the loop nor the GIL.
        faulthandler.dump_traceback_later(after_s, exit=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), after_s / 4)
