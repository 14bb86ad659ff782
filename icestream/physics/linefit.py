"""First guesses of a direction: a plane wave of light that moves along a line at constant speed.

Source: V. J. Stenger, DUMAND-1A (1990), for the line fit; "Improvement in
fast particle track reconstruction with robust statistics", arXiv:1308.5501, for the robust one.
"""

import math

import numpy as np
from numpy.typing import NDArray

from icestream.physics.compiled import compiled
from icestream.physics.detector import Detector
from icestream.physics.events import Pulses

FloatArray = NDArray[np.float64]

FALLBACK_DIRECTION = (0.0, 0.0, 1.0)
"""Answer where the pulses tell no direction, as those of one module: from above, like most of what triggers."""
CLEANING_RADIUS_M = 156.0
"""A pulse is dropped where a module this near was hit"""
CLEANING_DELAY_NS = 778.0
"""this much earlier: its light was scattered far off its way. Source: arXiv:1308.5501."""
HUBER_M = 153.0
"""Residuals beyond this count linearly instead of squared. Source: arXiv:1308.5501."""
MAX_ITERATIONS = 30
CONVERGED_COS = 1 - 1e-10
"""Cosine between the directions of two iterations that are taken to be equal."""
MIN_PULSES = 2
MIN_SPEED_M_PER_NS = 1e-9
"""Slower is at rest, up to rounding."""


def line_fit(pulses: Pulses, detector: Detector) -> FloatArray:
    """Fit the pulses' places as a linear function of their times, all with equal weight.

    Returns:
        Unit vector to where the neutrino came from, minus the fitted velocity; `FALLBACK_DIRECTION` where
        the pulses tell none. Shape (3,).
    """
    weights = np.ones(len(pulses))
    return _arrival(_velocity(_places(pulses, detector), pulses.time_ns, weights))


def robust_line_fit(pulses: Pulses, detector: Detector) -> FloatArray:
    """Fit a line to the HLC pulses that are not late, far ones counting less.

    All pulses are used where fewer than two are HLC or not late.

    Returns:
        As of `line_fit`.
    """
    chosen = pulses.is_hlc
    places, times = _places(pulses, detector), np.asarray(pulses.time_ns, np.float64)
    if np.count_nonzero(chosen) >= MIN_PULSES:
        places, times = places[chosen], times[chosen]
        sensors = pulses.sensor_id[chosen].astype(np.int64)
    else:
        sensors = pulses.sensor_id.astype(np.int64)
    is_prompt = _prompt(places, times, sensors, detector.n_sensors)
    if np.count_nonzero(is_prompt) >= MIN_PULSES:
        places, times = places[is_prompt], times[is_prompt]
    return _arrival(_robust_velocity(places, times))


def _places(pulses: Pulses, detector: Detector) -> FloatArray:
    """Where each pulse was seen; shape (n, 3)."""
    return np.ascontiguousarray(detector.positions_m[pulses.sensor_id], np.float64)


def _arrival(velocity: FloatArray) -> FloatArray:
    """Turn a velocity into the direction it comes from; shape (3,)."""
    speed = np.linalg.norm(velocity)
    # Written so that NaN fails as well.
    if not speed > MIN_SPEED_M_PER_NS:
        return np.array(FALLBACK_DIRECTION)
    return -velocity / speed


@compiled
def _velocity(places_m: FloatArray, times_ns: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted least squares: covariance of place and time over the variance of time; m/ns, shape (3,)."""
    velocity, centre, variance = np.zeros(3), np.zeros(3), 0.0
    if len(times_ns) == 0:
        return velocity
    total = weights.sum()
    # Differences of times are exact, so that a shift of all changes nothing.
    late_ns = times_ns - times_ns[0]
    late_ns = late_ns - (weights * late_ns).sum() / total
    for k in range(3):
        centre[k] = (weights * places_m[:, k]).sum() / total
    for i in range(len(times_ns)):
        variance += weights[i] * late_ns[i] ** 2
        for k in range(3):
            velocity[k] += weights[i] * late_ns[i] * (places_m[i, k] - centre[k])
    return velocity / variance if variance > 0 else np.zeros(3)


@compiled
def _robust_velocity(places_m: FloatArray, times_ns: FloatArray) -> FloatArray:
    """Minimise the Huber loss of the distances by iteratively reweighted least squares; m/ns, shape (3,)."""
    weights = np.ones(len(times_ns))
    velocity = _velocity(places_m, times_ns, weights)
    for _ in range(MAX_ITERATIONS):
        previous = velocity
        _set_huber_weights(weights, places_m, times_ns, velocity)
        velocity = _velocity(places_m, times_ns, weights)
        norms = math.sqrt((previous**2).sum() * (velocity**2).sum())
        if (previous * velocity).sum() >= CONVERGED_COS * norms:
            break
    return velocity


@compiled
def _set_huber_weights(
    weights: FloatArray, places_m: FloatArray, times_ns: FloatArray, velocity: FloatArray
) -> None:
    """Weigh each pulse by its distance from the line that the present weights fit; in place, shape (n,)."""
    centre, total = np.zeros(3), weights.sum()
    late_ns = times_ns - times_ns[0]
    for k in range(3):
        centre[k] = (weights * (places_m[:, k] - velocity[k] * late_ns)).sum() / total
    for i in range(len(times_ns)):
        distance2 = 0.0
        for k in range(3):
            distance2 += (places_m[i, k] - centre[k] - velocity[k] * late_ns[i]) ** 2
        weights[i] = HUBER_M / max(HUBER_M, math.sqrt(distance2))


@compiled
def _prompt(
    places_m: FloatArray, times_ns: FloatArray, sensors: NDArray[np.int64], n_sensors: int
) -> NDArray[np.bool_]:
    """Which pulses no near module saw much earlier; shape (n,)."""
    first = np.full(n_sensors, -1)
    for i in range(len(sensors)):
        if first[sensors[i]] < 0 or times_ns[i] < times_ns[first[sensors[i]]]:
            first[sensors[i]] = i
    seen = first[first >= 0]
    # Only modules' first pulses are compared in pairs: bright events hold many pulses of few modules.
    latest = np.full(n_sensors, np.inf)
    for i in seen:
        for j in seen:
            distance2 = _distance2(places_m, i, j)
            if distance2 <= CLEANING_RADIUS_M**2:
                latest[sensors[i]] = min(latest[sensors[i]], times_ns[j] + CLEANING_DELAY_NS)
    return times_ns <= latest[sensors]


@compiled
def _distance2(places_m: FloatArray, i: int, j: int) -> float:
    """Squared distance of two rows, without temporary arrays."""
    dx, dy = places_m[i, 0] - places_m[j, 0], places_m[i, 1] - places_m[j, 1]
    dz = places_m[i, 2] - places_m[j, 2]
    return float(dx * dx + dy * dy + dz * dz)
