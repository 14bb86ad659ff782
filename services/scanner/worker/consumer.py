"""Batches in, fits out, nothing lost in between.

A batch is acknowledged only after the broker has stored its fits; a crash in between means a second delivery,
whose result has the same message id and is stored once. What cannot be fitted as a whole is halved until the
single fit that is to blame stands alone.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import structlog
from opentelemetry.trace import Span, Tracer

from icestream.errors import IceStreamError, TooManyDeliveries, UndecodableMessage
from icestream.ports import CallOptions, TensorModel
from icestream.runtime.jetstream.puller import Delivery
from icestream.runtime.jetstream.scan_topology import Lane
from icestream.runtime.message_spans import start_process_span
from icestream.runtime.tracing import end_span
from icestream.scan_codec import decode_work
from icestream.scans.pixels import PixelFits
from services.scanner.worker.arrival import Arrival
from services.scanner.worker.failures import FailedBatches
from services.scanner.worker.fitting import Fitting, Interrupted, Stopwatch
from services.scanner.worker.metrics import ScanWorkerMetrics
from services.scanner.worker.prepared import PreparedScans
from services.scanner.worker.queue import WorkQueue
from services.scanner.worker.results import ResultPublisher
from services.scanner.worker.standing import Pause, Standing
from services.scanner.worker.telemetry import ObservedModel

_LOOK_S = 0.25
_GRACE_S = 6.0
_INTERRUPTION_S = 2.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """How much the consumer does at once, and how often it tries."""

    batches_at_once: int
    batch_timeout_s: float
    delivery_limit: int


class BatchConsumer:
    """Moves batches from the queue through their recos to the logs of their scans."""

    def __init__(
        self,
        *,
        queue: WorkQueue,
        scans: PreparedScans,
        model: TensorModel,
        results: ResultPublisher,
        failed_batches: FailedBatches,
        standing: Standing,
        limits: ConsumerLimits,
        metrics: ScanWorkerMetrics,
        tracer: Tracer,
    ) -> None:
        self._queue = queue
        self._scans = scans
        self._model = model
        self._results = results
        self._failed_batches = failed_batches
        self._standing = standing
        self._limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._fitting = Fitting(timeout_s=limits.batch_timeout_s)
        self._in_work: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then answer for everything that was handed out."""
        stopped = asyncio.Event()
        heartbeats = asyncio.create_task(self._queue.keep_alive(stopped))
        try:
            while not stop.is_set():
                if (pause := self._standing.pause) is not None:
                    await self._sit_out(pause, stop)
                elif len(self._in_work) >= self._limits.batches_at_once:
                    await self._wait_for_work()
                elif (found := await self._queue.next()) is not None:
                    await self._begin(*found, stop)
            await self._finish()
            await self._queue.close()
        finally:
            stopped.set()
            await heartbeats

    async def _begin(self, lane: Lane, delivery: Delivery, stop: asyncio.Event) -> None:
        if delivery.n_delivered != self._limits.delivery_limit:
            self._start(lane, delivery)
            return
        # Its last chance it gets alone: what ends the worker meanwhile is this batch and no other.
        await self._queue.pause()
        while self._in_work and not stop.is_set():
            await self._wait_for_work()
        self._start(lane, delivery)
        while self._in_work and not stop.is_set():
            await self._wait_for_work()
        if not stop.is_set():
            await self._queue.resume()

    def _start(self, lane: Lane, delivery: Delivery) -> None:
        task = asyncio.create_task(self._process(lane, delivery))
        self._in_work.add(task)
        task.add_done_callback(self._in_work.discard)

    async def _wait_for_work(self) -> None:
        await asyncio.wait(self._in_work, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)

    async def _sit_out(self, pause: Pause, stop: asyncio.Event) -> None:
        """Begin nothing for a while; a worker that is sick does not hold anything meanwhile either."""
        if pause.is_quarantine:
            await self._queue.pause()
            self._metrics.is_quarantined.set(1)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), self._standing.remaining_s())
        if pause.is_quarantine and not stop.is_set():
            self._metrics.is_quarantined.set(0)
            _log.warning("worker back from quarantine")
            await self._queue.resume()

    async def _finish(self) -> None:
        """Finish what is in work if that does not take long, so that a restart redelivers little."""
        await self._queue.pause()
        if self._in_work:
            await asyncio.wait(self._in_work, timeout=_GRACE_S)
        self._fitting.interrupt()
        if self._in_work:
            await asyncio.wait(self._in_work, timeout=_INTERRUPTION_S)

    async def _process(self, lane: Lane, delivery: Delivery) -> None:
        """Work on one batch and answer for it, whatever happens."""
        stopwatch = Stopwatch.start()
        self._metrics.wait_s.labels(lane).observe(
            max(stopwatch.started_unix_ns - delivery.published_unix_ns, 0) / 1e9
        )
        if delivery.n_delivered > 1:
            self._metrics.redelivered.inc()
        span = start_process_span(self._tracer, delivery.headers, delivery.subject, name="scan.batch")
        error: Exception | None
        try:
            error = await self._answer_for(lane, delivery, stopwatch, span)
        except IceStreamError as problem:
            error = problem
            _log.warning("batch not answered for", sequence=delivery.stream_sequence, problem=str(problem))
            await self._queue.give_back(delivery)
        except Exception as mistake:
            # A mistake of ours must not end the worker, nor keep this batch's place for ever.
            error = mistake
            _log.exception("a batch could not be answered for", sequence=delivery.stream_sequence)
            await self._queue.give_back(delivery)
        finally:
            self._queue.done(delivery)
        end_span(span, error)

    async def _answer_for(
        self, lane: Lane, delivery: Delivery, stopwatch: Stopwatch, span: Span | None
    ) -> Exception | None:
        """Settle a batch, and return what went wrong with it, if anything did."""
        try:
            work = decode_work(delivery.payload)
        except UndecodableMessage as error:
            await self._failed_batches.settle_undecodable(delivery, error)
            return error
        arrival = Arrival(lane, delivery, work, stopwatch, span)
        try:
            await self._fit_and_hand_in(arrival)
        except Interrupted:
            await self._queue.give_back(delivery, delay_s=0.0)
        except Exception as error:
            # Whatever a reco raises is about its batch, and not the end of the worker.
            self._standing.failed(arrival.batch_name, error)
            await self._failed_batches.settle(arrival, error)
            return error
        return None

    async def _fit_and_hand_in(self, arrival: Arrival) -> None:
        work, n_delivered = arrival.work, arrival.delivery.n_delivered
        if n_delivered > self._limits.delivery_limit:
            raise TooManyDeliveries(n_delivered)
        model = ObservedModel(self._model, self._metrics, self._tracer, n_fits=len(work.batch))
        fits = await self._fitting.run(self._fit(arrival, model))
        fitted_s = arrival.stopwatch.elapsed_s()
        await self._results.publish_fits(arrival, fits, model.versions)
        # Acknowledge only after the fits are stored: a crash in between means a second delivery, whose
        # result the message id de-duplicates.
        await arrival.delivery.ack()
        self._standing.succeeded()
        self._metrics.batches.labels(arrival.lane).inc()
        self._metrics.fits.labels(work.reco).inc(len(work.batch))
        self._metrics.batch_s.labels(work.reco).observe(fitted_s)

    async def _fit(self, arrival: Arrival, model: TensorModel) -> PixelFits:
        work = arrival.work
        scan = await self._scans.get(work.reco, work.startup_sha256)
        options = CallOptions(
            is_urgent=arrival.lane is Lane.ALERT,
            timeout_s=self._limits.batch_timeout_s,
            traceparents=tuple(arrival.trace_headers.values()),
        )
        return await scan.reco.fit(work.batch, scan.prepared, model, options)
