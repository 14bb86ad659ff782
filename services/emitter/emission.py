"""The use case: events of a source onto the stream, each once, at the asked pace."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from icestream.codec import PulseReference, encode_detached_event, encode_event, encode_pulses
from icestream.errors import IceStreamError
from icestream.physics.events import Event
from icestream.readers.unreadable import UnreadableEvent
from icestream.runtime.deadletters import DeadLetter, DeadLetterWriter
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import Ack, WindowedPublisher
from icestream.runtime.message_spans import start_publish_span
from icestream.runtime.tracing import TRACEPARENT, end_span, traceparent_of
from services.emitter.metrics import EmitterMetrics
from services.emitter.pacing import Pace
from services.emitter.progress import Progress

_log = structlog.get_logger()


def message_id_of(detector: str, event: Event | UnreadableEvent) -> str:
    """The `Nats-Msg-Id` of an event: the same whenever and by whomever it is published."""
    return f"{detector}/{event.id}"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where events go."""

    subject: str
    detector: str
    publisher: WindowedPublisher
    pulse_objects: PulseObjects
    pulses_bucket: str
    dead_letters: DeadLetterWriter


class Emission:
    """Publishes events and keeps account of what is stored."""

    def __init__(
        self, destination: Destination, progress: Progress, metrics: EmitterMetrics, tracer: Tracer
    ) -> None:
        self._destination = destination
        self._progress = progress
        self._metrics = metrics
        self._tracer = tracer
        self._failure: IceStreamError | None = None
        self._settled = asyncio.Event()

    async def run(
        self,
        events: AsyncIterator[Event | UnreadableEvent],
        first_position: int,
        already_stored: Collection[str],
        pace: Pace,
        stop: asyncio.Event,
    ) -> None:
        """Publish the events one after the other, until they end or `stop` is set.

        Args:
            events: From `first_position` of the source on.
            first_position: Number of the first event.
            already_stored: Message ids behind the checkpoint that the stream has nevertheless.
            pace: Says when the next event is due.
            stop: Ends the intake; what was handed over is still waited for.

        Raises:
            IceStreamError: The broker refused an event for good.
        """
        position = first_position
        async for event in events:
            if stop.is_set() or self._failure is not None:
                break
            if message_id_of(self._destination.detector, event) in already_stored:
                self._progress.skip(position)
            else:
                await pace.next()
                await self._until_near(position)
                await self._emit(position, event)
            position += 1
        await self._destination.publisher.flush()
        if self._failure is not None:
            raise self._failure

    async def _until_near(self, position: int) -> None:
        """A single event that the broker is slow to store must not be left behind too far."""
        while not self._progress.may_dispatch(position) and self._failure is None:
            self._settled.clear()
            await self._settled.wait()

    async def _emit(self, position: int, event: Event | UnreadableEvent) -> None:
        self._progress.dispatch(position)
        if isinstance(event, UnreadableEvent):
            await self._bury(position, event)
            return
        payload = await self._encode(event)
        subject, message_id = self._destination.subject, message_id_of(self._destination.detector, event)
        # An empty context: every event begins a trace of its own, whatever is current here.
        span = start_publish_span(self._tracer, Context(), subject, message_id)
        headers = {TRACEPARENT: traceparent_of(span)} if span.is_recording() else None
        handed_over_s = time.perf_counter()
        stored = await self._destination.publisher.publish(
            subject, payload, message_id=message_id, headers=headers
        )

        def on_stored(stored: "asyncio.Future[Ack]") -> None:
            self._settled.set()
            end_span(span, stored.exception())
            if (error := stored.exception()) is not None:
                self._fail(event, error)
                return
            self._metrics.publish_s.observe(time.perf_counter() - handed_over_s)
            self._count(position, stored.result(), len(payload))

        stored.add_done_callback(on_stored)

    def _count(self, position: int, ack: Ack, n_bytes: int) -> None:
        self._progress.acknowledge(position, ack.sequence)
        self._metrics.events.inc()
        self._metrics.bytes.inc(n_bytes)
        self._metrics.duplicates.inc(ack.is_duplicate)

    def _fail(self, event: Event, error: BaseException) -> None:
        """Remember the first failure; the checkpoint stays before this event, so nothing is lost."""
        if self._failure is None and isinstance(error, IceStreamError):
            _log.error("event not stored", event_id=str(event.id), problem=str(error))
            self._failure = error

    async def _encode(self, event: Event) -> bytes:
        payload = encode_event(event)
        if len(payload) <= self._destination.publisher.max_payload_bytes:
            return payload
        pulses = encode_pulses(event.pulses)
        sha256 = await self._destination.pulse_objects.put(pulses)
        self._metrics.detached.inc()
        return encode_detached_event(
            event, PulseReference(self._destination.pulses_bucket, sha256, len(pulses))
        )

    async def _bury(self, position: int, unreadable: UnreadableEvent) -> None:
        """Put what the data set says of an event that cannot be read into the dead letters."""
        _log.warning("event unreadable", event_id=str(unreadable.id), problem=str(unreadable.error))
        letter = DeadLetter(
            service="emitter",
            reason=unreadable.error.reason,
            problem=str(unreadable.error),
            n_deliveries=0,
            subject="",
            message_id=message_id_of(self._destination.detector, unreadable),
            event_id=str(unreadable.id),
            payload=b"",
        )
        await self._destination.dead_letters.write(letter)
        self._metrics.unreadable.inc()
        self._progress.acknowledge(position, 0)
