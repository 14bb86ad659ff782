"""Turns pulses into the table that the `direction` model reads; training and serving share it.

One row a pulse: x, y, z (m), t (ns after the event's time origin), q (p.e.), HLC (1 or 0). The model scales
units itself, so that these are the numbers on the wire.
"""

import numpy as np
from numpy.typing import NDArray

from icestream.physics.compiled import compiled, inlined
from icestream.physics.detector import Detector, icecube86
from icestream.physics.events import HLC, MAX_PULSES, Pulses
from icestream.physics.readout import SHELL_GAPS

N_FEATURES = 6
MAX_MODEL_PULSES = 96
"""Longer events are cut to this many pulses. Source: IceMix was trained on 96 to 192; of our network, 128 would cost
a fifth more time and gain less than 1 % in angle."""

FeatureArray = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def pulse_features(pulses: Pulses, detector: Detector, max_pulses: int = MAX_MODEL_PULSES) -> FeatureArray:
    """Select the pulses that say most, in order of time.

    Times count from the median HLC pulse, or from the median pulse where no pulse is HLC: the light of an event
    lies anywhere in its readout, so the event itself must say when it happened. The median is one of the event's
    own times, so differences to it are exact.

    Args:
        pulses: Of an event that `check_event` accepts, in any order.
        detector: The one whose rows the sensor ids are.
        max_pulses: How many to keep at most: HLC first, then the first of each module, then by charge.

    Returns:
        Shape (min(n, max_pulses), 6).
    """
    return feature_tables(pulses, np.array([len(pulses)]), detector, max_pulses)[0]


def feature_tables(
    pulses: Pulses, ends: IntArray, detector: Detector, max_pulses: int = MAX_MODEL_PULSES
) -> tuple[FeatureArray, IntArray]:
    """Do for many events what `pulse_features` does for one, and what `check_event` does.

    Args:
        pulses: Of all events, one after the other.
        ends: Where the pulses of each event end; shape (B,).
        detector: The one whose rows the sensor ids are.
        max_pulses: How many to keep of each event.

    Returns:
        The tables, one after the other, and where each of them ends, shape (B,); of an event that `check_event`
        refuses there are no rows.
    """
    # A charge of at least 0 has bits that sort as it does; adding 0 makes -0 one of them.
    brightness = (pulses.charge_pe + np.float32(0)).view(np.int32)
    return _tables(
        pulses.sensor_id,
        pulses.time_ns,
        pulses.charge_pe,
        pulses.flags,
        brightness,
        ends,
        detector.positions_m,
        max_pulses,
    )


def compile_for_messages() -> None:
    """Compile `pulse_features` for the read-only columns of a message, which takes a kernel of their own."""
    columns = (np.zeros(1, np.uint16), np.zeros(1), np.zeros(1, np.float32), np.zeros(1, np.uint8))
    for column in columns:
        column.flags.writeable = False
    pulse_features(Pulses(*columns), icecube86())


# Plain loops from here on: the router does this for every event, and numpy's calls cost more than an event's pulses.


@compiled
def _tables(
    sensor_id: NDArray[np.uint16],
    time_ns: FloatArray,
    charge_pe: NDArray[np.float32],
    flags: NDArray[np.uint8],
    brightness: NDArray[np.int32],
    ends: IntArray,
    positions_m: FloatArray,
    max_pulses: int,
) -> tuple[FeatureArray, IntArray]:
    """See `feature_tables`."""
    table = np.empty((min(len(sensor_id), len(ends) * max_pulses), N_FEATURES), np.float32)
    table_ends = np.empty(len(ends), np.int64)
    first = np.full(len(positions_m), -1, np.int64)
    begin, place = 0, 0
    for event in range(len(ends)):
        end = ends[event]
        sensors, times, charges = sensor_id[begin:end], time_ns[begin:end], charge_pe[begin:end]
        if _is_sound(sensors, times, charges, len(positions_m)):
            hits, bright = flags[begin:end], brightness[begin:end]
            origin_ns = _time_origin_ns(times, hits)
            if len(sensors) > max_pulses:
                rows = _most_telling(sensors, times, hits, bright, first, begin, max_pulses)
            else:
                rows = np.arange(len(sensors))
            _sort_by_time(rows, times, sensors)
            for row in rows:
                for axis in range(3):
                    table[place, axis] = positions_m[sensors[row], axis]
                # Subtracted in float64: a shift of all times must not change a single bit.
                table[place, 3] = times[row] - origin_ns
                table[place, 4] = charges[row]
                table[place, 5] = hits[row] & HLC
                place += 1
        begin, table_ends[event] = end, place
    return table[:place], table_ends


@compiled
def _is_sound(
    sensor_id: NDArray[np.uint16], time_ns: FloatArray, charge_pe: NDArray[np.float32], n_sensors: int
) -> bool:
    """The rules of `check_event`, which says what is wrong."""
    is_sound = 0 < len(sensor_id) <= MAX_PULSES
    for row in range(len(sensor_id)):
        # Written so that NaN fails as well.
        is_sound &= sensor_id[row] < n_sensors
        is_sound &= abs(time_ns[row]) < np.inf
        is_sound &= 0 <= charge_pe[row] < np.inf
    return is_sound


@compiled
def _time_origin_ns(time_ns: FloatArray, flags: NDArray[np.uint8]) -> float:
    n_hlc = 0
    for row in range(len(flags)):
        n_hlc += flags[row] & HLC
    n, times = 0, np.empty(n_hlc if n_hlc > 0 else len(flags))
    for row in range(len(flags)):
        if n_hlc == 0 or flags[row] & HLC:
            times[n] = time_ns[row]
            n += 1
    return _nth_smallest(times, (n - 1) // 2)


@compiled
def _most_telling(
    sensor_id: NDArray[np.uint16],
    time_ns: FloatArray,
    flags: NDArray[np.uint8],
    brightness: NDArray[np.int32],
    first: IntArray,
    begin: int,
    n: int,
) -> IntArray:
    """Rows of the n pulses that say most; of those that say as much, the first in time.

    `first` has a place for each sensor and holds rows, counted from `begin` on; lower ones are of other events.
    """
    for row in range(len(sensor_id)):
        sensor = sensor_id[row]
        if first[sensor] < begin or time_ns[row] < time_ns[first[sensor] - begin]:
            first[sensor] = begin + row
    # All that counts as one number.
    rank = np.empty(len(sensor_id), np.int64)
    for row in range(len(sensor_id)):
        is_first = 1 if first[sensor_id[row]] == begin + row else 0
        rank[row] = (((flags[row] & HLC) << 1 | is_first) << 31) + brightness[row]
    lowest = _nth_smallest(rank.copy(), len(rank) - n)
    n_better, n_equal = 0, 0
    better, equal = np.empty(n, np.int64), np.empty(len(rank), np.int64)
    for row in range(len(rank)):
        if rank[row] > lowest:
            better[n_better] = row
            n_better += 1
        elif rank[row] == lowest:
            equal[n_equal] = row
            n_equal += 1
    if n_better + n_equal > n:
        _sort_by_time(equal[:n_equal], time_ns, sensor_id)
    for place in range(n_better, n):
        better[place] = equal[place - n_better]
    return better


@compiled
def _nth_smallest(values: NDArray[np.int64] | FloatArray, n: int) -> float:
    """The value that would be in place n if all were sorted; they change places. Source: Hoare's selection."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while pivot < values[right]:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if n <= right:
            high = right
        elif n >= left:
            low = left
        else:
            break
    found: float = values[n]
    return found


@compiled
def _sort_by_time(rows: IntArray, time_ns: FloatArray, sensor_id: NDArray[np.uint16]) -> None:
    """Sort rows in place by time, then sensor, then row; Shell's sort is fast for what is nearly sorted."""
    for gap in SHELL_GAPS:
        for end in range(gap, len(rows)):
            row, place = rows[end], end
            while place >= gap and _precedes(row, rows[place - gap], time_ns, sensor_id):
                rows[place] = rows[place - gap]
                place -= gap
            rows[place] = row


@inlined
def _precedes(row: int, other: int, time_ns: FloatArray, sensor_id: NDArray[np.uint16]) -> bool:
    if time_ns[row] != time_ns[other]:
        return bool(time_ns[row] < time_ns[other])
    if sensor_id[row] != sensor_id[other]:
        return bool(sensor_id[row] < sensor_id[other])
    return row < other


def pad_batch(
    features: list[FeatureArray], n_pulses: list[int], length: int
) -> tuple[FeatureArray, NDArray[np.int32]]:
    """Stack events into the model's two inputs.

    Args:
        features: Tables of at most `length` rows each.
        n_pulses: Pulses in each event before selection.
        length: Rows of the padded table.

    Returns:
        `pulses` of shape (B, length, 6), zero where padded, and `lengths` of shape (B, 1).
    """
    padded = np.zeros((len(features), length, N_FEATURES), np.float32)
    for row, table in zip(padded, features, strict=True):
        row[: len(table)] = table
    return padded, np.array(n_pulses, np.int32)[:, None]
