"""What came of a scan, for people and for programs, and the files that it leaves."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from icestream.cli.json_values import finite
from icestream.cli.scan_progress import duration, rate, state_name
from icestream.physics import celestial
from icestream.physics.directions import FloatArray, opening_angles_rad, unit_vectors
from icestream.physics.events import Truth
from icestream.readers.realtime import StoredReconstruction
from icestream.scans.request import Frame
from icestream.scans.skymap import Skymap
from icestream.skymaps.levels import WILKS
from icestream.skymaps.regions import regions_of
from icestream.skymaps.results import write_results
from icestream.skymaps.summary import MapSummary, RegionSummary, summarise
from icestream.v1 import scan_pb2


@dataclass(frozen=True, slots=True)
class ScanReport:
    """The result of a scan, and how it went."""

    scan: scan_pb2.Scan
    """As it ended."""
    summary: MapSummary
    wilks: MapSummary
    """The same with the regions of Wilks' theorem."""
    n_hits: int
    """Hit modules that the fit of the best pixel used."""
    off_truth_deg: float | None
    """Angle between the best and the true direction; None where that is not known."""
    online: StoredReconstruction | None
    """The track of IceCube's online system, to compare with; None where there is none."""
    off_online_deg: float | None
    """Angle between the best direction and that track's."""
    files: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """Facts under names that stay the same; what is not known is null."""
        scan, summary, progress = self.scan, self.summary, self.scan.progress
        content = {
            "scan_id": scan.scan_id,
            "state": state_name(scan.state),
            "complete": summary.is_complete,
            "event": {
                "detector": summary.detector,
                "id": str(summary.event_id),
                "start_unix_ns": summary.start_unix_ns,
                "mjd": summary.mjd,
                "type": summary.event_type,
                "real": summary.is_real_event,
            },
            "reco": summary.reco,
            "nsides": _nsides(scan),
            "frame": summary.frame.value,
            "best": {
                "ra_deg": summary.right_ascension_deg,
                "dec_deg": summary.declination_deg,
                "azimuth_deg": summary.azimuth_deg,
                "zenith_deg": summary.zenith_deg,
                "nside": summary.nside,
                "pixel": summary.pixel,
                "llh": summary.llh,
                "hypothesis": summary.hypothesis,
                "evidence": summary.evidence,
                "position_m": list(summary.position_m),
                "time_ns": summary.time_ns,
                "hits": self.n_hits,
            },
            "regions": {"50": asdict(summary.inner), "90": asdict(summary.outer)},
            "contour_method": summary.method,
            "regions_by_wilks": {"50": asdict(self.wilks.inner), "90": asdict(self.wilks.outer)},
            "off_truth_deg": self.off_truth_deg,
            "online": self._online_as_json(),
            "levels": [asdict(level) for level in summary.levels],
            "fits": progress.n_fits_done,
            "fits_per_s": progress.fits_per_s,
            "elapsed_s": progress.elapsed_s,
            "worker_s": progress.worker_s,
            "trace_id": scan.trace_id,
            "files": [str(path) for path in self.files],
        }
        return {key: finite(value) for key, value in content.items()}

    def _online_as_json(self) -> dict[str, Any] | None:
        if self.online is None:
            return None
        return {
            "name": self.online.name,
            "azimuth_deg": math.degrees(self.online.azimuth_rad),
            "zenith_deg": math.degrees(self.online.zenith_rad),
            "off_deg": self.off_online_deg,
        }


def report_of(
    scan: scan_pb2.Scan,
    skymap: Skymap,
    *,
    truth: Truth | None = None,
    online: StoredReconstruction | None = None,
    directory: Path | None = None,
) -> ScanReport:
    """Find the regions of a map, and write its files where a directory is given.

    Raises:
        InvalidSkymap: No fit of the whole map succeeded.
    """
    regions = regions_of(skymap)
    summary, best = summarise(skymap, regions), regions.best
    files: list[Path] = []
    true_direction = None if truth is None else unit_vectors(truth.azimuth_rad, truth.zenith_rad)
    if directory is not None:
        files = write_results(skymap, directory, truth=_in_frame(true_direction, skymap))
    n_hits = int(best.level.n_hits[best.row])
    wilks = summarise(skymap, regions_of(skymap, WILKS))
    return ScanReport(
        scan,
        summary,
        wilks,
        n_hits,
        _off_deg(true_direction, summary),
        online,
        _off_deg(None if online is None else online.direction, summary),
        tuple(files),
    )


def table_of(report: ScanReport) -> Table:
    """The report for people."""
    table = Table(show_header=False)
    for name, value in _rows(report).items():
        table.add_row(name, Text(value))
    return table


def _rows(report: ScanReport) -> Mapping[str, str]:
    summary, progress = report.summary, report.scan.progress
    rows = {
        "scan": f"{report.scan.scan_id}, {summary.reco}, {_nsides(report.scan)}",
        "event": f"{summary.detector}/{summary.event_id}",
        "best direction": _best_direction(summary),
        "50 % region": _region(summary.inner, summary.method),
        "90 % region": _region(summary.outer, summary.method),
        "reaches (90 %)": _reach(summary),
        "hypothesis": _hypothesis(summary),
        "-ln L": f"{summary.llh:.3f}, nside {summary.nside}, pixel {summary.pixel}",
        "hits": str(report.n_hits),
        "time": f"{duration(progress.elapsed_s)}, {progress.n_fits_done} fits, {rate(progress.fits_per_s)} fits/s",
        "complete": _completeness(report),
    }
    if report.off_truth_deg is not None:
        rows["off truth"] = f"{report.off_truth_deg:.2f}°"
    if report.online is not None and report.off_online_deg is not None:
        rows["off online track"] = f"{report.off_online_deg:.2f}° from {report.online.name}"
    return rows


def _best_direction(summary: MapSummary) -> str:
    parts = []
    if summary.right_ascension_deg is not None and summary.declination_deg is not None:
        parts.append(f"RA {summary.right_ascension_deg:.3f}°, Dec {summary.declination_deg:+.3f}°")
    if summary.azimuth_deg is not None and summary.zenith_deg is not None:
        parts.append(f"azimuth {summary.azimuth_deg:.3f}°, zenith {summary.zenith_deg:.3f}°")
    return "; ".join(parts)


def _region(region: RegionSummary, method: str) -> str:
    doubt = ", may be larger: it ends where nothing was scanned" if region.is_open else ""
    return f"{region.area_deg2:.4g} deg² ({method}), {region.n_pixels} pixels{doubt}"


def _reach(summary: MapSummary) -> str:
    reach, is_sky = summary.outer.rectangle, summary.frame is Frame.EQUATORIAL
    longitude, latitude = ("RA", "Dec") if is_sky else ("azimuth", "elevation")
    return (
        f"{longitude} +{reach.longitude_plus_deg:.2f}° -{reach.longitude_minus_deg:.2f}°, "
        f"{latitude} +{reach.latitude_plus_deg:.2f}° -{reach.latitude_minus_deg:.2f}°"
    )


def _hypothesis(summary: MapSummary) -> str:
    name = summary.hypothesis or "not known"
    return (
        name
        if summary.evidence is None
        else f"{name}, better than the next by {summary.evidence:.2f} in -ln L"
    )


def _completeness(report: ScanReport) -> str:
    if report.summary.is_complete:
        return "yes"
    n_missing = sum(level.n_missing for level in report.summary.levels)
    return f"no: the scan is {state_name(report.scan.state)} and {n_missing} planned pixels are missing"


def _nsides(scan: scan_pb2.Scan) -> str:
    return ",".join(f"{level.nside}:{level.extension}" for level in scan.options.progression)


def _in_frame(direction: FloatArray | None, skymap: Skymap) -> FloatArray | None:
    """A direction in the detector as a unit vector of the map's frame; shape (3,)."""
    if direction is not None and skymap.frame is Frame.EQUATORIAL:
        return celestial.to_equatorial(direction, skymap.start_unix_ns)
    return direction


def _off_deg(direction: FloatArray | None, summary: MapSummary) -> float | None:
    """Angle between the best direction and another one in the detector."""
    if direction is None or summary.azimuth_deg is None or summary.zenith_deg is None:
        return None
    best = unit_vectors(math.radians(summary.azimuth_deg), math.radians(summary.zenith_deg))
    return float(np.degrees(opening_angles_rad(best, direction)))
