"""Triton's part of a trace, made by our backend from the context that a request brings."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from secrets import token_hex

import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from icestream.errors import ModelFailed
from icestream.ports import CallOptions, ModelInput
from icestream.runtime.triton import TritonModel
from tests.support.eventually import eventually
from tests.support.models import POISON_LENGTH, SLOW_CONFIG, add_model, mean_direction_model, random_batch
from tests.support.otlp_collector import SpanCollector, span_collector
from tests.support.triton_server import RunningTriton, running_triton

EVENT = random_batch(np.random.default_rng(1), n_events=1, length=16)
BATCH = random_batch(np.random.default_rng(1), n_events=8, length=16)
POISON = ModelInput(EVENT.pulses, np.full((1, 1), POISON_LENGTH, np.int32))
NAMES = ["triton direction", "queue", "batch", "compute"]


@pytest.fixture(scope="module")
def collector() -> Iterator[SpanCollector]:
    with span_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def tracing_triton(
    collector: SpanCollector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningTriton]:
    folder = tmp_path_factory.mktemp("triton-spans")
    add_model(folder / "models", "direction", mean_direction_model())
    add_model(folder / "models", "slow", mean_direction_model(n_slow_products=20), config=SLOW_CONFIG)
    with running_triton(folder / "models", folder / "work", otlp_endpoint=collector.endpoint) as server:
        yield server


@pytest.fixture
async def model(tracing_triton: RunningTriton) -> AsyncIterator[TritonModel]:
    async with TritonModel(tracing_triton.target) as model:
        yield model


def traceparent(trace_id: str, *, flags: str = "01") -> str:
    return f"00-{trace_id}-{token_hex(8)}-{flags}"


async def spans_of(collector: SpanCollector, trace_id: str, n_spans: int = len(NAMES)) -> list[Span]:
    await eventually(lambda: len(collector.spans(trace_id)) >= n_spans)
    return collector.spans(trace_id)


def attributes(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def test_a_sampled_request_gets_spans_below_its_own(
    model: TritonModel, collector: SpanCollector
) -> None:
    parent = traceparent(trace_id := token_hex(16))
    await model.infer("direction", EVENT, CallOptions(traceparents=[parent]))
    server, *children = await spans_of(collector, trace_id)
    assert [server.name, *(child.name for child in children)] == NAMES
    assert server.parent_span_id.hex() == parent.split("-")[2]
    assert server.kind == Span.SPAN_KIND_SERVER
    assert {child.parent_span_id for child in children} == {server.span_id}
    assert attributes(server) == {
        "icestream.model.name": "direction",
        "icestream.model.version": "1",
        "icestream.batch.size": 1,
        "icestream.device": "cpu",
    }
    assert collector.services() == {"triton"}


async def test_the_children_follow_one_another_within_the_request(
    model: TritonModel, collector: SpanCollector
) -> None:
    sent_ns = time.time_ns()
    await model.infer("direction", EVENT, CallOptions(traceparents=[traceparent(trace_id := token_hex(16))]))
    answered_ns = time.time_ns()
    server, queue, batch, compute = await spans_of(collector, trace_id)
    assert sent_ns <= queue.start_time_unix_nano == server.start_time_unix_nano
    assert queue.end_time_unix_nano == batch.start_time_unix_nano
    assert batch.end_time_unix_nano == compute.start_time_unix_nano
    assert compute.end_time_unix_nano <= server.end_time_unix_nano <= answered_ns


async def test_each_sampled_event_of_a_batch_has_spans_and_links_lead_to_the_others(
    model: TritonModel, collector: SpanCollector
) -> None:
    parents = [traceparent(token_hex(16)) for _ in range(3)]
    await model.infer("direction", BATCH, CallOptions(traceparents=parents))
    for parent in parents:
        server, _, _, compute = await spans_of(collector, parent.split("-")[1])
        assert server.parent_span_id.hex() == parent.split("-")[2]
        assert attributes(server)["icestream.batch.size"] == 8
        linked = {(link.trace_id.hex(), link.span_id.hex()) for link in compute.links}
        others = parents[1:] if parent == parents[0] else parents[:1]
        assert linked == {tuple(other.split("-")[1:3]) for other in others}


async def test_single_events_that_the_server_merges_are_linked_by_the_first_of_them(
    model: TritonModel, collector: SpanCollector
) -> None:
    parents = [traceparent(token_hex(16)) for _ in range(64)]
    calls = (model.infer("direction", EVENT, CallOptions(traceparents=[parent])) for parent in parents)
    await asyncio.gather(*calls)
    computed = [(await spans_of(collector, parent.split("-")[1]))[-1] for parent in parents]
    assert any(span.links for span in computed)
    links = {span.trace_id: {link.trace_id for link in span.links} for span in computed}
    for span in computed:
        run = {span.trace_id}.union(links[span.trace_id], *(links[other] for other in links[span.trace_id]))
        assert len(run) == attributes(span)["icestream.executed_batch.size"]
        assert len(span.links) in {1, len(run) - 1}


async def test_unsampled_requests_make_no_span(model: TritonModel, collector: SpanCollector) -> None:
    unsampled = [traceparent(token_hex(16), flags="00") for _ in range(3)]
    sampled = traceparent(token_hex(16))
    n_traces = len(collector.trace_ids())
    await model.infer("direction", EVENT, CallOptions(traceparents=unsampled[:1]))
    await model.infer("direction", BATCH, CallOptions(traceparents=unsampled))
    await model.infer("direction", BATCH, CallOptions(traceparents=[*unsampled, sampled]))
    await model.infer("direction", EVENT, CallOptions())
    await spans_of(collector, sampled.split("-")[1])
    # Two exports later, nothing else can be on its way.
    await asyncio.sleep(2.0)
    assert len(collector.trace_ids()) == n_traces + 1


async def test_a_malformed_context_does_no_harm(model: TritonModel, collector: SpanCollector) -> None:
    nonsense = "zz-" + "q" * 32 + "-" + "q" * 16 + "-01"
    sampled = traceparent(token_hex(16))
    await model.infer("direction", BATCH, CallOptions(traceparents=[nonsense]))
    await model.infer("direction", BATCH, CallOptions(traceparents=[nonsense, sampled]))
    assert len(await spans_of(collector, sampled.split("-")[1])) == len(NAMES)


async def test_a_failed_request_has_a_span_that_says_why(
    model: TritonModel, collector: SpanCollector
) -> None:
    with pytest.raises(ModelFailed):
        await model.infer(
            "direction", POISON, CallOptions(traceparents=[traceparent(trace_id := token_hex(16))])
        )
    server, queue = await spans_of(collector, trace_id, n_spans=2)
    assert (server.status.code, queue.name) == (Status.STATUS_CODE_ERROR, "queue")
    assert "out of data bounds" in server.status.message


async def test_a_cancelled_request_is_not_computed(model: TritonModel, collector: SpanCollector) -> None:
    # The slow model computes what it is handed as one batch row by row; the last ones can still be dropped.
    last = [traceparent(token_hex(16)) for _ in range(6)]

    async def ask_and_leave() -> None:
        first = asyncio.create_task(model.infer("slow", EVENT, CallOptions()))
        await asyncio.sleep(0.01)
        calls = [
            asyncio.create_task(model.infer("slow", EVENT, CallOptions(traceparents=[parent])))
            for parent in last
        ]
        await first
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=0.1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def n_dropped() -> int:
        spans = [span for parent in last for span in collector.spans(parent.split("-")[1])]
        return sum("cancelled" in span.status.message for span in spans)

    for _ in range(10):  # Triton may not have handed them over yet when they leave
        await ask_and_leave()
        await asyncio.sleep(1.5)
        if n_dropped():
            return
    pytest.fail("no cancelled request was dropped")


async def test_a_collector_that_is_away_neither_fails_requests_nor_delays_the_end(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("triton-no-collector")
    add_model(folder / "models", "direction", mean_direction_model())
    with running_triton(folder / "models", folder / "work", otlp_endpoint="http://127.0.0.1:9") as server:
        async with TritonModel(server.target) as model:
            await model.infer("direction", EVENT, CallOptions(traceparents=[traceparent(token_hex(16))]))
        start_s = time.monotonic()
        server.process.terminate()
        assert server.process.wait(15) == 0
        assert time.monotonic() - start_s < 8
