"""From the first line of a process to its last."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
import uvloop

from icestream.errors import IceStreamError

_log = structlog.get_logger()


def run_service(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a service until SIGINT or SIGTERM, then let it finish what it has begun.

    Args:
        serve: Runs the service and returns soon after the event is set. An expected failure ends the
            process with status 1 and one line that says what to do.
    """
    _spare_the_collector()
    try:
        uvloop.run(_until_signalled(serve))
    except IceStreamError as error:
        _log.error(str(error), reason=error.reason)
        sys.exit(1)


def _spare_the_collector() -> None:
    """Keep Python's garbage collector from what will not become garbage.

    A thousand messages in flight are tens of thousands of objects without cycles, and as often as so many are new
    the collector would look at all that was ever imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _until_signalled(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(stop)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block at the first SIGINT or SIGTERM, at whatever it waits for; later ones are ignored.

    For commands: what the block opened is closed in peace, and the command ends without an error.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    was_signalled = False

    def end() -> None:
        nonlocal was_signalled
        if not was_signalled:
            was_signalled = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    try:
        yield
    except asyncio.CancelledError:
        if not was_signalled:
            raise
        task.uncancel()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def first_of(*awaitables: Awaitable[object]) -> None:
    """Wait until one of them is done, end the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
