"""Where in the sky many directions point, each at a time of its own.

`celestial.to_equatorial` takes 0.6 ms for a new moment and next to nothing for a known one, so that it is asked for
the middle of each hour; within the hour the Earth turns, and that is all. The error is below 0.1 arc seconds: what
precession, nutation and aberration change in half an hour.
"""

import math

import numpy as np
from numpy.typing import NDArray

from icestream.physics import celestial
from icestream.physics.directions import unit_vectors

FloatArray = NDArray[np.float64]

_HOUR_NS = 3600 * 10**9
# Revolutions of the Earth in a day of UT1. Source: IERS Conventions (2010), eq. 5.15.
_EARTH_RAD_PER_NS = 2 * math.pi * 1.00273781191135448 / celestial.NS_PER_DAY
# The Earth's axis as the detector sees it: 0.006 degrees off the zenith, to the true south.
_AXIS = unit_vectors(-math.pi / 2 - celestial.SITE_LONGITUDE_RAD, math.pi / 2 + celestial.SITE_LATITUDE_RAD)


def sky_vectors(directions: FloatArray, unix_ns: NDArray[np.int64]) -> FloatArray:
    """Turn directions in the detector into ones in the sky.

    Args:
        directions: Unit vectors in detector coordinates; shape (n, 3).
        unix_ns: UTC time of each; 0 where it is not known; shape (n,).

    Returns:
        Unit vectors in ICRS, NaN where the time is not known; shape (n, 3).
    """
    found = np.full(directions.shape, np.nan)
    hours = unix_ns // _HOUR_NS
    for hour in np.unique(hours[unix_ns != 0]).tolist():
        rows = (hours == hour) & (unix_ns != 0)
        middle_ns = hour * _HOUR_NS + _HOUR_NS // 2
        turned = _turned(directions[rows], (unix_ns[rows] - middle_ns) * _EARTH_RAD_PER_NS)
        found[rows] = celestial.to_equatorial(turned, middle_ns)
    return found


def _turned(vectors: FloatArray, angles_rad: FloatArray) -> FloatArray:
    """Vectors turned with the Earth about its axis, each by its own angle."""
    # At the South Pole the Earth turns clockwise under the sky. Source: Rodrigues' rotation formula.
    cos, sin = np.cos(angles_rad)[:, np.newaxis], -np.sin(angles_rad)[:, np.newaxis]
    along: FloatArray = (vectors @ _AXIS)[:, np.newaxis] * _AXIS
    turned: FloatArray = along + (vectors - along) * cos + np.cross(_AXIS, vectors) * sin
    return turned
