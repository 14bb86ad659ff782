import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from prometheus_client import CollectorRegistry

from icestream.codec import event_to_message
from icestream.errors import DeadlineExceeded, ModelOverloaded, ModelUnavailable
from icestream.physics.events import Event
from icestream.ports import CallOptions, ModelInput, ModelOutput
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from services.router.api import ApiLimits, ReconstructionService
from services.router.metrics import RouterMetrics
from tests.support.eventually import eventually
from tests.support.fake_model import FakeModel
from tests.support.refusal import Refusal
from tests.unit.router.router_cases import (
    DETECTORS,
    SAMPLED,
    UNSAMPLED,
    make_event,
    nan_event,
    poison_event,
)

LIMITS = ApiLimits(concurrency=3, model_timeout_s=5.0)


class Api:
    """The service behind a real server, and a client of it."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.registry = CollectorRegistry()
        self.service = ReconstructionService(
            model=model,
            default_model="direction",
            detectors=DETECTORS,
            limits=LIMITS,
            metrics=RouterMetrics(self.registry),
            tracer=provider.get_tracer("test"),
        )
        self.server = grpc.aio.server()
        reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server(self.service, self.server)  # type: ignore[no-untyped-call]
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    def connect(self, channel: grpc.aio.Channel) -> None:
        self.stub: Any = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]

    async def ask(
        self, event: Event, *, model: str = "", timeout_s: float = 5.0, **call: Any
    ) -> reconstruction_pb2.Reconstruction:
        request = reconstruction_pb2.ReconstructRequest(event=event_to_message(event), model=model)
        reply = await self.stub.Reconstruct(request, timeout=timeout_s, **call)
        reconstruction: reconstruction_pb2.Reconstruction = reply.reconstruction
        return reconstruction

    async def refusal(self, event: Event, **call: Any) -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.ask(event, **call)
        return Refusal(refused.value)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
async def api(model: FakeModel) -> AsyncIterator[Api]:
    api = Api(model)
    await api.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{api.port}") as channel:
        api.connect(channel)
        yield api
    model.release()
    await api.server.stop(None)


def stream_request(event: Event, model: str = "") -> reconstruction_pb2.ReconstructStreamRequest:
    return reconstruction_pb2.ReconstructStreamRequest(event=event_to_message(event), model=model)


async def test_an_event_is_answered_with_its_reconstruction(api: Api, model: FakeModel) -> None:
    reconstruction = await api.ask(make_event(7, n_pulses=20))
    assert (reconstruction.run_id, reconstruction.event_id, reconstruction.detector) == (1, 7, "toy")
    assert (reconstruction.n_pulses, reconstruction.n_pulses_used) == (20, 20)
    assert (reconstruction.model, reconstruction.model_version) == ("direction", "1")
    direction = reconstruction.direction
    assert direction.x**2 + direction.y**2 + direction.z**2 == pytest.approx(1, abs=1e-5)
    assert reconstruction.timings.received_unix_ns <= reconstruction.timings.inferred_unix_ns
    assert reconstruction.timings.published_unix_ns == 0
    assert model.calls[0].options.is_urgent


async def test_a_request_may_name_its_model() -> None:
    model = FakeModel("direction", "other")
    api = Api(model)
    await api.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{api.port}") as channel:
        api.connect(channel)
        assert (await api.ask(make_event(), model="other")).model == "other"
    await api.server.stop(None)


async def test_an_invalid_event_is_refused_with_each_violation(api: Api, model: FakeModel) -> None:
    refusal = await api.refusal(make_event(sensor_id=[0, 99, 1], charge_pe=[1, -1, 1]))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "INVALID_EVENT"
    assert refusal.violations.keys() == {"event.pulses.sensor_id", "event.pulses.charge_pe"}
    assert "whose ids are 0..59" in refusal.violations["event.pulses.sensor_id"]
    assert not refusal.says_when_to_retry
    assert model.calls == []


async def test_columns_of_unequal_length_are_refused(api: Api) -> None:
    message = event_to_message(make_event())
    message.pulses.flags = b""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.stub.Reconstruct(reconstruction_pb2.ReconstructRequest(event=message))
    assert Refusal(refused.value).violations.keys() == {"event.pulses.flags"}


async def test_a_request_without_an_event_is_refused(api: Api) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.stub.Reconstruct(reconstruction_pb2.ReconstructRequest())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_pulses_in_the_object_store_are_refused(api: Api) -> None:
    message = event_to_message(make_event())
    message.pulse_reference.bucket = "anywhere"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.stub.Reconstruct(reconstruction_pb2.ReconstructRequest(event=message))
    refusal = Refusal(refused.value)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "must be inline" in refusal.violations["event.pulse_reference"]


async def test_an_unknown_model_is_not_found(api: Api) -> None:
    refusal = await api.refusal(make_event(), model="energy")
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert "available: direction" in refusal.text
    assert not refusal.says_when_to_retry


@pytest.mark.parametrize("event", [poison_event(), nan_event()])
async def test_an_event_that_the_model_fails_for_is_an_internal_error(api: Api, event: Event) -> None:
    refusal = await api.refusal(event)
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert refusal.reason == "MODEL_FAILED"


async def test_a_model_that_is_away_is_unavailable_for_now(api: Api, model: FakeModel) -> None:
    model.failure = ModelUnavailable("the model is gone")
    refusal = await api.refusal(make_event())
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.text == "the model is gone"
    assert refusal.retry_delay_s == 1.0


async def test_a_full_model_says_when_to_come_back(api: Api, model: FakeModel) -> None:
    model.failure = ModelOverloaded("queue is full", retry_after_s=2.5)
    refusal = await api.refusal(make_event())
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.retry_delay_s == 2.5


async def test_a_call_beyond_the_limit_is_refused_at_once(api: Api, model: FakeModel) -> None:
    model.hold()
    calls = [asyncio.create_task(api.ask(make_event(i))) for i in range(LIMITS.concurrency)]
    await eventually(lambda: model.n_in_work == LIMITS.concurrency)
    refusal = await api.refusal(make_event())
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "TOO_MANY_REQUESTS"
    assert refusal.retry_delay_s == pytest.approx(0.1)
    assert len(model.calls) == LIMITS.concurrency
    model.release()
    assert [row.event_id for row in await asyncio.gather(*calls)] == [0, 1, 2]
    await api.ask(make_event())


async def test_a_cancelled_call_frees_its_place(api: Api, model: FakeModel) -> None:
    model.hold()
    calls = [asyncio.create_task(api.ask(make_event(i))) for i in range(LIMITS.concurrency)]
    await eventually(lambda: model.n_in_work == LIMITS.concurrency)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await eventually(lambda: model.n_in_work == 0)
    model.release()
    await api.ask(make_event())


async def test_the_callers_deadline_is_the_models(api: Api, model: FakeModel) -> None:
    await api.ask(make_event(), timeout_s=2.0)
    # gRPC rounds a deadline up to what its header can say.
    assert 1.0 < model.calls[0].options.timeout_s <= 2.1


async def test_without_a_deadline_the_service_has_its_own(api: Api, model: FakeModel) -> None:
    await api.stub.Reconstruct(reconstruction_pb2.ReconstructRequest(event=event_to_message(make_event())))
    assert model.calls[0].options.timeout_s == LIMITS.model_timeout_s


async def test_a_deadline_that_passes_ends_the_call_and_the_work(api: Api, model: FakeModel) -> None:
    model.hold()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.ask(make_event(), timeout_s=0.1)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: model.n_in_work == 0, timeout_s=2)


async def test_a_model_that_is_too_slow_is_a_deadline_exceeded(api: Api, model: FakeModel) -> None:
    model.failure = DeadlineExceeded("no answer within 5 s")
    refusal = await api.refusal(make_event())
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert refusal.text == "no answer within 5 s"


async def test_a_callers_trace_goes_on(api: Api, model: FakeModel) -> None:
    reconstruction = await api.ask(make_event(), metadata=(("traceparent", SAMPLED),))
    assert reconstruction.trace_id == SAMPLED.split("-")[1]
    [traceparent] = model.calls[0].options.traceparents
    assert reconstruction.trace_id in traceparent
    await eventually(lambda: len(api.spans.get_finished_spans()) == 1)
    [span] = api.spans.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SAMPLED.split("-")[2]


@pytest.mark.parametrize("traceparent", [UNSAMPLED, "nonsense", ""])
async def test_what_is_not_sampled_leaves_no_trace(api: Api, model: FakeModel, traceparent: str) -> None:
    assert (await api.ask(make_event(), metadata=(("traceparent", traceparent),))).trace_id == ""
    assert model.calls[0].options.traceparents == ()
    assert api.spans.get_finished_spans() == ()


async def test_what_came_of_requests_is_counted(api: Api) -> None:
    await api.ask(make_event())
    await api.refusal(make_event(n_pulses=0))
    value = api.registry.get_sample_value
    assert value("icestream_router_events_total", {"face": "grpc"}) == 2
    assert value("icestream_router_reconstructions_total", {"face": "grpc"}) == 1
    labels = {"face": "grpc", "reason": "invalid_event"}
    assert value("icestream_router_failures_total", labels) == 1


class LastComesFirst(FakeModel):
    """Answers in the reverse order of the questions."""

    def __init__(self, n_events: int) -> None:
        super().__init__()
        self._may_answer = [asyncio.Event() for _ in range(n_events)]
        self._may_answer[-1].set()

    async def infer(self, model: str, batch: ModelInput, options: CallOptions) -> ModelOutput:
        number = len(self.calls)
        output = await super().infer(model, batch, options)
        await self._may_answer[number].wait()
        self._may_answer[number - 1].set()
        return output


async def test_a_stream_keeps_the_order_of_its_requests() -> None:
    api = Api(LastComesFirst(LIMITS.concurrency))
    await api.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{api.port}") as channel:
        api.connect(channel)
        requests = [stream_request(make_event(i)) for i in range(LIMITS.concurrency)]
        answers = [answer async for answer in api.stub.ReconstructStream(iter(requests), timeout=5)]
    await api.server.stop(None)
    assert [answer.event_id for answer in answers] == ["1.0.0", "1.1.0", "1.2.0"]
    assert [answer.reconstruction.event_id for answer in answers] == [0, 1, 2]


async def test_a_long_stream_is_answered_whole(api: Api) -> None:
    requests = [stream_request(make_event(i)) for i in range(150)]
    answers = [answer async for answer in api.stub.ReconstructStream(iter(requests), timeout=10)]
    assert [answer.reconstruction.event_id for answer in answers] == list(range(150))


async def test_a_bad_event_of_a_stream_fails_alone(api: Api) -> None:
    events = [make_event(1), make_event(2, charge_pe=[1, -1, 1]), poison_event(3), make_event(4)]
    requests = [stream_request(event) for event in events] + [stream_request(make_event(5), model="energy")]
    answers = [answer async for answer in api.stub.ReconstructStream(iter(requests), timeout=5)]
    reasons = [answer.failure.reason for answer in answers]
    assert reasons == ["", "invalid_event", "model_failed", "", "unknown_model"]
    [violation] = answers[1].failure.violations
    assert violation.field == "pulses.charge_pe"
    assert "negative" in violation.description
    assert not answers[1].failure.HasField("retry_after")


async def test_a_stream_says_when_to_try_again(api: Api, model: FakeModel) -> None:
    model.failure = ModelOverloaded("queue is full", retry_after_s=2.5)
    requests = [stream_request(make_event(1))]
    [answer] = [answer async for answer in api.stub.ReconstructStream(iter(requests), timeout=5)]
    assert answer.failure.reason == "model_overloaded"
    assert (answer.failure.retry_after.seconds, answer.failure.retry_after.nanos) == (2, 500_000_000)


async def test_a_stream_waits_for_places_and_leaves_single_calls_theirs(api: Api, model: FakeModel) -> None:
    model.hold()
    requests = [stream_request(make_event(i)) for i in range(20)]
    stream = api.stub.ReconstructStream(iter(requests), timeout=5)
    reading = asyncio.create_task(_all(stream))
    await eventually(lambda: model.n_in_work == LIMITS.concurrency)
    single = asyncio.create_task(api.ask(make_event(99)))
    await eventually(lambda: model.n_in_work == LIMITS.concurrency + 1)
    assert len(model.calls) == LIMITS.concurrency + 1
    model.release()
    assert (await single).event_id == 99
    assert [answer.reconstruction.event_id for answer in await reading] == list(range(20))


async def test_a_stream_takes_no_more_than_it_can_hold(api: Api, model: FakeModel) -> None:
    model.hold()
    taken = 0

    async def requests() -> AsyncIterator[reconstruction_pb2.ReconstructStreamRequest]:
        nonlocal taken
        for i in range(10_000):
            yield stream_request(make_event(i, n_pulses=2_000))
            taken += 1

    stream = api.stub.ReconstructStream(requests(), timeout=10)
    await eventually(lambda: model.n_in_work == LIMITS.concurrency)
    await asyncio.sleep(0.2)
    # What gRPC's flow control lets into its buffers, some MB, and the events in work.
    assert taken < 1_000
    stream.cancel()
    await eventually(lambda: model.n_in_work == 0)


async def test_a_cancelled_stream_leaves_nothing_behind(
    api: Api, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    await api.ask(make_event())
    tasks_before = len(asyncio.all_tasks())
    model.hold()
    stream = api.stub.ReconstructStream(_endless(), timeout=5)
    await eventually(lambda: model.n_in_work == LIMITS.concurrency)
    stream.cancel()
    await eventually(lambda: model.n_in_work == 0, timeout_s=2)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before, timeout_s=2)
    model.release()
    requests = [stream_request(make_event(i)) for i in range(10)]
    answers = [answer async for answer in api.stub.ReconstructStream(iter(requests), timeout=5)]
    assert len(answers) == 10
    assert caplog.records == []


async def _all(stream: Any) -> list[reconstruction_pb2.ReconstructStreamResponse]:
    return [answer async for answer in stream]


async def _endless() -> AsyncIterator[reconstruction_pb2.ReconstructStreamRequest]:
    i = 0
    while True:
        yield stream_request(make_event(i))
        i += 1
        await asyncio.sleep(0)
