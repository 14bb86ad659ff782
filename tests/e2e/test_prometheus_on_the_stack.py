"""A real Prometheus with our rules, over the stack of `icestream up`."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from icestream.codec import event_to_message
from icestream.physics.detector import icecube86
from icestream.physics.simulation import simulate_event
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from tests.support.eventually import eventually
from tests.support.nats_server import free_port
from tests.support.prometheus import Prometheus, all_rules, running_prometheus
from tests.support.scanner import ScanClient, make_event
from tests.support.stack import ICESTREAM, UpStack, running
from tests.unit.deploy.test_telemetry_docs import SUFFIXES, declared_metrics

SEED = 701
N_EVENTS = 300

SECTIONS = {
    "emitter": "Metrics of the emitter",
    "router": "Metrics of the router",
    "scanner": "Metrics of the scanner",
    "scan-worker": "Metrics of the scan worker",
    "recorder": "Metrics of the recorder",
    "nats-exporter": "Metrics of NATS",
}
"""Where docs/telemetry.md declares what a job shows beside the metrics of every service."""

ONLY_AFTER_TROUBLE = {
    *("icestream_router_failures_total", "icestream_router_dead_letters_total"),
    *("icestream_scanner_dropped_results_total", "icestream_scanner_failures_total"),
    *("icestream_scan_worker_failures_total", "icestream_scan_worker_dead_letters_total"),
    *("icestream_recorder_duplicates_total", "icestream_recorder_redelivered_total"),
    *("icestream_recorder_postponed_total", "icestream_recorder_failures_total"),
    *("icestream_recorder_dead_letters_total", "icestream_recorder_request_failures_total"),
}
"""Metrics with labels that have no series before the first failure, as docs/telemetry.md says."""


@dataclass(frozen=True)
class Watched:
    """A stack, whoever watches it, and where an emitter is to show its metrics."""

    stack: UpStack
    prometheus: Prometheus
    emitter_port: int
    log: Path

    @contextmanager
    def emitting(self, source: str) -> Iterator[None]:
        """Have events published for as long as the block lasts."""
        flags = ("--seed", str(SEED), "--source", source, "--rate", "50", "--trace-ratio", "0")
        command = self.stack.command("emit", *flags, "--metrics-port", str(self.emitter_port))
        with running(command, self.log):
            yield

    def value(self, expr: str) -> float:
        """Of a query's only series; 0 where there is none."""
        return sum(float(series["value"][1]) for series in self.prometheus.query(expr))

    async def all_up(self, *, but: str = "emitter") -> None:
        """Wait until every target answers; `but` one job."""

        def nothing_is_down() -> None:
            down = {job: health for job, health in self.prometheus.health().items() if health != "up"}
            assert set(down) - {but} == set(), down

        await eventually(nothing_is_down, timeout_s=60.0, poll_s=0.2)


@pytest.fixture(scope="module")
def watched(stack: UpStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("prometheus")
    endpoints = stack.endpoints
    emitter_port = free_port()
    targets = {
        "emitter": [emitter_port],
        "router": [endpoints.router_metrics],
        "scanner": [endpoints.scanner_metrics],
        "scan-worker": [endpoints.scan_worker_metrics],
        "recorder": [endpoints.recorder_metrics],
        "nats-exporter": [endpoints.nats_exporter_metrics],
        "triton": [endpoints.triton_metrics],
    }
    with running_prometheus(directory, targets) as prometheus:
        yield Watched(stack, prometheus, emitter_port, directory / "emitter.log")


@pytest.fixture
async def scans(stack: UpStack) -> AsyncIterator[ScanClient]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.scanner_grpc}") as channel:
        yield ScanClient(channel)


@contextmanager
def nobody_restarts(stack: UpStack) -> Iterator[None]:
    """What is killed in the block stays away: otherwise it is back within a second, before a scrape misses it."""
    stack.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.process.send_signal(signal.SIGCONT)


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


def heartbeat_ages_s(prometheus: Prometheus) -> dict[str, float]:
    """Of each job's last scrape."""
    found = prometheus.query("icestream:heartbeat_age:seconds")
    return {series["metric"]["job"]: float(series["value"][1]) for series in found}


def missing_signals(prometheus: Prometheus) -> dict[str, set[str]]:
    """Of each job what docs/telemetry.md declares and Prometheus lacks: whole metrics, and those without a series."""
    common = declared_metrics("Metrics of every service")
    missing = {}
    for job, section in SECTIONS.items():
        families = prometheus.families(job)
        lacks: set[str] = set()
        for name, kind, _ in common + declared_metrics(section):
            # Scrapes negotiate OpenMetrics, where the suffix is no part of a family's name.
            if not {name, name.removesuffix(SUFFIXES.get(kind, ""))} & families:
                lacks.add(f"{name} is not declared")
            series = f"{name}_count" if kind == "histogram" else name
            found = prometheus.query(f'last_over_time({series}{{job="{job}"}}[10m])')
            if not found and name not in ONLY_AFTER_TROUBLE:
                lacks.add(f"{name} has no series")
        if lacks:
            missing[job] = lacks
    return missing


async def test_every_service_shows_every_signal(watched: Watched, scans: ScanClient, log: Path) -> None:
    with watched.emitting("signals"):
        scan = await scans.start(make_event(SEED), priority=100, progression="2:0")
        await scans.ended(scan.scan_id)
        catalogue = await scans.start(make_event(SEED + 1), progression="1:0")
        await scans.ended(catalogue.scan_id)
        await reconstruct(watched.stack)
        await ask_the_recorder(watched.stack, log)

        def all_events_are_seen() -> None:
            assert watched.value("icestream_emitter_events_total") >= N_EVENTS
            assert watched.value('icestream_router_reconstructions_total{face="nats"}') >= N_EVENTS
            assert watched.value('icestream_recorder_rows_total{table="reconstructions"}') >= N_EVENTS

        await eventually(all_events_are_seen, timeout_s=90.0, poll_s=0.5)
        await watched.all_up(but="none")

        def nothing_is_missing() -> None:
            assert missing_signals(watched.prometheus) == {}

        await eventually(nothing_is_missing, timeout_s=30.0, poll_s=1.0)
        ages_s = heartbeat_ages_s(watched.prometheus)
        assert set(ages_s) == set(SECTIONS)
        assert max(ages_s.values()) < 15, ages_s
        assert watched.value('nv_inference_request_success{model="direction"}') > 0
        assert watched.value("sum(icestream_stream_stored_total{stream='EVENTS'})") >= N_EVENTS


async def test_every_rule_is_evaluated_without_an_error(watched: Watched) -> None:
    await watched.all_up()
    for rule in all_rules():
        watched.prometheus.query(rule.expr)
    await eventually(
        lambda: watched.prometheus.query("icestream:heartbeat_age:seconds"), timeout_s=30.0, poll_s=0.2
    )
    assert watched.prometheus.rule_errors() == {}


@pytest.mark.parametrize(
    ("job", "part"),
    [
        ("router", "services.router"),
        ("recorder", "services.recorder"),
        ("scanner", "services.scanner.coordinator"),
    ],
)
async def test_a_service_that_was_killed_pages_until_it_is_back(
    watched: Watched, job: str, part: str
) -> None:
    await watched.all_up()
    prometheus = watched.prometheus
    await eventually(lambda: not prometheus.alerts("HeartbeatLate", job=job), timeout_s=60.0, poll_s=0.2)
    with nobody_restarts(watched.stack):
        watched.stack.kill(part)
        await eventually(lambda: prometheus.is_firing("HeartbeatLate", job=job), timeout_s=30.0, poll_s=0.2)
        await eventually(
            lambda: prometheus.is_firing("HeartbeatMissing", job=job), timeout_s=30.0, poll_s=0.2
        )
    await eventually(lambda: not prometheus.alerts("HeartbeatMissing", job=job), timeout_s=60.0, poll_s=0.2)
    await eventually(lambda: not prometheus.alerts("HeartbeatLate", job=job), timeout_s=60.0, poll_s=0.2)
    assert watched.value(f'up{{job="{job}"}}') == 1


async def test_a_service_that_hangs_pages_until_it_goes_on(watched: Watched) -> None:
    await watched.all_up()
    prometheus = watched.prometheus
    router = watched.stack.part("services.router")
    router.send_signal(signal.SIGSTOP)
    try:
        await eventually(
            lambda: prometheus.is_firing("HeartbeatMissing", job="router"), timeout_s=30.0, poll_s=0.2
        )
        [alert] = prometheus.alerts("HeartbeatMissing", job="router")
        assert alert["labels"]["severity"] == "page"
        instance = alert["labels"]["instance"]
        assert alert["annotations"]["summary"] == f"router {instance} has been silent for more than 15 s"
        assert prometheus.is_firing("HeartbeatLate", job="router")
    finally:
        router.send_signal(signal.SIGCONT)
    await eventually(
        lambda: not prometheus.alerts("HeartbeatMissing", job="router"), timeout_s=60.0, poll_s=0.2
    )
    await eventually(lambda: not prometheus.alerts("HeartbeatLate", job="router"), timeout_s=60.0, poll_s=0.2)


async def test_an_emitter_that_is_gone_is_told_from_one_that_is_silent(watched: Watched) -> None:
    with watched.emitting("gone"):
        await eventually(lambda: watched.value('up{job="emitter"}') == 1, timeout_s=60.0, poll_s=0.2)
        await eventually(lambda: not watched.prometheus.alerts("EmitterStopped"), timeout_s=30.0, poll_s=0.2)

    await eventually(lambda: watched.prometheus.is_firing("EmitterStopped"), timeout_s=60.0, poll_s=0.2)
    assert watched.prometheus.alerts("NoEventsSent") == []


async def test_a_broker_that_was_killed_is_back_with_its_streams(watched: Watched) -> None:
    await watched.all_up()
    await eventually(lambda: watched.value("icestream_broker_up") == 1, timeout_s=30.0, poll_s=0.2)
    stored = watched.value('icestream_stream_stored_total{stream="EVENTS"}')
    with nobody_restarts(watched.stack):
        watched.stack.kill("nats-server")
        await eventually(lambda: watched.prometheus.is_firing("BrokerDown"), timeout_s=60.0, poll_s=0.2)
        assert watched.value("icestream_broker_up") == 0
    await eventually(lambda: watched.value("icestream_broker_up") == 1, timeout_s=60.0, poll_s=0.2)
    await eventually(lambda: not watched.prometheus.alerts("BrokerDown"), timeout_s=30.0, poll_s=0.2)
    assert watched.value('icestream_stream_stored_total{stream="EVENTS"}') >= stored > 0
    await watched.all_up()
