import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry

from icestream.codec import DetachedEvent, decode_event, decode_pulses
from icestream.errors import BrokerUnavailable
from icestream.physics.events import Event
from icestream.readers.unreadable import UnreadableEvent
from icestream.runtime.deadletters import EVENT_ID, ORIGINAL_SUBJECT, PROBLEM, REASON, DeadLetterWriter
from icestream.runtime.jetstream.topology import Names
from services.emitter.emission import Destination, Emission, message_id_of
from services.emitter.metrics import EmitterMetrics
from services.emitter.pacing import Pace
from services.emitter.progress import Checkpoint, Progress
from tests.support.eventually import eventually
from tests.support.fake_jetstream import FakeObjects, FakePublisher
from tests.unit.emitter.emitter_cases import make_event, unreadable_event

if TYPE_CHECKING:
    from icestream.runtime.jetstream.objects import PulseObjects
    from icestream.runtime.jetstream.publisher import WindowedPublisher

SUBJECT = "icestream.events.icecube86.test"
DEAD_LETTERS = "icestream.deadletter.emitter"


class Emitter:
    """An emission among fakes."""

    def __init__(
        self, *, start: Checkpoint, is_traced: bool = False, max_payload_bytes: int = 1 << 20
    ) -> None:
        self.start = start
        self.publisher = FakePublisher(max_payload_bytes=max_payload_bytes)
        self.objects = FakeObjects()
        self.progress = Progress(start)
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(sampler=ALWAYS_ON if is_traced else ALWAYS_OFF, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        publisher = cast("WindowedPublisher", self.publisher)
        destination = Destination(
            subject=SUBJECT,
            detector="icecube86",
            publisher=publisher,
            pulse_objects=cast("PulseObjects", self.objects),
            pulses_bucket="icestream-pulses",
            dead_letters=DeadLetterWriter(publisher, Names()),
        )
        self.stop = asyncio.Event()
        self.emission = Emission(
            destination, self.progress, EmitterMetrics(self.registry), provider.get_tracer("test")
        )

    async def run(
        self, events: Sequence[Event | UnreadableEvent], already_stored: Sequence[str] = ()
    ) -> None:
        await self.emission.run(
            _stream(events), self.start.position, set(already_stored), Pace(None), self.stop
        )

    def metric(self, name: str) -> float:
        return self.registry.get_sample_value(f"icestream_emitter_{name}") or 0.0

    @property
    def published_ids(self) -> list[str]:
        return [message.message_id for message in self.publisher.on(SUBJECT)]


async def _stream(events: Sequence[Event | UnreadableEvent]) -> AsyncIterator[Event | UnreadableEvent]:
    for event in events:
        yield event


def make_emitter(*, position: int = 0, is_traced: bool = False, max_payload_bytes: int = 1 << 20) -> Emitter:
    start = Checkpoint(position, 0)
    return Emitter(start=start, is_traced=is_traced, max_payload_bytes=max_payload_bytes)


async def test_every_event_is_published_under_its_own_name() -> None:
    emitter = make_emitter()
    await emitter.run([make_event(i) for i in range(3)])
    assert emitter.published_ids == ["icecube86/1.0.0", "icecube86/1.1.0", "icecube86/1.2.0"]
    assert emitter.progress.checkpoint() == Checkpoint(3, 3)
    decoded = decode_event(emitter.publisher.published[2].payload)
    assert isinstance(decoded, Event)
    assert decoded.id == make_event(2).id
    assert emitter.metric("events_total") == 3


async def test_an_events_name_does_not_depend_on_its_publisher() -> None:
    assert message_id_of("icecube86", make_event(7)) == message_id_of("icecube86", unreadable_event(7))


async def test_an_event_counts_only_once_it_is_stored() -> None:
    emitter = make_emitter()
    emitter.publisher.is_confirming = False
    running = asyncio.create_task(emitter.run([make_event(i) for i in range(3)]))
    await eventually(lambda: len(emitter.publisher.published) == 3)
    first, second, third = emitter.publisher.published
    third.confirm(30)
    first.confirm(10)
    await eventually(lambda: emitter.progress.checkpoint().position == 1)
    assert not running.done()
    second.confirm(20)
    await running
    assert emitter.progress.checkpoint() == Checkpoint(3, 30)


async def test_what_is_stored_already_is_skipped() -> None:
    emitter = make_emitter(position=10)
    await emitter.run([make_event(i) for i in range(4)], ["icecube86/1.1.0", "icecube86/1.2.0"])
    assert emitter.published_ids == ["icecube86/1.0.0", "icecube86/1.3.0"]
    assert emitter.progress.checkpoint().position == 14


async def test_duplicates_are_counted() -> None:
    emitter = make_emitter()
    emitter.publisher.is_confirming = False
    running = asyncio.create_task(emitter.run([make_event(1)]))
    await eventually(lambda: emitter.publisher.published)
    emitter.publisher.published[0].confirm(5, is_duplicate=True)
    await running
    assert emitter.metric("duplicates_total") == 1
    assert emitter.progress.checkpoint().position == 1


async def test_an_unreadable_event_is_a_dead_letter_and_the_rest_goes_on() -> None:
    emitter = make_emitter()
    await emitter.run([make_event(1), unreadable_event(2), make_event(3)])
    assert emitter.published_ids == ["icecube86/1.1.0", "icecube86/1.3.0"]
    [letter] = emitter.publisher.on(DEAD_LETTERS)
    assert letter.headers[REASON] == "invalid_event"
    assert letter.headers[EVENT_ID] == "1.2.0"
    assert letter.headers[ORIGINAL_SUBJECT] == ""
    assert "rows outside the file" in letter.headers[PROBLEM]
    assert emitter.progress.checkpoint().position == 3
    assert emitter.metric("unreadable_events_total") == 1


async def test_a_dead_letter_that_is_not_stored_ends_the_emitter_before_its_event() -> None:
    emitter = make_emitter()
    emitter.publisher.refusal = lambda subject, _: (
        BrokerUnavailable("gone") if subject == DEAD_LETTERS else None
    )
    with pytest.raises(BrokerUnavailable):
        await emitter.run([make_event(1), unreadable_event(2), make_event(3)])
    await eventually(lambda: emitter.progress.checkpoint().position == 1)


async def test_an_oversize_event_travels_as_a_reference() -> None:
    emitter = make_emitter(max_payload_bytes=2_000)
    large = make_event(2, n_pulses=500)
    await emitter.run([make_event(1), large])
    small_message, large_message = emitter.publisher.published
    assert isinstance(decode_event(small_message.payload), Event)
    decoded = decode_event(large_message.payload)
    assert isinstance(decoded, DetachedEvent)
    assert decoded.reference.bucket == "icestream-pulses"
    stored = emitter.objects.stored[decoded.reference.sha256]
    assert len(stored) == decoded.reference.n_bytes
    assert len(decode_pulses(stored, large.id)) == 500
    assert emitter.metric("detached_events_total") == 1


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_failure_keeps_the_checkpoint_before_its_event_and_is_raised(at_once: bool) -> None:
    emitter = make_emitter()
    emitter.publisher.refusal = lambda _, message_id: (
        BrokerUnavailable("gone") if message_id == "icecube86/1.2.0" else None
    )
    emitter.publisher.raises = at_once
    with pytest.raises(BrokerUnavailable, match="gone"):
        await emitter.run([make_event(i) for i in range(5)])
    # Acknowledgements may come after the failure.
    await asyncio.sleep(0.01)
    assert emitter.progress.checkpoint().position == 2


async def test_after_a_failure_nothing_new_is_published() -> None:
    emitter = make_emitter()
    emitter.publisher.refusal = lambda *_: BrokerUnavailable("gone")
    with pytest.raises(BrokerUnavailable):
        await emitter.run([make_event(i) for i in range(1_000)])
    assert len(emitter.publisher.published) < 10


async def test_an_object_store_that_is_away_keeps_the_checkpoint() -> None:
    emitter = make_emitter(max_payload_bytes=2_000)
    emitter.objects.failure = BrokerUnavailable("gone")
    with pytest.raises(BrokerUnavailable):
        await emitter.run([make_event(1), make_event(2, n_pulses=500)])
    await eventually(lambda: emitter.progress.checkpoint().position == 1)


async def test_stop_ends_the_intake_and_waits_for_what_was_handed_over() -> None:
    emitter = make_emitter()
    emitter.publisher.is_confirming = False

    async def events() -> AsyncIterator[Event]:
        yield make_event(0)
        yield make_event(1)
        emitter.stop.set()
        yield make_event(2)

    running = asyncio.create_task(emitter.emission.run(events(), 0, set(), Pace(None), emitter.stop))
    await eventually(lambda: len(emitter.publisher.published) == 2)
    await asyncio.sleep(0.02)
    assert not running.done()
    for message in emitter.publisher.published:
        message.confirm()
    await running
    assert emitter.progress.checkpoint().position == 2


async def test_each_sampled_event_begins_a_trace_that_travels_with_it() -> None:
    emitter = make_emitter(is_traced=True)
    await emitter.run([make_event(1), make_event(2)])
    first, second = emitter.publisher.published
    spans = emitter.spans.get_finished_spans()
    assert [span.name for span in spans] == [f"publish {SUBJECT}"] * 2
    assert {span.kind for span in spans} == {SpanKind.PRODUCER}
    assert first.headers["traceparent"].split("-")[1] != second.headers["traceparent"].split("-")[1]
    assert all(span.parent is None for span in spans)


async def test_an_event_that_is_not_sampled_brings_no_header() -> None:
    emitter = make_emitter()
    await emitter.run([make_event(1)])
    assert not emitter.publisher.published[0].headers
