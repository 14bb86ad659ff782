"""Where the neutrino came from, and how far off that may be: the best pixel and the regions around it.

A region holds the pixels whose 2 * (llh - best llh) is below a level. Where llh of different resolutions do not
compare, the finest level that has results decides alone: pixels outside of its footprint are outside of every region,
and a region that touches the footprint's border is open, which is to say that it may be larger.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icestream.physics import healpix
from icestream.physics.directions import angles
from icestream.scans.skymap import Level, Skymap
from icestream.skymaps.levels import ContourLevels, levels_for
from icestream.skymaps.multiorder import Cover, cover, deciding_level, deciding_levels
from icestream.skymaps.neighbours import neighbours
from icestream.skymaps.outlines import outlines

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

SQUARE_DEGREES_PER_SR = (180 / np.pi) ** 2
SHARES = (0.5, 0.9)
_POLES = (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """The pixel of the smallest llh."""

    level: Level
    row: int
    """Of the level's columns."""

    @property
    def nside(self) -> int:
        """Resolution of the level."""
        return self.level.nside

    @property
    def pixel(self) -> int:
        """RING index."""
        return int(self.level.pixel[self.row])

    @property
    def llh(self) -> float:
        """-ln L there."""
        return float(self.level.llh[self.row])

    @property
    def centre(self) -> FloatArray:
        """Unit vector in the map's frame; shape (3,)."""
        return healpix.centres(self.nside, self.pixel)


@dataclass(frozen=True, slots=True)
class Rectangle:
    """How far a region reaches from the best direction along its longitude and latitude; all at least 0.

    Latitude is declination, or 90 degrees minus zenith in the detector's frame. Longitudes are differences of
    the angle itself, 180 both ways where the region holds a pole.
    """

    longitude_plus_deg: float
    longitude_minus_deg: float
    latitude_plus_deg: float
    latitude_minus_deg: float


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A part of the sky that holds a share of all neutrinos."""

    share: float
    two_delta_llh: float
    """Level below which pixels are inside."""
    is_inside: BoolArray
    """Which pixels of the cover; shape (n,)."""
    area_deg2: float
    is_open: bool
    """Whether it touches sky that was not looked at, so that it may be larger."""
    outlines: tuple[FloatArray, ...]
    """All of its borders: closed lines of unit vectors in the map's frame, each of shape (m, 3), longest first."""
    rectangle: Rectangle

    @property
    def n_pixels(self) -> int:
        """Pixels inside, of any order; of few of them the area is coarse."""
        return int(np.count_nonzero(self.is_inside))


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The best direction of a map and the regions around it."""

    levels: ContourLevels
    best: Best
    cover: Cover
    """The pixels that decide."""
    two_delta_llh: FloatArray
    """2 * (llh - smallest llh of the cover) of its pixels, NaN where there is none; shape (n,)."""
    inner: Region
    """50 %."""
    outer: Region
    """90 %."""


def best_of(skymap: Skymap) -> Best:
    """Find the pixel of the smallest llh: of all levels, or of the finest with results where they do not compare.

    Of equal ones the coarsest counts, and on one level the one of the smallest index.

    Raises:
        InvalidSkymap: No fit of the whole map succeeded.
    """
    deciding_level(skymap)
    found = [
        Best(level, int(np.nanargmin(_finite(level.llh))))
        for level in deciding_levels(skymap)
        if np.isfinite(level.llh).any()
    ]
    return min(found, key=lambda best: best.llh)


def regions_of(skymap: Skymap, levels: ContourLevels | None = None) -> Regions:
    """Find the best direction and the regions of 50 and 90 % around it, by `levels_for` the map without levels.

    Raises:
        InvalidSkymap: No fit of the whole map succeeded.
    """
    best, levels = best_of(skymap), levels or levels_for(skymap)
    tiles = cover(deciding_levels(skymap))
    # A coarse pixel may be best and yet be replaced by finer ones, of which none is as good.
    two_delta_llh = 2 * (tiles.llh - np.nanmin(tiles.llh))
    inner, outer = (
        _region(tiles, two_delta_llh, best.centre, share, level)
        for share, level in zip(SHARES, (levels.two_delta_llh_50, levels.two_delta_llh_90), strict=True)
    )
    return Regions(levels, best, tiles, two_delta_llh, inner, outer)


def probabilities(regions: Regions) -> FloatArray:
    """Share of the neutrino's origin in each pixel of the cover: exp(-scale * delta llh) times its area.

    Returns:
        Sums to 1; 0 where there is no value. Shape (n,).
    """
    with np.errstate(under="ignore"):
        density = np.exp(-0.5 * regions.levels.llh_scale * np.nan_to_num(regions.two_delta_llh, nan=np.inf))
        weights = density * regions.cover.area_sr
        return np.asarray(weights / weights.sum())


def _region(tiles: Cover, two_delta_llh: FloatArray, best: FloatArray, share: float, level: float) -> Region:
    # NaN compares as outside.
    is_inside = two_delta_llh < level
    around = neighbours(tiles, np.flatnonzero(is_inside)).all_rows
    lines = outlines(tiles, two_delta_llh, level)
    holds_north, holds_south = (bool(is_inside[tiles.rows_at(pole)]) for pole in _POLES)
    return Region(
        share=share,
        two_delta_llh=level,
        is_inside=is_inside,
        area_deg2=float(tiles.area_sr[is_inside].sum() * SQUARE_DEGREES_PER_SR),
        is_open=not bool(tiles.is_scanned[around].all()),
        outlines=lines,
        rectangle=_rectangle(lines, best, holds_north=holds_north, holds_south=holds_south),
    )


def _rectangle(
    lines: tuple[FloatArray, ...], best: FloatArray, *, holds_north: bool, holds_south: bool
) -> Rectangle:
    """Measure how far lines reach from the best direction, and how far a pole inside of them does."""
    best_longitude, best_colatitude = np.degrees(angles(best))
    above, below = [0.0], [0.0]
    east, west = [0.0], [0.0]
    for line in lines:
        longitude, colatitude = np.degrees(angles(line))
        apart = _unwrapped(longitude - best_longitude)
        east.append(apart.max())
        west.append(-apart.min())
        above.append(best_colatitude - colatitude.min())
        below.append(colatitude.max() - best_colatitude)
    is_around = holds_north or holds_south or not lines
    return Rectangle(
        longitude_plus_deg=180.0 if is_around else min(float(max(east)), 180.0),
        longitude_minus_deg=180.0 if is_around else min(float(max(west)), 180.0),
        latitude_plus_deg=float(best_colatitude if holds_north or not lines else max(above)),
        latitude_minus_deg=float(180 - best_colatitude if holds_south or not lines else max(below)),
    )


def _unwrapped(longitude_deg: FloatArray) -> FloatArray:
    """Longitudes of a line without jumps, in the turn that begins nearest to 0."""
    walk = np.unwrap(longitude_deg, period=360)
    middle = (walk.max() + walk.min()) / 2
    return np.asarray(walk - 360 * np.round(middle / 360))


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)
