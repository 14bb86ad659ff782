"""Which pulses are light of the event: those near others in place and time.

Equal to IceCube's online cleaning, IceTray's SeededRTCleaning (with HLC core seeds and self-coincidence)
followed by TimeWindowCleaning, pulse by pulse.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from icestream.physics.compiled import compiled, inlined
from icestream.physics.detector import Detector
from icestream.physics.events import Pulses
from icestream.physics.icecube86 import MODULES_PER_STRING

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

RADIUS_M = 150.0
"""Pulses of modules this near"""
COINCIDENCE_NS = 1000.0
"""within this time are partners."""
MIN_PARTNERS = 2
"""A seed is an HLC pulse with partners among the HLC pulses of this many modules; its own counts for another
pulse."""
MAX_ITERATIONS = 3
"""How often partners of what was selected are added. Not until nothing changes: noise would chain."""
WINDOW_NS = 6000.0
FIRST_DEEPCORE_STRING = 79
"""Alerts and sky scans leave out this string and all after it."""


def clean(pulses: Pulses, detector: Detector, *, strings_below: int | None = FIRST_DEEPCORE_STRING) -> Pulses:
    """Keep the pulses that a reconstruction should see, in their order; none where none is HLC.

    Pulses of the string `strings_below`, counted from 1, and of those after it are dropped once they have
    served as partners; None keeps all.
    """
    connected = taken(pulses, connected_pulses(pulses, detector))
    densest = taken(connected, pulses_in_window(connected))
    if strings_below is None:
        return densest
    return taken(densest, densest.sensor_id < (strings_below - 1) * MODULES_PER_STRING)


def connected_pulses(pulses: Pulses, detector: Detector) -> BoolArray:
    """Which pulses are seeds or chained to one by partners; shape (n,).

    All HLC pulses are seeds where none has enough partners.
    """
    order = np.lexsort((pulses.time_ns, pulses.sensor_id))
    bounds = _cumulated(np.bincount(pulses.sensor_id, minlength=detector.n_sensors))
    times = np.ascontiguousarray(pulses.time_ns[order], np.float64)
    is_connected = np.zeros(len(pulses), np.bool_)
    is_connected[order] = _connected(_neighbours(detector), bounds, times, pulses.is_hlc[order])
    return is_connected


def pulses_in_window(pulses: Pulses, window_ns: float = WINDOW_NS) -> BoolArray:
    """Which pulses are in the time window that holds most pulses, the first of equals; shape (n,)."""
    times = np.sort(pulses.time_ns)
    if len(times) == 0:
        return np.zeros(0, np.bool_)
    first = np.searchsorted(times, times - window_ns)
    last = int(np.argmax(np.arange(len(times)) - first))
    is_inside: BoolArray = (times[first[last]] <= pulses.time_ns) & (pulses.time_ns <= times[last])
    return is_inside


def taken(pulses: Pulses, rows: NDArray[np.bool_ | np.intp]) -> Pulses:
    """The chosen rows, by mask or by number."""
    return Pulses(pulses.sensor_id[rows], pulses.time_ns[rows], pulses.charge_pe[rows], pulses.flags[rows])


@lru_cache(maxsize=4)
def _neighbours(detector: Detector) -> tuple[IntArray, IntArray]:
    """Bounds of each module's rows in a list of modules within the radius, itself among them; the list."""
    near = _near_modules(np.ascontiguousarray(detector.positions_m, np.float64))
    return _cumulated(np.array([len(modules) for modules in near])), np.concatenate(near)


def _cumulated(counts: IntArray) -> IntArray:
    """Where each group starts, then where the last one ends; shape (m + 1,)."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


@compiled
def _near_modules(positions_m: FloatArray) -> list[IntArray]:
    """The modules within the radius of each."""
    near = []
    for i in range(len(positions_m)):
        is_near = np.zeros(len(positions_m), np.bool_)
        for j in range(len(positions_m)):
            is_near[j] = _distance2(positions_m, i, j) <= RADIUS_M**2
        near.append(np.flatnonzero(is_near))
    return near


@compiled
def _connected(
    neighbours: tuple[IntArray, IntArray], bounds: IntArray, times_ns: FloatArray, is_hlc: BoolArray
) -> BoolArray:
    """See `connected_pulses`; of pulses ordered by module and time.

    Args:
        neighbours: See `_neighbours`.
        bounds: Module i's pulses are the rows from `bounds[i]` to before `bounds[i + 1]`; shape (m + 1,).
        times_ns: Shape (n,).
        is_hlc: Shape (n,).
    """
    selected = is_hlc & (_partner_modules(neighbours, bounds, times_ns, is_hlc) >= MIN_PARTNERS)
    if not selected.any():
        selected = is_hlc.copy()
    added = selected
    for _ in range(MAX_ITERATIONS):
        # The partners of those selected before the last round are in already.
        added = ~selected & (_partner_modules(neighbours, bounds, times_ns, added) > 0)
        if not added.any():
            break
        selected = selected | added
    return selected


@compiled
def _partner_modules(
    neighbours: tuple[IntArray, IntArray], bounds: IntArray, times_ns: FloatArray, is_source: BoolArray
) -> IntArray:
    """In how many modules each pulse has a partner among the source pulses, other than itself; shape (n,)."""
    n_modules = np.zeros(len(times_ns), np.int64)
    list_bounds, near = neighbours
    for source in range(len(bounds) - 1):
        if is_source[bounds[source] : bounds[source + 1]].any():
            for k in range(list_bounds[source], list_bounds[source + 1]):
                _count_partners(n_modules, bounds, times_ns, is_source, source, near[k])
    return n_modules


@inlined
def _count_partners(
    n_modules: IntArray,
    bounds: IntArray,
    times_ns: FloatArray,
    is_source: BoolArray,
    source: int,
    module: int,
) -> None:
    """Count the source module for all of a module's pulses that have a partner in it; in place.

    Both walk forward in time together, so that many pulses of one module cost no more than their number.
    """
    first, end = bounds[source], bounds[source + 1]
    for i in range(bounds[module], bounds[module + 1]):
        while first < end and (not is_source[first] or times_ns[first] < times_ns[i] - COINCIDENCE_NS):
            first += 1
        partner = first
        if partner == i:
            partner += 1
            while partner < end and not is_source[partner]:
                partner += 1
        if partner < end and times_ns[partner] <= times_ns[i] + COINCIDENCE_NS:
            n_modules[i] += 1


@inlined
def _distance2(positions_m: FloatArray, i: int, j: int) -> float:
    """Squared distance of two rows, without temporary arrays."""
    dx, dy = positions_m[i, 0] - positions_m[j, 0], positions_m[i, 1] - positions_m[j, 1]
    dz = positions_m[i, 2] - positions_m[j, 2]
    return float(dx * dx + dy * dy + dz * dz)
