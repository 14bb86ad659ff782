"""`icestream trace`: where one event, or one scan, spent its time."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption
from icestream.cli.trace_store import Span, Trace, TraceStore
from icestream.cli.trace_table import trace_table
from icestream.cli.trace_tree import tree_of
from icestream.errors import InvalidInput, Misconfigured
from icestream.physics.events import EventId
from icestream.runtime.endpoints import Endpoints, Stack

_STREAM_SERVICES = ("icestream-emitter", "icestream-router")
"""Whose spans hold an event's name, as the id of its message."""
_EVENT_SPAN = re.compile(r"(?:publish|process) \S+\.events\.([^.\s]+)\.[^.\s]+")
"""Its group is the detector."""
_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)


def trace(
    name: Annotated[
        str,
        typer.Argument(
            help="An event, [<detector>/]<run>.<event>[.<sub>]; or a scan's id; or a trace's, 32 hexadecimal digits."
        ),
    ],
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    jaeger: Annotated[
        str | None,
        typer.Option("--jaeger", help="URL of Jaeger; by default the local stack's.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for each span.")] = False,  # noqa: FBT002
) -> None:
    """Show where an event or a scan spent its time: its latest trace, as Jaeger has it."""
    with TraceStore(_jaeger_url(directory, jaeger)) as store:
        latest, *older = _traces(store, name)
        if as_json:
            for span in latest.spans:
                typer.echo(json.dumps(_as_json(span)))
            return
        console = Console(highlight=False)
        console.print(trace_table(latest, tree_of(latest, cache(store.trace))))
        if older:
            others = ", ".join(other.trace_id for other in older)
            console.print(f"older traces of the same: {others}", markup=False, soft_wrap=True)


def _jaeger_url(directory: Path, given: str | None) -> str:
    if given is not None:
        return given
    stack = Stack.read(directory)
    if stack is None:
        return Endpoints().jaeger_url
    if not stack.is_traced:
        raise Misconfigured(
            f"the stack in {directory} has no Jaeger; `make tools` builds one, which the next `icestream up` starts"
        )
    return stack.endpoints.jaeger_url


def _traces(store: TraceStore, name: str) -> list[Trace]:
    """The latest first; one at least.

    Raises:
        InvalidInput: There is none, or the name is of no kind that we know.
    """
    if _TRACE_ID.fullmatch(name):
        stored = store.trace(name.lower())
        found = [stored] if stored else []
        reason = "it was not sampled, or not kept by a collector"
    elif "." in name or "/" in name:
        found = _traces_of_event(store, name)
        reason = (
            "it was not sampled (1 % of events are by default; `icestream emit --trace-ratio 1` traces all) "
            "or not kept by a collector, it came by gRPC (then ask with the trace_id of its answer), "
            "there is no such event"
        )
    else:
        found = store.find("icestream-scanner", "icestream.scan.id", name)
        reason = (
            "it has not ended (then ask with the trace that `icestream scans show` names), "
            "it was not sampled (scans of alerts always are), there is no such scan"
        )
    if found:
        return found
    if not any(service.startswith("icestream-") for service in store.services()):
        raise InvalidInput(
            f"Jaeger at {store.url} has no trace of {name}, nor any other of ours: nothing was sampled since it "
            "started, or services run without OTEL_EXPORTER_OTLP_ENDPOINT"
        )
    raise InvalidInput(
        f"Jaeger at {store.url} has no trace of {name}: {reason}, its spans are not sent yet (that takes "
        "seconds), or Jaeger has forgotten it (in memory it keeps the latest 100 000 traces until it restarts)"
    )


def _traces_of_event(store: TraceStore, name: str) -> list[Trace]:
    detector, _, numbers = name.rpartition("/")
    try:
        event_id = EventId.parse(numbers)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    found: dict[str, Trace] = {}
    # The emitter's span may be missing where the router's is there, and the other way round.
    for service in _STREAM_SERVICES:
        for each in (detector,) if detector else sorted(_detectors(store, service)):
            for one in store.find(service, "messaging.message.id", f"{each}/{event_id}"):
                found[one.trace_id] = one
    return sorted(found.values(), key=lambda one: one.start_us, reverse=True)


def _detectors(store: TraceStore, service: str) -> set[str]:
    """Those whose events are in traces; a message's id begins with one, and Jaeger finds whole values only."""
    matches = (_EVENT_SPAN.fullmatch(operation) for operation in store.operations(service))
    return {match[1] for match in matches if match}


def _as_json(span: Span) -> dict[str, object]:
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_id,
        "service": span.service,
        "name": span.name,
        "start_unix_ns": span.start_us * 1000,
        "duration_ns": span.duration_us * 1000,
        "error": span.error,
        "attributes": dict(span.attributes),
        "links": [{"trace_id": link.trace_id, "span_id": link.span_id} for link in span.links],
    }
