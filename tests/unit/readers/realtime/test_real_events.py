"""Held to what others found in five public events; see the numbers' sources beside them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from icestream.physics.celestial import (
    equatorial_angles,
    equatorial_vectors,
    mjd_utc,
    to_detector,
    to_equatorial,
)
from icestream.physics.cleaning import clean
from icestream.physics.detector import Detector
from icestream.physics.directions import opening_angles_rad
from icestream.physics.events import check_event
from icestream.physics.seed_vertex import seed_vertex
from icestream.readers.geometry import read_sensor_geometry
from icestream.readers.realtime import RealtimeEvent, list_contents, read_realtime_event
from icestream.readers.realtime.pulse_series import PulseSeries
from icestream.readers.realtime.pulses import find_object, find_pulses
from tests.unit.readers.realtime.realtime_messages import REAL_EVENTS

SURVEY = REAL_EVENTS.parent / "detector/icecube86.csv"
NEUTRINO = "138632_31747601.json"
GOLD = "run00136766-evt000007637140-GOLD.pkl"
HESE = ("hese_event_00.json", "hese_event_02.json", "hese_event_03.json")


@dataclass(frozen=True)
class Known:
    """What another decoder, IceTray and published results say of an event."""

    name: str
    event_id: str
    utc: str
    mjd: float
    n_mjd_digits: int
    version: str | None
    event_type: str
    series: str
    n_modules: int
    n_pulses: int
    n_hlc: int
    charge_pe: float
    times_ns: tuple[float, float]
    vertex: tuple[float, float, float, float]
    """x, y, z in m, and ns."""
    track: str
    right_ascension_deg: float
    declination_deg: float
    zenith_deg: float


OLD, NEW = "SplitUncleanedInIcePulses", "SplitInIcePulses"
KNOWN = (
    Known(
        name=NEUTRINO,
        event_id="138632.31747601.0",
        utc="2023-12-02T17:08:24.093",
        mjd=60280.71416774572,
        n_mjd_digits=11,
        version="2023a",
        event_type="neutrino",
        series=NEW,
        n_modules=216,
        n_pulses=948,
        n_hlc=870,
        charge_pe=885.50,
        times_ns=(6161, 21032),
        vertex=(-238.8, -440.5, -184.3, 10931),
        track="l2_online_SplineMPE",
        right_ascension_deg=138.65,
        declination_deg=0.14,
        zenith_deg=90.05,
    ),
    Known(
        name=HESE[0],
        event_id="127907.16605651.0",
        utc="2016-05-09T15:04:09.923",
        mjd=57517.62789,
        n_mjd_digits=5,
        version=None,
        event_type="HESE",
        series=OLD,
        n_modules=114,
        n_pulses=635,
        n_hlc=557,
        charge_pe=2194.68,
        times_ns=(6100, 22832),
        vertex=(1.8, -150.8, 322.3, 10026),
        track="HESE_SPEFit2",
        right_ascension_deg=262.47,
        declination_deg=-39.48,
        zenith_deg=50.52,
    ),
    Known(
        name=HESE[1],
        event_id="127908.38887237.0",
        utc="2016-05-10T01:23:23.610",
        mjd=57518.05791,
        n_mjd_digits=5,
        version=None,
        event_type="HESE",
        series=OLD,
        n_modules=316,
        n_pulses=1157,
        n_hlc=1034,
        charge_pe=2787.23,
        times_ns=(5972, 27154),
        vertex=(194.1, 136.4, 9.9, 11084),
        track="HESE_SPEFit2",
        right_ascension_deg=239.89,
        declination_deg=-56.62,
        zenith_deg=33.34,
    ),
    Known(
        name=HESE[2],
        event_id="127909.75816173.0",
        utc="2016-05-10T13:15:24.666",
        mjd=57518.55237,
        n_mjd_digits=5,
        version=None,
        event_type="HESE",
        series=OLD,
        n_modules=244,
        n_pulses=950,
        n_hlc=825,
        charge_pe=2084.95,
        times_ns=(6043, 23975),
        vertex=(-290.7, -307.4, -295.7, 9891),
        track="HESE_SPEFit2",
        right_ascension_deg=277.44,
        declination_deg=-40.62,
        zenith_deg=49.40,
    ),
    Known(
        name=GOLD,
        event_id="136766.7637140.0",
        utc="2022-06-24T16:13:16.405",
        mjd=59754.67588432013,
        n_mjd_digits=11,
        version="2021a",
        event_type="neutrino",
        series=OLD,
        n_modules=321,
        n_pulses=1781,
        n_hlc=1657,
        charge_pe=2875.63,
        times_ns=(731452, 751088),
        vertex=(158.9, -345.2, -504.4, 735564),
        track="OnlineL2_SplineMPE",
        right_ascension_deg=224.40,
        declination_deg=40.69,
        zenith_deg=130.60,
    ),
)
EACH = pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)


@cache
def real(name: str) -> RealtimeEvent:
    return read_realtime_event(real_path(name))


def real_path(name: str) -> Path:
    path = REAL_EVENTS / name
    if not path.exists():
        pytest.skip(f"the real event {path} is not part of the repository")
    return path


@pytest.fixture(scope="module")
def surveyed() -> Detector:
    """The detector as it was surveyed; ours is rounded to 0.1 m, and up to 4 m off."""
    if not SURVEY.exists():
        pytest.skip(f"the surveyed table {SURVEY} is not part of the repository")
    return read_sensor_geometry(SURVEY)


@EACH
def test_real_pulses_are_read(known: Known) -> None:
    event = real(known.name)
    pulses = event.event.pulses
    check_event(event.event, 5160)
    assert event.series == known.series
    assert len(np.unique(pulses.sensor_id)) == known.n_modules
    assert (len(pulses), int(pulses.is_hlc.sum())) == (known.n_pulses, known.n_hlc)
    assert pulses.charge_pe.sum(dtype=np.float64) == pytest.approx(known.charge_pe, abs=0.006)
    assert (pulses.time_ns[0], pulses.time_ns[-1]) == known.times_ns
    assert (np.diff(pulses.time_ns) >= 0).all()
    assert len(event.width_ns) == len(pulses)
    assert event.width_ns.min() > 0


@EACH
def test_real_names_and_times_are_read(known: Known) -> None:
    event = real(known.name)
    assert str(event.event.id) == known.event_id
    assert str(np.datetime64((event.event.start_unix_ns + 500_000) // 10**6, "ms")) == known.utc
    assert round(event.mjd, known.n_mjd_digits) == known.mjd
    assert event.mjd == mjd_utc(event.event.start_unix_ns)
    assert (event.format_version, event.event_type) == (known.version, known.event_type)
    assert event.event.detector == "icecube86"
    assert event.event.truth is None


@EACH
def test_pulse_times_count_from_the_readout(known: Known) -> None:
    """Which begins 6 us before an event that triggers by itself, and 0.7 ms before GOLD."""
    event = real(known.name)
    assert event.readout_start_unix_ns is not None
    offset_ns = event.event.start_unix_ns - event.readout_start_unix_ns
    assert offset_ns == (731_657 if known.name == GOLD else 6000)
    first_ns = event.event.pulses.time_ns[0]
    assert offset_ns - 500 < first_ns < offset_ns + 200


@EACH
def test_the_seed_vertex_of_real_pulses_is_icetrays(known: Known, surveyed: Detector) -> None:
    event = real(known.name)
    found = seed_vertex(event.event.pulses, surveyed)
    assert [*found.position_m.round(1), round(found.time_ns)] == list(known.vertex)
    if event.vertex is not None:
        assert np.linalg.norm(found.position_m - event.vertex.position_m) < 1e-3
        assert found.time_ns == event.vertex.time_ns
    assert (event.vertex is None) == (known.name == GOLD)


@pytest.mark.parametrize(
    ("name", "n_channels", "n_pulses", "charge_pe"),
    [(NEUTRINO, 175, 888, 830.40), (GOLD, 239, 1641, 2745.525)],
)
def test_cleaned_real_pulses_are_those_of_the_alert(
    name: str, n_channels: int, n_pulses: int, charge_pe: float, surveyed: Detector
) -> None:
    event = real(name)
    cleaned = clean(event.event.pulses, surveyed, strings_below=79)
    assert (len(np.unique(cleaned.sensor_id)), len(cleaned)) == (n_channels, n_pulses)
    assert cleaned.charge_pe.sum(dtype=np.float64) == pytest.approx(charge_pe, abs=1e-4)
    assert event.alert is not None
    assert (event.alert.n_channels, event.alert.n_pulses) == (n_channels, n_pulses)
    assert event.alert.charge_pe == pytest.approx(charge_pe, abs=1e-4)


@pytest.mark.parametrize("name", HESE)
def test_packed_real_pulses_are_those_that_are_stored_whole(name: str) -> None:
    frames = real(name).frames
    whole, packed = (series(real(name), key) for key in ("UncleanedInIcePulses", "InIceDSTPulses"))
    assert len(whole) == len(packed) > 600
    assert np.array_equal(whole.string, packed.string)
    assert np.array_equal(whole.om, packed.om)
    assert np.array_equal(whole.n_pulses, packed.n_pulses)
    assert np.abs(whole.time_ns - packed.time_ns).max() <= 0.5
    # A charge is the middle of its bin, up to the last digit of single precision.
    assert np.abs(whole.charge_pe - packed.charge_pe).max() <= 0.025 + 1e-4
    assert np.array_equal(whole.flags & 1, packed.flags & 1)
    assert find_object(frames, "I3SuperDST") is not None


def series(event: RealtimeEvent, key: str) -> PulseSeries:
    stored = find_object(event.frames, key)
    assert stored is not None
    return find_pulses(event.frames, stored)


@EACH
def test_real_online_directions_point_to_where_they_were_published(known: Known) -> None:
    event = real(known.name)
    track = event.online_track
    assert track is not None
    assert track.name == known.track
    assert np.degrees(track.zenith_rad) == pytest.approx(known.zenith_deg, abs=0.005)
    sky = to_equatorial(track.direction, event.event.start_unix_ns)
    right_ascension, declination = np.degrees(equatorial_angles(sky))
    # Published with two digits.
    assert right_ascension == pytest.approx(known.right_ascension_deg, abs=0.006)
    assert declination == pytest.approx(known.declination_deg, abs=0.006)
    back = to_detector(
        equatorial_vectors(np.radians(right_ascension), np.radians(declination)), event.event.start_unix_ns
    )
    assert np.degrees(opening_angles_rad(back, track.direction)) < 0.001


@pytest.mark.parametrize(
    ("name", "in_frame", "in_alert"),
    [(NEUTRINO, "l2_online_SplineMPE", "splinempe"), (GOLD, "OnlineL2_SplineMPE", "splinempe")],
)
def test_the_alerts_directions_are_those_of_the_frames(name: str, in_frame: str, in_alert: str) -> None:
    by_name = {each.name: each for each in real(name).reconstructions}
    stored, rounded = by_name[in_frame], by_name[in_alert]
    assert (stored.origin, rounded.origin) == ("P", "alert")
    assert rounded.zenith_rad == pytest.approx(stored.zenith_rad, abs=5.1e-6)
    assert rounded.azimuth_rad == pytest.approx(stored.azimuth_rad, abs=5.1e-6)


def test_everything_of_a_real_event_is_listed() -> None:
    contents = list_contents(real(NEUTRINO))
    assert [frame.stream for frame in contents] == ["G", "C", "D", "Q", "P"]
    assert [len(frame.objects) for frame in contents] == [1, 1, 1, 4, 16]
    assert contents[0].crc32c == 0x28DCE590
    values = {each.key: each.value for frame in contents for each in frame.objects}
    assert values["I3SuperDST"] == "952 pulses of 219 modules, 1505.44 p.e."
    assert values["SplitInIcePulses"] == "948 pulses of 216 modules of InIceDSTPulses"
    assert values["I3CalibrationDiff"] == "difference to baseline_gcd_138615.i3"
    assert values["I3EventHeader"] == (
        "run 138632, event 31747601, sub-event 0 of InIceSplit, from 2023-12-02T17:08:24.093230220 UTC"
    )
    assert values["HESE_VHESelfVeto"] == "True"
    assert (
        values["l2_online_SplineMPEFitParams"] == "logl 1081.203072, rlogl 6.360018072, ndof 170, nmini 136"
    )
    assert values["DSTTriggers"] == ""


@EACH
def test_nothing_of_a_real_event_that_has_a_reader_fails_to_be_read(known: Known) -> None:
    values = [each.value for frame in list_contents(real(known.name)) for each in frame.objects]
    assert not [value for value in values if "not decoded" in value]
    assert sum(value != "" for value in values) >= len(values) - 2
