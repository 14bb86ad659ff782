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
    origin_ns = time_origin_ns(pulses)
    if len(pulses) > max_pulses:
        chosen = _most_telling(pulses, max_pulses)
        chosen = chosen[np.argsort(pulses.time_ns[chosen], kind="stable")]
    else:
        chosen = np.argsort(pulses.time_ns, kind="stable")
    features = np.empty((len(chosen), N_FEATURES), np.float32)
    features[:, :3] = detector.positions_m[pulses.sensor_id[chosen]]
    # Subtracted in float64: a shift of all times must not change a single bit.
    features[:, 3] = pulses.time_ns[chosen] - origin_ns
    features[:, 4] = pulses.charge_pe[chosen]
    features[:, 5] = pulses.flags[chosen] & HLC
    return features


def time_origin_ns(pulses: Pulses) -> float:
    """Time of the median HLC pulse, or of the median pulse where no pulse is HLC.

    The light of an event lies anywhere in its readout, so the event itself must say when it happened. The
    median is one of the event's own times, so differences to it are exact.
    """
    is_hlc = pulses.is_hlc
    times = pulses.time_ns[is_hlc] if is_hlc.any() else pulses.time_ns
    middle = (len(times) - 1) // 2
    return float(np.partition(times, middle)[middle])


def _most_telling(pulses: Pulses, n: int) -> NDArray[np.intp]:
    """Rows of the n pulses that say most: HLC first, then the first of each module, then by charge."""
    by_module = np.lexsort((-pulses.charge_pe, pulses.time_ns, pulses.sensor_id))
    starts_module = np.ones(len(by_module), np.bool_)
    starts_module[1:] = np.diff(pulses.sensor_id[by_module].astype(np.int32)) != 0
    is_first = np.empty_like(starts_module)
    is_first[by_module] = starts_module
    # The last keys only break ties, so that the choice does not depend on the order of the rows.
    keys = (pulses.sensor_id, pulses.time_ns, -pulses.charge_pe, ~is_first, ~pulses.is_hlc)
    return np.lexsort(keys)[:n]


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
