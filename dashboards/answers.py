"""What Prometheus answers to panels."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from dashboards.queries import PanelQuery, Span

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One line."""

    labels: dict[str, str]
    time_s: FloatArray
    """Unix times; shape (n,)."""
    value: FloatArray
    """Shape (n,); NaN where there is none."""

    @property
    def has_data(self) -> bool:
        """Whether there is anything to draw."""
        return bool(np.isfinite(self.value).any())


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One sampled event behind a histogram."""

    trace_id: str
    time_s: float
    value: float


class Answers:
    """The query API of a Prometheus."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30.0, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def series(self, query: PanelQuery, span: Span) -> list[Series]:
        """What a panel draws of one of its queries; nothing where all of it is empty."""
        expr = query.as_sent(span)
        if query.is_instant:
            result = self._get("query", query=expr, time=span.end_s)["result"]
            found = [_series(one["metric"], [one["value"]], span) for one in result]
        else:
            limits = {"start": span.start_s, "end": span.end_s, "step": span.step_s}
            result = self._get("query_range", query=expr, **limits)["result"]
            found = [_series(one["metric"], one["values"], span) for one in result]
        return [series for series in found if series.has_data]

    def exemplars(self, query: PanelQuery, span: Span) -> list[Exemplar]:
        """Those that lead from the panel to traces."""
        expr = query.as_sent(span)
        found = self._get("query_exemplars", query=expr, start=span.start_s, end=span.end_s)
        return [
            Exemplar(one["labels"]["trace_id"], float(one["timestamp"]), float(one["value"]))
            for series in found
            for one in series["exemplars"]
        ]

    def _get(self, path: str, **parameters: str | float) -> Any:
        reply = self._client.get(f"/api/v1/{path}", params=parameters)
        content = reply.json()
        if content["status"] != "success":
            raise ValueError(f"Prometheus does not understand {parameters['query']}: {content['error']}")
        return content["data"]


def _series(labels: dict[str, str], samples: Iterable[tuple[float, str]], span: Span) -> Series:
    """With a NaN wherever no sample is, so that lines end there."""
    times = np.arange(span.start_s, span.end_s + span.step_s / 2, span.step_s)
    values = np.full(len(times), np.nan)
    for time_s, value in samples:
        values[min(round((time_s - span.start_s) / span.step_s), len(times) - 1)] = float(value)
    return Series(labels, times, values)
