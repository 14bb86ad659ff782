"""Stays with a scan until it ends, wherever it runs, and takes its map."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from rich.console import Console

from icestream.cli.scan_progress import ScanBar
from icestream.cli.scan_service import ScanService
from icestream.runtime.lifecycle import ended_by_signals
from icestream.scan_codec import skymap_from_message
from icestream.scans.skymap import Skymap
from icestream.v1 import scan_pb2


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """Where we parted from a scan."""

    scan: scan_pb2.Scan | None
    """As it was last seen; None before it was accepted."""
    skymap: Skymap | None
    """None where we left before its end."""
    is_late: bool
    """Whether we left because the time was up; else somebody pressed Ctrl-C."""


def follow(work: Callable[[ScanBar], Awaitable[Skymap]], timeout_s: float | None) -> Followed:
    """Show a scan while some work goes on, until it ends or the time is up or a signal comes."""
    return asyncio.run(_follow(work, timeout_s))


async def _follow(work: Callable[[ScanBar], Awaitable[Skymap]], timeout_s: float | None) -> Followed:
    skymap, is_late = None, False
    bar = ScanBar(Console(stderr=True))
    with ended_by_signals(), bar:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                skymap = await work(bar)
        except TimeoutError:
            if not limit.expired():
                raise
            is_late = True
    return Followed(bar.scan, skymap, is_late)


async def watch_to_end(service: ScanService, scan: scan_pb2.Scan, bar: ScanBar) -> Skymap:
    """Show a scan of the service until it ends, and fetch its map."""
    bar.show(scan)
    changes = service.watch(scan, lambda: bar.say("the scan service is away; waiting for it to come back"))
    async with aclosing(changes):
        async for change in changes:
            bar.show(change)
    return skymap_from_message(await service.skymap(scan.scan_id))
