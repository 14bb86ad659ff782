import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.errors import InvalidEvent
from icestream.physics.detector import icecube86
from icestream.physics.events import MAX_PULSES, Event, EventId, Pulses, check_event
from icestream.physics.features import N_FEATURES, feature_tables, pad_batch, pulse_features
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


@given(st.lists(pulse_tables(), min_size=1, max_size=5), st.integers(1, 120))
def test_many_events_have_the_tables_that_each_has_alone(events: list[Pulses], max_pulses: int) -> None:
    lengths = [len(pulses) for pulses in events]
    table, ends = feature_tables(joined(events), np.cumsum(lengths), DETECTOR, max_pulses)

    alone = [pulse_features(pulses, DETECTOR, max_pulses) for pulses in events]
    np.testing.assert_array_equal(table, np.concatenate(alone))
    assert ends.tolist() == np.cumsum([len(rows) for rows in alone]).tolist()


BROKEN = {
    "none": pulses_of([], []),
    "too many": pulses_of(np.zeros(MAX_PULSES + 1), np.zeros(MAX_PULSES + 1)),
    "unknown sensor": pulses_of([1, 5160], [1.0, 2.0]),
    "time is NaN": pulses_of([1, 2], [1.0, np.nan]),
    "time is infinite": pulses_of([1, 2], [-np.inf, 1.0]),
    "charge is negative": pulses_of([1, 2], [1.0, 2.0], [1.0, -0.1]),
    "charge is NaN": pulses_of([1, 2], [1.0, 2.0], [np.nan, 1.0]),
    "charge is infinite": pulses_of([1, 2], [1.0, 2.0], [1.0, np.inf]),
}
SOUND = {
    "last sensor": pulses_of([5159], [1.0]),
    "no charge": pulses_of([1, 2], [1.0, 2.0], [0.0, -0.0]),
    "as many as allowed": pulses_of(np.zeros(MAX_PULSES), np.zeros(MAX_PULSES)),
}


@pytest.mark.parametrize("what", [*BROKEN, *SOUND])
def test_what_no_reconstruction_could_use_has_no_rows_and_spoils_no_other_event(what: str) -> None:
    pulses, other = (BROKEN | SOUND)[what], pulses_of([7, 8], [1.0, 2.0])
    table, ends = feature_tables(joined([other, pulses, other]), np.cumsum([2, len(pulses), 2]), DETECTOR, 96)

    event = Event(EventId(1, 1), "icecube86", 0, pulses)
    if what in BROKEN:
        with pytest.raises(InvalidEvent):
            check_event(event, DETECTOR.n_sensors)
        assert ends.tolist() == [2, 2, 4]
    else:
        check_event(event, DETECTOR.n_sensors)
        assert ends.tolist() == [2, 2 + min(len(pulses), 96), 4 + min(len(pulses), 96)]
    np.testing.assert_array_equal(table[-2:], pulse_features(other, DETECTOR))


def joined(events: list[Pulses]) -> Pulses:
    """The pulses of all events, one after the other."""
    return Pulses(
        np.concatenate([pulses.sensor_id for pulses in events]),
        np.concatenate([pulses.time_ns for pulses in events]),
        np.concatenate([pulses.charge_pe for pulses in events]),
        np.concatenate([pulses.flags for pulses in events]),
    )
