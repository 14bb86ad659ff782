"""Where and when a fit of an event should start: at the first bright light.

Source: the vertex of IceCube's high-energy starting events, Science 342 (2013) 1242856, as IceTray's
VHESelfVeto computes it; the time along a given track as in Skymap Scanner.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.physics.cherenkov import C_M_PER_NS, TAN_CHERENKOV
from icestream.physics.cleaning import taken
from icestream.physics.detector import Detector
from icestream.physics.events import Pulses

FloatArray = NDArray[np.float64]

WINDOW_NS = 3000.0
"""In a window this long,"""
THRESHOLDS_PE = (250.0, 5.0)
"""more charge than this makes a vertex; the lower one is for events that never reach the higher one."""
BALLOON_FRACTION = 0.9
"""A module with more than this part of the charge glows by itself, or hides where the light began."""


@dataclass(frozen=True, slots=True, eq=False)
class SeedVertex:
    """A point on or near the track, and when the particle passed it."""

    position_m: FloatArray
    """Shape (3,)."""
    time_ns: float


def seed_vertex(pulses: Pulses, detector: Detector) -> SeedVertex:
    """Find where the light began.

    The charge-weighted mean place of the HLC pulses in the first window above the threshold, up to the pulse
    that crosses it, and that pulse's time. Of events too dim for either threshold: the mean place of all
    pulses and their median time.

    There must be a pulse. They are not cleaned, and all serve where none is HLC.
    """
    seeds = _hlc_or_all(pulses)
    seeds = taken(seeds, np.lexsort((seeds.sensor_id, seeds.time_ns)))
    lit = taken(seeds, ~_is_balloon(seeds, detector))
    for threshold_pe in THRESHOLDS_PE:
        if (window := _first_window(lit, threshold_pe)) is not None:
            bright = taken(lit, window)
            return SeedVertex(_charge_centre_m(bright, detector), float(bright.time_ns[-1]))
    return SeedVertex(_charge_centre_m(seeds, detector), float(np.median(seeds.time_ns)))


def refined_time_ns(position_m: ArrayLike, travel: ArrayLike, pulses: Pulses, detector: Detector) -> float:
    """When a particle passed a point, given its direction, by the first light in the module nearest its track.

    Args:
        position_m: Any point of the infinite track; shape (3,).
        travel: Unit vector along the flight, away from where the neutrino came from; shape (3,).
        pulses: At least one; the HLC ones count, or all where none is HLC.
        detector: Where the modules are.

    Source: Skymap Scanner; it takes the light to move at the phase velocity.
    """
    seeds = _hlc_or_all(pulses)
    offsets = detector.positions_m[seeds.sensor_id] - np.asarray(position_m, np.float64)
    along = offsets @ np.asarray(travel, np.float64)
    distances = np.linalg.norm(offsets - along[:, None] * np.asarray(travel, np.float64), axis=1)
    # Pulses of one module share their distance; the first of them is meant.
    nearest = np.lexsort((seeds.time_ns, seeds.sensor_id, distances))[0]
    delay_m = along[nearest] + distances[nearest] * TAN_CHERENKOV
    return float(seeds.time_ns[nearest] - delay_m / C_M_PER_NS)


def _hlc_or_all(pulses: Pulses) -> Pulses:
    """The pulses in hard local coincidence, or all where there are none."""
    return taken(pulses, pulses.is_hlc) if pulses.is_hlc.any() else pulses


def _is_balloon(pulses: Pulses, detector: Detector) -> NDArray[np.bool_]:
    """Which pulses are of a module that outshines all others together; shape (n,)."""
    charges = np.bincount(pulses.sensor_id, pulses.charge_pe, detector.n_sensors)
    is_balloon: NDArray[np.bool_] = charges > BALLOON_FRACTION * charges.sum()
    return is_balloon[pulses.sensor_id]


def _first_window(pulses: Pulses, threshold_pe: float) -> NDArray[np.intp] | None:
    """Rows of the first window above the threshold, in order of time; None where there is none."""
    ends = np.cumsum(pulses.charge_pe, dtype=np.float64)
    first = np.searchsorted(pulses.time_ns, pulses.time_ns - WINDOW_NS)
    is_above = ends - np.concatenate(([0.0], ends))[first] > threshold_pe
    if not is_above.any():
        return None
    crossing = int(np.argmax(is_above))
    return np.arange(first[crossing], crossing + 1)


def _charge_centre_m(pulses: Pulses, detector: Detector) -> FloatArray:
    """Mean place of the pulses, weighted by charge if there is any; shape (3,)."""
    weights = pulses.charge_pe.astype(np.float64)
    if weights.sum() == 0:
        weights = np.ones(len(pulses))
    centre: FloatArray = weights @ detector.positions_m[pulses.sensor_id] / weights.sum()
    return centre
