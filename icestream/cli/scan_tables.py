"""Scans as tables for people."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Column, Table
from rich.text import Text

from icestream.cli.scan_progress import direction, duration, facts, share_done, state_name
from icestream.physics.events import EventId
from icestream.v1 import scan_pb2


def list_table(scans: Sequence[scan_pb2.Scan], now_unix_ns: int) -> Table:
    """A line for each scan."""
    # Ids are there to be copied, so that they stay whole in 80 columns too.
    whole = (Column(name, no_wrap=True, overflow="fold") for name in ("scan", "state"))
    broken = (Column(name, overflow="fold") for name in ("event", "reco", "priority", "progress"))
    best, age = Column("best", min_width=10), Column("age", min_width=7)
    table = Table(*whole, *broken, best, age, box=None, padding=(0, 1, 0, 0))
    for scan in scans:
        table.add_row(
            Text(scan.scan_id),
            state_name(scan.state),
            Text(_event(scan)),
            Text(scan.options.reco),
            str(scan.options.priority),
            f"{100 * share_done(scan):.0f} %",
            direction(scan.best) if scan.HasField("best") else "",
            duration(max(now_unix_ns - scan.created_unix_ns, 0) / 1e9),
        )
    return table


def facts_table(scan: scan_pb2.Scan) -> Table:
    """Everything that is known of a scan, but for its levels."""
    options, progress = scan.options, scan.progress
    rows = {
        "scan": scan.scan_id,
        "state": state_name(scan.state),
        "event": _event(scan),
        "event's time (UTC)": _utc(scan.start_unix_ns) or "not known: the map is in detector coordinates",
        "reco": options.reco,
        "progression": ",".join(f"{level.nside}:{level.extension}" for level in options.progression),
        "predictive threshold": f"{options.predictive_threshold:g}",
        "pointing": _pointing(options) or "the whole sky",
        "position variations": str(len(options.position_variations) or "the reco's own"),
        "priority": str(options.priority),
        "classifiers": ", ".join(f"{key}={value}" for key, value in sorted(options.classifiers.items()))
        or "none",
        "accepted (UTC)": _utc(scan.created_unix_ns),
        "ended (UTC)": _utc(scan.ended_unix_ns) or "not yet",
        "progress": ", ".join([f"{100 * share_done(scan):.0f} %", *facts(scan)]),
        "best": _best(scan) or "no result yet",
        "fits": f"{progress.n_fits_done} of {progress.n_fits_sent} that were sent",
        "results dropped": f"{progress.n_duplicates} repeated, {progress.n_unknown} unknown, {progress.n_late} late",
        "pixels given up": str(progress.n_pixels_missing),
        "time": f"{duration(progress.elapsed_s)}; {duration(progress.worker_s)} of workers",
        "revision": str(scan.revision),
        "trace": scan.trace_id or "not sampled",
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def levels_table(scan: scan_pb2.Scan) -> Table:
    """How far each level is, and how fast its fits were."""
    table = Table("nside", "pixels done", "planned", "expected", "ms/fit", "fastest batch", "slowest batch")
    for level in scan.progress.levels:
        table.add_row(
            str(level.nside),
            str(level.n_pixels_done),
            str(level.n_pixels_planned),
            str(level.n_pixels_expected),
            *(
                f"{1e3 * time_s:.3g}"
                for time_s in (level.mean_fit_s, level.fastest_fit_s, level.slowest_fit_s)
            ),
        )
    return table


def _event(scan: scan_pb2.Scan) -> str:
    return f"{scan.detector}/{EventId(scan.run_id, scan.event_id, scan.sub_event)}"


def _best(scan: scan_pb2.Scan) -> str:
    if not scan.HasField("best"):
        return ""
    best = scan.best
    horizontal = scan_pb2.BestFit(horizontal=best.horizontal)
    places = [direction(best), direction(horizontal)] if best.HasField("equatorial") else [direction(best)]
    parts = [*places, f"-ln L {best.llh:.3f}", f"nside {best.nside}, pixel {best.pixel}", best.hypothesis]
    if math.isfinite(best.evidence):
        parts.append(f"better than the next by {best.evidence:.2f}")
    return "; ".join(part for part in parts if part)


def _pointing(options: scan_pb2.ScanOptions) -> str:
    centre = options.pointing.WhichOneof("centre")
    if centre is None:
        return ""
    best = scan_pb2.BestFit(**{centre: getattr(options.pointing, centre)})
    return f"{direction(best)}, {math.degrees(options.pointing.radius_rad):g}° around"


def _utc(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S") if unix_ns else ""
