"""From hits to a recorded event: pulses, local coincidences, the trigger and its window.

Source: IceCube, JINST 12 (2017) P03012 (local coincidence, SMT8 trigger).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icestream.physics.compiled import compiled
from icestream.physics.events import HLC, Pulses
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

SHELL_GAPS = (1750, 701, 301, 132, 57, 23, 10, 4, 1)

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


class Record(NamedTuple):
    """All that the modules recorded, and whether it triggered."""

    trace: Trace
    is_hlc: BoolArray
    """Shape (n,)."""
    trigger_ns: tuple[float, float]
    """First and last launch that met the trigger condition; NaN where none did."""


@compiled
def record(hits: list[Hit], layout: Layout) -> Record:
    """Form pulses, find coincidences and apply the trigger."""
    trace = _extract_pulses(_ordered(hits, len(layout.x_m)))
    is_hlc, launches_ns = _launches(trace, _coincident(trace, layout.string_of))
    return Record(trace, is_hlc, _trigger_ns(launches_ns))


@compiled
def nothing_recorded() -> Record:
    """The record of an event without a hit."""
    no_pulses = Trace(np.empty(0, np.int64), np.empty(0), np.empty(0))
    return Record(no_pulses, np.empty(0, np.bool_), (np.nan, np.nan))


def read_out(record: Record) -> Pulses:
    """Cut out the pulses around the trigger, in order of time, as the Kaggle data set holds them.

    Times are whole ns after the start of the readout, charges multiples of `CHARGE_STEP_PE`.
    """
    sensor, time_ns, charge_pe = record.trace
    start_ns, end_ns = record.trigger_ns[0] - BEFORE_TRIGGER_NS, record.trigger_ns[1] + AFTER_TRIGGER_NS
    minimum = np.where(record.is_hlc, MIN_PULSE_PE, THRESHOLD_PE)
    chosen = np.flatnonzero((time_ns >= start_ns) & (time_ns < end_ns) & (charge_pe >= minimum))
    chosen = chosen[np.argsort(time_ns[chosen], kind="stable")]
    return Pulses(
        sensor_id=sensor[chosen].astype(np.uint16),
        time_ns=np.rint(time_ns[chosen] - start_ns),
        charge_pe=(np.rint(charge_pe[chosen] / CHARGE_STEP_PE) * CHARGE_STEP_PE).astype(np.float32),
        flags=np.where(record.is_hlc[chosen], np.uint8(HLC), np.uint8(0)),
    )


# Plain loops from here on: numba takes many seconds to compile numpy's sorting and indexing.


@compiled
def _ordered(hits: list[Hit], n_sensors: int) -> Trace:
    """Columns of the hits, ordered by sensor, then time."""
    ends = np.zeros(n_sensors + 1, np.int64)
    for hit in hits:
        ends[hit[0] + 1] += 1
    for sensor in range(n_sensors):
        ends[sensor + 1] += ends[sensor]
    n = len(hits)
    sensors, times, charges = np.empty(n, np.int64), np.empty(n), np.empty(n)
    # Distributes the hits over the sensors, each in front of those it got before.
    for sensor, time, charge in hits:
        ends[sensor + 1] -= 1
        row = ends[sensor + 1]
        sensors[row], times[row], charges[row] = sensor, time, charge
    for sensor in range(n_sensors):
        # What was the end of a sensor's rows is their start by now.
        end = ends[sensor + 2] if sensor + 2 <= n_sensors else n
        # Most modules saw nothing or one photon.
        if end - ends[sensor + 1] > 1:
            _sort_by_time(times, charges, ends[sensor + 1], end)
    return Trace(sensors, times, charges)


@compiled
def _sort_by_time(times: FloatArray, charges: FloatArray, start: int, end: int) -> None:
    """Sort rows start to end - 1 in place. Source: Shell sort with the gaps of M. Ciura, FCT 2001."""
    for gap in SHELL_GAPS:
        for i in range(start + gap, end):
            time, charge, j = times[i], charges[i], i
            while j >= start + gap and times[j - gap] > time:
                times[j], charges[j] = times[j - gap], charges[j - gap]
                j -= gap
            times[j], charges[j] = time, charge


@compiled
def _extract_pulses(hits: Trace) -> Trace:
    """Merge what a waveform cannot keep apart into pulses, and let large ones saturate; reuses the arrays."""
    sensors, times, charges = hits
    n, launch_ns = 0, 0.0
    for i in range(len(sensors)):
        is_same_module = n > 0 and sensors[n - 1] == sensors[i]
        if not is_same_module or times[i] - launch_ns > LAUNCH_NS:
            launch_ns = times[i]
        is_fine = times[i] - launch_ns < FINE_SAMPLING_NS
        resolution_ns = FINE_RESOLUTION_NS if is_fine else COARSE_RESOLUTION_NS
        if is_same_module and times[i] - times[n - 1] < resolution_ns:
            charges[n - 1] += charges[i]
        else:
            sensors[n], times[n], charges[n] = sensors[i], times[i], charges[i]
            n += 1
    for i in range(n):
        charges[i] /= 1 + charges[i] / SATURATION_PE
    return Trace(sensors[:n], times[:n], charges[:n])


@compiled
def _coincident(trace: Trace, string_of: IntArray) -> BoolArray:
    """Which pulses are above threshold, with another one near on the string and in time; shape (n,)."""
    coincident = np.zeros(len(trace.sensor), np.bool_)
    for i in range(len(coincident)):
        if trace.charge_pe[i] >= THRESHOLD_PE:
            coincident[i] = _has_partner(trace, string_of, i, -1) or _has_partner(trace, string_of, i, 1)
    return coincident


@compiled
def _has_partner(trace: Trace, string_of: IntArray, i: int, step: int) -> bool:
    """Whether pulse i is in coincidence with one of the modules above (step -1) or below (step 1)."""
    sensor, time_ns = trace.sensor[i], trace.time_ns[i]
    j = i + step
    # Ordered by sensor: the neighbours' pulses are next to this module's own.
    while 0 <= j < len(trace.sensor) and abs(trace.sensor[j] - sensor) <= COINCIDENCE_SPAN:
        is_other = trace.sensor[j] != sensor and string_of[trace.sensor[j]] == string_of[sensor]
        is_near = abs(trace.time_ns[j] - time_ns) <= COINCIDENCE_NS
        if is_other and is_near and trace.charge_pe[j] >= THRESHOLD_PE:
            return True
        j += step
    return False


@compiled
def _launches(trace: Trace, coincident: BoolArray) -> tuple[BoolArray, FloatArray]:
    """Full waveforms: which pulses lie in one, and their start times in order.

    A coincident pulse starts a full waveform, whose later pulses are all recorded with it.
    """
    is_hlc = np.zeros(len(coincident), np.bool_)
    starts = np.empty(len(coincident))
    n, sensor, start_ns = 0, -1, 0.0
    for i in range(len(coincident)):
        in_launch = trace.sensor[i] == sensor and trace.time_ns[i] - start_ns < LAUNCH_NS
        if coincident[i] and not in_launch:
            sensor, start_ns = trace.sensor[i], trace.time_ns[i]
            starts[n] = start_ns
            n += 1
        is_hlc[i] = coincident[i] or in_launch
    _sort_by_time(starts, starts.copy(), 0, n)
    return is_hlc, starts[:n]


@compiled
def _trigger_ns(launches_ns: FloatArray) -> tuple[float, float]:
    """First and last of the launches that come together first; NaN where never enough do."""
    for i in range(len(launches_ns) - TRIGGER_MULTIPLICITY + 1):
        first, last = launches_ns[i], launches_ns[i + TRIGGER_MULTIPLICITY - 1]
        if last - first <= TRIGGER_NS:
            return first, last
    return np.nan, np.nan
