"""The queue of work: batches of each scan, as many as workers need and no more."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog
from nats import errors as nats_errors
from nats.js.errors import APIError, NotFoundError

from icestream.errors import BrokerUnavailable, IceStreamError
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER, Ack, WindowedPublisher
from icestream.runtime.jetstream.scan_topology import Lane, ScanNames
from icestream.runtime.tracing import TRACEPARENT
from icestream.scan_codec import PixelWork, encode_work
from icestream.scans.pixels import PixelBatch
from icestream.scans.state import OutstandingRows
from services.scanner.coordinator.record import ScanRecord

_RETRY_S = 1.0
_TIMEOUT_S = 5.0

_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Feed:
    """What the workers still owe one scan."""

    record: ScanRecord
    waiting: deque[PixelWork] = field(default_factory=deque)
    """Not queued yet."""
    n_rows_left: dict[int, int] = field(default_factory=dict)
    """By the number of each batch, of those that wait, too."""
    queued: set[int] = field(default_factory=set)
    """Numbers of those that are in the queue or at a worker."""
    n_on_their_way: int = 0
    is_dropped: bool = False

    def skip_answered(self) -> None:
        while self.waiting and self.waiting[0].batch.number not in self.n_rows_left:
            self.waiting.popleft()


class WorkFeeder:
    """An async context manager that keeps the queue of each scan filled.

    One task for each lane: what a catalogue scan waits for holds no alert up.
    """

    def __init__(
        self,
        connection: Connection,
        publishers: Mapping[Lane, WindowedPublisher],
        names: ScanNames,
        *,
        batches_queued: int,
    ) -> None:
        """Prepare.

        Args:
            connection: To the broker.
            publishers: One for each lane; a full stream slows them down, and nothing else.
            names: Of streams and subjects.
            batches_queued: At most so many batches of a scan are in the queue or at workers.
        """
        self._connection = connection
        self._publishers = publishers
        self._names = names
        self._batches_queued = batches_queued
        self._feeds: dict[str, _Feed] = {}
        self._wakes = {lane: asyncio.Event() for lane in Lane}
        self._settled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._feed_forever(lane), name=f"feed-{lane}") for lane in Lane]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def n_queued(self, lane: Lane) -> int:
        """Batches in the queue or at workers."""
        return sum(len(feed.queued) for feed in self._of(lane))

    def n_held(self, lane: Lane) -> int:
        """Batches that were planned and are not in the queue."""
        return sum(len(feed.n_rows_left) - len(feed.queued) for feed in self._of(lane))

    def offer(self, record: ScanRecord, batches: Iterable[PixelBatch]) -> None:
        """Add batches behind those that wait."""
        self._offer(record, (self._work(record, batch) for batch in batches))

    def resume(self, record: ScanRecord, outstanding: Iterable[OutstandingRows], queued: set[int]) -> int:
        """Begin anew with what a scan lacks.

        Args:
            record: The scan.
            outstanding: Of its state.
            queued: Numbers of the batches that are in the queue, as a whole or in parts.

        Returns:
            How many are queued anew.
        """
        feed = self._feeds[record.scan_id] = _Feed(record, queued=set(queued))
        missing: list[PixelWork] = []
        for rows in outstanding:
            number, n_rows = rows.batch.number, len(rows.batch)
            feed.n_rows_left[number] = feed.n_rows_left.get(number, 0) + n_rows
            if number not in queued:
                # The whole has the id that it had before: what the broker has seen a moment ago it drops.
                part = "" if rows.is_whole else f"r{rows.first_row}-{rows.first_row + n_rows}."
                missing.append(self._work(record, rows.batch, part, rows.first_row))
        feed.queued &= feed.n_rows_left.keys()
        feed.waiting.extend(missing)
        self._wakes[record.lane].set()
        return len(missing)

    def answered(self, record: ScanRecord, number: int, n_rows: int) -> None:
        """So many rows of a batch came back."""
        feed = self._feeds.get(record.scan_id)
        if feed is None or number not in feed.n_rows_left:
            return
        feed.n_rows_left[number] -= n_rows
        if feed.n_rows_left[number] <= 0:
            del feed.n_rows_left[number]
            feed.queued.discard(number)
            self._wakes[record.lane].set()

    async def drop(self, record: ScanRecord) -> None:
        """Forget a scan, and take what is left of it out of the queue.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        feed = self._feeds.pop(record.scan_id, None)
        if feed is not None:
            feed.is_dropped = True
            while feed.n_on_their_way:
                self._settled.clear()
                await self._settled.wait()
        await self.purge(record)

    async def purge(self, record: ScanRecord) -> None:
        """Take everything of a scan out of the queue; workers finish what they have begun.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        subject = self._names.work(record.lane, record.scan_id)
        try:
            js = self._connection.client.jetstream(timeout=_TIMEOUT_S)
            await js.purge_stream(self._names.work_stream, subject=subject)
        except (nats_errors.Error, APIError) as error:
            raise BrokerUnavailable(f"the broker does not purge {subject}: {error!r}") from error

    async def numbers_in_queue(self, record: ScanRecord) -> set[int]:
        """Numbers of a scan's batches in the queue or at workers, as a whole or in parts.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        subject, sequence = self._names.work(record.lane, record.scan_id), 1
        js, numbers = self._connection.client.jetstream(timeout=_TIMEOUT_S), set[int]()
        try:
            while True:
                message = await js.get_msg(
                    self._names.work_stream, seq=sequence, subject=subject, direct=True, next=True
                )
                message_id = (message.headers or {}).get(MESSAGE_ID_HEADER, "")
                numbers.add(int(message_id.split("/")[1]))
                sequence = (message.seq or 0) + 1
        except NotFoundError:
            return numbers
        except (nats_errors.Error, APIError, IndexError, ValueError) as error:
            raise BrokerUnavailable(f"the broker does not show what waits of {subject}: {error!r}") from error

    def _of(self, lane: Lane) -> list[_Feed]:
        return [feed for feed in self._feeds.values() if feed.record.lane is lane]

    def _offer(self, record: ScanRecord, works: Iterable[PixelWork]) -> None:
        feed = self._feeds.setdefault(record.scan_id, _Feed(record))
        for work in works:
            feed.n_rows_left[work.batch.number] = len(work.batch)
            feed.waiting.append(work)
        self._wakes[record.lane].set()

    @staticmethod
    def _work(record: ScanRecord, batch: PixelBatch, part: str = "", first_row: int = 0) -> PixelWork:
        request = record.request
        return PixelWork(
            request.scan_id, request.options.reco, request.startup_sha256, batch, part, first_row
        )

    async def _feed_forever(self, lane: Lane) -> None:
        while True:
            await self._wakes[lane].wait()
            self._wakes[lane].clear()
            # In turns, so that no scan of the lane waits for another one to have all of its work queued.
            while feeds := [feed for feed in self._of(lane) if self._has_room(feed)]:
                for feed in feeds:
                    await self._send_next(lane, feed)

    def _has_room(self, feed: _Feed) -> bool:
        feed.skip_answered()
        return bool(feed.waiting) and len(feed.queued) < self._batches_queued and not feed.is_dropped

    async def _send_next(self, lane: Lane, feed: _Feed) -> None:
        feed.skip_answered()
        if not feed.waiting or feed.is_dropped:
            return
        work = feed.waiting.popleft()
        feed.queued.add(work.batch.number)
        feed.n_on_their_way += 1
        traceparent = feed.record.traceparent
        headers = {TRACEPARENT: traceparent} if traceparent else {}
        try:
            stored = await self._publishers[lane].publish(
                self._names.work(lane, work.scan_id),
                encode_work(work),
                message_id=work.message_id,
                headers=headers,
            )
        except IceStreamError as error:
            self._not_sent(feed, work, error)
            return
        stored.add_done_callback(lambda stored: self._settle(feed, work, stored))

    def _settle(self, feed: _Feed, work: PixelWork, stored: "asyncio.Future[Ack]") -> None:
        if stored.cancelled() or (error := stored.exception()) is None:
            feed.n_on_their_way -= 1
            self._settled.set()
        else:
            self._not_sent(feed, work, error)

    def _not_sent(self, feed: _Feed, work: PixelWork, error: BaseException) -> None:
        _log.warning("batch not queued", batch=work.message_id, problem=str(error))
        feed.n_on_their_way -= 1
        self._settled.set()
        # It keeps its place meanwhile: trying at once would be a busy loop.
        asyncio.get_running_loop().call_later(_RETRY_S, self._wait_again, feed, work)

    def _wait_again(self, feed: _Feed, work: PixelWork) -> None:
        feed.queued.discard(work.batch.number)
        feed.waiting.appendleft(work)
        self._wakes[feed.record.lane].set()
