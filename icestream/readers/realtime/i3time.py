"""IceTray's times: a year, and tenths of nanoseconds since it began in UTC, leap seconds counted.

astropy's table of leap seconds is not asked, because the emitter reads messages without astropy; a test compares.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime

from icestream.readers.realtime.archive import Archive
from icestream.readers.realtime.cursor import I32, I64

TICKS_PER_NS = 10
LEAP_SECOND_DAYS = (
    date(2005, 12, 31),
    date(2008, 12, 31),
    date(2012, 6, 30),
    date(2015, 6, 30),
    date(2016, 12, 31),
)
"""Days with 86 401 seconds since IceCube's first string. Source: IERS Bulletin C."""
FIRST_YEAR, LAST_YEAR = 2005, 2099

_NS_PER_S = 10**9
_NS_PER_DAY = 86_400 * _NS_PER_S
_MJD_OF_UNIX_EPOCH = 40587


@dataclass(frozen=True, slots=True, order=True)
class I3Time:
    """A moment."""

    year: int
    ticks: int
    """Tenths of nanoseconds."""

    @property
    def unix_ns(self) -> int:
        """Unix time, rounded to ns; like IceTray's it has the second before a leap second twice."""
        begin = datetime(self.year, 1, 1, tzinfo=UTC)
        elapsed_ns = (self.ticks + TICKS_PER_NS // 2) // TICKS_PER_NS
        n_leap = 0
        for day in LEAP_SECOND_DAYS:
            if day.year == self.year:
                # The leap second is the last one of its day, so that the day's end counts it already.
                day_end_ns = ((day - begin.date()).days + 1) * _NS_PER_DAY + n_leap * _NS_PER_S
                n_leap += elapsed_ns >= day_end_ns
        return int(begin.timestamp()) * _NS_PER_S + elapsed_ns - n_leap * _NS_PER_S

    @property
    def mjd(self) -> float:
        """Modified Julian date (UTC), rounded once; the same as `icestream.physics.celestial.mjd_utc`."""
        return (_MJD_OF_UNIX_EPOCH * _NS_PER_DAY + self.unix_ns) / _NS_PER_DAY


def read_i3time(archive: Archive) -> I3Time:
    """Read a time that is part of another object.

    Raises:
        InvalidRealtimeMessage: It is not in a year of IceCube's.
    """
    archive.enter("I3Time")
    archive.enter("I3FrameObject")
    start = archive.cursor.position
    year = archive.cursor.integer(I32, "a year")
    ticks = archive.cursor.integer(I64, "a time of the year")
    if not FIRST_YEAR <= year <= LAST_YEAR or not 0 <= ticks < _ticks_of(year):
        raise archive.cursor.error(
            f"the time is {ticks} tenths of ns of the year {year}; "
            f"expected one of the years {FIRST_YEAR} to {LAST_YEAR}",
            start,
        )
    return I3Time(year, ticks)


def _ticks_of(year: int) -> int:
    """How many ticks the year has."""
    n_days = (date(year + 1, 1, 1) - date(year, 1, 1)).days
    n_leap = sum(day.year == year for day in LEAP_SECOND_DAYS)
    return (n_days * _NS_PER_DAY + n_leap * _NS_PER_S) * TICKS_PER_NS
