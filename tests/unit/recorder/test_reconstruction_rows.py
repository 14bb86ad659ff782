import math
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.codec import (
    decode_reconstruction,
    reconstruction_from_message,
    reconstruction_to_message,
    reconstructions_to_messages,
)
from icestream.errors import InvalidRecord
from icestream.physics.events import Estimate, ModelVersion, Reconstruction
from icestream.v1 import reconstruction_pb2
from services.recorder.reconstruction_rows import (
    MAX_NAME,
    check_reconstruction,
    columns_of,
    day_of,
    reconstruction_columns,
    recorded_reconstructions,
    unsound_reconstructions,
)
from services.recorder.schema import RECONSTRUCTIONS
from tests.unit.recorder.recorder_cases import (
    RECORDED_UNIX_NS,
    START_UNIX_NS,
    columns_of_events,
    make_reconstruction,
    make_truth,
    payload_of,
    rows_in,
)


def test_a_row_has_a_value_for_every_column() -> None:
    [row] = rows_in(columns_of_events([make_reconstruction()]))
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
    rows = rows_in(columns_of_events([make_reconstruction(7), reconstruction]))
    recorded = recorded_reconstructions(rows)[1]
    assert reconstruction_from_message(recorded.reconstruction) == published
    assert recorded.recorded_unix_ns == RECORDED_UNIX_NS
    assert recorded.HasField("equatorial") == (reconstruction.start_unix_ns != 0)
    assert recorded.HasField("opening_angle_rad") == (reconstruction.truth is not None)


def test_the_angle_to_the_truth_is_recorded() -> None:
    true = make_truth(azimuth_rad=2.0, zenith_rad=1.3)
    close = make_reconstruction(azimuth_rad=2.0, zenith_rad=1.0, truth=true)
    rows = rows_in(columns_of_events([make_reconstruction(truth=None), close]))
    assert rows[0]["opening_angle_rad"] is None
    assert rows[1]["opening_angle_rad"] == pytest.approx(0.3)


def test_an_event_without_a_time_has_no_place_in_the_sky_and_the_first_day() -> None:
    [row] = rows_in(columns_of_events([make_reconstruction(start_unix_ns=0)]))
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
def test_what_no_table_could_hold_is_refused_and_its_neighbours_are_not(
    wrong: Reconstruction, problem: str
) -> None:
    messages = reconstructions_to_messages([make_reconstruction(1), wrong, make_reconstruction(2)])
    unsound = unsound_reconstructions(messages)
    assert list(unsound) == [1]
    with pytest.raises(InvalidRecord, match=problem):
        raise unsound[1]


def test_what_is_right_is_accepted() -> None:
    right = [make_reconstruction(), make_reconstruction(truth=None, start_unix_ns=0)]
    assert unsound_reconstructions(reconstructions_to_messages(right)) == {}


NAMES = st.sampled_from(["direction", "", "x" * MAX_NAME, "x" * (MAX_NAME + 1), "a\0b", "\0"])
NUMBERS = st.sampled_from([0.25, 0.0, -1e38, math.inf, -math.inf, math.nan])
LENGTHS = st.sampled_from([1.0, 0.0, 1e200, math.nan, math.inf]) | st.floats(0.9985, 1.0015)


@st.composite
def messages(draw: st.DrawFn) -> reconstruction_pb2.Reconstruction:
    """Mostly right, with one or the other thing wrong."""
    message = reconstruction_to_message(make_reconstruction(draw(st.integers(1, 9))))
    for field in draw(
        st.sets(st.sampled_from(["detector", "model", "model_version", "trace_id"]), max_size=1)
    ):
        setattr(message, field, draw(NAMES))
    for field in draw(st.sets(st.sampled_from(["kappa", "radius50_rad", "radius90_rad"]), max_size=1)):
        setattr(message, field, draw(NUMBERS))
    for field in draw(st.sets(st.sampled_from(["azimuth_rad", "zenith_rad", "energy_gev"]), max_size=1)):
        setattr(message.truth, field, draw(NUMBERS))
    length = draw(st.just(1.0) | LENGTHS)
    for axis in ("x", "y", "z"):
        setattr(message.direction, axis, length * getattr(message.direction, axis))
    return message


@given(st.lists(messages(), min_size=1, max_size=8))
def test_many_are_judged_as_each_is_alone(some: list[reconstruction_pb2.Reconstruction]) -> None:
    alone = dict[int, str]()
    for place, message in enumerate(some):
        try:
            check_reconstruction(message)
        except InvalidRecord as error:
            alone[place] = str(error)
    assert {place: str(error) for place, error in unsound_reconstructions(some).items()} == alone


def test_a_kind_that_this_version_does_not_know_is_recorded_as_unknown() -> None:
    message = reconstruction_to_message(make_reconstruction())
    message.truth.kind = 99  # type: ignore[assignment]  # from a newer publisher
    assert reconstruction_columns([message], RECORDED_UNIX_NS)["kind"] == [0]


def test_rows_become_columns_in_their_order() -> None:
    assert columns_of([{"a": 1, "b": 2}, {"a": 3, "b": 4}]) == {"a": [1, 3], "b": [2, 4]}
