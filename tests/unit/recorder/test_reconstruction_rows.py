import math
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.codec import decode_reconstruction, reconstruction_from_message
from icestream.errors import InvalidRecord
from icestream.physics.events import Estimate, ModelVersion, Reconstruction
from services.recorder.reconstruction_rows import (
    check_reconstruction,
    day_of,
    reconstruction_rows,
    recorded_reconstructions,
)
from services.recorder.schema import RECONSTRUCTIONS
from tests.unit.recorder.recorder_cases import (
    RECORDED_UNIX_NS,
    START_UNIX_NS,
    make_reconstruction,
    make_truth,
    payload_of,
)


def test_a_row_has_a_value_for_every_column() -> None:
    [row] = reconstruction_rows([make_reconstruction()], RECORDED_UNIX_NS)
    assert set(row) == {column.name for column in RECONSTRUCTIONS.columns}


@pytest.mark.parametrize(
    "reconstruction",
    [
        make_reconstruction(trace_id="0af7651916cd43dd8448eb211c80319c", sub_event=3),
        make_reconstruction(truth=None),
        make_reconstruction(start_unix_ns=0),
        make_reconstruction(truth=replace(make_truth(), energy_gev=None)),
    ],
)
def test_a_row_gives_back_what_was_published(reconstruction: Reconstruction) -> None:
    published = decode_reconstruction(payload_of(reconstruction))
    [recorded] = recorded_reconstructions(reconstruction_rows([published], RECORDED_UNIX_NS))
    assert reconstruction_from_message(recorded.reconstruction) == published
    assert recorded.recorded_unix_ns == RECORDED_UNIX_NS
    assert recorded.HasField("equatorial") == (reconstruction.start_unix_ns != 0)
    assert recorded.HasField("opening_angle_rad") == (reconstruction.truth is not None)


def test_the_angle_to_the_truth_is_recorded() -> None:
    true = make_truth(azimuth_rad=2.0, zenith_rad=1.3)
    close = make_reconstruction(azimuth_rad=2.0, zenith_rad=1.0, truth=true)
    rows = reconstruction_rows([make_reconstruction(truth=None), close], RECORDED_UNIX_NS)
    assert rows[0]["opening_angle_rad"] is None
    assert rows[1]["opening_angle_rad"] == pytest.approx(0.3)


def test_an_event_without_a_time_has_no_place_in_the_sky_and_the_first_day() -> None:
    [row] = reconstruction_rows([make_reconstruction(start_unix_ns=0)], RECORDED_UNIX_NS)
    assert [row[name] for name in ("ra_rad", "dec_rad", "sky_x", "sky_y", "sky_z")] == [None] * 5
    assert row["event_day"] == date(1970, 1, 1)


@pytest.mark.parametrize(
    ("unix_ns", "day"),
    [
        (START_UNIX_NS, date(2026, 1, 1)),
        (START_UNIX_NS - 1, date(2025, 12, 31)),
        (-1, date(1969, 12, 31)),
    ],
)
def test_days_are_those_of_utc(unix_ns: int, day: date) -> None:
    assert day_of(unix_ns) == day


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_every_time_of_a_message_has_a_day(unix_ns: int) -> None:
    assert 1677 <= day_of(unix_ns).year <= 2262


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (make_reconstruction(detector=""), "detector is ''"),
        (make_reconstruction(detector="a\0b"), "NUL"),
        (make_reconstruction(detector="x" * 201), "1 to 200 characters"),
        (make_reconstruction(model=""), "model is ''"),
        (replace(make_reconstruction(), model=ModelVersion("direction", "")), "model_version is ''"),
        (make_reconstruction(trace_id="\0"), "trace_id"),
        (make_reconstruction(kappa=math.inf), "not a finite number"),
        (make_reconstruction(radius90_rad=math.nan), "not a finite number"),
        (make_reconstruction(truth=make_truth(math.nan)), "not a finite number"),
        (replace(make_reconstruction(), estimate=Estimate((0, 0, 0), 1, 1, 1, 1)), "no unit vector"),
        (replace(make_reconstruction(), estimate=Estimate((math.nan, 0, 1), 1, 1, 1, 1)), "no unit vector"),
    ],
)
def test_what_no_table_could_hold_is_refused(wrong: Reconstruction, problem: str) -> None:
    with pytest.raises(InvalidRecord, match=problem):
        check_reconstruction(wrong)


def test_what_is_right_is_accepted() -> None:
    check_reconstruction(make_reconstruction())
    check_reconstruction(make_reconstruction(truth=None, start_unix_ns=0))
