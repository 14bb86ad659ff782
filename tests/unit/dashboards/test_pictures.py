from typing import cast

import numpy as np
import pytest

from dashboards.answers import Answers, Exemplar, Series
from dashboards.drawing import bucket_contents
from dashboards.pictures import picture
from dashboards.queries import PanelQuery, Span, boards

SPAN = Span(1_800_000_000.0, 1_800_000_600.0, step_s=5)
TIME_S = np.arange(SPAN.start_s, SPAN.end_s + 1, SPAN.step_s)
BOUNDS = ("0.1", "1", "+Inf")


def histogram(height: float) -> list[Series]:
    """As many events in each of three buckets."""
    return [
        Series({"le": bound, "job": bound}, TIME_S, np.full(len(TIME_S), height * number))
        for number, bound in enumerate(BOUNDS, start=1)
    ]


class FakeAnswers:
    """A Prometheus that answers the same to every query."""

    def __init__(self, series: list[Series]) -> None:
        self._series = series

    def series(self, _query: PanelQuery, _span: Span) -> list[Series]:
        return self._series

    def exemplars(self, _query: PanelQuery, _span: Span) -> list[Exemplar]:
        return [Exemplar("a", SPAN.start_s + 100, 0.5)]


def n_colours(name: str, series: list[Series]) -> int:
    """Of the picture of a dashboard."""
    image = picture(name, boards()[name], cast("Answers", FakeAnswers(series)), SPAN)
    return len(image.convert("RGB").getcolors(1_000_000) or ())


@pytest.mark.parametrize("name", boards())
def test_every_dashboard_is_drawn(name: str) -> None:
    assert n_colours(name, histogram(1.0)) > 100


@pytest.mark.parametrize("series", [histogram(0.0), []], ids=["zeros", "none"])
def test_a_dashboard_is_drawn_while_nothing_happens(series: list[Series]) -> None:
    assert n_colours("physics", series) > 10


def test_a_bucket_holds_what_is_between_two_bounds() -> None:
    bounds, contents = bucket_contents(histogram(2.0)[::-1])
    assert bounds == [0.1, 1.0, np.inf]
    assert contents[:, 0].tolist() == [2.0, 2.0, 2.0]
