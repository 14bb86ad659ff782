"""Equal-area pixels of the sphere: HEALPix, in the RING order that maps are written in.

A direction's colatitude and longitude are the polar angles of its unit vector, in whichever frame the map is.
Source: K. M. Gorski et al., ApJ 622 (2005) 759; computed by hpgeom.
"""

import math

import hpgeom
import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.physics.directions import angles, unit_vectors

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

MAX_NSIDE = 1 << 20
"""A fifth of an arc second: finer than any telescope, and its indices still fit into every format."""


def n_pixels(nside: int) -> int:
    """Pixels of the whole sphere."""
    return 12 * nside * nside


def pixel_area_sr(nside: int) -> float:
    """Solid angle of one pixel."""
    return 4 * math.pi / n_pixels(nside)


def centres(nside: int, pixel: ArrayLike) -> FloatArray:
    """Unit vectors to the centres of pixels.

    Args:
        nside: Resolution.
        pixel: RING indices; shape (...,).

    Returns:
        Shape (..., 3).
    """
    colatitude, longitude = hpgeom.pixel_to_angle(nside, pixel, nest=False, lonlat=False)
    return unit_vectors(longitude, colatitude)


def pixels_at(nside: int, vectors: ArrayLike) -> IntArray:
    """The pixels that hold directions; vectors of shape (..., 3), RING indices of shape (...,)."""
    longitude, colatitude = angles(vectors)
    return np.asarray(hpgeom.angle_to_pixel(nside, colatitude, longitude, nest=False, lonlat=False), np.int64)


def pixels_within(nside: int, centre: ArrayLike, radius_rad: float) -> IntArray:
    """The pixels whose own centre lies within a radius of a direction; RING indices, ascending.

    Args:
        nside: Resolution.
        centre: Unit vector; shape (3,).
        radius_rad: At least 0; from pi on it is the whole sphere.
    """
    if radius_rad >= math.pi:
        return np.arange(n_pixels(nside))
    if radius_rad <= 0:
        return np.empty(0, np.int64)
    longitude, colatitude = angles(centre)
    found = hpgeom.query_circle(
        nside, float(colatitude), float(longitude), radius_rad, nest=False, lonlat=False, degrees=False
    )
    return np.sort(np.asarray(found, np.int64))


def children(nside: int, pixel: ArrayLike, finer_nside: int) -> IntArray:
    """The finer pixels inside each pixel, in nested order.

    Args:
        nside: Resolution of `pixel`.
        pixel: RING indices; shape (n,).
        finer_nside: A multiple of `nside`.

    Returns:
        RING indices; shape (n, (finer_nside / nside)^2).
    """
    n_inside = (finer_nside // nside) ** 2
    nested = np.asarray(hpgeom.ring_to_nest(nside, np.asarray(pixel, np.int64)), np.int64)
    inside = nested[:, None] * n_inside + np.arange(n_inside)
    return np.asarray(hpgeom.nest_to_ring(finer_nside, inside), np.int64)


def parents(nside: int, pixel: ArrayLike, coarser_nside: int) -> IntArray:
    """The coarser pixel around each pixel; RING indices of the shape of `pixel`."""
    nested = np.asarray(hpgeom.ring_to_nest(nside, np.asarray(pixel, np.int64)), np.int64)
    around = nested // (nside // coarser_nside) ** 2
    return np.asarray(hpgeom.nest_to_ring(coarser_nside, around), np.int64)


def to_nested(nside: int, pixel: ArrayLike) -> IntArray:
    """RING to NESTED indices, for formats that want these."""
    return np.asarray(hpgeom.ring_to_nest(nside, np.asarray(pixel, np.int64)), np.int64)
