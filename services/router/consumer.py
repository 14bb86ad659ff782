"""The stream's face of the router: events from JetStream in, reconstructions out, nothing lost in between.

An event is acknowledged only after the broker has stored its reconstruction; a crash in between means a
second delivery, whose reconstruction has the same message id and is stored once.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from opentelemetry.trace import Span, Tracer

from icestream.codec import DetachedEvent, decode_event, decode_pulses, reconstructions_to_messages
from icestream.errors import IceStreamError, TooManyDeliveries
from icestream.physics.detector import Detector
from icestream.physics.events import Estimate, Event, ModelVersion, Reconstruction, Timings
from icestream.ports import CallOptions, Model
from icestream.runtime.deadletters import DeadLetter, DeadLetterWriter
from icestream.runtime.faults import meaning_of
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER, Ack, WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller, Delivery
from icestream.runtime.jetstream.topology import Names
from icestream.runtime.lifecycle import first_of
from icestream.runtime.message_spans import start_process_span, start_publish_span
from icestream.runtime.metrics import observe_all
from icestream.runtime.tracing import TRACEPARENT, end_span, parent_context, traceparent_of
from services.router.faults import DISPOSITIONS, Disposition
from services.router.intake import Intake, postponement_s
from services.router.metrics import RouterMetrics
from services.router.reconstruction import Answer, PreparedEvent, plan_batches, reconstruct, to_reconstruction

_MAX_WAIT_S = 0.5
_SUSPECT_DELIVERIES = 3

_log = structlog.get_logger()

_Result = tuple["asyncio.Future[Ack]", Span | None]
"""The broker's word that a reconstruction is stored, to come, and the span that waits for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """An event in work, and the message that it came in."""

    delivery: Delivery
    prepared: PreparedEvent
    received_unix_ns: int
    span: Span | None

    @property
    def n_rows(self) -> int:
        """Rows that the event takes in a batch."""
        return len(self.prepared.features)

    @property
    def is_suspect(self) -> bool:
        """Whether the event was handed out so often that it may be what ends its routers."""
        return self.delivery.n_delivered > _SUSPECT_DELIVERIES


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """How much the consumer does at once."""

    window: int
    batch: int
    requests_in_flight: int
    delivery_limit: int
    model_timeout_s: float


class EventConsumer:
    """Moves events from the puller through the model to the publisher."""

    def __init__(
        self,
        *,
        puller: ContinuousPuller,
        publisher: WindowedPublisher,
        pulse_objects: PulseObjects,
        dead_letters: DeadLetterWriter,
        model: Model,
        model_name: str,
        detectors: dict[str, Detector],
        names: Names,
        intake: Intake,
        limits: ConsumerLimits,
        metrics: RouterMetrics,
        tracer: Tracer,
    ) -> None:
        self._puller = puller
        self._publisher = publisher
        self._pulse_objects = pulse_objects
        self._dead_letters = dead_letters
        self._model = model
        self._model_name = model_name
        self._detectors = detectors
        self._names = names
        self._intake = intake
        self._limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._slots = asyncio.Semaphore(limits.requests_in_flight)
        self._options = CallOptions(timeout_s=limits.model_timeout_s)
        self._in_work: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then answer for everything that was handed out."""
        while not stop.is_set():
            if self._intake.is_open:
                await self._work(await self._puller.next_batch(self._limits.window, _MAX_WAIT_S))
            else:
                await self._sit_out(stop)
        await self._finish()

    async def _finish(self) -> None:
        """Work off what the broker has handed out already, so that a restart redelivers nothing."""
        await self._puller.pause()
        while self._intake.is_open and (deliveries := await self._queued()):
            await self._work(deliveries)
        await asyncio.gather(*self._in_work)
        await self._give_back_queued()

    async def _sit_out(self, stop: asyncio.Event) -> None:
        """Hold no events while the model is away: another router's may be there."""
        await self._puller.pause()
        await self._give_back_queued()
        await first_of(self._intake.opened(), stop.wait())
        if not stop.is_set():
            await self._puller.resume()

    async def _give_back_queued(self) -> None:
        while deliveries := await self._queued():
            for delivery in deliveries:
                await self._postpone(delivery)

    async def _queued(self) -> list[Delivery]:
        return await self._puller.next_batch(self._limits.window, 0.0) if self._puller.n_queued else []

    async def _work(self, deliveries: Sequence[Delivery]) -> None:
        arrivals = await self._admit(deliveries)
        suspects = [[arrival] for arrival in arrivals if arrival.is_suspect]
        others = [arrival for arrival in arrivals if not arrival.is_suspect]
        for batch in plan_batches(others, lambda arrival: arrival.n_rows, self._limits.batch) + suspects:
            await self._slots.acquire()
            if not self._intake.is_open:
                self._slots.release()
                for arrival in batch:
                    end_span(arrival.span)
                    await self._postpone(arrival.delivery)
                continue
            task = asyncio.create_task(self._process(batch))
            self._in_work.add(task)
            task.add_done_callback(self._in_work.discard)

    async def _admit(self, deliveries: Sequence[Delivery]) -> list[Arrival]:
        """Decode and check messages; what can never work goes to the dead letters."""
        received_unix_ns = time.time_ns()
        self._observe_arrival(deliveries, received_unix_ns)
        fresh = []
        for delivery in deliveries:
            span = start_process_span(self._tracer, delivery.headers_with(TRACEPARENT), delivery.subject)
            if delivery.n_delivered > self._limits.delivery_limit:
                await self._refuse(delivery, span, TooManyDeliveries(delivery.n_delivered))
            else:
                fresh.append((delivery, span))
        found = []
        for (delivery, span), ready in zip(fresh, self._prepared(fresh), strict=True):
            prepared = ready or await self._prepare_alone(delivery, span)
            if prepared is not None:
                found.append(Arrival(delivery, prepared, received_unix_ns, span))
        return found

    def _observe_arrival(self, deliveries: Sequence[Delivery], received_unix_ns: int) -> None:
        metrics = self._metrics
        metrics.events["nats"].inc(len(deliveries))
        metrics.received_bytes["nats"].inc(sum(len(delivery.payload) for delivery in deliveries))
        waits_s = [(received_unix_ns - delivery.published_unix_ns) / 1e9 for delivery in deliveries]
        observe_all(metrics.wait_s, waits_s)
        if n_again := sum(delivery.n_delivered > 1 for delivery in deliveries):
            metrics.redelivered.inc(n_again)

    def _prepared(self, fresh: Sequence[tuple[Delivery, Span | None]]) -> list[PreparedEvent | None]:
        """The events that nothing is the matter with; None for those that must be looked at one by one."""
        payloads = [delivery.payload for delivery, _ in fresh]
        traceparents = [traceparent_of(span) if span else None for _, span in fresh]
        try:
            return PreparedEvent.prepare_all(payloads, self._detectors, traceparents)
        except Exception:
            # One of them brings out a mistake of ours: alone it does so again, and the others go on.
            _log.exception("events could not be looked at together", n_events=len(fresh))
            return [None] * len(fresh)

    async def _prepare_alone(self, delivery: Delivery, span: Span | None) -> PreparedEvent | None:
        try:
            event = await self._decode(delivery)
            traceparent = traceparent_of(span) if span else None
            return PreparedEvent.prepare(event, self._detectors, traceparent)
        except IceStreamError as error:
            await self._refuse(delivery, span, error)
        except Exception as error:
            # A mistake of ours must not end the router: the event would end the next one too.
            _log.exception("an event could not be looked at", sequence=delivery.stream_sequence)
            end_span(span, error)
            await self._postpone(delivery)
        return None

    async def _decode(self, delivery: Delivery) -> Event:
        decoded = decode_event(delivery.payload)
        if isinstance(decoded, DetachedEvent):
            data = await self._pulse_objects.get(decoded.reference.sha256)
            return decoded.attach(decode_pulses(data, decoded.event.id))
        return decoded

    async def _process(self, batch: Sequence[Arrival]) -> None:
        """Work on a batch whose place at the model is already held, and answer for each event."""
        try:
            await self._reconstruct(batch)
        except Exception as error:
            # A mistake of ours must not end the router, nor keep these events' places for ever.
            event_ids = [str(arrival.prepared.event.id) for arrival in batch]
            _log.exception("a batch could not be worked on", event_ids=event_ids)
            for arrival in batch:
                end_span(arrival.span, error)
                await self._postpone(arrival.delivery)

    async def _reconstruct(self, batch: Sequence[Arrival]) -> None:
        try:
            answers = await self._ask_model(batch)
        except IceStreamError as error:
            for arrival in batch:
                await self._refuse(arrival.delivery, arrival.span, error, arrival.prepared.event)
            return
        inferred_unix_ns = time.time_ns()
        done = []
        for arrival, answer in zip(batch, answers, strict=True):
            if isinstance(answer, IceStreamError):
                await self._refuse(arrival.delivery, arrival.span, answer, arrival.prepared.event)
            else:
                done.append((arrival, _reconstruction(arrival, answer, inferred_unix_ns)))
        messages = reconstructions_to_messages([reconstruction for _, reconstruction in done])
        results = [
            (arrival, await self._publish(arrival, reconstruction, message.SerializeToString()))
            for (arrival, reconstruction), message in zip(done, messages, strict=True)
        ]
        stored = [arrival for arrival, result in results if await self._settle(arrival, result)]
        self._observe_end(stored, inferred_unix_ns)

    async def _ask_model(self, batch: Sequence[Arrival]) -> list[Answer]:
        try:
            prepared = [arrival.prepared for arrival in batch]
            return await reconstruct(self._model, self._model_name, prepared, self._options)
        finally:
            # The next batch can go to the model while this one's results are stored.
            self._slots.release()

    async def _publish(self, arrival: Arrival, reconstruction: Reconstruction, payload: bytes) -> _Result:
        subject = self._names.reconstructions(reconstruction.detector, reconstruction.model.name)
        message_id = f"{reconstruction.detector}/{reconstruction.event_id}/{reconstruction.model.name}"
        headers, span = None, None
        if arrival.span is not None:
            parent = parent_context(traceparent_of(arrival.span))
            span = start_publish_span(self._tracer, parent, subject, message_id)
            headers = {TRACEPARENT: traceparent_of(span)}
        try:
            stored = await self._publisher.publish(subject, payload, message_id=message_id, headers=headers)
        except IceStreamError as error:
            stored = asyncio.get_running_loop().create_future()
            stored.set_exception(error)
        return stored, span

    async def _settle(self, arrival: Arrival, result: _Result) -> bool:
        """Acknowledge the event once its reconstruction is stored; returns whether it was."""
        stored, span = result
        try:
            await stored
        except IceStreamError as error:
            end_span(span, error)
            end_span(arrival.span, error)
            self._metrics.failures.labels("nats", error.reason).inc()
            _log.warning("result not stored", event_id=str(arrival.prepared.event.id), problem=str(error))
            await self._postpone(arrival.delivery)
            return False
        await arrival.delivery.ack()
        end_span(span)
        end_span(arrival.span)
        return True

    def _observe_end(self, stored: Sequence[Arrival], inferred_unix_ns: int) -> None:
        """Count events of one batch whose reconstructions are stored."""
        metrics, now_unix_ns = self._metrics, time.time_ns()
        metrics.reconstructions["nats"].inc(len(stored))
        observe_all(metrics.publish_s, [(now_unix_ns - inferred_unix_ns) / 1e9] * len(stored))
        untraced = []
        for arrival in stored:
            seconds = (now_unix_ns - arrival.delivery.published_unix_ns) / 1e9
            if trace_id := arrival.prepared.trace_id:
                metrics.end_to_end_s.observe(seconds, {"trace_id": trace_id})
            else:
                untraced.append(seconds)
        observe_all(metrics.end_to_end_s, untraced)

    async def _refuse(
        self, delivery: Delivery, span: Span | None, error: IceStreamError, event: Event | None = None
    ) -> None:
        """Postpone or dead-letter one event, as the kind of its failure says."""
        self._metrics.failures.labels("nats", error.reason).inc()
        end_span(span, error)
        if meaning_of(type(error), DISPOSITIONS) is Disposition.POSTPONE:
            await self._postpone(delivery)
            self._intake.close(error)
            return
        letter = _dead_letter(delivery, error, str(event.id) if event else "")
        try:
            await self._dead_letters.write(letter)
        except IceStreamError as problem:
            _log.warning("dead letter not stored", problem=str(problem))
            await self._postpone(delivery)
            return
        # Only once the letter is stored: a terminated message is never handed out again.
        await delivery.term(error.reason)
        self._metrics.dead_letters.labels(error.reason).inc()
        _log.warning("event dead-lettered", event_id=letter.event_id, reason=error.reason, problem=str(error))

    async def _postpone(self, delivery: Delivery) -> None:
        await delivery.nak(postponement_s(delivery.n_delivered))
        self._metrics.postponed.inc()


def _message_id(delivery: Delivery) -> str:
    return (delivery.headers or {}).get(MESSAGE_ID_HEADER, "")


def _reconstruction(
    arrival: Arrival, answer: tuple[Estimate, ModelVersion], inferred_unix_ns: int
) -> Reconstruction:
    estimate, model = answer
    timings = Timings(arrival.delivery.published_unix_ns, arrival.received_unix_ns, inferred_unix_ns)
    return to_reconstruction(arrival.prepared, estimate, model, timings)


def _dead_letter(delivery: Delivery, error: IceStreamError, event_id: str) -> DeadLetter:
    return DeadLetter(
        service="router",
        reason=error.reason,
        problem=str(error),
        n_deliveries=delivery.n_delivered,
        subject=delivery.subject,
        message_id=_message_id(delivery),
        event_id=event_id or getattr(error, "event_id", ""),
        payload=delivery.payload,
        traceparent=(delivery.headers or {}).get(TRACEPARENT),
        sequence=delivery.stream_sequence,
    )
