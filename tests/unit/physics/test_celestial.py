import socket
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics import celestial
from icestream.physics.directions import angles, opening_angles_rad, unit_vectors

GOLD_MJD = 59754.67588432013
MJD_138632 = 60280.71416774572


def unix_ns(moment: str) -> int:
    """Nanoseconds of an ISO time with up to nine digits behind the point."""
    seconds, _, fraction = moment.partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    return whole * 10**9 + int(fraction.ljust(9, "0"))


def isotropic(n: int) -> Any:
    vectors = np.random.default_rng(1).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@cache
def astropys_detector_directions(mjd: float) -> Any:
    """Detector directions of `isotropic(500)` of the sky, by astropy's own frames."""
    from astropy import units as u
    from astropy.coordinates import ICRS, AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    right_ascension, declination = celestial.equatorial_angles(isotropic(500))
    site = EarthLocation.from_geodetic(lon=-62.6081 * u.deg, lat=-89.9944 * u.deg)
    with (
        iers.conf.set_temp("auto_download", False),
        iers.earth_orientation_table.set(celestial._iers_tables()),
    ):
        frame = AltAz(obstime=Time(mjd, format="mjd", scale="utc"), location=site)
        there = SkyCoord(right_ascension * u.rad, declination * u.rad, frame=ICRS()).transform_to(frame)
    return unit_vectors(np.radians(90 + 62.6081 - there.az.deg), np.radians(90 - there.alt.deg))


@pytest.mark.parametrize(
    ("moment", "mjd"),
    [
        # I3Time counts tenths of nanoseconds; the first is the header of 138632, the second that of GOLD.
        ("2023-12-02T17:08:24.093230219", MJD_138632),
        ("2022-06-24T16:13:16.405259411", GOLD_MJD),
        ("1970-01-01T00:00:00.0", 40587.0),
        ("2000-01-01T12:00:00.0", 51544.5),
    ],
)
def test_mjd_is_icetrays_to_the_last_digit(moment: str, mjd: float) -> None:
    assert celestial.mjd_utc(unix_ns(moment)) == mjd


@given(st.integers(0, 2**62))
def test_mjd_and_back_is_the_same_mjd(moment_ns: int) -> None:
    mjd = celestial.mjd_utc(moment_ns)

    assert celestial.mjd_utc(celestial.unix_ns_of(mjd)) == mjd


@pytest.mark.parametrize("mjd", [51000.3, 57517.62789, GOLD_MJD, MJD_138632, 61100.5])
def test_sky_agrees_with_astropys_frames(mjd: float) -> None:
    ours = celestial.to_detector(isotropic(500), celestial.unix_ns_of(mjd))

    apart_deg = np.degrees(opening_angles_rad(ours, astropys_detector_directions(mjd)))
    assert apart_deg.max() < 1e-6


@pytest.mark.parametrize(
    ("mjd", "ra_deg", "dec_deg", "zenith_deg"),
    [
        (MJD_138632, 138.65, 0.14, 90.05),
        (GOLD_MJD, 224.40, 40.69, 130.60),
        (57517.62789, 262.47, -39.48, 50.52),
    ],
)
def test_published_directions_have_their_stored_zenith(
    mjd: float, ra_deg: float, dec_deg: float, zenith_deg: float
) -> None:
    sky = celestial.equatorial_vectors(np.radians(ra_deg), np.radians(dec_deg))

    _, zenith = angles(celestial.to_detector(sky, celestial.unix_ns_of(mjd)))

    assert np.degrees(zenith) == pytest.approx(zenith_deg, abs=0.01)


def test_online_azimuth_is_found_too() -> None:
    # SplineMPE of 138632, as its message states it: zenith 1.57163, azimuth 4.87687.
    sky = celestial.to_equatorial(unit_vectors(4.87687, 1.57163), celestial.unix_ns_of(MJD_138632))

    ra, dec = np.degrees(celestial.equatorial_angles(sky))
    assert (ra, dec) == (pytest.approx(138.65, abs=0.01), pytest.approx(0.14, abs=0.01))


@given(
    st.floats(0, 2 * np.pi),
    st.floats(0, np.pi),
    st.sampled_from([10**17, 1_701_536_904_093_230_219, 4 * 10**18, 9 * 10**18]),
)
def test_there_and_back_is_the_same_direction(azimuth: float, zenith: float, moment_ns: int) -> None:
    direction = unit_vectors(azimuth, zenith)

    back = celestial.to_detector(celestial.to_equatorial(direction, moment_ns), moment_ns)

    assert opening_angles_rad(back, direction) < 1e-9


def test_shapes_are_kept() -> None:
    vectors = isotropic(6).reshape(2, 3, 3)

    assert celestial.to_equatorial(vectors, 10**18).shape == (2, 3, 3)
    assert celestial.to_detector(vectors[0, 0], 10**18).shape == (3,)
    assert celestial.to_detector(np.empty((0, 3)), 10**18).shape == (0, 3)


def test_times_beyond_the_tables_degrade_gracefully() -> None:
    last_mjd = float(celestial._iers_tables()["MJD"][-1].value)
    sidereal_day = 0.99726956633
    before, after = (
        celestial.to_equatorial(unit_vectors(1.0, 1.5), celestial.unix_ns_of(last_mjd + turns * sidereal_day))
        for turns in (-1, 5 * 366)
    )

    # The detector looks at the same stars again, but for five years of precession, of 50 arc seconds each.
    assert np.degrees(opening_angles_rad(before, after)) < 0.1
    assert np.isfinite(celestial.to_equatorial(isotropic(10), 2**63 - 1)).all()


def test_network_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    celestial._astrometry.cache_clear()
    celestial._iers_tables.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)

    celestial.to_equatorial(unit_vectors(1.0, 1.0), 1_701_536_904_093_230_219)
    celestial.to_equatorial(unit_vectors(1.0, 1.0), 4 * 10**18)
