import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.scans.pace import FitTimes, Pace

T0_NS = 1_700_000_000_000_000_000
S = 1_000_000_000


def test_times_per_fit_are_those_of_the_batches_that_were_fitted() -> None:
    times = FitTimes()
    times.add(10, 5.0, succeeded=True)
    times.add(10, 20.0, succeeded=True)
    times.add(10, 1000.0, succeeded=False)
    assert (times.mean_s, times.fastest_s, times.slowest_s) == (1.25, 0.5, 2.0)
    assert times.total_s == 1025.0


def test_before_the_first_fit_all_times_are_zero() -> None:
    times = FitTimes()
    assert (times.mean_s, times.fastest_s, times.slowest_s, times.total_s) == (0.0, 0.0, 0.0, 0.0)


def test_the_pace_is_not_known_before_the_first_result() -> None:
    assert math.isnan(Pace().seconds_per_fit())


def test_the_first_results_count_from_when_the_first_worker_began() -> None:
    pace = Pace()
    pace.add(100, T0_NS + 5 * S, 5.0)
    pace.add(100, T0_NS, 20.0)
    assert pace.first_started_unix_ns == T0_NS
    assert pace.seconds_per_fit() == pytest.approx(0.1)


def test_the_latest_four_hundred_fits_count_and_later_the_latest_quarter() -> None:
    pace = Pace()
    for second in range(10):
        pace.add(100, T0_NS + second * S, 1.0)
    for second in range(4):
        pace.add(100, T0_NS + (10 + 2 * second) * S, 2.0)
    assert pace.seconds_per_fit() == pytest.approx(0.02)
    # Of 6 400 fits, 1 600 are a quarter.
    for second in range(50):
        pace.add(100, T0_NS + (18 + 4 * second) * S, 4.0)
    assert pace.seconds_per_fit() == pytest.approx(0.04)


def test_results_that_do_not_say_when_they_began_do_not_break_the_pace() -> None:
    pace = Pace()
    pace.add(500, 0, 1.0)
    assert math.isnan(pace.seconds_per_fit())
    pace.add(500, T0_NS, 10.0)
    assert pace.seconds_per_fit() == pytest.approx(0.02)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 10 * S), st.floats(0, 100)), min_size=1))
def test_the_pace_is_finite_and_not_negative_however_clocks_differ(
    results: list[tuple[int, int, float]],
) -> None:
    pace = Pace()
    for n_fits, shift_ns, worker_s in results:
        pace.add(n_fits, T0_NS + shift_ns, worker_s)
        assert 0 <= pace.seconds_per_fit() < math.inf
