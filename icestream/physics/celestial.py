"""Where in the sky (ICRS) a direction of the detector points at a moment, and the other way round.

The chain is astropy's own for ICRS and AltAz without refraction, called in ERFA itself: it reads no setting, never
asks the network, and takes a millisecond for a sky of pixels. The Earth's rotation comes from the IERS tables inside
the package astropy-iers-data, which reach about a year beyond its date; later times keep the tables' last values,
which is wrong by 0.004 degrees for each second that the Earth's rotation and UTC have come apart since: decades.

Source: IERS Conventions (2010), as in ERFA; the South Pole's figures are IceTray's, which this meets to 0.0006 degrees.
"""

import math
import warnings
from functools import lru_cache
from typing import Any

import erfa
import numpy as np
from astropy.utils import iers
from astropy_iers_data import IERS_A_FILE
from numpy.typing import ArrayLike, NDArray

from icestream.physics.directions import angles, unit_vectors

FloatArray = NDArray[np.float64]

SITE_LATITUDE_RAD = math.radians(-89.9944)
SITE_LONGITUDE_RAD = math.radians(-62.6081)
NS_PER_DAY = 86_400 * 10**9
MJD_OF_UNIX_EPOCH = 40587

_JD_OF_MJD = 2_400_000.5
_TT_MINUS_TAI_S = 32.184
_S_PER_DAY = 86_400.0


def mjd_utc(unix_ns: int) -> float:
    """The modified Julian date (UTC) of a moment, rounded once; IceTray's to the last digit for real events."""
    # Division of integers is exact before it rounds.
    return (MJD_OF_UNIX_EPOCH * NS_PER_DAY + unix_ns) / NS_PER_DAY


def unix_ns_of(mjd: float) -> int:
    """The moment of a modified Julian date (UTC); `mjd_utc` of it is the same number again."""
    numerator, denominator = mjd.as_integer_ratio()
    # Integers alone: a double holds nanoseconds since 1858 to the nearest 500.
    return (2 * numerator * NS_PER_DAY + denominator) // (2 * denominator) - MJD_OF_UNIX_EPOCH * NS_PER_DAY


def equatorial_vectors(right_ascension_rad: ArrayLike, declination_rad: ArrayLike) -> FloatArray:
    """Turn right ascension and declination into unit vectors, the z axis to the north; shape (..., 3)."""
    return unit_vectors(right_ascension_rad, np.pi / 2 - np.asarray(declination_rad, np.float64))


def equatorial_angles(vectors: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Turn equatorial vectors of shape (..., 3) into right ascension in [0, 2 pi) and declination, in rad."""
    right_ascension, colatitude = angles(vectors)
    return right_ascension, np.pi / 2 - colatitude


def to_equatorial(directions: ArrayLike, unix_ns: int) -> FloatArray:
    """Turn directions in the detector into ones in the sky.

    Args:
        directions: Unit vectors to where the neutrinos came from, in detector coordinates; shape (..., 3).
        unix_ns: UTC time of the event.

    Returns:
        Unit vectors (cos dec cos ra, cos dec sin ra, sin dec) in ICRS; shape (..., 3).
    """
    azimuth, zenith = angles(directions)
    # Astronomers count azimuth from north through east; IceCube anticlockwise from its own x axis.
    intermediate = erfa.atoiq("A", np.pi / 2 - azimuth - SITE_LONGITUDE_RAD, zenith, _astrometry(unix_ns))
    return equatorial_vectors(*erfa.aticq(*intermediate, _astrometry(unix_ns)))


def to_detector(vectors: ArrayLike, unix_ns: int) -> FloatArray:
    """Turn directions in the sky into ones in the detector; the inverse of `to_equatorial`."""
    right_ascension, declination = equatorial_angles(vectors)
    astrometry = _astrometry(unix_ns)
    intermediate = erfa.atciqz(right_ascension, declination, astrometry)
    azimuth, zenith, *_ = erfa.atioq(*intermediate, astrometry)
    return unit_vectors(np.pi / 2 - azimuth - SITE_LONGITUDE_RAD, zenith)


@lru_cache(maxsize=64)
def _astrometry(unix_ns: int) -> Any:
    """Everything about a moment that does not depend on the direction: ERFA's context of a site at rest."""
    day, rest_ns = divmod(unix_ns, NS_PER_DAY)
    jd, fraction = _JD_OF_MJD + MJD_OF_UNIX_EPOCH + day, rest_ns / NS_PER_DAY
    tt = fraction + (_leap_seconds(unix_ns) + _TT_MINUS_TAI_S) / _S_PER_DAY
    ut1_minus_utc_s, x_rad, y_rad = _earth_rotation(mjd_utc(unix_ns))
    with warnings.catch_warnings():
        # Beyond 2100 the Earth's velocity is less exact than ERFA promises, and exact enough.
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        heliocentric, barycentric = erfa.epv00(jd, tt)
    return erfa.apco(
        jd,
        tt,
        barycentric,
        heliocentric["p"],
        *_pole(jd, tt),
        erfa.era00(jd, fraction + ut1_minus_utc_s / _S_PER_DAY),
        SITE_LONGITUDE_RAD,
        SITE_LATITUDE_RAD,
        0.0,
        x_rad,
        y_rad,
        erfa.sp00(jd, tt),
        0.0,
        0.0,
    )


def _pole(jd: float, tt: float) -> tuple[float, float, float]:
    """Where the celestial pole is: x, y and the locator s."""
    x, y = erfa.bpn2xy(erfa.pnm06a(jd, tt))
    return x, y, erfa.s06(jd, tt, x, y)


def _leap_seconds(unix_ns: int) -> float:
    """TAI - UTC as far as it has been announced; the first whole value before 1972."""
    # erfa.dat knows the same, but warns about every date some years beyond its release.
    table = erfa.leap_seconds.get()
    month = np.datetime64(unix_ns, "ns").astype("datetime64[M]").astype(np.int64) + 1970 * 12
    table = table[table["year"] >= 1972]
    row = np.searchsorted(table["year"] * 12 + table["month"] - 1, month, side="right") - 1
    return float(table["tai_utc"][max(row, 0)])


def _earth_rotation(mjd: float) -> tuple[float, float, float]:
    """UT1 - UTC in s and the pole's x and y in rad; the tables' first or last values outside of them."""
    tables = _iers_tables()
    first, last = tables["MJD"][0].value, tables["MJD"][-1].value
    # The last row itself counts as outside.
    inside = min(max(mjd, first), last - 1e-3)
    ut1_minus_utc = tables.ut1_utc(_JD_OF_MJD, inside)
    x, y = tables.pm_xy(_JD_OF_MJD, inside)
    return float(ut1_minus_utc.to_value("s")), float(x.to_value("rad")), float(y.to_value("rad"))


@lru_cache(maxsize=1)
def _iers_tables() -> iers.IERS:
    """Measured and predicted rotation of the Earth, from the installed package alone."""
    return iers.IERS_A.open(IERS_A_FILE)
