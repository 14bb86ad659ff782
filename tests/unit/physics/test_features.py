import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.detector import icecube86
from icestream.physics.events import Pulses
from icestream.physics.features import N_FEATURES, pad_batch, pulse_features
from tests.unit.physics.physics_cases import pulse_tables, pulses_of, reordered, shifted

DETECTOR = icecube86()


@given(pulse_tables(), st.integers(-(10**12), 10**12))
def test_shifting_all_times_does_not_change_a_bit(pulses: Pulses, by_ns: int) -> None:
    before = pulse_features(pulses, DETECTOR, 32)
    after = pulse_features(shifted(pulses, float(by_ns)), DETECTOR, 32)

    np.testing.assert_array_equal(before, after)


@given(pulse_tables(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_choose_other_pulses(pulses: Pulses, random: object) -> None:
    # Of one module's pulses at one time, the first row counts as its first.
    _, unique = np.unique(np.stack((pulses.sensor_id, pulses.time_ns)), axis=1, return_index=True)
    pulses = reordered(pulses, unique)
    order = np.arange(len(pulses))
    random.shuffle(order)  # type: ignore[attr-defined]
    first = pulse_features(pulses, DETECTOR, 32)
    second = pulse_features(reordered(pulses, order), DETECTOR, 32)

    # Pulses of one time may change places; the set must be the same.
    np.testing.assert_array_equal(first[np.lexsort(first.T)], second[np.lexsort(second.T)])


@given(pulse_tables(), st.integers(1, 300))
def test_features_are_finite_limited_and_in_order_of_time(pulses: Pulses, max_pulses: int) -> None:
    features = pulse_features(pulses, DETECTOR, max_pulses)

    assert features.shape == (min(len(pulses), max_pulses), N_FEATURES)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert (np.diff(features[:, 3]) >= 0).all()


def test_coincident_pulses_are_kept_first_then_first_of_module_then_bright() -> None:
    pulses = pulses_of(
        sensor_id=[7, 7, 8, 9],
        time_ns=[0.0, 10.0, 20.0, 30.0],
        charge_pe=[1.0, 9.0, 0.5, 0.25],
        is_hlc=[False, False, False, True],
    )

    kept = [sorted(pulse_features(pulses, DETECTOR, n)[:, 4].tolist()) for n in (1, 2, 3)]

    assert kept == [[0.25], [0.25, 1.0], [0.25, 0.5, 1.0]]


def test_time_counts_from_the_median_coincident_pulse() -> None:
    pulses = pulses_of([1, 2, 3, 4], [0.0, 5.0, 7.0, 9.0], is_hlc=[False, True, True, True])

    assert pulse_features(pulses, DETECTOR)[:, 3].tolist() == [-7.0, -2.0, 0.0, 2.0]


def test_time_counts_from_the_median_pulse_without_coincidence() -> None:
    pulses = pulses_of([1, 2, 3], [4.0, 1.0, 2.0], is_hlc=False)

    assert pulse_features(pulses, DETECTOR)[:, 3].tolist() == [-1.0, 0.0, 2.0]


def test_columns_are_place_time_charge_and_coincidence() -> None:
    features = pulse_features(pulses_of([100], [55.0], 2.5, is_hlc=True), DETECTOR)

    expected = [*DETECTOR.positions_m[100], 0.0, 2.5, 1.0]
    np.testing.assert_array_equal(features[0], np.array(expected, np.float32))


def test_padding_holds_zeros_and_lengths_before_selection() -> None:
    tables = [np.ones((n, N_FEATURES), np.float32) for n in (2, 3)]

    padded, lengths = pad_batch(tables, [2, 500], 4)

    assert padded.shape == (2, 4, N_FEATURES)
    np.testing.assert_array_equal(padded.sum(axis=(1, 2)), [12, 18])
    np.testing.assert_array_equal(lengths, [[2], [500]])


def test_batch_longer_than_its_padding_is_a_bug_that_shows() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        pad_batch([np.ones((5, N_FEATURES), np.float32)], [5], 4)
