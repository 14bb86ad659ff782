import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from icestream.codec import (
    PulseReference,
    decode_reconstruction,
    encode_detached_event,
    encode_event,
    encode_pulses,
)
from icestream.errors import BrokerUnavailable, IceStreamError, ModelUnavailable, StreamFull
from icestream.physics.events import Event
from icestream.runtime.deadletters import (
    DELIVERIES,
    EVENT_ID,
    ORIGINAL_MESSAGE_ID,
    ORIGINAL_SEQUENCE,
    ORIGINAL_SUBJECT,
    PROBLEM,
    REASON,
    DeadLetterWriter,
)
from icestream.runtime.jetstream.topology import Names
from icestream.runtime.tracing import is_sampled
from services.router import consumer as consumer_module
from services.router import intake as intake_module
from services.router.consumer import ConsumerLimits, EventConsumer
from services.router.intake import Intake
from services.router.metrics import RouterMetrics
from services.router.reconstruction import PreparedEvent
from tests.support.eventually import eventually
from tests.support.fake_jetstream import FakeObjects, FakePublisher, FakePuller
from tests.support.fake_model import FakeModel
from tests.unit.router.router_cases import (
    DETECTORS,
    SAMPLED,
    UNSAMPLED,
    make_event,
    nan_event,
    poison_event,
)

if TYPE_CHECKING:
    from icestream.runtime.jetstream.objects import PulseObjects
    from icestream.runtime.jetstream.publisher import WindowedPublisher
    from icestream.runtime.jetstream.puller import ContinuousPuller

LIMITS = ConsumerLimits(window=16, batch=4, requests_in_flight=2, delivery_limit=20, model_timeout_s=5.0)
RESULTS = "icestream.reconstructions."
DEAD_LETTERS = "icestream.deadletter."


class Router:
    """A consumer among fakes, at work until `stop`."""

    def __init__(self) -> None:
        self.puller = FakePuller()
        self.publisher = FakePublisher()
        self.objects = FakeObjects()
        self.model = FakeModel()
        self.is_model_back = True
        self.problems: list[str | None] = []
        self.intake = Intake(self._probe, self.problems.append)
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        publisher, names = cast("WindowedPublisher", self.publisher), Names()
        self.consumer = EventConsumer(
            puller=cast("ContinuousPuller", self.puller),
            publisher=publisher,
            pulse_objects=cast("PulseObjects", self.objects),
            dead_letters=DeadLetterWriter(publisher, names),
            model=self.model,
            model_name="direction",
            detectors=DETECTORS,
            names=names,
            intake=self.intake,
            limits=LIMITS,
            metrics=RouterMetrics(self.registry),
            tracer=provider.get_tracer("test"),
        )
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self.consumer.run(self._stop))

    async def stop(self) -> None:
        """Stop, and wait until everything is answered for; also raises what ended it before."""
        self._stop.set()
        if self._running is not None:
            await asyncio.wait_for(self._running, 5)
        await self.intake.stop()

    def ask_to_stop(self) -> None:
        self._stop.set()

    def deliver(self, *events: Event, n_delivered: int = 1, headers: dict[str, str] | None = None) -> None:
        for event in events:
            self.puller.deliver(encode_event(event), n_delivered=n_delivered, headers=headers)

    async def answered(self, n: int) -> dict[int, str]:
        """Kinds of answer by stream sequence, once there are n."""
        await eventually(lambda: len(self.puller.answers) >= n, timeout_s=3)
        return self.puller.kinds()

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def _probe(self) -> None:
        if not self.is_model_back:
            raise ModelUnavailable("still gone")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "_MAX_WAIT_S", 0.02)
    monkeypatch.setattr(intake_module, "_FIRST_PROBE_S", 0.005)
    monkeypatch.setattr(intake_module, "_SLOWEST_PROBE_S", 0.01)


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    """Not started yet: what is delivered before is one window."""
    router = Router()
    yield router
    router.model.release()
    router.publisher.is_confirming = True
    for message in router.publisher.published:
        if not message.stored.done():
            message.confirm()
    await router.stop()


async def test_each_event_is_reconstructed_and_acknowledged(router: Router) -> None:
    router.deliver(*(make_event(i, n_pulses=i) for i in range(1, 11)))
    router.start()
    assert await router.answered(10) == dict.fromkeys(range(1, 11), "+ACK")
    results = [decode_reconstruction(message.payload) for message in router.publisher.on(RESULTS)]
    assert sorted(row.event_id.event_id for row in results) == list(range(1, 11))
    assert all(row.timings.published_unix_ns == 1_000 < row.timings.inferred_unix_ns for row in results)
    assert router.metric("icestream_router_reconstructions_total", face="nats") == 10


async def test_a_result_goes_to_its_subject_under_the_events_name(router: Router) -> None:
    router.deliver(make_event(7))
    router.start()
    await router.answered(1)
    [result] = router.publisher.published
    assert result.subject == "icestream.reconstructions.toy.direction"
    assert result.message_id == "toy/1.7.0/direction"
    assert not result.headers


async def test_an_event_is_acknowledged_only_once_its_result_is_stored(router: Router) -> None:
    router.publisher.is_confirming = False
    router.deliver(make_event(1), make_event(2))
    router.start()
    await eventually(lambda: len(router.publisher.published) == 2)
    await asyncio.sleep(0.03)
    assert router.puller.answers == {}
    for message in router.publisher.published:
        message.confirm()
    assert await router.answered(2) == {1: "+ACK", 2: "+ACK"}


async def test_the_next_batch_goes_to_the_model_while_results_are_stored(router: Router) -> None:
    router.publisher.is_confirming = False
    router.deliver(*(make_event(i) for i in range(16)))
    router.start()
    await eventually(lambda: len(router.model.calls) == 4)


async def test_no_more_requests_than_allowed_are_at_the_model(router: Router) -> None:
    router.model.hold()
    router.deliver(*(make_event(i) for i in range(16)))
    router.start()
    await eventually(lambda: router.model.n_in_work == LIMITS.requests_in_flight)
    await asyncio.sleep(0.03)
    assert len(router.model.calls) == LIMITS.requests_in_flight


async def test_the_window_is_sent_in_batches_of_similar_length(router: Router) -> None:
    router.deliver(*(make_event(i, n_pulses=n) for i, n in enumerate((100, 3, 90, 5, 80, 4, 120, 6))))
    router.start()
    await router.answered(8)
    assert [call.batch.pulses.shape[:2] for call in router.model.calls] == [(4, 6), (4, 96)]


async def test_a_detached_event_gets_its_pulses_from_the_object_store(router: Router) -> None:
    event = make_event(7, n_pulses=30)
    name = await router.objects.put(encode_pulses(event.pulses))
    router.puller.deliver(encode_detached_event(event, PulseReference("bucket", name, 1)))
    router.start()
    assert await router.answered(1) == {1: "+ACK"}
    assert decode_reconstruction(router.publisher.published[0].payload).n_pulses == 30


async def test_an_invalid_event_is_terminated_not_redelivered(router: Router) -> None:
    router.puller.deliver(
        encode_event(make_event(7, n_pulses=0)),
        n_delivered=2,
        headers={"Nats-Msg-Id": "toy/1.7.0", "traceparent": UNSAMPLED},
    )
    router.start()
    await router.answered(1)
    assert router.puller.answers == {1: "+TERM invalid_event"}
    [letter] = router.publisher.on(DEAD_LETTERS)
    assert letter.payload == encode_event(make_event(7, n_pulses=0))
    assert letter.headers[REASON] == "invalid_event"
    assert "has no pulses" in letter.headers[PROBLEM]
    assert letter.headers[DELIVERIES] == "2"
    assert letter.headers[EVENT_ID] == "1.7.0"
    assert letter.headers[ORIGINAL_SUBJECT] == "icestream.events.toy.test"
    assert letter.headers[ORIGINAL_MESSAGE_ID] == "toy/1.7.0"
    assert letter.headers[ORIGINAL_SEQUENCE] == "1"
    assert letter.headers["traceparent"] == UNSAMPLED
    assert router.metric("icestream_router_dead_letters_total", reason="invalid_event") == 1


async def test_garbage_is_terminated_and_the_rest_goes_on(router: Router) -> None:
    router.deliver(make_event(1))
    router.puller.deliver(b"\xff garbage")
    router.deliver(make_event(2))
    router.start()
    assert await router.answered(3) == {1: "+ACK", 2: "+TERM", 3: "+ACK"}


async def test_the_pulses_of_a_detached_event_that_expired_are_a_dead_letter(router: Router) -> None:
    router.puller.deliver(encode_detached_event(make_event(7), PulseReference("bucket", "gone", 1)))
    router.start()
    assert await router.answered(1) == {1: "+TERM"}


async def test_poison_events_are_dead_lettered_and_their_batch_is_reconstructed(router: Router) -> None:
    router.deliver(make_event(1), poison_event(2), nan_event(3), make_event(4))
    router.start()
    assert await router.answered(4) == {1: "+ACK", 2: "+TERM", 3: "+TERM", 4: "+ACK"}
    letters = router.publisher.on(DEAD_LETTERS)
    assert {letter.headers[REASON] for letter in letters} == {"model_failed"}
    assert {letter.headers[EVENT_ID] for letter in letters} == {"1.2.0", "1.3.0"}
    assert router.problems == []


async def test_a_bad_event_is_terminated_only_once_its_dead_letter_is_stored(router: Router) -> None:
    router.publisher.is_confirming = False
    router.puller.deliver(b"\xff")
    router.start()
    await eventually(lambda: router.publisher.on(DEAD_LETTERS))
    await asyncio.sleep(0.03)
    assert router.puller.answers == {}
    router.publisher.published[0].confirm()
    assert await router.answered(1) == {1: "+TERM"}


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_bad_event_whose_dead_letter_is_not_stored_is_postponed(
    router: Router, at_once: bool
) -> None:
    router.publisher.refusal = lambda *_: BrokerUnavailable("gone")
    router.publisher.raises = at_once
    router.puller.deliver(b"\xff")
    router.start()
    assert await router.answered(1) == {1: "-NAK"}


@pytest.mark.parametrize("at_once", [True, False])
async def test_an_event_whose_result_is_not_stored_is_postponed(router: Router, at_once: bool) -> None:
    router.publisher.refusal = lambda _, message_id: (
        StreamFull("RECONSTRUCTIONS", "full") if "/1.1.0/" in message_id else None
    )
    router.publisher.raises = at_once
    router.deliver(make_event(1), make_event(2))
    router.start()
    assert await router.answered(2) == {1: "-NAK", 2: "+ACK"}
    assert router.metric("icestream_router_failures_total", face="nats", reason="stream_full") == 1


async def test_a_postponed_event_comes_back_after_a_while(router: Router) -> None:
    router.model.failure = ModelUnavailable("gone")
    router.is_model_back = False
    router.deliver(make_event(1), n_delivered=3)
    router.start()
    await router.answered(1)
    delay_ns = int(router.puller.answers[1].partition('"delay":')[2].rstrip("}"))
    assert 0.5e9 <= delay_ns <= 1e9


async def test_without_a_model_everything_is_postponed_and_the_intake_closes(router: Router) -> None:
    router.model.failure = ModelUnavailable("the model is gone")
    router.is_model_back = False
    router.deliver(*(make_event(i) for i in range(1, 13)))
    router.start()
    assert await router.answered(12) == dict.fromkeys(range(1, 13), "-NAK")
    assert router.problems == ["the model is gone"]
    assert not router.intake.is_open
    assert router.publisher.published == []
    await eventually(lambda: router.puller.is_paused)
    # The batches that were planned before the failure are not tried any more.
    assert len(router.model.calls) <= LIMITS.requests_in_flight + 1


async def test_the_intake_resumes_by_itself(router: Router) -> None:
    router.model.failure = ModelUnavailable("gone")
    router.is_model_back = False
    router.deliver(make_event(1))
    router.start()
    assert await router.answered(1) == {1: "-NAK"}
    await eventually(lambda: router.puller.is_paused)
    router.model.failure, router.is_model_back = None, True
    await eventually(lambda: router.intake.is_open and not router.puller.is_paused)
    router.deliver(make_event(2))
    assert await router.answered(2) == {1: "-NAK", 2: "+ACK"}
    assert router.problems == ["gone", None]


async def test_what_is_queued_when_the_intake_closes_is_given_back(router: Router) -> None:
    router.intake.close(ModelUnavailable("gone"))
    router.is_model_back = False
    router.deliver(make_event(1), make_event(2))
    router.start()
    assert await router.answered(2) == {1: "-NAK", 2: "-NAK"}
    assert router.model.calls == []


async def test_an_object_store_that_is_away_postpones_the_event(router: Router) -> None:
    router.objects.failure = BrokerUnavailable("gone")
    router.puller.deliver(encode_detached_event(make_event(7), PulseReference("bucket", "x", 1)))
    router.start()
    assert await router.answered(1) == {1: "-NAK"}


async def test_a_mistake_of_ours_postpones_the_event_and_the_router_goes_on(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = PreparedEvent.prepare

    def stumble_together(*_: object) -> list[PreparedEvent | None]:
        raise ZeroDivisionError("a mistake of ours")

    def stumble(event: Event, *rest: object) -> PreparedEvent:
        if event.id.event_id == 1:
            raise ZeroDivisionError("a mistake of ours")
        return prepare(event, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PreparedEvent, "prepare_all", stumble_together)
    monkeypatch.setattr(PreparedEvent, "prepare", stumble)
    router.deliver(make_event(1), make_event(2))
    router.start()
    assert await router.answered(2) == {1: "-NAK", 2: "+ACK"}


async def test_a_mistake_of_ours_in_a_batch_postpones_its_events_and_the_router_goes_on(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.model.failure = cast("IceStreamError", ZeroDivisionError("a mistake of ours"))
    router.deliver(make_event(1), make_event(2))
    router.start()
    assert await router.answered(2) == {1: "-NAK", 2: "-NAK"}
    router.model.failure = None
    router.deliver(*(make_event(i) for i in range(3, 19)))
    # More batches than places at the model: none was lost.
    answers = await router.answered(18)
    assert [answers[i] for i in range(3, 19)] == ["+ACK"] * 16


async def test_suspects_go_to_the_model_alone(router: Router) -> None:
    router.deliver(make_event(1), make_event(2))
    router.deliver(make_event(3), make_event(4), n_delivered=4)
    router.deliver(make_event(5), n_delivered=3)
    router.start()
    assert await router.answered(5) == dict.fromkeys(range(1, 6), "+ACK")
    assert sorted(len(call.batch.pulses) for call in router.model.calls) == [1, 1, 3]


async def test_an_event_that_is_never_answered_for_becomes_a_dead_letter(router: Router) -> None:
    router.deliver(make_event(1), n_delivered=LIMITS.delivery_limit)
    router.deliver(make_event(2), n_delivered=LIMITS.delivery_limit + 1)
    router.start()
    await router.answered(2)
    assert router.puller.answers == {1: "+ACK", 2: "+TERM too_many_deliveries"}
    [letter] = router.publisher.on(DEAD_LETTERS)
    assert letter.headers[DELIVERIES] == "21"
    assert router.metric("icestream_router_redelivered_total") == 2


async def test_stop_works_off_what_was_handed_out(router: Router) -> None:
    router.model.hold()
    router.deliver(*(make_event(i) for i in range(1, 41)))
    router.start()
    await eventually(lambda: router.model.n_in_work == LIMITS.requests_in_flight)
    router.ask_to_stop()
    router.model.release()
    await router.stop()
    assert router.puller.is_paused
    assert router.puller.kinds() == dict.fromkeys(range(1, 41), "+ACK")


async def test_stop_waits_for_results_to_be_stored(router: Router) -> None:
    router.publisher.is_confirming = False
    router.deliver(make_event(1))
    router.start()
    await eventually(lambda: router.publisher.published)
    router.ask_to_stop()
    await asyncio.sleep(0.05)
    assert router.puller.answers == {}
    router.publisher.published[0].confirm()
    await router.stop()
    assert router.puller.kinds() == {1: "+ACK"}


async def test_stop_without_a_model_gives_everything_back(router: Router) -> None:
    router.model.failure = ModelUnavailable("gone")
    router.is_model_back = False
    router.deliver(*(make_event(i) for i in range(1, 41)))
    router.start()
    await router.answered(1)
    await router.stop()
    assert router.puller.kinds() == dict.fromkeys(range(1, 41), "-NAK")


async def test_a_sampled_event_takes_its_trace_to_the_model_and_to_its_result(router: Router) -> None:
    router.deliver(make_event(1), headers={"traceparent": SAMPLED})
    router.deliver(make_event(2), headers={"traceparent": UNSAMPLED})
    router.deliver(make_event(3))
    router.start()
    await router.answered(3)
    trace_id = SAMPLED.split("-")[1]
    [call] = router.model.calls
    [traceparent] = call.options.traceparents
    assert is_sampled(traceparent)
    assert trace_id in traceparent
    results = {message.message_id: message for message in router.publisher.on(RESULTS)}
    assert trace_id in results["toy/1.1.0/direction"].headers["traceparent"]
    assert not results["toy/1.2.0/direction"].headers
    assert decode_reconstruction(results["toy/1.1.0/direction"].payload).trace_id == trace_id
    assert decode_reconstruction(results["toy/1.2.0/direction"].payload).trace_id == ""
    await eventually(lambda: len(router.spans.get_finished_spans()) == 2)
    process, publish = sorted(router.spans.get_finished_spans(), key=lambda span: span.name)
    assert process.parent is not None
    assert f"{process.parent.span_id:016x}" == SAMPLED.split("-")[2]
    assert publish.parent is not None
    assert process.context is not None
    assert publish.parent.span_id == process.context.span_id


async def test_the_span_of_a_refused_event_says_why(router: Router) -> None:
    router.deliver(make_event(1, n_pulses=0), headers={"traceparent": SAMPLED})
    router.start()
    await router.answered(1)
    [span] = router.spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "invalid_event"
    assert not span.status.is_ok


@pytest.mark.parametrize("where", ["prepare", "model"])
async def test_a_mistake_of_ours_loses_no_span(
    router: Router, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "prepare":
        monkeypatch.setattr(PreparedEvent, "prepare_all", lambda *_: 1 / 0)
        monkeypatch.setattr(PreparedEvent, "prepare", lambda *_: 1 / 0)
    else:
        router.model.failure = cast("IceStreamError", ZeroDivisionError("a mistake of ours"))
    router.deliver(make_event(1), headers={"traceparent": SAMPLED})
    router.start()
    await router.answered(1)
    assert len(router.spans.get_finished_spans()) == 1
