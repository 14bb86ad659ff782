"""Which pixel of a map speaks for which part of the sky: the finest one there, without holes or overlaps.

A level that covers a part of a coarser pixel replaces that part alone; the rest of the pixel stays, with its value, as
pixels of the orders between. Parts of the sky of which no level has a pixel are there as well, without a value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import hpgeom
import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.errors import InvalidSkymap
from icestream.physics import healpix
from icestream.scans.skymap import Level, Skymap

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

COARSER_OFFSET = 0.01
"""By how much the best llh of a coarser level is made worse than that of the deciding one where the two do not
compare: enough to break the tie, too little to be seen."""

_NO_LEVEL = 0


@dataclass(frozen=True, slots=True, eq=False)
class Cover:
    """Pixels of several orders that tile the whole sphere, along the nested curve; n rows."""

    order: IntArray
    """Resolution of each pixel: its nside is 2^order. Shape (n,)."""
    pixel: IntArray
    """NESTED index within its order; shape (n,)."""
    llh: FloatArray
    """NaN where no fit succeeded or none was made; shape (n,)."""
    source_nside: IntArray
    """Level that the value comes from, 0 where no level has a pixel; shape (n,)."""

    def __len__(self) -> int:
        return len(self.pixel)

    @property
    def max_order(self) -> int:
        """The finest order of all."""
        return int(self.order.max())

    @property
    def starts(self) -> IntArray:
        """First pixel of the finest order inside each pixel, ascending; shape (n,)."""
        return self.pixel << 2 * (self.max_order - self.order)

    @property
    def uniq(self) -> IntArray:
        """The pixels' names across orders, 4 * nside^2 + index; shape (n,). Source: IVOA MOC 2.0, NUNIQ."""
        return (np.int64(4) << 2 * self.order) + self.pixel

    @property
    def area_sr(self) -> FloatArray:
        """Solid angles; shape (n,)."""
        return healpix.pixel_area_sr(1) / np.exp2(2 * self.order)

    @property
    def is_scanned(self) -> BoolArray:
        """Where a level has a pixel, even if its fit failed; shape (n,)."""
        return np.asarray(self.source_nside != _NO_LEVEL)

    @property
    def centres(self) -> FloatArray:
        """Unit vectors in the map's frame; shape (n, 3)."""
        return nested_centres(self.order, self.pixel)

    def rows_at(self, vectors: ArrayLike) -> IntArray:
        """The pixels that hold directions; vectors of shape (..., 3), rows of shape (...,)."""
        nside = 1 << self.max_order
        finest = healpix.to_nested(nside, healpix.pixels_at(nside, vectors))
        return np.searchsorted(self.starts, finest, side="right") - 1


def nested_centres(order: IntArray, pixel: IntArray) -> FloatArray:
    """Unit vectors to the centres of nested pixels of several orders; shape (n, 3)."""
    vectors = np.empty((len(pixel), 3))
    for each in np.unique(order):
        here = order == each
        vectors[here] = np.stack(hpgeom.pixel_to_vector(1 << int(each), pixel[here], nest=True), axis=-1)
    return vectors


def cover(levels: Sequence[Level]) -> Cover:
    """Tile the sphere with the finest pixel that there is for each direction.

    Args:
        levels: Any number of levels, none of them of the same nside; a pixel without a successful fit counts as
            one that is there.
    """
    by_order = {_order_of(level): level for level in levels}
    splits = _pixels_to_split({order: _nested(level) for order, level in by_order.items()})
    order, done = 0, list[Cover]()
    here = _tiles(0, np.arange(12), np.full(12, np.nan), np.zeros(12, np.int64))
    while len(here):
        if order in by_order:
            here = _overridden(here, by_order[order])
        is_split = np.isin(here.pixel, splits.get(order, np.empty(0, np.int64)))
        done.append(_rows(here, ~is_split))
        here = _split(_rows(here, is_split))
        order += 1
    return _along_the_curve(done)


def deciding_level(skymap: Skymap) -> Level:
    """The finest level that has a successful fit; where levels do not compare it alone says where the best is.

    Raises:
        InvalidSkymap: No fit of the whole map succeeded.
    """
    for level in reversed(skymap.levels):
        if np.isfinite(level.llh).any():
            return level
    raise InvalidSkymap(
        f"the map of scan {skymap.scan_id or skymap.event_id} has no pixel with a successful fit"
    )


def deciding_levels(skymap: Skymap) -> tuple[Level, ...]:
    """The levels whose llh may be set against each other: all, or the finest one that has results."""
    return skymap.levels if skymap.levels_compare else (deciding_level(skymap),)


def comparable_levels(skymap: Skymap) -> tuple[Level, ...]:
    """All levels, shifted where they do not compare, for those who look at all of them at once.

    The llh of each other level is shifted by a constant, so that its best is `COARSER_OFFSET` above the best of the
    deciding level: the picture keeps its shape, and the smallest llh of all is where it belongs.
    """
    if skymap.levels_compare:
        return skymap.levels
    deciding = deciding_level(skymap)
    best = float(deciding.llh[np.isfinite(deciding.llh)].min())
    return tuple(
        level if level is deciding else _shifted_to(level, best + COARSER_OFFSET) for level in skymap.levels
    )


def _shifted_to(level: Level, best_llh: float) -> Level:
    finite = level.llh[np.isfinite(level.llh)]
    if not len(finite):
        return level
    # The order matters: the smallest becomes exactly the wanted value.
    return replace(level, llh=(level.llh - finite.min()) + best_llh)


def _order_of(level: Level) -> int:
    return level.nside.bit_length() - 1


def _nested(level: Level) -> IntArray:
    return np.asarray(healpix.to_nested(level.nside, level.pixel), np.int64)


def _pixels_to_split(pixels: dict[int, IntArray]) -> dict[int, IntArray]:
    """For each order the pixels that hold finer ones, nested and ascending."""
    splits: dict[int, IntArray] = {}
    held = np.empty(0, np.int64)
    for order in range(max(pixels, default=0), 0, -1):
        held = np.unique(np.concatenate((held, pixels.get(order, held[:0]))) >> 2)
        splits[order - 1] = held
    return splits


def _tiles(order: int, pixel: IntArray, llh: FloatArray, source_nside: IntArray) -> Cover:
    return Cover(np.full(len(pixel), order, np.int64), pixel, llh, source_nside)


def _rows(tiles: Cover, chosen: BoolArray | IntArray) -> Cover:
    return Cover(tiles.order[chosen], tiles.pixel[chosen], tiles.llh[chosen], tiles.source_nside[chosen])


def _split(tiles: Cover) -> Cover:
    """Four children for each pixel, with its value."""
    return Cover(
        np.repeat(tiles.order + 1, 4),
        (4 * tiles.pixel[:, None] + np.arange(4)).ravel(),
        np.repeat(tiles.llh, 4),
        np.repeat(tiles.source_nside, 4),
    )


def _overridden(tiles: Cover, level: Level) -> Cover:
    """The same pixels, with the level's own values where it has them; `tiles` ascend."""
    nested = _nested(level)
    rows = np.searchsorted(tiles.pixel, nested)
    llh, source = tiles.llh.copy(), tiles.source_nside.copy()
    llh[rows], source[rows] = np.where(np.isfinite(level.llh), level.llh, np.nan), level.nside
    return Cover(tiles.order, tiles.pixel, llh, source)


def _along_the_curve(parts: list[Cover]) -> Cover:
    whole = Cover(
        np.concatenate([part.order for part in parts]),
        np.concatenate([part.pixel for part in parts]),
        np.concatenate([part.llh for part in parts]),
        np.concatenate([part.source_nside for part in parts]),
    )
    return _rows(whole, np.argsort(whole.starts))
