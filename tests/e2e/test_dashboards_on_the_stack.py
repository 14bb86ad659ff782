"""No panel without data: every query of every dashboard, to a real Prometheus that scraped the real services."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import httpx
import pytest

from dashboards.answers import Answers, Exemplar
from dashboards.queries import PanelQuery, Span, all_queries, boards, panels
from icestream.codec import event_to_message
from icestream.physics.detector import icecube86
from icestream.physics.simulation import simulate_event
from icestream.runtime.local_stack import find_jaeger
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from tests.support.eventually import eventually
from tests.support.nats_server import free_port
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.scanner import ScanClient, bright_track
from tests.support.stack import UpStack, running

SEED = 801
RATE = "40"
TRACE_RATIO = "0.2"

EMPTY_AT_FIRST = {"physics/Drift/{{kind}}, {{model}}"}
"""Queries that have nothing to show in the first hour of a Prometheus; their panels say so."""

QUERIES = list(all_queries())


@dataclass(frozen=True)
class Observed:
    """A stack at work, and what Prometheus knows of it."""

    stack: UpStack
    prometheus: Prometheus
    answers: Answers

    def span(self) -> Span:
        """The last minutes."""
        end_s = time.time()
        return Span(end_s - 180, end_s, step_s=5)

    def empty(self) -> set[str]:
        """Queries whose panels would show nothing."""
        span = self.span()
        return {query.name for query in QUERIES if not self.answers.series(query, span)}

    def exemplars(self, query: PanelQuery) -> list[Exemplar]:
        """Those behind one query."""
        return self.answers.exemplars(query, self.span())


@pytest.fixture(scope="module")
def observed(stack: UpStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    directory = tmp_path_factory.mktemp("dashboards")
    endpoints, emitter_port = stack.endpoints, free_port()
    targets = {
        "emitter": [emitter_port],
        "router": [endpoints.router_metrics],
        "scanner": [endpoints.scanner_metrics],
        "scan-worker": [endpoints.scan_worker_metrics],
        "recorder": [endpoints.recorder_metrics],
        "nats-exporter": [endpoints.nats_exporter_metrics],
        "triton": [endpoints.triton_metrics],
    }
    flags = ("--seed", str(SEED), "--source", "dashboards", "--rate", RATE, "--trace-ratio", TRACE_RATIO)
    command = stack.command("emit", *flags, "--metrics-port", str(emitter_port))
    with (
        running_prometheus(directory, targets) as prometheus,
        Answers(f"http://127.0.0.1:{prometheus.port}") as answers,
        running(command, directory / "emitter.log"),
    ):
        yield Observed(stack, prometheus, answers)


@asynccontextmanager
async def at_work(stack: UpStack) -> AsyncIterator[None]:
    """Requests over gRPC, and scans of alerts and of the catalogue, again and again while the block lasts.

    A histogram that is born with its first value has a rate only from the second scrape with a new value on.
    """

    async def work() -> None:
        event = simulate_event(icecube86(), seed=SEED, index=9000)
        request = reconstruction_pb2.ReconstructRequest(event=event_to_message(event))
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.router_grpc}") as router,
            grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.scanner_grpc}") as scanner,
        ):
            stub = reconstruction_pb2_grpc.ReconstructionServiceStub(router)  # type: ignore[no-untyped-call]
            scans = ScanClient(scanner)
            while True:
                await stub.Reconstruct(request)
                for priority in (0, 100):
                    scan = await scans.start(
                        bright_track(), reco="track_mpe", progression="1:0", priority=priority
                    )
                    await scans.ended(scan.scan_id, timeout_s=120.0)

    working = asyncio.create_task(work())
    try:
        yield
        assert not working.done() or working.result() is None
    finally:
        working.cancel()


async def test_no_panel_is_without_data(observed: Observed) -> None:
    async with at_work(observed.stack):

        def everything_has_data() -> None:
            assert observed.empty() - EMPTY_AT_FIRST == set()

        await eventually(everything_has_data, timeout_s=180.0, poll_s=2.0)


def test_a_query_that_nobody_feeds_is_found(observed: Observed) -> None:
    """What the test above rests on: also a series of NaN is no data."""
    for expr in ("rate(icestream_nobody_total[$__rate_interval])", "vector(0) / vector(0)"):
        query = replace(QUERIES[0], expr=expr)
        assert observed.answers.series(query, observed.span()) == []


def test_what_is_empty_at_first_says_so() -> None:
    said = {
        f"{name}/{panel['title']}"
        for name, board in boards().items()
        for panel in panels(board)
        if "empty in the first hour" in panel["description"]
    }
    assert {name.rpartition("/")[0] for name in EMPTY_AT_FIRST} == said


@pytest.mark.skipif(find_jaeger() is None, reason="no jaeger program; `make tools` builds it")
@pytest.mark.parametrize(
    "query", [query for query in QUERIES if query.has_exemplars], ids=lambda query: query.name
)
async def test_exemplars_lead_to_traces_that_jaeger_has(observed: Observed, query: PanelQuery) -> None:
    def a_trace_is_there() -> None:
        found = observed.exemplars(query)
        assert found
        newest = max(found, key=lambda exemplar: exemplar.time_s)
        reply = httpx.get(f"{observed.stack.endpoints.jaeger_url}/api/traces/{newest.trace_id}")
        assert reply.is_success, reply.text
        [trace] = reply.json()["data"]
        operations = {span["operationName"] for span in trace["spans"]}
        assert "process icestream.events.icecube86.dashboards" in operations

    await eventually(a_trace_is_there, timeout_s=60.0, poll_s=0.5)
