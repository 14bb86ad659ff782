"""The streams' face of the recorder: messages in, rows out, nothing lost and nothing twice.

A message is acknowledged only after its row is on disk; a crash in between means a second delivery, whose row is
there already.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic

import structlog
from opentelemetry.trace import Span, Tracer

from icestream.errors import IceStreamError, InvalidInput, InvalidRecord
from icestream.runtime.deadletters import DeadLetter, DeadLetterWriter
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.jetstream.puller import ContinuousPuller, Delivery
from icestream.runtime.lifecycle import first_of
from icestream.runtime.message_spans import start_process_span
from icestream.runtime.metrics import observe_all
from icestream.runtime.tracing import TRACEPARENT, end_span
from services.recorder.intake import Intake, postponement_s
from services.recorder.metrics import RecorderMetrics
from services.recorder.quality import observe_estimates
from services.recorder.reconstruction_rows import Columns
from services.recorder.schema import RECONSTRUCTIONS
from services.recorder.store import RecordStore
from services.recorder.topics import Record, Topic

SERVICE = "recorder"
_MAX_WAIT_S = 0.5
_LOOK_S = 0.05

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Arrival(Generic[Record]):
    """What is to be recorded, and the message that it came in."""

    delivery: Delivery
    record: Record
    span: Span | None


class RecordConsumer(Generic[Record]):
    """Moves the messages of one topic from the puller into its table."""

    def __init__(
        self,
        topic: Topic[Record],
        *,
        puller: ContinuousPuller,
        store: RecordStore,
        dead_letters: DeadLetterWriter,
        intake: Intake,
        batch_rows: int,
        gather_s: float,
        metrics: RecorderMetrics,
        tracer: Tracer,
    ) -> None:
        self._topic = topic
        self._span_name = f"record {topic.name}"
        self._puller = puller
        self._store = store
        self._dead_letters = dead_letters
        self._intake = intake
        self._batch_rows = batch_rows
        self._gather_s = gather_s
        self._metrics = metrics
        self._tracer = tracer

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then answer for everything that was handed out."""
        while not stop.is_set():
            if self._intake.is_open:
                await self._record(await self._gather(stop))
            else:
                await self._sit_out(stop)
        await self._puller.pause()
        while self._intake.is_open and self._puller.n_queued:
            await self._record(await self._puller.next_batch(self._batch_rows, 0.0))
        await self._give_back_queued()

    async def _gather(self, stop: asyncio.Event) -> list[Delivery]:
        """The next messages and what comes soon after them, because a transaction costs as much as tens of rows."""
        deliveries = await self._puller.next_batch(self._batch_rows, _MAX_WAIT_S)
        ends_s = time.monotonic() + self._gather_s
        while deliveries and self._intake.is_open and not stop.is_set():
            left_s = ends_s - time.monotonic()
            if left_s <= 0 or len(deliveries) + self._puller.n_queued >= self._batch_rows:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    await stop.wait()
        if self._puller.n_queued:
            deliveries += await self._puller.next_batch(self._batch_rows - len(deliveries), 0.0)
        return deliveries

    async def _sit_out(self, stop: asyncio.Event) -> None:
        """Hold no messages while the database is away: nothing is lost where this recorder ends meanwhile."""
        await self._puller.pause()
        await self._give_back_queued()
        await first_of(self._intake.opened(), stop.wait())
        if not stop.is_set():
            await self._puller.resume()

    async def _give_back_queued(self) -> None:
        while self._puller.n_queued:
            for delivery in await self._puller.next_batch(self._batch_rows, 0.0):
                await self._postpone(delivery)

    async def _record(self, deliveries: Sequence[Delivery]) -> None:
        arrivals = [arrival for delivery in deliveries if (arrival := await self._admit(delivery))]
        if arrivals and (sound := await self._sound(arrivals)):
            await self._write(sound)

    async def _admit(self, delivery: Delivery) -> Arrival[Record] | None:
        """Decode one message; what is none goes to the dead letters."""
        if delivery.n_delivered > 1:
            self._metrics.redelivered.labels(self._topic.name).inc()
        span = start_process_span(
            self._tracer, delivery.headers_with(TRACEPARENT), delivery.subject, name=self._span_name
        )
        try:
            return Arrival(delivery, self._topic.read(delivery), span)
        except InvalidInput as error:
            await self._refuse(delivery, span, error)
        except Exception as error:
            # A mistake of ours must not end the recorder: the message would end the next one too.
            _log.exception("a message could not be looked at", sequence=delivery.stream_sequence)
            end_span(span, error)
            await self._postpone(delivery)
        return None

    async def _sound(self, arrivals: Sequence[Arrival[Record]]) -> list[Arrival[Record]]:
        """Check messages; what can never be recorded goes to the dead letters."""
        try:
            unsound = self._topic.unsound([arrival.record for arrival in arrivals])
        except Exception as error:
            # As above.
            _log.exception("messages could not be checked", n_messages=len(arrivals))
            await self._postpone_all(arrivals, error)
            return []
        for place, problem in unsound.items():
            await self._refuse(arrivals[place].delivery, arrivals[place].span, problem)
        return [arrival for place, arrival in enumerate(arrivals) if place not in unsound]

    async def _write(self, arrivals: Sequence[Arrival[Record]]) -> None:
        """Record some messages in one transaction, and answer for each."""
        started_s = time.perf_counter()
        try:
            columns = self._topic.columns([arrival.record for arrival in arrivals], time.time_ns())
            is_new = await self._store.insert(self._topic.table, columns)
        except InvalidRecord as error:
            await self._write_parts(arrivals, error)
        except IceStreamError as error:
            self._intake.close(error)
            self._metrics.failures.labels(self._topic.name, error.reason).inc(len(arrivals))
            await self._postpone_all(arrivals, error)
        except Exception as error:
            # A mistake of ours must not end the recorder, nor keep these messages' places for ever.
            _log.exception("messages could not be recorded", n_messages=len(arrivals))
            await self._postpone_all(arrivals, error)
        else:
            self._intake.confirm()
            self._metrics.commit_s.labels(self._topic.name).observe(time.perf_counter() - started_s)
            await self._settle(arrivals, columns, is_new)

    async def _write_parts(self, arrivals: Sequence[Arrival[Record]], error: InvalidRecord) -> None:
        """Halve until the message that the database does not take stands alone."""
        if len(arrivals) == 1:
            await self._refuse(arrivals[0].delivery, arrivals[0].span, error)
            return
        middle = len(arrivals) // 2
        await self._write(arrivals[:middle])
        await self._write(arrivals[middle:])

    async def _settle(
        self, arrivals: Sequence[Arrival[Record]], columns: Columns, is_new: Sequence[bool]
    ) -> None:
        now_unix_ns, table = time.time_ns(), self._topic.name
        for arrival in arrivals:
            await arrival.delivery.ack()
            end_span(arrival.span)
        delays_ns = [now_unix_ns - arrival.delivery.published_unix_ns for arrival in arrivals]
        observe_all(self._metrics.delay_s.labels(table), [max(delay_ns, 0) / 1e9 for delay_ns in delays_ns])
        n_new = sum(is_new)
        self._metrics.batch_rows.labels(table).observe(len(is_new))
        self._metrics.rows.labels(table).inc(n_new)
        self._metrics.duplicates.labels(table).inc(len(is_new) - n_new)
        if self._topic.table is RECONSTRUCTIONS:
            observe_estimates(self._metrics, columns, is_new)

    async def _refuse(self, delivery: Delivery, span: Span | None, error: InvalidInput) -> None:
        """Be rid of one message for good; it is kept as a dead letter where it is none itself."""
        table = self._topic.name
        self._metrics.failures.labels(table, error.reason).inc()
        end_span(span, error)
        if self._topic.has_dead_letters:
            try:
                await self._dead_letters.write(_dead_letter(delivery, error))
            except IceStreamError as problem:
                _log.warning("dead letter not stored", problem=str(problem))
                await self._postpone(delivery)
                return
            self._metrics.dead_letters.labels(table, error.reason).inc()
        # Only once the letter is stored: a terminated message is never handed out again.
        await delivery.term(error.reason)
        _log.warning(
            "message not recorded",
            table=table,
            sequence=delivery.stream_sequence,
            reason=error.reason,
            problem=str(error),
        )

    async def _postpone_all(self, arrivals: Sequence[Arrival[Record]], error: Exception) -> None:
        for arrival in arrivals:
            end_span(arrival.span, error)
            await self._postpone(arrival.delivery)

    async def _postpone(self, delivery: Delivery) -> None:
        await delivery.nak(postponement_s(delivery.n_delivered))
        self._metrics.postponed.labels(self._topic.name).inc()


def _dead_letter(delivery: Delivery, error: InvalidInput) -> DeadLetter:
    headers = delivery.headers or {}
    return DeadLetter(
        service=SERVICE,
        reason=error.reason,
        problem=str(error),
        n_deliveries=delivery.n_delivered,
        subject=delivery.subject,
        message_id=headers.get(MESSAGE_ID_HEADER, ""),
        event_id="",
        payload=delivery.payload,
        traceparent=headers.get(TRACEPARENT),
        sequence=delivery.stream_sequence,
    )
