import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.errors import InvalidQuery
from icestream.physics.events import EventKind
from icestream.v1 import event_pb2, record_pb2
from services.recorder.requests import (
    DEFAULT_PAGE,
    MAX_PAGE,
    PlaceInOrder,
    checked_name,
    page_of,
    page_token,
    selection_of,
)
from services.recorder.selection import Cone, Selection

PLACE: PlaceInOrder = (5, "toy", 1, 2, 0, "direction", "2")


def cone(ra_rad: float, dec_rad: float, radius_rad: float) -> record_pb2.Cone:
    message = record_pb2.Cone(radius_rad=radius_rad)
    message.centre.ra_rad, message.centre.dec_rad = ra_rad, dec_rad
    return message


def listing(token: str = "", size: int = 0, **of_filter: Any) -> record_pb2.ListReconstructionsRequest:
    return record_pb2.ListReconstructionsRequest(
        filter=record_pb2.ReconstructionFilter(**of_filter), page_size=size, page_token=token
    )


def test_an_empty_filter_chooses_everything() -> None:
    assert selection_of(record_pb2.ReconstructionFilter()) == Selection()
    assert Selection().conditions() == []


def test_everything_that_is_set_is_read_zeros_too() -> None:
    message = record_pb2.ReconstructionFilter(
        detector="toy",
        run_id=0,
        start_unix_ns=0,
        end_unix_ns=1,
        cone=cone(1.0, -0.5, 0.25),
        model="direction",
        model_version="2",
        max_radius90_rad=0.5,
        min_kappa=0.0,
        kinds=[event_pb2.EVENT_KIND_CASCADE, event_pb2.EVENT_KIND_UNSPECIFIED],
    )
    assert selection_of(message) == Selection(
        detector="toy",
        run_id=0,
        start_unix_ns=0,
        end_unix_ns=1,
        cone=Cone(1.0, -0.5, 0.25),
        model="direction",
        model_version="2",
        max_radius90_rad=0.5,
        min_kappa=0.0,
        kinds=frozenset({EventKind.CASCADE, EventKind.UNKNOWN}),
    )


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"detector": "a\0"}, "filter.detector"),
        ({"model": "\0"}, "filter.model"),
        ({"start_unix_ns": 2, "end_unix_ns": 2}, "filter.end_unix_ns"),
        ({"cone": cone(0, 2.0, 0.1)}, "filter.cone.centre"),
        ({"cone": cone(math.nan, 0, 0.1)}, "filter.cone.centre"),
        ({"cone": cone(0, math.nan, 0.1)}, "filter.cone.centre"),
        ({"cone": cone(0, 0, 0)}, "filter.cone.radius_rad"),
        ({"cone": cone(0, 0, 3.2)}, "filter.cone.radius_rad"),
        ({"cone": cone(0, 0, math.nan)}, "filter.cone.radius_rad"),
        ({"min_kappa": math.nan}, "filter.min_kappa"),
        ({"max_radius90_rad": math.nan}, "filter.max_radius90_rad"),
        ({"kinds": [77]}, "filter.kinds"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_by_its_field(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidQuery) as refused:
        selection_of(record_pb2.ReconstructionFilter(**wrong))
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")


@pytest.mark.parametrize(("asked", "size"), [(0, DEFAULT_PAGE), (7, 7), (1_000_000, MAX_PAGE)])
def test_pages_have_a_size(asked: int, size: int) -> None:
    assert page_of(listing(size=asked)).size == size


def test_a_negative_page_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="page_size: a page of -1"):
        page_of(listing(size=-1))


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_a_token_is_the_place_that_it_was_made_of(number: int, text: str) -> None:
    place: PlaceInOrder = (number, text, number, 2, 0, "direction", text)
    question = record_pb2.ReconstructionFilter(detector=text)
    assert page_of(listing(page_token(place, question), detector=text)).after == place


def test_a_token_belongs_to_its_filter() -> None:
    token = page_token(PLACE, record_pb2.ReconstructionFilter(detector="toy"))
    with pytest.raises(InvalidQuery, match="another filter"):
        page_of(listing(token, detector="toy", run_id=1))


@pytest.mark.parametrize(
    "text",
    [
        *map(
            json.dumps,
            [
                *(None, 1, [], list(PLACE)[:-1], [*PLACE, 1]),
                *([number, *PLACE[1:]] for number in ("5", 2**70, True)),
                *([*PLACE[:-1], version] for version in ("\0", "\ud800")),
            ],
        ),
        pytest.param("[" * 200_000, id="a tower of brackets"),
        pytest.param("9" * 5000, id="a number without end"),
    ],
)
def test_a_token_with_something_else_inside_is_refused(text: str) -> None:
    whole = base64.urlsafe_b64decode(page_token(PLACE, record_pb2.ReconstructionFilter()))
    forged = base64.urlsafe_b64encode(whole[:9] + text.encode()).decode()
    with pytest.raises(InvalidQuery, match="none of ours"):
        page_of(listing(forged))


@given(st.text(min_size=1, max_size=50))
def test_a_token_of_somebody_else_is_refused(token: str) -> None:
    with pytest.raises(InvalidQuery, match="page_token: "):
        page_of(listing(token))


def test_an_event_is_named_with_its_detector() -> None:
    with pytest.raises(InvalidQuery, match="set detector"):
        checked_name(record_pb2.GetReconstructionRequest(run_id=1))
