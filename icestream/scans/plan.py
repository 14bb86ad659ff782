"""Which pixels a scan looks at, in which order, and how the guesses of their variations lie.

Source: Skymap Scanner, whose selection this is; its pixel counts are reproduced.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.errors import InvalidScan
from icestream.physics import healpix
from icestream.physics.directions import angles, unit_vectors
from icestream.scans.progression import Progression
from icestream.scans.request import Pointing

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

MAX_PIXELS = 4_000_000
"""The whole sky at nside 512, and refinements; a scan that needs more is refused."""

# Fibonacci hashing: multiples of this, modulo 2^32, are all different and spread evenly at any length.
_SPREAD = 2_654_435_769


def check_size(progression: Progression, pointing: Pointing | None) -> None:
    """Refuse a scan of more pixels than anybody would wait for, or of no part of the sky.

    Raises:
        InvalidScan: It says what is wrong and what would be right.
    """
    if pointing is not None:
        _check_pointing(pointing)
    for (nside, extension), n_expected in zip(
        progression.levels, expected_pixels(progression, pointing), strict=True
    ):
        if n_expected > MAX_PIXELS:
            cure = (
                "a smaller extension or a level between"
                if extension
                else "a coarser first level or a pointing"
            )
            raise InvalidScan(
                f"level {nside}:{extension} would have about {n_expected} pixels; at most {MAX_PIXELS} are "
                f"possible, so choose {cure}"
            )


def expected_pixels(progression: Progression, pointing: Pointing | None) -> tuple[int, ...]:
    """About how many pixels each level will have: areas are divided, so that no pixel needs to be found."""
    (nside, _), *finer = progression.levels
    share = 1.0 if pointing is None else math.sin(min(pointing.radius_rad, math.pi) / 2) ** 2
    expected = [max(1, round(healpix.n_pixels(nside) * share))]
    for fine_nside, extension in finer:
        n_coarse = min(extension, healpix.n_pixels(nside))
        expected.append(n_coarse * (fine_nside // nside) ** 2)
        nside = fine_nside
    return tuple(expected)


def first_pixels(nside: int, pointing: Pointing | None) -> IntArray:
    """The pixels with which a scan begins: all, or those with their centre in the disc and the one at its centre.

    Returns:
        RING indices, ascending.
    """
    if pointing is None:
        return np.arange(healpix.n_pixels(nside))
    centre = unit_vectors(pointing.longitude_rad, pointing.colatitude_rad)
    return _disc(nside, centre, pointing.radius_rad)


def pixels_to_refine(coarse_nside: int, nside: int, extension: int, centre: FloatArray) -> IntArray:
    """The pixels to look at around the best one: some coarse ones, subdivided.

    Args:
        coarse_nside: The resolution to subdivide.
        nside: The resolution to subdivide into.
        extension: About how many coarse pixels to take: those with their centre in a disc of their area,
            computed as if the sky were flat, and the one that holds `centre`.
        centre: Unit vector to the best pixel of whichever level; shape (3,).

    Returns:
        RING indices, coarse pixel by coarse pixel.
    """
    radius_rad = math.sqrt(extension * healpix.pixel_area_sr(coarse_nside) / math.pi)
    return healpix.children(coarse_nside, _disc(coarse_nside, centre, radius_rad), nside).ravel()


def spread(pixel: IntArray) -> IntArray:
    """Put pixels into an order in which every piece of it samples the whole of them.

    A level that is half there then tells of all its sky, which is what an early start of the next one needs.
    """
    rank = np.arange(len(pixel), dtype=np.uint64) * np.uint64(_SPREAD) % np.uint64(1 << 32)
    ordered: IntArray = pixel[np.argsort(rank, kind="stable")]
    return ordered


def displacements(direction: FloatArray, offset_m: ArrayLike, *, rotates: bool) -> FloatArray:
    """The position variations of pixels, m.

    Args:
        direction: Unit vectors in detector coordinates; shape (n, 3).
        offset_m: One offset per row; shape (n, 3).
        rotates: Whether offsets are turned with the pixel, about y by its zenith angle and then about z by
            its azimuth, which turns z to its direction and x, y into the plane across.

    Returns:
        Shape (n, 3).
    """
    offset = np.asarray(offset_m, np.float64)
    if not rotates:
        return offset
    azimuth, zenith = angles(direction)
    zero = np.zeros_like(azimuth)
    x_turned = unit_vectors(azimuth, zenith + math.pi / 2)
    y_turned = np.stack((-np.sin(azimuth), np.cos(azimuth), zero), axis=-1)
    displaced: FloatArray = offset[:, :1] * x_turned + offset[:, 1:2] * y_turned + offset[:, 2:] * direction
    return displaced


def _check_pointing(pointing: Pointing) -> None:
    if not math.isfinite(pointing.longitude_rad):
        raise InvalidScan(
            f"the pointing's longitude is {pointing.longitude_rad}; it is a finite angle in rad"
        )
    if not 0 <= pointing.colatitude_rad <= math.pi:
        raise InvalidScan(f"the pointing's colatitude is {pointing.colatitude_rad}; it lies in [0, pi] rad")
    if not 0 <= pointing.radius_rad <= math.pi:
        raise InvalidScan(f"the pointing's radius is {pointing.radius_rad}; it lies in [0, pi] rad")


def _disc(nside: int, centre: FloatArray, radius_rad: float) -> IntArray:
    """The pixels around a direction, at least the one that holds it; RING indices, ascending."""
    holder = healpix.pixels_at(nside, centre).reshape(1)
    if radius_rad <= 0:
        return holder
    return np.union1d(healpix.pixels_within(nside, centre, radius_rad), holder)
