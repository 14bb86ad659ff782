"""What a map says in a few numbers: where, how sure, and whether anything is missing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icestream.physics import celestial
from icestream.physics.directions import angles
from icestream.physics.events import EventId
from icestream.scans.request import Frame
from icestream.scans.skymap import Level, Skymap
from icestream.skymaps.regions import Rectangle, Region, Regions

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RegionSummary:
    """A region of the sky without its pixels."""

    share: float
    """0.5 or 0.9."""
    two_delta_llh: float
    area_deg2: float
    n_pixels: int
    n_outlines: int
    """Closed lines around it, those of holes included."""
    is_open: bool
    """Whether it touches sky that was not looked at, so that it may be larger."""
    rectangle: Rectangle


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """How much of a resolution is there."""

    nside: int
    n_pixels: int
    n_failed: int
    """Pixels without a successful fit."""
    n_missing: int
    """Pixels that were given up, or that are not there yet."""
    is_complete: bool


@dataclass(frozen=True, slots=True)
class MapSummary:
    """The result of a scan, as people quote it."""

    scan_id: str
    event_id: EventId
    event_type: str
    detector: str
    start_unix_ns: int
    """UTC time of the event; 0 where it is not known."""
    is_real_event: bool
    frame: Frame
    """Frame of the map; the best direction is given in the other one too if the event's time is known."""
    reco: str
    right_ascension_deg: float | None
    declination_deg: float | None
    azimuth_deg: float | None
    zenith_deg: float | None
    nside: int
    """Resolution of the best pixel."""
    pixel: int
    """Its RING index in the map's frame."""
    llh: float
    """Its -ln L."""
    position_m: tuple[float, float, float]
    """The fitted point there; NaN where it is not known."""
    time_ns: float
    hypothesis: str
    """Which one won there; empty where there was no choice."""
    evidence: float | None
    """By how much the best other hypothesis is worse there, in llh."""
    method: str
    """Of the regions' levels."""
    inner: RegionSummary
    """50 %."""
    outer: RegionSummary
    """90 %."""
    is_complete: bool
    """Whether the scan has ended and no pixel is missing."""
    levels_compare: bool
    """Whether llh of different levels mean the same."""
    levels: tuple[LevelSummary, ...]

    @property
    def mjd(self) -> float | None:
        """The event's time as a modified Julian date (UTC)."""
        return celestial.mjd_utc(self.start_unix_ns) if self.start_unix_ns else None


def summarise(skymap: Skymap, regions: Regions) -> MapSummary:
    """State a map's result; `regions` are those of this map."""
    best = regions.best
    level, row = best.level, best.row
    rival = float(level.rival_llh[row]) - best.llh
    sky, detector = _both_frames(best.centre, skymap)
    x, y, z = level.position_m[row].tolist()
    return MapSummary(
        scan_id=skymap.scan_id,
        event_id=skymap.event_id,
        event_type=skymap.event_type,
        detector=skymap.detector,
        start_unix_ns=skymap.start_unix_ns,
        is_real_event=skymap.is_real_event,
        frame=skymap.frame,
        reco=skymap.reco,
        right_ascension_deg=None if sky is None else _degrees(celestial.equatorial_angles(sky)[0]),
        declination_deg=None if sky is None else _degrees(celestial.equatorial_angles(sky)[1]),
        azimuth_deg=None if detector is None else _degrees(angles(detector)[0]),
        zenith_deg=None if detector is None else _degrees(angles(detector)[1]),
        nside=best.nside,
        pixel=best.pixel,
        llh=best.llh,
        position_m=(x, y, z),
        time_ns=float(level.time_ns[row]),
        hypothesis=_hypothesis(skymap, int(level.hypothesis[row])),
        evidence=rival if np.isfinite(rival) else None,
        method=regions.levels.method,
        inner=_region(regions.inner),
        outer=_region(regions.outer),
        is_complete=skymap.is_complete,
        levels_compare=skymap.levels_compare,
        levels=tuple(_level(each) for each in skymap.levels),
    )


def _both_frames(centre: FloatArray, skymap: Skymap) -> tuple[FloatArray | None, FloatArray | None]:
    """A direction in the sky and in the detector, as far as they are known."""
    time, is_sky = skymap.start_unix_ns, skymap.frame is Frame.EQUATORIAL
    if time == 0:
        return (centre, None) if is_sky else (None, centre)
    return (
        centre if is_sky else celestial.to_equatorial(centre, time),
        celestial.to_detector(centre, time) if is_sky else centre,
    )


def _degrees(angle_rad: FloatArray) -> float:
    return float(np.degrees(angle_rad))


def _hypothesis(skymap: Skymap, index: int) -> str:
    return skymap.hypotheses[index] if 0 <= index < len(skymap.hypotheses) else ""


def _region(region: Region) -> RegionSummary:
    return RegionSummary(
        share=region.share,
        two_delta_llh=region.two_delta_llh,
        area_deg2=region.area_deg2,
        n_pixels=region.n_pixels,
        n_outlines=len(region.outlines),
        is_open=region.is_open,
        rectangle=region.rectangle,
    )


def _level(level: Level) -> LevelSummary:
    return LevelSummary(
        nside=level.nside,
        n_pixels=len(level),
        n_failed=int(np.count_nonzero(~np.isfinite(level.llh))),
        n_missing=len(level.missing),
        is_complete=level.is_complete,
    )
