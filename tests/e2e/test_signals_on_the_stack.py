"""Every service of the stack shows every signal that docs/telemetry.md promises, and every rule finds what it reads."""

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from icestream.codec import event_to_message
from icestream.physics.detector import icecube86
from icestream.physics.simulation import simulate_event
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.heartbeats import Heartbeat, listen
from icestream.runtime.local_stack import find_jaeger
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from tests.support.eventually import eventually
from tests.support.prometheus import Prometheus, all_rules, selectors_in, undecided
from tests.support.scanner import ScanClient, make_event
from tests.support.stack import ICESTREAM, NAMES, UpStack, reconstructions_of, running
from tests.support.watched_stack import Watched, watching
from tests.unit.deploy.test_telemetry_docs import SUFFIXES, declared_metrics, rows_of

SEED = 702
N_EVENTS = 300
SOURCE = "signals"


@dataclass(frozen=True)
class Signals:
    """What a service is to show; empty for what it has none of."""

    metrics: str
    """Section of docs/telemetry.md that declares what it shows beside the metrics of every service."""
    span: str
    """One that it makes."""
    first_words: str
    """The message that it logs when it has started."""


SIGNALS = {
    "emitter": Signals(
        "Metrics of the emitter", f"publish {NAMES.events('icecube86', SOURCE)}", "emitter starts"
    ),
    "router": Signals("Metrics of the router", "infer direction", "router is up"),
    "scanner": Signals("Metrics of the scanner", "scan", "scanner is up"),
    "scan-worker": Signals("Metrics of the scan worker", "scan.batch", "scan worker is up"),
    "recorder": Signals("Metrics of the recorder", "record reconstructions", "recorder is up"),
    # It handles no event.
    "nats-exporter": Signals("Metrics of NATS", "", "NATS exporter is up"),
}
TRITON_SPAN = "triton direction"

ONLY_AFTER_TROUBLE = {
    *("icestream_router_failures_total", "icestream_router_dead_letters_total"),
    *("icestream_scanner_dropped_results_total", "icestream_scanner_failures_total"),
    *("icestream_scan_worker_failures_total", "icestream_scan_worker_dead_letters_total"),
    *("icestream_recorder_failures_total", "icestream_recorder_dead_letters_total"),
    "icestream_recorder_request_failures_total",
    "ALERTS",
}
"""Metrics with labels that have no series before the first failure, as docs/telemetry.md says."""

NOT_HERE = {
    "prometheus_notifications_errors_total": "there is no Alertmanager",
    "alertmanager_": "there is no Alertmanager",
    "otelcol_": "there is no collector before Jaeger",
    'up{job="otel-collector"}': "there is no collector before Jaeger",
    "icestream_broker_leaf_": "NATS is on its own",
    "icestream_stream_source_": "NATS is on its own",
    "icestream_grpc_refused_calls_total": "nobody needs a token",
    "icestream_grpc_certificate_expiry_timestamp_seconds": "gRPC is served without TLS",
}
"""What other deployments than that of `icestream up` have: how such series begin, and why there are none."""

EMPTY_RULES = {
    "ServiceAbsent": "absent() has an answer only where a job has no target at all",
    "icestream_recorder:opening_angle_rad:median_1d": "of events that were there more than an hour ago",
    "ModelDrift": "compares with the same",
}
"""Rules that can find nothing on a stack that has just started and is well; all others must find something."""

Span = tuple[str, str, str]
"""Service, operation and instance."""


@pytest.fixture(scope="module")
def watched(stack: UpStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watching(stack, tmp_path_factory.mktemp("prometheus")) as watched:
        yield watched


@pytest.fixture
async def scans(stack: UpStack) -> AsyncIterator[ScanClient]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.scanner_grpc}") as channel:
        yield ScanClient(channel)


async def reconstruct(stack: UpStack) -> None:
    """One event over gRPC."""
    request = reconstruction_pb2.ReconstructRequest(
        event=event_to_message(simulate_event(icecube86(), seed=SEED, index=9000))
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.router_grpc}") as channel:
        stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
        await stub.Reconstruct(request)


async def ask_the_recorder(stack: UpStack, log: Path) -> None:
    command = [ICESTREAM, "records", "stats", "--dir", str(stack.directory)]
    with running(command, log) as asking:
        assert asking.wait(60) == 0, log.read_text()


def is_elsewhere(selector: str) -> bool:
    return selector.startswith(tuple(NOT_HERE))


def missing_metrics(prometheus: Prometheus, job: str) -> list[str]:
    """What docs/telemetry.md declares of a job and Prometheus lacks: whole metrics, and those without a series."""
    missing = []
    families = prometheus.families(job)
    for name, kind, _ in declared_metrics("Metrics of every service", SIGNALS[job].metrics):
        if is_elsewhere(name):
            continue
        # Scrapes negotiate OpenMetrics, where the suffix is no part of a family's name.
        if not {name, name.removesuffix(SUFFIXES.get(kind, ""))} & families:
            missing.append(f"{name} is not declared")
        series = f"{name}_count" if kind == "histogram" else name
        found = prometheus.query(f'last_over_time({series}{{job="{job}"}}[10m])')
        if not found and name not in ONLY_AFTER_TROUBLE:
            missing.append(f"{name} has no series")
    return missing


def missing_series(prometheus: Prometheus, section: str) -> list[str]:
    """The same of metrics that are not ours, as far as docs/telemetry.md names them."""
    _, *rows = rows_of(section)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]
    wanted = [name for name in names if name not in ONLY_AFTER_TROUBLE and not is_elsewhere(name)]
    assert wanted
    return [f"{name} has no series" for name in wanted if not prometheus.query(name)]


def instances_of(prometheus: Prometheus, job: str) -> set[str]:
    """What the living instances of a job call themselves."""
    # Prometheus keeps `instance` for the address that it scrapes.
    found = prometheus.query(f'icestream_build_info{{job="{job}"}}')
    return {series["metric"]["exported_instance"] for series in found}


def has_fresh_heartbeats(prometheus: Prometheus, job: str, n_instances: int) -> bool:
    found = prometheus.query(f'icestream:heartbeat_age:seconds{{job="{job}"}}')
    return len(found) == n_instances and all(float(series["value"][1]) < 15 for series in found)


def log_fields(line: str) -> Mapping[str, str]:
    """The facts in a line of a log of ours, in either format; none in any other line."""
    if line.startswith("{"):
        fields: Mapping[str, str] = json.loads(line)
        return fields
    found = re.match(r"(?P<timestamp>\S+Z) \[(?P<level>\w+) *\] (?P<event>.*?)  +(?P<facts>\w+=.*)", line)
    if found is None:
        return {}
    return dict(re.findall(r"(\w+)=(\S+)", found["facts"])) | found.groupdict()


def is_logged(lines: Iterable[str], job: str, instance: str) -> bool:
    """Whether an instance has said that it is there, with every field that each line is to have."""
    wanted = {"service": f"icestream-{job}", "instance": instance, "event": SIGNALS[job].first_words}
    found = [fields for line in lines if (fields := log_fields(line)).items() >= wanted.items()]
    return any(fields["level"] == "info" and fields["timestamp"] for fields in found)


def logs_of(watched: Watched, job: str) -> list[str]:
    """Every line of all instances of a job."""
    directory = watched.stack.directory / "logs"
    paths = [watched.log] if job == "emitter" else sorted(directory.glob(f"{job}*.log"))
    return [line for path in paths for line in path.read_text(errors="replace").splitlines()]


def spans_of(stack: UpStack, trace_ids: Iterable[str]) -> set[Span]:
    """What Jaeger has of some traces."""
    found = set()
    for trace_id in trace_ids:
        reply = httpx.get(f"{stack.endpoints.jaeger_url}/api/traces/{trace_id}")
        for trace in (reply.json().get("data") or []) if reply.is_success else []:
            processes = {
                key: (process["serviceName"], {tag["key"]: tag["value"] for tag in process.get("tags", [])})
                for key, process in trace["processes"].items()
            }
            for span in trace["spans"]:
                service, tags = processes[span["processID"]]
                found.add((service, span["operationName"], tags.get("service.instance.id", "")))
    return found


def missing_cells(
    watched: Watched, beats: Iterable[Heartbeat], spans: set[Span]
) -> dict[tuple[str, str], object]:
    """The table of service and signal: each cell where something is not as docs/telemetry.md says, and what."""
    prometheus, missing = watched.prometheus, dict[tuple[str, str], object]()

    def check(job: str, signal: str, problem: object) -> None:
        if problem:
            missing[job, signal] = problem

    for job, expected in SIGNALS.items():
        instances = instances_of(prometheus, job)
        check(job, "instances", not instances and "icestream_build_info has no series")
        check(job, "metrics", missing_metrics(prometheus, job))
        is_fresh = has_fresh_heartbeats(prometheus, job, len(instances))
        check(job, "heartbeat metric", not is_fresh and "its age is above 15 s, or missing")
        silent = instances - {beat.instance for beat in beats if beat.service == job}
        check(job, "heartbeat on NATS", silent and f"none of {sorted(silent)}")
        traced = {(f"icestream-{job}", expected.span, instance) for instance in instances}
        check(job, "trace", expected.span and not traced & spans and f"no span {expected.span!r}")
        untold = [name for name in instances if not is_logged(logs_of(watched, job), job, name)]
        check(job, "log", untold and f"no line {expected.first_words!r} of {untold} with all fields")
    check("prometheus", "metrics", missing_series(prometheus, "Metrics of Prometheus"))
    check("triton", "metrics", missing_series(prometheus, "Metrics of Triton"))
    is_traced = ("triton", TRITON_SPAN) in {(service, operation) for service, operation, _ in spans}
    check("triton", "trace", not is_traced and f"no span {TRITON_SPAN!r}")
    return missing


@pytest.mark.skipif(find_jaeger() is None, reason="no jaeger program; `make tools` builds it")
async def test_every_service_shows_every_signal_and_every_rule_finds_them(
    watched: Watched, scans: ScanClient, log: Path
) -> None:
    beats: list[Heartbeat] = []
    async with (
        connect(watched.stack.endpoints.nats_url, name="test") as connection,
        listen(connection, NAMES, beats.append),
    ):
        with watched.emitting(SOURCE, SEED, "--trace-ratio", "1", "--log-format", "json"):
            # Alerts are traced always, which scans of the catalogue are not.
            alert = await scans.start(make_event(SEED), priority=100, progression="2:0")
            await scans.ended(alert.scan_id)
            catalogue = await scans.start(make_event(SEED + 1), progression="1:0")
            await scans.ended(catalogue.scan_id)
            await reconstruct(watched.stack)
            await ask_the_recorder(watched.stack, log)

            def all_events_are_seen() -> None:
                assert watched.value("icestream_emitter_events_total") >= N_EVENTS
                assert watched.value('icestream_router_reconstructions_total{face="nats"}') >= N_EVENTS
                assert watched.value('icestream_recorder_rows_total{table="reconstructions"}') >= N_EVENTS
                assert watched.value('icestream_stream_stored_total{stream="EVENTS"}') >= N_EVENTS

            await eventually(all_events_are_seen, timeout_s=90.0, poll_s=0.5)
            await watched.all_up(but="none")
            traced = (await reconstructions_of(watched.stack, SEED))[0].trace_id
            alert = await scans.get(alert.scan_id)

            def nothing_is_missing() -> None:
                spans = spans_of(watched.stack, [traced, alert.trace_id])
                missing = missing_cells(watched, beats, spans)
                cells = [f"{job}, {signal}: {problem}" for (job, signal), problem in missing.items()]
                assert not cells, "\n".join(["missing:", *cells])

            await eventually(nothing_is_missing, timeout_s=30.0, poll_s=1.0)
            await every_rule_finds_what_it_reads(watched)
    assert watched.prometheus.rule_errors() == {}


async def every_rule_finds_what_it_reads(watched: Watched) -> None:
    """Wait until each has: some series come and go, like that of the oldest message without an answer."""
    # What another rule records is there when that rule finds something, which is looked at below.
    may_lack = ONLY_AFTER_TROUBLE | {rule.name for rule in all_rules()}
    reads = {rule.name: selectors_in(rule.expr) for rule in all_rules()}
    unseen = {
        (name, selector)
        for name, selectors in reads.items()
        for selector in selectors
        if selector.partition("{")[0] not in may_lack and not is_elsewhere(selector)
    }
    empty = {
        (rule.name, undecided(rule.expr))
        for rule in all_rules()
        if rule.name not in EMPTY_RULES and not all(map(is_elsewhere, reads[rule.name]))
    }
    assert len(unseen) > 40
    assert len(empty) > 30

    def all_are_seen() -> None:
        unseen.difference_update(
            [each for each in unseen if watched.prometheus.query(f"last_over_time({each[1]}[10m])")]
        )
        empty.difference_update([each for each in empty if watched.prometheus.query(each[1])])
        problems = [f"{name} reads {selector}, which has no series" for name, selector in sorted(unseen)]
        problems += [f"{name} finds nothing with {expr}" for name, expr in sorted(empty)]
        assert not problems, "\n".join(problems)

    await eventually(all_are_seen, timeout_s=60.0, poll_s=0.5)


def test_a_rule_that_names_several_metrics_by_a_pattern_means_as_many_as_there_are() -> None:
    declared = {name for name, _, _ in declared_metrics()}
    patterns = {pattern for rule in all_rules() for pattern in re.findall(r'__name__=~"([^"]*)"', rule.expr)}
    assert len(patterns) >= 3
    for pattern in patterns:
        meant = {name for name in declared if re.fullmatch(pattern, name)}
        assert len(meant) == pattern.count("|") + 1, f"{pattern} means only {meant}"


@pytest.mark.parametrize(
    ("expr", "selectors"),
    [
        ('sum by (le) (rate(a_bucket{x="b_c"}[5m])) / 1e6 > 0.5', {'a_bucket{x="b_c"}'}),
        ("a:b:c > 1.3 * d and on (job, instance) e offset 1h", {"a:b:c", "d", "e"}),
        ('increase({__name__=~"a_(b|c)"}[1m]) > 10 unless up == 0', {'{__name__=~"a_(b|c)"}', "up"}),
    ],
)
def test_selectors_are_found_in_expressions(expr: str, selectors: set[str]) -> None:
    assert selectors_in(expr) == selectors


def test_an_undecided_expression_answers_and_leaves_out_nothing() -> None:
    assert undecided('a{b!="c"} >= 1 unless on (d) e == 0') == 'a{b!="c"} >= bool 1 or on (d) e == bool 0'
