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
    sensor, time_ns, charge_pe, flags = _cut_out(record)
    order = np.argsort(time_ns, kind="stable")
    start_ns = record.trigger_ns[0] - BEFORE_TRIGGER_NS
    return Pulses(sensor[order], np.rint(time_ns[order] - start_ns), charge_pe[order], flags[order])


# Plain loops from here on: numba takes many seconds to compile numpy's sorting and indexing.


@compiled
def _cut_out(record: Record) -> tuple[NDArray[np.uint16], FloatArray, NDArray[np.float32], NDArray[np.uint8]]:
    """Columns of the pulses that are read out, ordered by sensor."""
    n, rows = 0, np.empty(len(record.is_hlc), np.int64)
    start_ns, end_ns = record.trigger_ns[0] - BEFORE_TRIGGER_NS, record.trigger_ns[1] + AFTER_TRIGGER_NS
    for row in range(len(rows)):
        minimum_pe = MIN_PULSE_PE if record.is_hlc[row] else THRESHOLD_PE
        if start_ns <= record.trace.time_ns[row] < end_ns and record.trace.charge_pe[row] >= minimum_pe:
            rows[n] = row
            n += 1
    sensor, time_ns = np.empty(n, np.uint16), np.empty(n)
    charge_pe, flags = np.empty(n, np.float32), np.empty(n, np.uint8)
    for i in range(n):
        row = rows[i]
        sensor[i], time_ns[i] = record.trace.sensor[row], record.trace.time_ns[row]
        charge_pe[i] = np.rint(record.trace.charge_pe[row] / CHARGE_STEP_PE) * CHARGE_STEP_PE
        flags[i] = HLC if record.is_hlc[row] else 0
    return sensor, time_ns, charge_pe, flags


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
    start = 0
    while start < n:
        end = _end_of_module(sensors, start)
        # Most modules saw nothing or one photon.
        if end - start > 1:
            _sort_by_time(times, charges, start, end)
        start = end
    return Trace(sensors, times, charges)


@compiled
def _end_of_module(sensors: IntArray, start: int) -> int:
    """Where the rows of the module end that row `start` belongs to."""
    end = start + 1
    while end < len(sensors) and sensors[end] == sensors[start]:
        end += 1
    return end


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
    sensors = trace.sensor
    coincident = np.zeros(len(sensors), np.bool_)
    start = 0
    while start < len(sensors):
        end = _end_of_module(sensors, start)
        other = end
        while other < len(sensors) and sensors[other] - sensors[start] <= COINCIDENCE_SPAN:
            other_end = _end_of_module(sensors, other)
            if string_of[sensors[other]] == string_of[sensors[start]]:
                _mark_coincident(coincident, trace, (start, end), (other, other_end))
                _mark_coincident(coincident, trace, (other, other_end), (start, end))
            other = other_end
        start = end
    return coincident


@compiled
def _mark_coincident(
    coincident: BoolArray, trace: Trace, rows: tuple[int, int], other_rows: tuple[int, int]
) -> None:
    """Mark one module's pulses, from row to row, that are in coincidence with another module's."""
    times, charges = trace.time_ns, trace.charge_pe
    first = other_rows[0]
    for i in range(rows[0], rows[1]):
        if charges[i] < THRESHOLD_PE:
            continue
        while first < other_rows[1] and times[i] - times[first] > COINCIDENCE_NS:
            first += 1
        j = first
        while j < other_rows[1] and times[j] - times[i] <= COINCIDENCE_NS:
            if charges[j] >= THRESHOLD_PE:
                coincident[i] = True
                break
            j += 1


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
