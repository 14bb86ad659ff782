from datetime import UTC, date, datetime

import erfa
import numpy as np
import pytest

from icestream.physics.celestial import mjd_utc
from icestream.readers.realtime.i3time import FIRST_YEAR, LEAP_SECOND_DAYS, I3Time

TICKS_PER_S = 10**10
DAY_S = 86_400


def unix_s(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())


def test_the_leap_seconds_are_those_that_were_announced() -> None:
    table = erfa.leap_seconds.get()
    first_days = [date(int(row["year"]), int(row["month"]), 1) for row in table]
    last_days = [date.fromordinal(day.toordinal() - 1) for day in first_days]
    assert [day for day in last_days if day.year >= FIRST_YEAR] == list(LEAP_SECOND_DAYS)


@pytest.mark.parametrize(
    ("year", "elapsed_s", "unix"),
    [
        pytest.param(2022, 0, unix_s(2022, 1, 1), id="new year"),
        pytest.param(2016, 200 * DAY_S, unix_s(2016, 7, 19), id="leap second still to come"),
        pytest.param(2015, 180 * DAY_S, unix_s(2015, 6, 30), id="day of a leap second"),
        pytest.param(2015, 181 * DAY_S - 1, unix_s(2015, 6, 30, 23, 59, 59), id="before it"),
        pytest.param(2015, 181 * DAY_S, unix_s(2015, 6, 30, 23, 59, 59), id="within it"),
        pytest.param(2015, 181 * DAY_S + 1, unix_s(2015, 7, 1), id="behind it"),
        pytest.param(2015, 300 * DAY_S + 1, unix_s(2015, 10, 28), id="long behind it"),
        pytest.param(2016, 366 * DAY_S, unix_s(2016, 12, 31, 23, 59, 59), id="at the end of the year"),
    ],
)
def test_leap_seconds_are_taken_out(year: int, elapsed_s: int, unix: int) -> None:
    assert I3Time(year, elapsed_s * TICKS_PER_S).unix_ns == unix * 10**9


@pytest.mark.parametrize(("ticks", "ns"), [(14, 1), (15, 2), (9_999_999_999, 10**9)])
def test_tenths_of_nanoseconds_are_rounded(ticks: int, ns: int) -> None:
    assert I3Time(2020, ticks).unix_ns - unix_s(2020, 1, 1) * 10**9 == ns


def test_the_julian_date_is_that_of_the_sky() -> None:
    rng = np.random.default_rng(1)
    for year, ticks in zip(
        rng.integers(2005, 2040, 100).tolist(),
        rng.integers(0, 365 * DAY_S * TICKS_PER_S, 100).tolist(),
        strict=True,
    ):
        time = I3Time(year, ticks)
        assert time.mjd == mjd_utc(time.unix_ns)
