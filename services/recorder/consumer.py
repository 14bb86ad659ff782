"""The streams' face of the recorder: messages in, rows out, nothing lost and nothing twice.

A message is acknowledged only after its row is on disk; a crash in between means a second delivery, whose row is
there already.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import structlog
from opentelemetry.trace import Span, Tracer

from icestream.errors import IceStreamError, InvalidInput, InvalidRecord
from icestream.runtime.deadletters import DeadLetter, DeadLetterWriter
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.jetstream.puller import ContinuousPuller, Delivery
from icestream.runtime.lifecycle import first_of
from icestream.runtime.message_spans import start_process_span
from icestream.runtime.tracing import TRACEPARENT, end_span
from services.recorder.intake import Intake, postponement_s
from services.recorder.metrics import RecorderMetrics
from services.recorder.quality import observe_estimates
from services.recorder.schema import RECONSTRUCTIONS
from services.recorder.store import RecordStore
from services.recorder.topics import Record, Topic

SERVICE = "recorder"
_MAX_WAIT_S = 0.5

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
        metrics: RecorderMetrics,
        tracer: Tracer,
    ) -> None:
        self._topic = topic
        self._puller = puller
        self._store = store
        self._dead_letters = dead_letters
        self._intake = intake
        self._batch_rows = batch_rows
        self._metrics = metrics
        self._tracer = tracer

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then answer for everything that was handed out."""
        while not stop.is_set():
            if self._intake.is_open:
                await self._record(await self._puller.next_batch(self._batch_rows, _MAX_WAIT_S))
            else:
                await self._sit_out(stop)
        await self._puller.pause()
        while self._intake.is_open and self._puller.n_queued:
            await self._record(await self._puller.next_batch(self._batch_rows, 0.0))
        await self._give_back_queued()

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
        if arrivals:
            self._metrics.lag.labels(self._topic.name).set(self._puller.n_left_in_stream)
            await self._write(arrivals)

    async def _admit(self, delivery: Delivery) -> Arrival[Record] | None:
        """Decode and check one message; what can never be recorded goes to the dead letters."""
        if delivery.n_delivered > 1:
            self._metrics.redelivered.labels(self._topic.name).inc()
        name = f"record {self._topic.name}"
        span = start_process_span(self._tracer, delivery.headers, delivery.subject, name=name)
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

    async def _write(self, arrivals: Sequence[Arrival[Record]]) -> None:
        """Record some messages in one transaction, and answer for each."""
        started_s = time.perf_counter()
        try:
            rows = self._topic.rows([arrival.record for arrival in arrivals], time.time_ns())
            is_new = await self._store.insert(self._topic.table, rows)
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
            await self._settle(arrivals, rows, is_new)

    async def _write_parts(self, arrivals: Sequence[Arrival[Record]], error: InvalidRecord) -> None:
        """Halve until the message that the database does not take stands alone."""
        if len(arrivals) == 1:
            await self._refuse(arrivals[0].delivery, arrivals[0].span, error)
            return
        middle = len(arrivals) // 2
        await self._write(arrivals[:middle])
        await self._write(arrivals[middle:])

    async def _settle(
        self, arrivals: Sequence[Arrival[Record]], rows: Sequence[dict[str, Any]], is_new: Sequence[bool]
    ) -> None:
        now_unix_ns, table = time.time_ns(), self._topic.name
        delay_s = self._metrics.delay_s.labels(table)
        for arrival in arrivals:
            await arrival.delivery.ack()
            end_span(arrival.span)
            delay_s.observe(max(now_unix_ns - arrival.delivery.published_unix_ns, 0) / 1e9)
        new_rows = [row for row, new in zip(rows, is_new, strict=True) if new]
        self._metrics.batch_rows.labels(table).observe(len(rows))
        self._metrics.rows.labels(table).inc(len(new_rows))
        self._metrics.duplicates.labels(table).inc(len(rows) - len(new_rows))
        if self._topic.table is RECONSTRUCTIONS and new_rows:
            observe_estimates(self._metrics, new_rows)

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
