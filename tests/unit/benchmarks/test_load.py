import numpy as np
import pytest

from benchmarks.load import Schedule, latencies, repeated, sample_events
from icestream.physics.events import EventId

MS = 1_000_000


def test_a_sample_is_repeated_under_ids_of_its_own() -> None:
    sample = sample_events(3)
    events = list(repeated(sample, 7, 5))
    assert [event.id for event in events] == [EventId(7, number) for number in range(5)]
    assert events[4].pulses is sample[1].pulses
    assert all(event.truth is None for event in events)


def test_a_schedule_keeps_the_mean_rate_and_is_the_same_for_every_pipeline() -> None:
    first, again = (np.array(Schedule(20_000, 500.0, seed=3).due_unix_ns) for _ in range(2))
    gaps_s = np.diff(first) / 1e9
    assert gaps_s.mean() == pytest.approx(1 / 500, rel=0.03)
    # An exponential law's standard deviation is its mean.
    assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.05)
    assert np.diff(again) / 1e9 == pytest.approx(gaps_s, abs=1e-6)


def test_without_a_rate_everything_is_due_at_once() -> None:
    schedule = Schedule(3, None, seed=1)
    assert [schedule.early_s(number) for number in range(3)] == [0.0, 0.0, 0.0]


def test_latencies_and_backlog_are_counted_from_the_due_times() -> None:
    found = latencies(10.0, [0, 10 * MS, 20 * MS], {2: 50 * MS, 0: 1 * MS, 1: 12 * MS})
    assert found.p50_s == pytest.approx(0.002)
    assert found.p99_s == pytest.approx(0.030, rel=0.05)
    assert found.p99_s < found.p999_s <= 0.030
    assert found.backlog_s == pytest.approx(0.030)
    assert found.is_sustained


def test_a_rate_is_not_sustained_where_the_last_result_comes_late() -> None:
    assert not latencies(10.0, [0, 10 * MS], {0: 1 * MS, 1: 1500 * MS}).is_sustained


def test_an_event_without_a_result_is_no_latency_but_an_error() -> None:
    with pytest.raises(RuntimeError, match="1 of 2 events have no result"):
        latencies(10.0, [0, 1], {0: 5})
