"""Directions on the sphere: where the neutrino came from, as angles and as unit vectors.

A unit vector is (cos azimuth sin zenith, sin azimuth sin zenith, cos zenith); the neutrino
travels along its negative. Source: the IceCube Kaggle competition's definition.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def unit_vectors(azimuth_rad: ArrayLike, zenith_rad: ArrayLike) -> FloatArray:
    """Turn angles into unit vectors.

    Args:
        azimuth_rad: Shape (...,).
        zenith_rad: Shape (...,).

    Returns:
        Shape (..., 3), pointing to where the neutrino came from.
    """
    azimuth, zenith = np.asarray(azimuth_rad, np.float64), np.asarray(zenith_rad, np.float64)
    sin_zenith = np.sin(zenith)
    return np.stack((np.cos(azimuth) * sin_zenith, np.sin(azimuth) * sin_zenith, np.cos(zenith)), axis=-1)


def angles(vectors: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Turn vectors of any positive length into azimuth in [0, 2 pi) and zenith in [0, pi].

    Args:
        vectors: Shape (..., 3).

    Returns:
        Azimuth and zenith in rad, each of shape (...,).
    """
    v = np.asarray(vectors, np.float64)
    azimuth = np.arctan2(v[..., 1], v[..., 0]) % (2 * np.pi)
    # The remainder of a tiny negative angle rounds up to 2 pi itself.
    azimuth = np.where(azimuth >= 2 * np.pi, 0.0, azimuth)
    # An infinite length is as good as one beyond the range of numbers.
    with np.errstate(over="ignore"):
        zenith = np.arctan2(np.hypot(v[..., 0], v[..., 1]), v[..., 2])
    return azimuth, zenith


def opening_angles_rad(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Angle between unit vectors, exact for small and for opposite directions alike.

    Args:
        first: Shape (..., 3).
        second: Shape (..., 3).

    Returns:
        Angles in [0, pi]; shape (...,).

    Source: W. Kahan, "How Futile are Mindless Assessments of Roundoff", section 12.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    opening: FloatArray = 2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
    return opening
