"""Runs every scan from its acceptance to its end.

The stream SCANS is all there is: what is in memory follows from it, and whatever is published from here
follows from it with the same message id each time. So the process can be killed at any moment, and a second one
beside it costs work and changes nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from opentelemetry.trace import Tracer

from icestream.errors import IceStreamError, InvalidScan, UndecodableMessage
from icestream.runtime.jetstream.scan_topology import Lane, LogEntry
from icestream.runtime.jetstream.stored import StoredMessage
from icestream.runtime.tracing import TRACEPARENT, parent_context
from icestream.v1 import scan_pb2
from services.scanner.coordinator.book import Change, ScanBook
from services.scanner.coordinator.contours import contours_of
from services.scanner.coordinator.log import ScanLog
from services.scanner.coordinator.metrics import ScannerMetrics
from services.scanner.coordinator.record import ScanRecord
from services.scanner.coordinator.schedule import scans_to_begin
from services.scanner.coordinator.work import WorkFeeder

_ENTRIES_AT_ONCE = 64
_MAX_WAIT_S = 0.5
_RETRY_S = 1.0

_log = structlog.get_logger()


class Entries(Protocol):
    """The log from a known place on."""

    n_left: int

    async def next_batch(self, max_messages: int, max_wait_s: float) -> list[StoredMessage]:
        """The next entries, or none in time."""
        ...


@dataclass(frozen=True, slots=True)
class CoordinatorLimits:
    """How much the coordinator does at once."""

    max_running: int
    stalled_after_s: float


class Coordinator:
    """Folds the log, and does what follows from it."""

    def __init__(
        self,
        *,
        book: ScanBook,
        log: ScanLog,
        feeder: WorkFeeder,
        limits: CoordinatorLimits,
        metrics: ScannerMetrics,
        tracer: Tracer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._log_of_scans = log
        self._feeder = feeder
        self._limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._advanced_at_s: dict[str, float] = {}
        self._replayed: set[str] = set()

    async def replay(self) -> int:
        """Read what was there before us.

        Returns:
            The sequence number up to which the log was read.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        until = await self._log_of_scans.last_sequence()
        for kind in (LogEntry.ACCEPTED, LogEntry.ENDED):
            async for message in self._log_of_scans.entries(kind, until=until):
                self._fold(message)
        active = self._book.active()
        for record in active:
            async for message in self._log_of_scans.of(record.scan_id, until=until):
                self._fold(message)
        self._replayed = {record.scan_id for record in active}
        _log.info("log read", sequence=until, n_scans=len(self._book.records), n_active=len(active))
        return until

    async def run(self, entries: Entries, stop: asyncio.Event) -> None:
        """Go on where the replay stopped, until `stop` is set.

        Raises:
            BrokerUnavailable: The connection is closed for good.
        """
        for record in self._book.active():
            if record.state.is_ended:
                self._spawn(self._end(record))
            elif record.is_begun:
                self._spawn(self._resume(record))
        self._begin_what_may()
        self._spawn(self._watch_for_stalls())
        try:
            while not stop.is_set():
                for message in await entries.next_batch(_ENTRIES_AT_ONCE, _MAX_WAIT_S):
                    if (change := self._fold(message)) is not None:
                        self._follow_up(change)
                self._measure(entries)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fold(self, message: StoredMessage) -> Change | None:
        try:
            return self._book.fold(message)
        except (UndecodableMessage, InvalidScan) as error:
            self._metrics.dropped.labels(error.reason).inc()
            _log.warning("entry not understood", sequence=message.sequence, problem=str(error))
        except Exception:
            # A mistake of ours about one entry must not end all scans.
            self._metrics.dropped.labels("unexpected").inc()
            _log.exception("entry could not be taken", sequence=message.sequence)
        return None

    def _follow_up(self, change: Change) -> None:
        record = change.record
        if change.kind is LogEntry.RESULT:
            self._count(change)
        if record is None or (record.final is not None and change.kind is LogEntry.RESULT):
            return
        match change.kind:
            case LogEntry.ACCEPTED:
                self._metrics.started.labels(record.lane).inc()
                self._begin_what_may()
            case LogEntry.RESULT:
                self._go_on(record, change)
            case LogEntry.CANCELLED:
                self._spawn(self._end(record))
                self._begin_what_may()
            case LogEntry.ENDED:
                self._close(record)
                self._begin_what_may()

    def _go_on(self, record: ScanRecord, change: Change) -> None:
        self._advanced_at_s[record.scan_id] = self._clock()
        self._feeder.offer(record, change.batches)
        self._feeder.answered(record, change.number, change.outcome.n_accepted)
        # Once: what comes after the end changes nothing.
        if change.outcome.n_accepted and record.state.is_ended:
            self._spawn(self._end(record))
            self._begin_what_may()

    def _begin_what_may(self) -> None:
        for record in scans_to_begin(self._book.active(), max_running=self._limits.max_running):
            batches = record.begin()
            self._advanced_at_s[record.scan_id] = self._clock()
            if record.scan_id in self._replayed:
                # Before the restart it may have begun, without a result so far.
                self._spawn(self._resume(record))
            else:
                self._feeder.offer(record, batches)

    async def _resume(self, record: ScanRecord) -> None:
        """Queue what a scan lacks and what is not in the queue."""
        queued = await _until_done(lambda: self._feeder.numbers_in_queue(record))
        if record.state.is_ended:
            return
        n_batches = self._feeder.resume(record, record.state.outstanding(), queued)
        self._advanced_at_s[record.scan_id] = self._clock()
        self._metrics.requeued.inc(n_batches)
        _log.info("scan resumed", scan_id=record.scan_id, n_batches=n_batches, n_in_queue=len(queued))

    async def _watch_for_stalls(self) -> None:
        while True:
            await asyncio.sleep(self._limits.stalled_after_s / 4)
            for record in self._book.active():
                idle_s = self._clock() - self._advanced_at_s.get(record.scan_id, self._clock())
                if record.is_begun and not record.state.is_ended and idle_s > self._limits.stalled_after_s:
                    await self._resume(record)

    async def _end(self, record: ScanRecord) -> None:
        """Write the last entry; what it says follows from the log alone."""
        final = record.to_final_message()
        # Large maps take a second, and nothing changes in the pixels any more.
        contours = await asyncio.to_thread(lambda: contours_of(record.skymap()))
        payload = scan_pb2.ScanEnded(scan=final, contours=contours).SerializeToString(deterministic=True)
        headers = {TRACEPARENT: record.traceparent} if record.traceparent else {}
        ack = await _until_done(
            lambda: self._log_of_scans.append(record.scan_id, LogEntry.ENDED, payload, headers)
        )
        if record.traceparent and not ack.is_duplicate:
            self._trace(record, final)

    def _trace(self, record: ScanRecord, final: scan_pb2.Scan) -> None:
        """The span of the whole scan, made at its end: no process needs to live as long as it does."""
        span = self._tracer.start_span(
            "scan",
            context=parent_context(record.traceparent),
            start_time=record.request.created_unix_ns,
            attributes={
                "icestream.scan.id": record.scan_id,
                "icestream.scan.reco": record.request.options.reco,
                "icestream.scan.state": _state_name(final.state),
                "icestream.scan.fits": final.progress.n_fits_done,
            },
        )
        span.end(end_time=final.ended_unix_ns)

    def _close(self, record: ScanRecord) -> None:
        final = record.final
        assert final is not None
        self._advanced_at_s.pop(record.scan_id, None)
        self._metrics.ended.labels(_state_name(final.state)).inc()
        self._metrics.scan_s.labels(record.request.options.reco, record.lane).observe(
            final.progress.elapsed_s
        )
        self._spawn(_until_done(lambda: self._feeder.drop(record)))
        _log.info(
            "scan ended",
            scan_id=record.scan_id,
            state=_state_name(final.state),
            n_fits=final.progress.n_fits_done,
            seconds=round(final.progress.elapsed_s, 3),
        )

    def _count(self, change: Change) -> None:
        outcome = change.outcome
        if change.record is not None and outcome.n_accepted:
            reco = change.record.request.options.reco
            self._metrics.fits.labels(reco, change.record.lane).inc(outcome.n_accepted)
        counts = {
            "duplicate": outcome.n_duplicates,
            "unknown": outcome.n_unknown,
            "late": outcome.n_late,
        }
        for reason, n in counts.items():
            if n:
                self._metrics.dropped.labels(reason).inc(n)

    def _measure(self, entries: Entries) -> None:
        self._metrics.log_lag.set(entries.n_left)
        for lane in Lane:
            self._metrics.batches.labels(lane, "queued").set(self._feeder.n_queued(lane))
            self._metrics.batches.labels(lane, "held").set(self._feeder.n_held(lane))
        active = self._book.active()
        n_running = sum(record.is_begun for record in active)
        self._metrics.scans.labels("running").set(n_running)
        self._metrics.scans.labels("queued").set(len(active) - n_running)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a step of a scan failed", exc_info=error)


async def _until_done(step: Callable[[], Awaitable[Any]]) -> Any:
    """Try until the broker lets us; every step may be repeated."""
    while True:
        try:
            return await step()
        except IceStreamError as error:
            _log.warning("step of a scan postponed", problem=str(error))
            await asyncio.sleep(_RETRY_S)


def _state_name(state: "scan_pb2.ScanState") -> str:
    return scan_pb2.ScanState.Name(state).removeprefix("SCAN_STATE_").lower()
