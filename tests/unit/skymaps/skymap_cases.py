"""Maps to test with; a case says only what matters to it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from icestream.physics import healpix
from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.events import EventId
from icestream.scans.request import Frame
from icestream.scans.skymap import Level, Skymap

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LogLikelihood = Callable[[FloatArray], FloatArray]

REFERENCE = Path(__file__).parents[4] / "shared/data/reference"
START_UNIX_NS = 1_656_087_196_405_259_411
SQUARE_DEGREES = 4 * np.pi * (180 / np.pi) ** 2


def reference_file(name: str) -> Path:
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"the reference scan {path} is not part of the repository")
    return path


def direction(longitude_deg: ArrayLike, latitude_deg: ArrayLike) -> FloatArray:
    return unit_vectors(np.radians(longitude_deg), np.radians(90 - np.asarray(latitude_deg)))


def gaussian(centre: FloatArray, sigma_deg: float, best_llh: float = 1000.0) -> LogLikelihood:
    """-ln L of a round parabola in the angle to a direction."""

    def llh(vectors: FloatArray) -> FloatArray:
        apart_deg = np.degrees(opening_angles_rad(vectors, centre))
        return best_llh + 0.5 * (apart_deg / sigma_deg) ** 2

    return llh


def level_of(nside: int, pixel: Sequence[int] | IntArray, llh: LogLikelihood | FloatArray) -> Level:
    pixel = np.asarray(pixel, np.int64)
    values = llh(healpix.centres(nside, pixel)) if callable(llh) else np.asarray(llh, np.float64)
    rows = np.arange(len(pixel))
    ramp: FloatArray = rows.astype(np.float64)
    return Level(
        nside=nside,
        pixel=pixel,
        llh=values,
        position_m=np.column_stack((rows + 0.5, -rows, rows * 0.1)),
        time_ns=np.asarray(10_000 + ramp),
        n_hits=np.full(len(pixel), 17),
        hypothesis=rows % 2,
        rival_llh=values + 3.0,
        energy_inside_gev=np.full(len(pixel), np.nan),
        energy_total_gev=np.asarray(1e4 + ramp),
        is_complete=True,
        missing=np.empty(0, np.int64),
    )


def whole_sky(nside: int, llh: LogLikelihood) -> Level:
    return level_of(nside, np.arange(healpix.n_pixels(nside)), llh)


def refined(
    nside: int, coarse_nside: int, centre: FloatArray, radius_deg: float, llh: LogLikelihood
) -> Level:
    """All children of the coarse pixels within a radius, as a scan refines."""
    coarse = healpix.pixels_within(coarse_nside, centre, np.radians(radius_deg))
    return level_of(nside, np.sort(healpix.children(coarse_nside, coarse, nside).ravel()), llh)


def skymap_of(*levels: Level, **changes: Any) -> Skymap:
    skymap = Skymap(
        scan_id="18c7b1x1",
        event_id=EventId(136766, 7637140),
        event_type="neutrino",
        detector="icecube86",
        start_unix_ns=START_UNIX_NS,
        is_real_event=True,
        frame=Frame.EQUATORIAL,
        reco="track",
        hypotheses=("track", "cascade"),
        levels=levels,
        is_complete=True,
        levels_compare=True,
        notes={"software": "IceStream 0.1.0"},
    )
    return replace(skymap, **changes)


def three_levels(centre: FloatArray, sigma_deg: float, **changes: Any) -> Skymap:
    """A scan as most are: 8, 64 and 512, around a round minimum."""
    llh = gaussian(centre, sigma_deg)
    return skymap_of(
        whole_sky(8, llh), refined(64, 8, centre, 14.3, llh), refined(512, 64, centre, 2.5, llh), **changes
    )


def incomparable_levels(centre: FloatArray, sigma_deg: float, **changes: Any) -> Skymap:
    """The same, coarser levels in other units, with a better llh in the wrong place."""
    away = gaussian(-centre, 40.0, best_llh=10.0)
    fine = three_levels(centre, sigma_deg)
    coarse = [
        replace(level, llh=away(healpix.centres(level.nside, level.pixel))) for level in fine.levels[:2]
    ]
    return replace(fine, levels=(*coarse, fine.levels[2]), levels_compare=False, **changes)


def disc_area_deg2(sigma_deg: float, two_delta_llh: float) -> float:
    """Area in which a round parabola is below a level."""
    return float(np.sin(np.radians(sigma_deg * np.sqrt(two_delta_llh)) / 2) ** 2 * SQUARE_DEGREES)


def without_fits(level: Level, is_failed: NDArray[np.bool_]) -> Level:
    return replace(level, llh=np.where(is_failed, np.nan, level.llh))
