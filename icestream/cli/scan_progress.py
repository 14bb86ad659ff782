"""How a scan is doing, as people read it: a live bar, and the same in words."""

import math
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from icestream.scan_codec import options_from_message
from icestream.scans.plan import expected_pixels
from icestream.v1 import scan_pb2


class ScanBar:
    """A live bar, and the best direction so far below it; a context manager."""

    def __init__(self, console: Console) -> None:
        self.scan: scan_pb2.Scan | None = None
        """As it was last shown."""
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(min_width=10)),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=console,
        )
        self._task = self._bar.add_task("waiting", total=None, facts="")
        self._best = Text()
        self._shown = Group(self._bar, self._best)
        self._live = Live(self._shown, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
        if self.scan is not None:
            # What was the last to be seen stays, in files as well.
            self._console.print(self._shown)

    def show(self, scan: scan_pb2.Scan) -> None:
        """Show a scan as it is now."""
        self.scan = scan
        is_queued = scan.state == scan_pb2.SCAN_STATE_QUEUED
        self._bar.update(
            self._task,
            description=state_name(scan.state),
            total=None if is_queued else 1.0,
            completed=share_done(scan),
            facts=", ".join(facts(scan)),
        )
        if scan.HasField("best"):
            self._best.plain = f"best so far: {direction(scan.best)}, -ln L {scan.best.llh:.2f}"

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def state_name(state: scan_pb2.ScanState) -> str:
    """The state in a word."""
    return scan_pb2.ScanState.Name(state).removeprefix("SCAN_STATE_").lower()


def share_done(scan: scan_pb2.Scan) -> float:
    """Finished pixels among all that a scan will have as far as one knows; 1 for one that is complete."""
    if scan.state == scan_pb2.SCAN_STATE_COMPLETE:
        return 1.0
    levels = scan.progress.levels
    options = options_from_message(scan.options)
    to_come = expected_pixels(options.progression, options.pointing)[len(levels) :]
    n_pixels = sum(level.n_pixels_planned for level in levels) + sum(to_come)
    return sum(level.n_pixels_done for level in levels) / max(n_pixels, 1)


def facts(scan: scan_pb2.Scan) -> list[str]:
    """What there is to say beside the bar, the most important first."""
    progress, is_running = scan.progress, scan.state == scan_pb2.SCAN_STATE_RUNNING
    found = []
    if progress.levels:
        # The finest level that has begun; the coarser ones may be extended meanwhile.
        level = progress.levels[-1]
        found.append(f"nside {level.nside}: {level.n_pixels_done}/{level.n_pixels_planned} pixels")
    if progress.fits_per_s > 0:
        found.append(f"{rate(progress.fits_per_s)} fits/s")
    if is_running and progress.eta_s >= 0:
        found.append(f"{duration(progress.eta_s)} left")
    if progress.n_pixels_missing:
        found.append(f"{progress.n_pixels_missing} pixels missing")
    return found


def direction(best: scan_pb2.BestFit) -> str:
    """The best direction, on the sky where it is known there."""
    if best.HasField("equatorial"):
        ra_deg, dec_deg = math.degrees(best.equatorial.ra_rad), math.degrees(best.equatorial.dec_rad)
        return f"RA {ra_deg:.2f}° Dec {dec_deg:+.2f}°"
    azimuth_deg = math.degrees(best.horizontal.azimuth_rad)
    return f"az {azimuth_deg:.2f}° zen {math.degrees(best.horizontal.zenith_rad):.2f}°"


def rate(per_s: float) -> str:
    """A number per second, in at least two digits."""
    return f"{per_s:.0f}" if per_s >= 10 else f"{per_s:.2g}"


def duration(seconds: float) -> str:
    """A time as h:mm:ss; short ones in seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return str(timedelta(seconds=round(seconds)))
