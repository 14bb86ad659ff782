"""From hits to a recorded event: pulses, local coincidences, the trigger and its window.

Source: IceCube, JINST 12 (2017) P03012, sections 3.3 (local coincidence) and 6.3 (SMT8 trigger).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icestream.physics.compiled import compiled
from icestream.physics.events import HLC
from icestream.physics.layout import Layout
from icestream.physics.pmt import Hit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

THRESHOLD_PE = 0.25
"""Of the discriminator that starts a readout."""
MIN_PULSE_PE = 0.05
"""Smaller pulses are lost in the waveform's noise."""
CHARGE_STEP_PE = 0.025
"""The Kaggle data set's charges are multiples of it."""
SATURATION_PE = 2000.0
"""A pulse's charge approaches this, as a photomultiplier's output does."""

LAUNCH_NS = 6400.0
"""Length of the full waveform that a module in local coincidence records."""
FINE_SAMPLING_NS = 427.0
"""Length of its finely sampled first part."""
FINE_RESOLUTION_NS = 8.0
"""Photons closer than this make one pulse in the finely sampled part,"""
COARSE_RESOLUTION_NS = 50.0
"""and closer than this later on."""

COINCIDENCE_NS = 1000.0
COINCIDENCE_SPAN = 2
"""Modules up and down the string that can be in coincidence."""
TRIGGER_MULTIPLICITY = 8
TRIGGER_NS = 5000.0
BEFORE_TRIGGER_NS = 4000.0
AFTER_TRIGGER_NS = 6000.0


class Trace(NamedTuple):
    """Pulses ordered by sensor, then time; columns of shape (n,)."""

    sensor: IntArray
    time_ns: FloatArray
    charge_pe: FloatArray


class Recorded(NamedTuple):
    """Pulses of a readout ordered by time; columns of shape (n,), empty where nothing triggered."""

    sensor: NDArray[np.uint16]
    time_ns: FloatArray
    """Whole ns after the start of the readout."""
    charge_pe: NDArray[np.float32]
    flags: NDArray[np.uint8]


@compiled
def nothing_recorded() -> Recorded:
    """The readout of an event that did not trigger."""
    return Recorded(np.empty(0, np.uint16), np.empty(0), np.empty(0, np.float32), np.empty(0, np.uint8))


@compiled
def record(hits: list[Hit], layout: Layout) -> Recorded:
    """Form pulses, find coincidences, apply the trigger and cut out the readout."""
    trace = _extract_pulses(_ordered(hits, len(layout.x_m)))
    is_hlc, launches_ns = _launches(trace, _coincident(trace, layout))
    trigger_ns = _trigger_ns(launches_ns)
    return _read_out(trace, is_hlc, trigger_ns - BEFORE_TRIGGER_NS, trigger_ns + AFTER_TRIGGER_NS)


@compiled
def _ordered(hits: list[Hit], n_sensors: int) -> Trace:
    """Columns of the hits, ordered by sensor, then time."""
    n = len(hits)
    ends = np.zeros(n_sensors + 1, np.int64)
    for hit in hits:
        ends[hit[0] + 1] += 1
    ends = np.cumsum(ends)
    trace = Trace(np.empty(n, np.int64), np.empty(n), np.empty(n))
    # Distributes the hits over the sensors, each in front of those it got before.
    for sensor, time, charge in hits:
        ends[sensor + 1] -= 1
        trace.sensor[ends[sensor + 1]] = sensor
        trace.time_ns[ends[sensor + 1]] = time
        trace.charge_pe[ends[sensor + 1]] = charge
    _order_in_time(trace)
    return trace


@compiled
def _order_in_time(trace: Trace) -> None:
    """Sort each sensor's hits in place."""
    start = 0
    for end in range(1, len(trace.sensor) + 1):
        if end < len(trace.sensor) and trace.sensor[end] == trace.sensor[start]:
            continue
        if end - start > 1:
            order = np.argsort(trace.time_ns[start:end])
            trace.time_ns[start:end] = trace.time_ns[start:end][order]
            trace.charge_pe[start:end] = trace.charge_pe[start:end][order]
        start = end


@compiled
def _extract_pulses(hits: Trace) -> Trace:
    """Merge what a waveform cannot keep apart into pulses, and let large ones saturate."""
    n = 0
    sensor, time, charge = hits.sensor.copy(), hits.time_ns.copy(), hits.charge_pe.copy()
    launch_ns = 0.0
    for i in range(len(hits.sensor)):
        same_module = n > 0 and sensor[n - 1] == hits.sensor[i]
        if not same_module or hits.time_ns[i] - launch_ns > LAUNCH_NS:
            launch_ns = hits.time_ns[i]
        is_fine = hits.time_ns[i] - launch_ns < FINE_SAMPLING_NS
        resolution = FINE_RESOLUTION_NS if is_fine else COARSE_RESOLUTION_NS
        if same_module and hits.time_ns[i] - time[n - 1] < resolution:
            charge[n - 1] += hits.charge_pe[i]
        else:
            sensor[n], time[n], charge[n] = hits.sensor[i], hits.time_ns[i], hits.charge_pe[i]
            n += 1
    charge = charge[:n] / (1 + charge[:n] / SATURATION_PE)
    return Trace(sensor[:n], time[:n], charge)


@compiled
def _coincident(trace: Trace, layout: Layout) -> BoolArray:
    """Which pulses are above threshold, with another one near on the string and in time; shape (n,)."""
    coincident = np.zeros(len(trace.sensor), np.bool_)
    for i in range(len(trace.sensor)):
        if trace.charge_pe[i] >= THRESHOLD_PE:
            coincident[i] = _has_partner(trace, layout, i, -1) or _has_partner(trace, layout, i, 1)
    return coincident


@compiled
def _has_partner(trace: Trace, layout: Layout, i: int, step: int) -> bool:
    """Whether pulse i is in coincidence with one of the modules above (step -1) or below (step 1)."""
    sensor = trace.sensor[i]
    j = i + step
    # Ordered by sensor: the neighbours' pulses are next to this module's own.
    while 0 <= j < len(trace.sensor) and abs(trace.sensor[j] - sensor) <= COINCIDENCE_SPAN:
        is_other = trace.sensor[j] != sensor and layout.string_of[trace.sensor[j]] == layout.string_of[sensor]
        is_near = abs(trace.time_ns[j] - trace.time_ns[i]) <= COINCIDENCE_NS
        if is_other and is_near and trace.charge_pe[j] >= THRESHOLD_PE:
            return True
        j += step
    return False


@compiled
def _launches(trace: Trace, coincident: BoolArray) -> tuple[BoolArray, FloatArray]:
    """Full waveforms: which pulses lie in one, and their start times in order.

    A coincident pulse starts a full waveform, whose later pulses are all recorded with it.
    """
    is_hlc = coincident.copy()
    starts = np.empty(len(coincident))
    n = 0
    sensor, start_ns = -1, 0.0
    for i in range(len(coincident)):
        in_launch = trace.sensor[i] == sensor and trace.time_ns[i] - start_ns < LAUNCH_NS
        if coincident[i] and not in_launch:
            sensor, start_ns = trace.sensor[i], trace.time_ns[i]
            starts[n] = start_ns
            n += 1
        is_hlc[i] = coincident[i] or in_launch
    return is_hlc, np.sort(starts[:n])


@compiled
def _trigger_ns(launches_ns: FloatArray) -> float:
    """When enough launches have come together for the first time; NaN where they never do."""
    for i in range(TRIGGER_MULTIPLICITY - 1, len(launches_ns)):
        if launches_ns[i] - launches_ns[i - TRIGGER_MULTIPLICITY + 1] <= TRIGGER_NS:
            return float(launches_ns[i])
    return np.nan


@compiled
def _read_out(trace: Trace, is_hlc: BoolArray, start_ns: float, end_ns: float) -> Recorded:
    """The pulses between two times as the data set holds them; none where the times are NaN."""
    minimum = np.where(is_hlc, MIN_PULSE_PE, THRESHOLD_PE)
    inside = (trace.time_ns >= start_ns) & (trace.time_ns < end_ns) & (trace.charge_pe >= minimum)
    chosen = np.flatnonzero(inside)
    chosen = chosen[np.argsort(trace.time_ns[chosen])]
    return Recorded(
        trace.sensor[chosen].astype(np.uint16),
        np.rint(trace.time_ns[chosen] - start_ns),
        (np.rint(trace.charge_pe[chosen] / CHARGE_STEP_PE) * CHARGE_STEP_PE).astype(np.float32),
        is_hlc[chosen].astype(np.uint8) * np.uint8(HLC),
    )
