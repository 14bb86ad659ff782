"""Asks Jaeger for traces, and says what its answers mean to somebody at a terminal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from icestream.errors import InvalidInput, Unavailable

_TIMEOUT_S = 10.0
_MOST_TRACES = 20
_SINCE_EVER_US = 1
"""Zero would be Jaeger's own default, two days."""


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that has to do with one, in another trace or in its own."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work of one service."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    parent_id: str | None
    """None where it begins the trace."""
    service: str
    name: str
    start_us: int
    """Unix time; Jaeger answers in whole microseconds."""
    duration_us: int
    attributes: Mapping[str, str | int | float | bool]
    links: tuple[Link, ...]

    @property
    def end_us(self) -> int:
        """Unix time."""
        return self.start_us + self.duration_us

    @property
    def error(self) -> str | None:
        """What went wrong; None where nothing did."""
        if self.attributes.get("otel.status_code") != "ERROR":
            return None
        parts = (self.attributes.get(key, "") for key in ("error.type", "otel.status_description"))
        return ": ".join(str(part) for part in parts if part) or "failed, and does not say why"

    @property
    def is_call(self) -> bool:
        """Whether it waits for another service, whose spans are below it."""
        return self.attributes.get("span.kind") == "client"


@dataclass(frozen=True, slots=True)
class Trace:
    """All spans that a store has of one trace, in the order of their start; one at least."""

    spans: tuple[Span, ...]

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.spans[0].trace_id

    @property
    def start_us(self) -> int:
        """Unix time."""
        return self.spans[0].start_us

    @property
    def duration_us(self) -> int:
        """From the first start to the last end."""
        return max(span.end_us for span in self.spans) - self.start_us


class TraceStore:
    """Jaeger's query API.

    Its errors are ours: Unavailable where nothing answers, InvalidInput where something else than Jaeger does.
    """

    def __init__(self, url: str) -> None:
        """Connect to nothing yet.

        Args:
            url: For example http://127.0.0.1:16686.
        """
        self.url = url.rstrip("/")
        self._client = httpx.Client(timeout=_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def trace(self, trace_id: str) -> Trace | None:
        """One trace; None where it is not stored."""
        found = _traces(self._data(f"traces/{trace_id}"))
        return found[0] if found else None

    def find(self, service: str, attribute: str, value: str) -> list[Trace]:
        """Traces with a span of a service that has an attribute, at most 20, the newest first."""
        found = self._data(
            "traces",
            service=service,
            tags=json.dumps({attribute: value}),
            start=_SINCE_EVER_US,
            limit=_MOST_TRACES,
        )
        return sorted(_traces(found), key=lambda trace: trace.start_us, reverse=True)

    def services(self) -> list[str]:
        """Everyone who ever sent a span that is still stored."""
        return [str(name) for name in self._data("services")]

    def operations(self, service: str) -> list[str]:
        """Names of a service's spans."""
        return [str(name) for name in self._data(f"services/{service}/operations")]

    def _data(self, path: str, **parameters: str | int) -> Sequence[Any]:
        try:
            reply = self._client.get(f"{self.url}/api/{path}", params=parameters)
            # Jaeger says so of a trace that it does not have.
            if reply.status_code == httpx.codes.NOT_FOUND and reply.json()["errors"]:
                return ()
            return reply.raise_for_status().json()["data"] or ()
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise InvalidInput(
                f"--jaeger {self.url} is no URL; for example http://127.0.0.1:16686"
            ) from error
        except httpx.TransportError as error:
            raise Unavailable(
                f"Jaeger does not answer at {self.url} ({error}); is the stack up (`icestream status`)? "
                "--jaeger URL names another"
            ) from error
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{self.url} answers, but not as Jaeger's query API does: {error}; "
                "that is where its page is, port 16686 by default"
            ) from error


def _traces(data: Sequence[Any]) -> list[Trace]:
    return [_trace(content) for content in data if content["spans"]]


def _trace(content: Mapping[str, Any]) -> Trace:
    services = {key: process["serviceName"] for key, process in content["processes"].items()}
    spans = [_span(span, services[span["processID"]]) for span in content["spans"]]
    # A collector that tried again may have delivered one twice.
    once = {span.span_id: span for span in spans}.values()
    # Of those that begin together the longer one is the parent.
    return Trace(tuple(sorted(once, key=lambda span: (span.start_us, -span.duration_us))))


def _span(content: Mapping[str, Any], service: str) -> Span:
    parent_id, links = None, []
    for reference in content["references"]:
        # Jaeger's name for a link is FOLLOWS_FROM.
        if reference["refType"] == "CHILD_OF":
            parent_id = reference["spanID"]
        else:
            links.append(Link(reference["traceID"], reference["spanID"]))
    return Span(
        trace_id=content["traceID"],
        span_id=content["spanID"],
        parent_id=parent_id,
        service=service,
        name=content["operationName"],
        start_us=content["startTime"],
        duration_us=content["duration"],
        attributes={tag["key"]: tag["value"] for tag in content["tags"]},
        links=tuple(links),
    )
