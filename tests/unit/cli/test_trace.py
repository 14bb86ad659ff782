"""`icestream trace` against a real Jaeger that holds spans as our services make them, at times that we choose."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import time_ns

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from icestream.runtime.endpoints import Endpoints, Stack, free_ports
from icestream.runtime.tracing import links_to, parent_context, traceparent_of, tracing
from tests.support.eventually import eventually
from tests.support.jaeger import Jaeger
from tests.unit.cli.conftest import Command

MS = 1_000_000
SUBJECT = "icestream.events.icecube86.told"
SCAN_ID = "19c3f0a1b2cx0a1b2c3d"
EMITTER, ROUTER, TRITON, SCANNER = "icestream-emitter", "icestream-router", "triton", "icestream-scanner"


@dataclass(frozen=True)
class Story:
    """Tells Jaeger what happened; times are in ms after the begin of the story."""

    began_ns: int
    tracers: Mapping[str, Tracer]

    def span(
        self,
        service: str,
        name: str,
        when_ms: tuple[float, float],
        attributes: Mapping[str, str | int] | None = None,
        *,
        parent: Span | None = None,
        links: Sequence[Span] = (),
        kind: SpanKind = SpanKind.INTERNAL,
        error: str | None = None,
    ) -> Span:
        """One that has ended already; children may follow."""
        start_ns, end_ns = (self.began_ns + int(each * MS) for each in when_ms)
        span = self.tracers[service].start_span(
            name,
            context=Context() if parent is None else parent_context(traceparent_of(parent)),
            kind=kind,
            links=links_to([traceparent_of(link) for link in links]),
            attributes=attributes,
            start_time=start_ns,
        )
        if error is not None:
            span.set_attribute("error.type", "model_failed")
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_ns)
        return span

    def event(self, message_id: str, at_ms: float = 0.0, *, error: str | None = None) -> tuple[Span, Span]:
        """An emitter's `publish`, and 8 ms later a router's `process`, which has 40 ms."""
        name = {"messaging.message.id": message_id}
        published = self.span(EMITTER, f"publish {SUBJECT}", (at_ms, at_ms + 2), name)
        processed = self.span(
            ROUTER, f"process {SUBJECT}", (at_ms + 10, at_ms + 50), name, parent=published, error=error
        )
        return published, processed

    def infer(self, processed: Span, others: Sequence[Span], at_ms: float = 0.0) -> Span:
        """A router's request to the model, for several events at once."""
        return self.span(
            ROUTER,
            "infer direction",
            (at_ms + 20, at_ms + 40),
            {"icestream.batch.events": 1 + len(others)},
            parent=processed,
            links=others,
            kind=SpanKind.CLIENT,
        )


@dataclass(frozen=True)
class Told:
    """A Jaeger that holds the whole story, and the ids of traces in it."""

    jaeger: Jaeger
    trace_ids: Mapping[str, str]


def trace_id_of(span: Span) -> str:
    return traceparent_of(span).split("-")[1]


def tell(story: Story) -> dict[str, str]:
    """Everything that the tests ask for; trace ids by what they are about."""
    # Delivered alone: Triton's spans are in its own trace.
    _, alone = story.event("icecube86/7.1.0")
    infer = story.infer(alone, [])
    served = story.span(TRITON, "triton direction", (22, 38), parent=infer)
    story.span(TRITON, "queue", (22, 25), parent=served)
    story.span(TRITON, "compute", (25, 38), parent=served)

    # Two of one batch, and a Triton that traces one of a batch.
    (_, first), (_, second) = story.event("icecube86/7.2.0"), story.event("icecube86/7.3.0")
    one, _ = story.infer(first, [second]), story.infer(second, [first])
    story.span(TRITON, "InferRequest", (21, 39), parent=one)

    _, failed = story.event("icecube86/7.4.0", error="no [bold]answer[/bold] for it")

    # Published twice, a minute apart.
    old, _ = story.event("icecube86/7.5.0")
    new, _ = story.event("icecube86/7.5.0", at_ms=60_000.0)

    # Of another detector.
    story.span(
        EMITTER,
        "publish icestream.events.toy.told",
        (0, 1),
        {"messaging.message.id": "toy/7.6.0"},
    )

    # A late error, whose beginning a collector did not keep.
    never_sent = story.tracers["nobody"].start_span("publish", Context())
    cut_off = story.span(
        ROUTER, f"process {SUBJECT}", (0, 5), {"messaging.message.id": "icecube86/7.7.0"}, parent=never_sent
    )

    start = story.span(SCANNER, "icestream.v1.ScanService/StartScan", (0, 3))
    story.span(SCANNER, "scan", (1, 15_000), {"icestream.scan.id": SCAN_ID}, parent=start)
    named = {"alone": alone, "first": first, "second": second, "failed": failed, "old": old, "new": new}
    named |= {"cut off": cut_off, "scan": start}
    return {name: trace_id_of(span) for name, span in named.items()}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    jaeger = Jaeger(tmp_path_factory.mktemp("jaeger"))
    jaeger.start()
    try:
        with ExitStack() as stack:
            traced = {
                name: stack.enter_context(tracing(name, "one", jaeger.otlp_url, ratio=1.0)).tracer
                for name in (EMITTER, ROUTER, TRITON, SCANNER)
            }
            # Whose span is never ended, and so never sent.
            nobody = stack.enter_context(tracing("nobody", "one", jaeger.otlp_url, ratio=1.0)).tracer
            trace_ids = tell(Story(time_ns() - 3600 * 1000 * MS, {**traced, "nobody": nobody}))

        def is_stored() -> bool:
            wanted = {trace_ids[name] for name in trace_ids if name != "scan"}
            return wanted <= jaeger.traces(ROUTER).keys() and len(jaeger.traces(SCANNER)) == 1

        asyncio.run(eventually(is_stored, timeout_s=30.0, poll_s=0.1))
        yield Told(jaeger, trace_ids)
    finally:
        jaeger.kill()


def lines_of(out: str) -> list[str]:
    """Without bars, and with one space between columns."""
    return [re.sub(r"\s+", " ", line.replace("━", "")).strip() for line in out.splitlines()]


def test_an_event_is_a_tree_with_times(icestream: Command, told: Told) -> None:
    status, out, _ = icestream("trace", "icecube86/7.1.0", "--jaeger", told.jaeger.url)
    assert status == 0
    title, _, *tree = lines_of(out)
    assert title.startswith(f"trace {told.trace_ids['alone']}, ")
    assert title.endswith(" UTC, 50.00 ms, 6 spans")
    assert tree == [
        f"publish {SUBJECT} emitter +0.00 ms 2.00 ms",
        "├─ (no span) +2.00 ms 8.00 ms",
        f"└─ process {SUBJECT} router +10.00 ms 40.00 ms",
        "├─ (no span) +10.00 ms 10.00 ms",
        "├─ infer direction router +20.00 ms 20.00 ms",
        "│ └─ triton direction triton +22.00 ms 16.00 ms",
        "│ ├─ queue triton +22.00 ms 3.00 ms",
        "│ └─ compute triton +25.00 ms 13.00 ms",
        "└─ (no span) +40.00 ms 10.00 ms",
    ]


def test_bars_lie_where_the_time_was(icestream: Command, told: Told) -> None:
    _, out, _ = icestream("trace", "icecube86/7.1.0", "--jaeger", told.jaeger.url)
    published, processed, infer = (
        next(line for line in out.splitlines() if name in line)
        for name in ("publish", "process", "infer direction")
    )
    begin = published.index("━")
    # 20 characters for 50 ms.
    assert published.count("━") == 1
    assert (processed.index("━") - begin, processed.count("━")) == (4, 16)
    assert (infer.index("━") - begin, infer.count("━")) == (8, 8)


@pytest.mark.parametrize("name", ["7.1", "7.1.0", "icecube86/7.1"])
def test_an_event_is_found_by_each_of_its_names(icestream: Command, told: Told, name: str) -> None:
    status, out, _ = icestream("trace", name, "--jaeger", told.jaeger.url)
    assert status == 0
    assert told.trace_ids["alone"] in out


def test_a_detector_need_not_be_named(icestream: Command, told: Told) -> None:
    status, out, _ = icestream("trace", "7.6", "--jaeger", told.jaeger.url)
    assert status == 0
    assert "publish icestream.events.toy.told" in out


def test_a_trace_is_found_by_its_id(icestream: Command, told: Told) -> None:
    status, out, _ = icestream("trace", told.trace_ids["alone"].upper(), "--jaeger", told.jaeger.url)
    assert status == 0
    assert "infer direction" in out


def test_a_scan_is_found_by_its_id(icestream: Command, told: Told) -> None:
    status, out, _ = icestream("trace", SCAN_ID, "--jaeger", told.jaeger.url)
    assert status == 0
    assert "└─ scan scanner +1.00 ms 15.00 s" in lines_of(out)


def test_an_error_says_what_went_wrong(icestream: Command, told: Told) -> None:
    _, out, _ = icestream("trace", "7.4", "--jaeger", told.jaeger.url)
    assert "model_failed: no [bold]answer[/bold] for it" in out
    assert "1 with an error" in lines_of(out)[0]


@pytest.mark.parametrize(("event", "has_tritons"), [("7.2", True), ("7.3", False)])
def test_what_a_batch_shares_is_shown_in_each_of_its_traces(
    icestream: Command, told: Told, event: str, has_tritons: bool
) -> None:
    _, out, _ = icestream("trace", event, "--jaeger", told.jaeger.url)
    assert "infer direction (2 events)" in out
    assert "└─ InferRequest triton +21.00 ms 18.00 ms" in "\n".join(lines_of(out))
    assert (f"what trace {told.trace_ids['first']} has of the same batch" in out) is not has_tritons


def test_a_span_whose_parent_is_not_stored_says_so(icestream: Command, told: Told) -> None:
    _, out, _ = icestream("trace", "7.7", "--jaeger", told.jaeger.url)
    assert f"process {SUBJECT} (its parent is not stored)" in out


def test_of_several_traces_the_latest_is_shown_and_the_others_are_named(
    icestream: Command, told: Told
) -> None:
    _, out, _ = icestream("trace", "7.5", "--jaeger", told.jaeger.url)
    assert out.startswith(f"trace {told.trace_ids['new']}")
    assert f"older traces of the same: {told.trace_ids['old']}" in out


def test_json_is_one_span_a_line(icestream: Command, told: Told) -> None:
    status, out, _ = icestream("trace", "7.4", "--json", "--jaeger", told.jaeger.url)
    assert status == 0
    published, processed = map(json.loads, out.splitlines())
    assert (published["service"], published["parent_span_id"], published["error"]) == (EMITTER, None, None)
    assert processed["parent_span_id"] == published["span_id"]
    assert processed["start_unix_ns"] - published["start_unix_ns"] == 10 * MS
    assert processed["duration_ns"] == 40 * MS
    assert processed["error"] == "model_failed: no [bold]answer[/bold] for it"
    assert processed["attributes"]["messaging.message.id"] == "icecube86/7.4.0"


def test_links_are_in_the_json(icestream: Command, told: Told) -> None:
    _, out, _ = icestream("trace", "7.3", "--json", "--jaeger", told.jaeger.url)
    [links] = [span["links"] for span in map(json.loads, out.splitlines()) if span["links"]]
    assert [link["trace_id"] for link in links] == [told.trace_ids["first"]]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("9.9", "--trace-ratio 1"),
        ("9.9", "gRPC"),
        ("f" * 32, "not sampled"),
        ("19c3x00000000", "icestream scans show"),
    ],
)
def test_what_is_not_there_may_have_several_reasons(
    icestream: Command, told: Told, name: str, advice: str
) -> None:
    status, out, err = icestream("trace", name, "--jaeger", told.jaeger.url)
    assert (status, out) == (1, "")
    assert f"no trace of {name}" in err
    assert advice in err


def test_a_name_that_is_none_is_refused(icestream: Command, told: Told) -> None:
    status, _, err = icestream("trace", "seven.one", "--jaeger", told.jaeger.url)
    assert status == 1
    assert "'seven.one' is not an event id; write <run>.<event>" in err


def test_a_jaeger_without_our_spans_says_that_tracing_may_be_off(icestream: Command, tmp_path: Path) -> None:
    jaeger = Jaeger(tmp_path)
    jaeger.start()
    try:
        status, _, err = icestream("trace", "7.1", "--jaeger", jaeger.url)
    finally:
        jaeger.kill()
    assert status == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in err


def test_a_jaeger_that_is_away_is_named(icestream: Command) -> None:
    [port] = free_ports(1)
    status, _, err = icestream("trace", "7.1", "--jaeger", f"http://127.0.0.1:{port}")
    assert status == 1
    assert f"Jaeger does not answer at http://127.0.0.1:{port}" in err


@pytest.mark.parametrize("url", ["jaeger", "127.0.0.1:16686", "http://[::"])
def test_what_is_no_url_is_refused(icestream: Command, url: str) -> None:
    status, _, err = icestream("trace", "7.1", "--jaeger", url)
    assert status == 1
    assert f"--jaeger {url} is no URL" in err


def test_another_server_is_no_jaeger(icestream: Command, told: Told) -> None:
    """Jaeger's own page answers at any other path, with HTML."""
    status, _, err = icestream("trace", "f" * 32, "--jaeger", f"{told.jaeger.url}/elsewhere")
    assert status == 1
    assert "not as Jaeger's query API does" in err


def test_the_local_stacks_jaeger_is_asked(icestream: Command, told: Told, tmp_path: Path) -> None:
    port = int(told.jaeger.url.rpartition(":")[2])
    Stack(1, Endpoints(jaeger=port), is_traced=True).write(tmp_path)
    status, out, _ = icestream("trace", "7.1", "--dir", tmp_path)
    assert status == 0
    assert told.trace_ids["alone"] in out


def test_a_stack_without_jaeger_says_how_to_get_one(icestream: Command, tmp_path: Path) -> None:
    Stack(1, Endpoints(), is_traced=False).write(tmp_path)
    status, _, err = icestream("trace", "7.1", "--dir", tmp_path)
    assert status == 1
    assert "`make tools`" in err
