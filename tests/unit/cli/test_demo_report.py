import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from icestream.cli.demo_report import DemoReport, Spread, table_of

GOOD = DemoReport(
    n_published=10,
    n_reconstructed=8,
    n_dead_letters=3,
    n_dead_published=2,
    n_duplicates=0,
    events_per_s=1234.56,
    latency_p50_ms=12.345,
    latency_p99_ms=67.891,
    opening_angle_deg=Spread(10.123, 20.456),
    linefit_opening_angle_deg=Spread(30.0, 40.0),
    model="direction 1",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    trace_services=("emitter", "router", "triton"),
)
KEYS = [
    "events_published",
    "events_reconstructed",
    "dead_letters",
    "duplicates",
    "events_per_s",
    "latency_ms",
    "opening_angle_deg",
    "linefit_opening_angle_deg",
]


def test_every_event_came_back_or_is_a_dead_letter() -> None:
    assert GOOD.is_complete


@pytest.mark.parametrize(
    ("n_reconstructed", "n_dead_published", "n_duplicates", "is_complete"),
    [
        (10, 0, 0, True),
        (0, 10, 0, True),
        (9, 0, 0, False),
        (9, 2, 0, False),
        (10, 0, 1, False),
        (11, 0, 0, False),
    ],
)
def test_lost_or_repeated_events_make_it_incomplete(
    n_reconstructed: int, n_dead_published: int, n_duplicates: int, is_complete: bool
) -> None:
    report = replace(
        GOOD,
        n_reconstructed=n_reconstructed,
        n_dead_published=n_dead_published,
        n_duplicates=n_duplicates,
    )
    assert report.is_complete is is_complete


def test_a_demo_without_events_proves_nothing() -> None:
    assert not replace(GOOD, n_published=0, n_reconstructed=0, n_dead_published=0).is_complete


def test_letters_about_what_was_never_published_do_not_count() -> None:
    assert not replace(GOOD, n_dead_letters=2, n_dead_published=0).is_complete


def test_the_json_has_the_keys_that_are_promised() -> None:
    content = GOOD.as_json()
    assert list(content) == [*KEYS, "trace_id", "trace_services"]
    assert content["latency_ms"] == {"p50": 12.35, "p99": 67.89}
    assert content["opening_angle_deg"] == {"median": 10.12, "mean": 20.46}
    assert content["linefit_opening_angle_deg"] == {"median": 30.0, "mean": 40.0}
    assert content["trace_services"] == ["emitter", "router", "triton"]
    assert (content["events_published"], content["dead_letters"]) == (10, 3)


def test_without_tracing_the_json_says_nothing_of_traces() -> None:
    assert list(replace(GOOD, trace_id=None, trace_services=()).as_json()) == KEYS


def test_what_is_not_known_is_null() -> None:
    unknown = Spread.of_degrees(np.array([]))
    content = replace(GOOD, opening_angle_deg=unknown).as_json()
    assert content["opening_angle_deg"] == {"median": None, "mean": None}
    json.dumps(content, allow_nan=False)


def test_a_demo_without_any_reconstruction_is_json_as_well() -> None:
    nothing = replace(GOOD, n_reconstructed=0, latency_p50_ms=float("nan"), latency_p99_ms=float("nan"))
    json.dumps(nothing.as_json(), allow_nan=False)


def test_angles_are_shown_in_degrees() -> None:
    spread = Spread.of_degrees(np.radians([10.0, 20.0, 60.0]))
    assert (spread.median, spread.mean) == pytest.approx((20.0, 30.0))


def shown(report: DemoReport) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(table_of(report))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_table_says_the_same_to_people() -> None:
    text = shown(GOOD)
    for fact in ("8 by direction 1", "1235 events/s", "median 10.1°, mean 20.5°", "emitter, router, triton"):
        assert fact in text


def test_the_table_says_why_something_is_missing() -> None:
    text = shown(replace(GOOD, trace_id=None, opening_angle_deg=Spread.of_degrees(np.array([]))))
    assert "off: no jaeger found" in text
    assert "the events carry no truth" in text
