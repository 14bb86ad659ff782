"""Which pixels of a multi-order cover touch some others."""

from dataclasses import dataclass

import hpgeom
import numpy as np
from numpy.typing import NDArray

from icestream.skymaps.multiorder import Cover

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """What lies around some pixels of a cover."""

    rows: IntArray
    """Rows of pixels that are as fine as the pixel that they touch, or finer; ascending."""
    part_of: IntArray
    """Rows of coarser pixels, one for each part of them that touches; shape (k,)."""
    part_order: IntArray
    """The part's order, that of the pixel which it touches; shape (k,)."""
    part_pixel: IntArray
    """The part's NESTED index; shape (k,)."""

    @property
    def all_rows(self) -> IntArray:
        """Rows of all pixels around, each once, ascending."""
        return np.unique(np.concatenate((self.rows, self.part_of)))


def neighbours(tiles: Cover, rows: IntArray) -> Neighbours:
    """Find the pixels around some, corners included; those given may be among them.

    Of a same-sized place next to a pixel all finer pixels count, also those that do not touch it.
    """
    order, pixel = _places_around(tiles, rows)
    shift = 2 * (tiles.max_order - order)
    first = np.searchsorted(tiles.starts, pixel << shift, side="right") - 1
    last = np.searchsorted(tiles.starts, (pixel + 1) << shift)
    is_part = tiles.order[first] < order
    return Neighbours(
        _within(len(tiles), first[~is_part], last[~is_part]),
        first[is_part],
        order[is_part],
        pixel[is_part],
    )


def _within(n: int, first: IntArray, last: IntArray) -> IntArray:
    """The rows of n that lie in any of some ranges [first, last), ascending."""
    changes = np.zeros(n + 1, np.int64)
    np.add.at(changes, first, 1)
    np.add.at(changes, last, -1)
    return np.flatnonzero(np.cumsum(changes) > 0)


def _places_around(tiles: Cover, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Orders and NESTED indices of the eight places around each pixel, each once."""
    orders, pixels = [], []
    for order in np.unique(tiles.order[rows]):
        here = rows[tiles.order[rows] == order]
        around = np.unique(hpgeom.neighbors(1 << int(order), tiles.pixel[here], nest=True))
        # Some pixels have only seven neighbours; the missing one is -1.
        around = around[around >= 0]
        orders.append(np.full(len(around), order))
        pixels.append(around)
    return np.concatenate(orders).astype(np.int64), np.concatenate(pixels).astype(np.int64)
