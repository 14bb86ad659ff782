"""The whole sphere as an ellipse of equal areas.

Source: J. P. Snyder, "Map Projections: A Working Manual", USGS 1395 (1987), p. 251.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MIDDLE_DEG = 180.0
"""Longitude in the middle."""
HALF_WIDTH = 2.0
HALF_HEIGHT = 1.0
_NEWTON_STEPS = 30


def project(longitude_deg: FloatArray, latitude_deg: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Place directions in the ellipse of half axes 2 and 1; longitude grows to the left, as one sees the sky."""
    longitude, latitude = np.broadcast_arrays(
        np.radians((np.asarray(longitude_deg) - MIDDLE_DEG + 180) % 360 - 180), np.radians(latitude_deg)
    )
    wanted = np.pi * np.sin(latitude)
    # The equation for the parametric latitude has a triple root at the poles: a start beside them converges.
    doubled = np.clip(2 * latitude, -3.1, 3.1)
    for _ in range(_NEWTON_STEPS):
        slope = np.maximum(1 + np.cos(doubled), 1e-12)
        doubled = np.clip(doubled - (doubled + np.sin(doubled) - wanted) / slope, -np.pi, np.pi)
    return -HALF_WIDTH * longitude / np.pi * np.cos(doubled / 2), HALF_HEIGHT * np.sin(doubled / 2)


def unproject(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Longitude in [0, 360] and latitude in degrees of places in the ellipse; NaN outside of it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        half = np.arcsin(y / HALF_HEIGHT)
        longitude = -np.pi * x / (HALF_WIDTH * np.cos(half))
        latitude = np.arcsin(np.clip((2 * half + np.sin(2 * half)) / np.pi, -1, 1))
    is_outside = ~(np.abs(longitude) <= np.pi)
    return (
        np.where(is_outside, np.nan, np.degrees(longitude) + MIDDLE_DEG),
        np.where(is_outside, np.nan, np.degrees(latitude)),
    )
