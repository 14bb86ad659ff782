"""The collector that we ship keeps what somebody will ask for, thins the rest, and loses nothing on the way."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from opentelemetry.context import Context

from icestream.errors import ModelFailed
from icestream.runtime.message_spans import start_publish_span
from icestream.runtime.tracing import (
    URGENT,
    Tracing,
    end_span,
    parent_context,
    traceparent_of,
    tracing,
)
from tests.support.eventually import eventually
from tests.support.jaeger import COLLECTOR_CONFIG, Collector, Jaeger
from tests.support.prometheus import all_alerts, all_rules, running_prometheus, selectors_in
from tests.unit.deploy.test_telemetry_docs import rows_of

DECISION_WAIT_S = 5
N_FAST = 2000
N_WANTED = 40
FAST_MS = 20
SLOW_MS = 1500
"""Above the threshold of 1000 ms."""
EVENTS_SUBJECT = "icestream.events.icecube86.tails"
TIMEOUT_S = 60.0

EMITTER, ROUTER, SCANNER = "icestream-emitter", "icestream-router", "icestream-scanner"


@dataclass(frozen=True)
class Services:
    """Those who send spans to one collector, as the real ones do."""

    emitter: Tracing
    router: Tracing
    scanner: Tracing

    def n_dropped(self) -> int:
        """What they would show as icestream_spans_dropped_total."""
        return sum(each.dropped_spans() for each in (self.emitter, self.router, self.scanner))

    def publish(self) -> str:
        """An event's first span; its traceparent."""
        span = start_publish_span(self.emitter.tracer, Context(), EVENTS_SUBJECT, "icecube86/1.2.0")
        end_span(span)
        return traceparent_of(span)

    def reconstruct(self, traceparent: str, *, took_ms: int = FAST_MS, error: Exception | None = None) -> str:
        """What a router adds to it; the id of the trace."""
        ended_ns = time.time_ns()
        span = self.router.tracer.start_span(
            f"process {EVENTS_SUBJECT}",
            context=parent_context(traceparent),
            start_time=ended_ns - took_ms * 1_000_000,
        )
        end_span(span, error)
        return traceparent.split("-")[1]

    def event(self, *, took_ms: int = FAST_MS, error: Exception | None = None) -> str:
        """The same two at once."""
        return self.reconstruct(self.publish(), took_ms=took_ms, error=error)

    def scan(self, *, is_alert: bool) -> str:
        """A scan that takes long, as scans do."""
        started_ns = time.time_ns() - SLOW_MS * 1_000_000
        tracer = self.scanner.tracer
        start = tracer.start_span(
            "StartScan", Context(), attributes={URGENT: is_alert}, start_time=started_ns
        )
        start.end()
        traceparent = traceparent_of(start)
        tracer.start_span("scan", parent_context(traceparent), start_time=started_ns).end()
        return traceparent.split("-")[1]


@contextmanager
def services_at(collector: Collector) -> Iterator[Services]:
    """All of them, recording everything."""
    with ExitStack() as stack:
        traced = [
            stack.enter_context(tracing(name, "one", collector.otlp_url, ratio=1.0))
            for name in (EMITTER, ROUTER, SCANNER)
        ]
        yield Services(*traced)


@contextmanager
def running_collector(
    directory: Path, jaeger: Jaeger, decision_wait_s: int, **environment: int
) -> Iterator[Collector]:
    collector = Collector(
        directory, jaeger.otlp_address, COLLECTOR_DECISION_WAIT=f"{decision_wait_s}s", **environment
    )
    try:
        collector.start()
        yield collector
    finally:
        collector.kill()


@pytest.fixture
def jaeger(tmp_path: Path) -> Iterator[Jaeger]:
    """Not started."""
    server = Jaeger(tmp_path)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def collector(tmp_path: Path, jaeger: Jaeger) -> Iterator[Collector]:
    jaeger.start()
    with running_collector(tmp_path, jaeger, DECISION_WAIT_S) as running:
        yield running


async def decided(collector: Collector, n_traces: int) -> None:
    """Wait until so many traces had their decision."""
    name = "otelcol_processor_tail_sampling_global_count_traces_sampled_total"
    await eventually(lambda: collector.metric(name) == n_traces, timeout_s=TIMEOUT_S, poll_s=0.1)


async def stored(jaeger: Jaeger, service: str, wanted: set[str], *, n_spans: int) -> set[str]:
    """Wait until traces are there with all of their spans; every trace that is there."""
    found: dict[str, int] = {}

    def all_are_there() -> None:
        nonlocal found
        found = {name: len(spans) for name, spans in jaeger.traces(service).items()}
        incomplete = {name: found.get(name) for name in wanted if found.get(name) != n_spans}
        assert not incomplete, f"{len(incomplete)} of {len(wanted)} lack spans: {incomplete}"

    await eventually(all_are_there, timeout_s=TIMEOUT_S, poll_s=0.2)
    return set(found)


async def test_errors_slow_events_and_alerts_are_kept_and_the_rest_is_thinned(
    jaeger: Jaeger, collector: Collector
) -> None:
    with services_at(collector) as services:
        fast = {services.event() for _ in range(N_FAST)}
        failed = {services.event(error=ModelFailed("no")) for _ in range(N_WANTED)}
        slow = {services.event(took_ms=SLOW_MS) for _ in range(N_WANTED)}
        alerts = {services.scan(is_alert=True) for _ in range(N_WANTED)}
        catalogue = {services.scan(is_alert=False) for _ in range(N_WANTED)}
        await decided(collector, N_FAST + 4 * N_WANTED)
        events = await stored(jaeger, ROUTER, failed | slow, n_spans=2)
        scans = await stored(jaeger, SCANNER, alerts, n_spans=2)
        assert services.n_dropped() == 0
    # 1 %: none at all, or five times as many, has a chance below 1e-8.
    assert 0 < len(events & fast) < 100
    assert len(scans & catalogue) < 10


async def test_a_trace_whose_spans_arrive_apart_stays_whole(jaeger: Jaeger, collector: Collector) -> None:
    with services_at(collector) as services:
        published = [services.publish() for _ in range(N_WANTED)]
        received = "otelcol_processor_tail_sampling_new_trace_id_received_total"
        await eventually(lambda: collector.metric(received) == N_WANTED, timeout_s=TIMEOUT_S, poll_s=0.05)
        # What makes them worth keeping is not known before this.
        failed = {services.reconstruct(traceparent, error=ModelFailed("no")) for traceparent in published}
        await stored(jaeger, ROUTER, failed, n_spans=2)
        # Whoever comes after the decision belongs to the trace, too.
        for traceparent in published:
            services.reconstruct(traceparent)
        await stored(jaeger, ROUTER, failed, n_spans=3)
        assert jaeger.traces(EMITTER).keys() == failed


async def test_an_error_that_comes_after_the_decision_is_kept(jaeger: Jaeger, collector: Collector) -> None:
    with services_at(collector) as services:
        published = [services.publish() for _ in range(N_WANTED)]
        await decided(collector, N_WANTED)
        # Only the latest decisions are remembered.
        for _ in range(N_FAST):
            services.event()
        await decided(collector, N_WANTED + N_FAST)
        thinned = [each for each in published if each.split("-")[1] not in jaeger.traces(EMITTER)]
        failed = {services.reconstruct(traceparent, error=ModelFailed("no")) for traceparent in thinned}
        assert failed
        await stored(jaeger, ROUTER, failed, n_spans=1)


async def test_nothing_is_lost_while_jaeger_is_away(jaeger: Jaeger, tmp_path: Path) -> None:
    with running_collector(tmp_path, jaeger, 1) as collector, services_at(collector) as services:
        failed = {services.event(error=ModelFailed("no")) for _ in range(500)}
        await decided(collector, 500)
        waiting = "otelcol_exporter_queue_size"
        await eventually(lambda: collector.metric(waiting) > 0, timeout_s=TIMEOUT_S, poll_s=0.1)
        assert jaeger.is_stopped
        jaeger.start()
        await stored(jaeger, ROUTER, failed, n_spans=2)
        assert collector.metric("otelcol_exporter_enqueue_failed_spans_total") == 0
        assert collector.metric("otelcol_exporter_send_failed_spans_total") == 0
        assert services.n_dropped() == 0


async def test_what_is_refused_by_a_full_queue_is_counted_where_the_alerts_look(
    jaeger: Jaeger, tmp_path: Path
) -> None:
    with (
        running_collector(tmp_path, jaeger, 1, COLLECTOR_QUEUE_SPANS=10) as collector,
        running_prometheus(
            tmp_path / "prometheus", {"otel-collector": [collector.metrics_port]}
        ) as prometheus,
        services_at(collector) as services,
    ):
        jaeger.start()
        await stored(jaeger, ROUTER, {services.event(error=ModelFailed("no"))}, n_spans=2)
        jaeger.kill()
        for _ in range(N_WANTED):
            services.event(error=ModelFailed("no"))
        await decided(collector, 1 + N_WANTED)
        lost = "otelcol_exporter_enqueue_failed_spans_total"
        await eventually(lambda: collector.metric(lost) > 0, timeout_s=TIMEOUT_S, poll_s=0.1)
        # They have delivered: only the collector knows.
        assert services.n_dropped() == 0

        read = {
            each for rule in all_rules() if rule.file == "traces.yaml" for each in selectors_in(rule.expr)
        }
        _, *rows = rows_of("Metrics of the collector")
        declared = {name for row in rows for name in re.findall("`([^`]+)`", row[0])}

        def nothing_is_missing() -> None:
            missing = {each for each in read | declared if not prometheus.query(each)}
            assert not missing

        await eventually(nothing_is_missing, timeout_s=TIMEOUT_S, poll_s=0.2)
        assert len(read) > 5
        assert prometheus.rule_errors() == {}


async def test_traces_that_are_thrown_out_undecided_are_counted(jaeger: Jaeger, tmp_path: Path) -> None:
    with (
        running_collector(tmp_path, jaeger, 3, COLLECTOR_TRACES=10) as collector,
        services_at(collector) as services,
    ):
        for _ in range(N_WANTED):
            services.event()
        forgotten = "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early_total"
        await eventually(lambda: collector.metric(forgotten) > 0, timeout_s=TIMEOUT_S, poll_s=0.1)


async def test_a_collector_without_memory_refuses_spans_and_says_so(jaeger: Jaeger, tmp_path: Path) -> None:
    limits = {"COLLECTOR_MEMORY_MIB": 2, "COLLECTOR_MEMORY_SPIKE_MIB": 1}
    with (
        running_collector(tmp_path, jaeger, 1, **limits) as collector,
        services_at(collector) as services,
    ):
        # The limiter looks once a second; before its first look everything is let in.
        def refused() -> bool:
            services.event()
            return collector.metric("otelcol_receiver_refused_spans_total") > 0

        await eventually(refused, timeout_s=TIMEOUT_S, poll_s=0.2)
        await eventually(lambda: services.n_dropped() > 0, timeout_s=TIMEOUT_S, poll_s=0.2)


async def test_tritons_own_spans_come_over_http(jaeger: Jaeger, collector: Collector) -> None:
    """As its native mode sends them: JSON."""
    trace_id, now_ns = "5b8aa5a2d2c872e8321cf37308d69df2", time.time_ns()
    span = {
        "traceId": trace_id,
        "spanId": "051581bf3cb55c13",
        "name": "InferRequest",
        "kind": 2,
        "startTimeUnixNano": str(now_ns),
        "endTimeUnixNano": str(now_ns + 1000),
        "status": {"code": 2},
    }
    service = {"key": "service.name", "value": {"stringValue": "triton"}}
    body = {"resourceSpans": [{"resource": {"attributes": [service]}, "scopeSpans": [{"spans": [span]}]}]}
    httpx.post(f"{collector.otlp_http_url}/v1/traces", json=body, trust_env=False).raise_for_status()
    await stored(jaeger, "triton", {trace_id}, n_spans=1)


def test_slow_is_what_the_alerts_call_slow() -> None:
    policies = yaml.safe_load(COLLECTOR_CONFIG.read_text())["processors"]["tail_sampling"]["policies"]
    [slow] = [policy for policy in policies if policy["name"] == "slow"]
    [threshold_ms] = [
        sub["latency"]["threshold_ms"] for sub in slow["and"]["and_sub_policy"] if "latency" in sub
    ]
    for name in ("EndToEndLatencyHigh", "GrpcLatencyHigh"):
        [alert] = [each for each in all_alerts() if each.name == name]
        threshold_s = re.search(r"> ([\d.]+)$", alert.expr)
        assert threshold_s
        assert threshold_ms == 1000 * float(threshold_s[1])
