"""The detector as the simulation's kernels read it: columns, and who hangs on which string."""

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icestream.physics.detector import Detector
from icestream.physics.light_bounds import zone_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_STRING_SWAY_M = 5.0
"""Horizontal distance between consecutive modules of one string; neighbouring strings are farther apart."""


CELL_HEIGHT_M = 110.0
"""Modules of one string that are so close together are dismissed together, where the light does not reach."""
ROUNDING_M = 1e-3
"""Cells are made larger by this much, so that no rounding dismisses a module at the edge."""


class Cells(NamedTuple):
    """Groups of consecutive sensors, each within a sphere; columns of shape (n_cells,)."""

    x_m: FloatArray
    y_m: FloatArray
    z_m: FloatArray
    radius_m: FloatArray
    zone: IntArray
    """Depth zone of all modules of a cell, see `light_bounds`."""
    first_sensor: IntArray
    """Shape (n_cells + 1,): cell i holds the sensors first_sensor[i] to first_sensor[i + 1] - 1."""


class Layout(NamedTuple):
    """Columns of shape (n_sensors,)."""

    x_m: FloatArray
    y_m: FloatArray
    z_m: FloatArray
    efficiency: FloatArray
    string_of: IntArray
    cells: Cells
    radius_m: float
    """Of the upright cylinder around the origin that holds every module."""
    half_height_m: float


@lru_cache(maxsize=8)
def layout_of(detector: Detector) -> Layout:
    """Group a detector's modules into strings: consecutive rows at the same horizontal place."""
    x, y, z = (np.ascontiguousarray(column) for column in detector.positions_m.T)
    steps = np.hypot(np.diff(x), np.diff(y))
    first = np.concatenate(([0], np.flatnonzero(steps > MAX_STRING_SWAY_M) + 1, [len(x)])).astype(np.int64)
    counts = np.diff(first)
    return Layout(
        x_m=x,
        y_m=y,
        z_m=z,
        efficiency=np.array(detector.efficiency),
        string_of=np.repeat(np.arange(len(counts)), counts),
        cells=_cells(np.array(detector.positions_m), first),
        radius_m=float(np.hypot(x, y).max()),
        half_height_m=float(np.abs(z).max()),
    )


def _cells(positions_m: FloatArray, first_of_string: IntArray) -> Cells:
    """Cut strings into cells of limited height."""
    starts: list[int] = []
    for start, end in itertools.pairwise(first_of_string.tolist()):
        starts.append(start)
        for sensor in range(start, end):
            if np.linalg.norm(positions_m[sensor] - positions_m[starts[-1]]) > CELL_HEIGHT_M:
                starts.append(sensor)
    first = np.array([*starts, len(positions_m)], np.int64)
    members = [positions_m[start:end] for start, end in itertools.pairwise(first.tolist())]
    centres = np.array([0.5 * (m.min(axis=0) + m.max(axis=0)) for m in members])
    radii = np.array([np.linalg.norm(m - c, axis=1).max() for m, c in zip(members, centres, strict=True)])
    x, y, z = (np.ascontiguousarray(column) for column in centres.T)
    zones = np.array([zone_of(height) for height in z], np.int64)
    return Cells(x, y, z, radii + ROUNDING_M, zones, first)
