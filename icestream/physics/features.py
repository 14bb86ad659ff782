"""Turns pulses into the table that the `direction` model reads; training and serving share it.

One row a pulse: x, y, z (m), t (ns after the event's time origin), q (p.e.), HLC (1 or 0). The model scales
units itself, so that these are the numbers on the wire.
"""

import numpy as np
from numpy.typing import NDArray

from icestream.physics.detector import Detector
from icestream.physics.events import HLC, Pulses

N_FEATURES = 6
MAX_MODEL_PULSES = 96
"""Longer events are cut to this many pulses. Source: IceMix was trained on 96 to 192; of our network, 128 would cost
a fifth more time and gain less than 1 % in angle."""

FeatureArray = NDArray[np.float32]


def pulse_features(pulses: Pulses, detector: Detector, max_pulses: int = MAX_MODEL_PULSES) -> FeatureArray:
    """Select the pulses that say most, in order of time.

    Args:
        pulses: At least one, of any order.
        detector: The one whose rows the sensor ids are.
        max_pulses: How many to keep at most.

    Returns:
        Shape (min(n, max_pulses), 6).
    """
    chosen = _by_time(pulses)
    origin_ns = _time_origin_ns(pulses, chosen)
    if len(pulses) > max_pulses:
        chosen = chosen[_most_telling(pulses, chosen, max_pulses)]
    features = np.empty((len(chosen), N_FEATURES), np.float32)
    features[:, :3] = detector.positions_m[pulses.sensor_id[chosen]]
    # Subtracted in float64: a shift of all times must not change a single bit.
    features[:, 3] = pulses.time_ns[chosen] - origin_ns
    features[:, 4] = pulses.charge_pe[chosen]
    features[:, 5] = pulses.flags[chosen] & HLC
    return features


def _by_time(pulses: Pulses) -> NDArray[np.intp]:
    """Rows in order of time, and of the sensor where times are the same."""
    # Sixteen bits are sorted by counting: this is faster than to sort by both at once.
    by_sensor = np.argsort(pulses.sensor_id, kind="stable")
    return by_sensor[np.argsort(pulses.time_ns[by_sensor], kind="stable")]


def _time_origin_ns(pulses: Pulses, by_time: NDArray[np.intp]) -> float:
    """Time of the median HLC pulse, or of the median pulse where no pulse is HLC.

    The light of an event lies anywhere in its readout, so the event itself must say when it happened. The
    median is one of the event's own times, so differences to it are exact.
    """
    of_hlc = by_time[pulses.is_hlc[by_time]]
    rows = of_hlc if len(of_hlc) else by_time
    return float(pulses.time_ns[rows[(len(rows) - 1) // 2]])


def _most_telling(pulses: Pulses, by_time: NDArray[np.intp], n: int) -> NDArray[np.bool_]:
    """Which of the rows, given in order of time, to keep: HLC first, then the first of each module, then by charge."""
    sensor_id = pulses.sensor_id[by_time]
    # A charge of at least 0 has bits that sort as it does; adding 0 makes -0 one of them.
    charge = (pulses.charge_pe[by_time] + np.float32(0)).view(np.int32)
    # All that counts as one number, so that no two are the same and a partition finds the last one to keep.
    rank = pulses.is_hlc[by_time].astype(np.int64)
    rank = rank << 1 | _starts_module(sensor_id)
    rank = (rank << 31 | charge) << 30
    rank -= np.arange(len(rank))
    lowest: np.int64 = np.partition(rank, -n)[-n]
    return rank >= lowest


def _starts_module(sensor_id: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Whether a row is the first one of its sensor."""
    by_sensor = np.argsort(sensor_id, kind="stable")
    in_turn = sensor_id[by_sensor]
    starts = np.ones(len(sensor_id), np.bool_)
    starts[by_sensor[1:]] = in_turn[1:] != in_turn[:-1]
    return starts


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
