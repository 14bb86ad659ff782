"""What becomes of a batch that failed: given back, halved, or given up."""

import structlog

from icestream.runtime.deadletters import DeadLetter, DeadLetterWriter
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER, WindowedPublisher
from icestream.runtime.jetstream.puller import Delivery
from icestream.runtime.tracing import TRACEPARENT
from icestream.scan_codec import encode_work
from services.scanner.worker.arrival import Arrival
from services.scanner.worker.faults import Disposition, disposition_of, postponement_s, reason_of
from services.scanner.worker.metrics import ScanWorkerMetrics
from services.scanner.worker.queue import WorkQueue
from services.scanner.worker.results import ResultPublisher
from services.scanner.worker.splitting import halves

SERVICE = "scan-worker"
_MAX_FAILURE = 500

_log = structlog.get_logger()


class FailedBatches:
    """Answers for batches that have no fits; whatever it raises, the batch is still with the worker."""

    def __init__(
        self,
        *,
        queue: WorkQueue,
        publisher: WindowedPublisher,
        results: ResultPublisher,
        dead_letters: DeadLetterWriter,
        metrics: ScanWorkerMetrics,
        delivery_limit: int,
    ) -> None:
        self._queue = queue
        self._publisher = publisher
        self._results = results
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._delivery_limit = delivery_limit

    async def settle(self, arrival: Arrival, error: Exception) -> None:
        """Do with a batch what the kind of its failure asks for.

        Raises:
            IceStreamError: The broker does not take what there is to say about it.
        """
        delivery, reason = arrival.delivery, reason_of(error)
        self._metrics.failures.labels(reason).inc()
        _log.warning(
            "batch failed",
            batch=arrival.work.message_id,
            reason=reason,
            problem=repr(error),
            n_delivered=delivery.n_delivered,
        )
        disposition = disposition_of(error)
        is_last_try = delivery.n_delivered >= self._delivery_limit
        if disposition is Disposition.POSTPONE:
            await self._queue.give_back(delivery)
        elif disposition is Disposition.TRY_ELSEWHERE and not is_last_try:
            self._metrics.postponed.inc()
            await delivery.nak(postponement_s(delivery.n_delivered))
        elif disposition is Disposition.GIVE_UP or len(arrival.work.batch) == 1:
            await self._give_up(arrival, error)
        else:
            await self._split(arrival)

    async def settle_undecodable(self, delivery: Delivery, error: Exception) -> None:
        """Keep what is no batch for a person, and be rid of it.

        Raises:
            IceStreamError: The broker does not take the dead letter.
        """
        self._metrics.failures.labels(reason_of(error)).inc()
        await self._bury(delivery, error, str(error))
        await delivery.term(reason_of(error))

    async def _split(self, arrival: Arrival) -> None:
        for half in halves(arrival.work):
            stored = await self._publisher.publish(
                arrival.delivery.subject,
                encode_work(half),
                message_id=half.message_id,
                headers=arrival.trace_headers,
            )
            await stored
        await arrival.delivery.ack()
        self._metrics.splits.inc()

    async def _give_up(self, arrival: Arrival, error: Exception) -> None:
        """Tell a person, then the scan, that these rows will never have fits."""
        problem = " ".join(str(error).split())
        await self._bury(arrival.delivery, error, f"{arrival}: {problem}")
        await self._results.publish_failure(arrival, f"{reason_of(error)}: {problem}"[:_MAX_FAILURE])
        await arrival.delivery.term(reason_of(error))

    async def _bury(self, delivery: Delivery, error: Exception, problem: str) -> None:
        headers, reason = delivery.headers or {}, reason_of(error)
        letter = DeadLetter(
            service=SERVICE,
            reason=reason,
            problem=problem,
            n_deliveries=delivery.n_delivered,
            subject=delivery.subject,
            message_id=headers.get(MESSAGE_ID_HEADER, ""),
            event_id="",
            payload=delivery.payload,
            traceparent=headers.get(TRACEPARENT),
            sequence=delivery.stream_sequence,
        )
        await self._dead_letters.write(letter)
        self._metrics.dead_letters.labels(reason).inc()
        _log.warning("batch dead-lettered", reason=reason, problem=problem)
