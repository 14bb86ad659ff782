"""A scanner among fakes: a log in memory, a queue that remembers, and workers that answer at once."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import grpc
import numpy as np
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from icestream.codec import event_from_message
from icestream.errors import BrokerUnavailable, IceStreamError, UnknownEvent
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventId, ModelVersion
from icestream.runtime.jetstream.publisher import Ack
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames
from icestream.runtime.jetstream.stored import StoredMessage
from icestream.runtime.jetstream.topology import Names
from icestream.scan_codec import PixelResult, encode_accepted, encode_result
from icestream.scans.pixels import PixelBatch, PixelFits, TakenRows
from icestream.scans.progression import Progression
from icestream.scans.recos import registry
from icestream.scans.request import Frame, ScanOptions, ScanRequest, Seed
from icestream.scans.state import OutstandingRows
from icestream.v1 import event_pb2, scan_pb2, scan_pb2_grpc
from services.scanner.coordinator.acceptance import Acceptance
from services.scanner.coordinator.api import ScanService
from services.scanner.coordinator.book import ScanBook
from services.scanner.coordinator.coordinator import Coordinator, CoordinatorLimits
from services.scanner.coordinator.maps import Maps
from services.scanner.coordinator.metrics import ScannerMetrics
from services.scanner.coordinator.record import ScanRecord

if TYPE_CHECKING:
    from services.scanner.coordinator.log import ScanLog
    from services.scanner.coordinator.work import WorkFeeder

NAMES = ScanNames(Names())
NOW_UNIX_NS = 1_800_000_000 * 10**9


class FakeLog:
    """Stands in for `ScanLog`, for the stream behind it and for `StreamFollower`.

    Attributes:
        messages: Everything that was stored; entry n has sequence n + 1.
        failure: Raised by `append` while it is set.
    """

    def __init__(self, messages: Sequence[StoredMessage] = ()) -> None:
        self.messages = list(messages)
        self.failure: IceStreamError | None = None
        self.n_left = 0
        self._ids = {f"{scan}/{kind}" for scan, kind in map(_key, self.messages) if kind != LogEntry.RESULT}
        self._n_read = len(self.messages)
        self._stored = asyncio.Event()

    def store(
        self, scan_id: str, kind: LogEntry, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> int:
        sequence = len(self.messages) + 1
        subject = NAMES.log(scan_id, kind)
        now_unix_ns = NOW_UNIX_NS + sequence * 10**6
        self.messages.append(StoredMessage(subject, payload, dict(headers or {}), sequence, now_unix_ns))
        self._stored.set()
        return sequence

    def kinds(self, scan_id: str) -> list[LogEntry]:
        return [kind for scan, kind in map(_key, self.messages) if scan == scan_id]

    async def append(
        self, scan_id: str, kind: LogEntry, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> Ack:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        message_id = f"{scan_id}/{kind}"
        if message_id in self._ids:
            return Ack("SCANS", 1, is_duplicate=True, n_attempts=1)
        self._ids.add(message_id)
        return Ack("SCANS", self.store(scan_id, kind, payload, headers), is_duplicate=False, n_attempts=1)

    async def last_sequence(self) -> int:
        self._n_read = len(self.messages)
        return self._n_read

    async def entries(self, kind: LogEntry, *, until: int) -> AsyncGenerator[StoredMessage, None]:
        for message in self.messages[:until]:
            if _key(message)[1] == kind:
                yield message

    async def of(self, scan_id: str, *, until: int | None = None) -> AsyncGenerator[StoredMessage, None]:
        for message in self.messages[:until]:
            if _key(message)[0] == scan_id:
                yield message

    async def next_batch(self, max_messages: int, max_wait_s: float) -> list[StoredMessage]:
        if self._n_read == len(self.messages):
            self._stored.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stored.wait(), min(max_wait_s, 0.02))
        found = self.messages[self._n_read : self._n_read + max_messages]
        self._n_read += len(found)
        return found


def _key(message: StoredMessage) -> tuple[str, LogEntry]:
    return NAMES.parse_log(message.subject)


class FakeFeeder:
    """Stands in for `WorkFeeder`.

    Attributes:
        offered: Batches of each scan in the order in which they came; those of `resume` too.
        dropped: Scans that were taken out of the queue.
        in_queue: What the broker still has of each scan when a scanner asks.
        is_away: Whether the broker does not answer.
    """

    def __init__(self) -> None:
        self.offered: dict[str, list[PixelBatch]] = {}
        self.resumed: list[str] = []
        self.dropped: list[str] = []
        self.in_queue: dict[str, set[int]] = {}
        self.is_away = False

    def n_queued(self, _: object) -> int:
        return 0

    def n_held(self, _: object) -> int:
        return 0

    def offer(self, record: ScanRecord, batches: Sequence[PixelBatch]) -> None:
        self.offered.setdefault(record.scan_id, []).extend(batches)

    def resume(self, record: ScanRecord, outstanding: Sequence[OutstandingRows], queued: set[int]) -> int:
        self.resumed.append(record.scan_id)
        batches = [rows.batch for rows in outstanding if rows.batch.number not in queued]
        self.offer(record, batches)
        return len(batches)

    def answered(self, record: ScanRecord, number: int, n_rows: int) -> None:
        pass

    async def numbers_in_queue(self, record: ScanRecord) -> set[int]:
        self._refuse()
        return self.in_queue.get(record.scan_id, set())

    async def drop(self, record: ScanRecord) -> None:
        self._refuse()
        self.dropped.append(record.scan_id)

    def _refuse(self) -> None:
        if self.is_away:
            raise BrokerUnavailable("away")


class FakeEvents:
    """Stands in for `StoredEvents`."""

    def __init__(self) -> None:
        self.by_name: dict[str, Event] = {}

    async def read(self, message: event_pb2.Event) -> Event:
        event = event_from_message(message)
        assert isinstance(event, Event)
        return event

    async def find(self, name: str) -> Event:
        if name not in self.by_name:
            raise UnknownEvent(name, "EVENTS")
        return self.by_name[name]


class FakeStartup:
    """Stands in for the object store."""

    async def put(self, _: bytes) -> str:
        await asyncio.sleep(0)
        return "startup"


class Scanner:
    """A coordinator, its API behind a real server, and what they talk to."""

    def __init__(
        self,
        log: FakeLog | None = None,
        *,
        max_running: int = 4,
        max_queued: int = 100,
        stalled_after_s: float = 60,
    ) -> None:
        self.log = log or FakeLog()
        self.feeder = FakeFeeder()
        self.events = FakeEvents()
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        tracer, metrics = provider.get_tracer("test"), ScannerMetrics(self.registry)
        log_of_scans = cast("ScanLog", self.log)
        self.book = ScanBook(NAMES, registry.get)
        self.coordinator = Coordinator(
            book=self.book,
            log=log_of_scans,
            feeder=cast("WorkFeeder", self.feeder),
            limits=CoordinatorLimits(max_running, stalled_after_s),
            metrics=metrics,
            tracer=tracer,
        )
        ticks = count()
        self.acceptance = Acceptance(
            book=self.book,
            log=log_of_scans,
            events=self.events,
            startup_store=FakeStartup(),
            detectors={"icecube86": icecube86()},
            default_reco="dummy",
            find_reco=registry.get,
            max_queued=max_queued,
            clock_ns=lambda: NOW_UNIX_NS + next(ticks),
        )
        self.maps = Maps(log_of_scans, self.book, NAMES, capacity=2)
        self.service = ScanService(
            acceptance=self.acceptance,
            book=self.book,
            log=log_of_scans,
            maps=self.maps,
            metrics=metrics,
            tracer=tracer,
        )
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Scanner":
        await self.coordinator.replay()
        self._running = asyncio.create_task(self.coordinator.run(self.log, self._stop))
        self.server = grpc.aio.server()
        scan_pb2_grpc.add_ScanServiceServicer_to_server(self.service, self.server)  # type: ignore[no-untyped-call]
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub: Any = scan_pb2_grpc.ScanServiceStub(self.channel)  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close(None)
        await self.server.stop(None)
        self._stop.set()
        assert self._running is not None
        await self._running

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def work(self, scan_id: str) -> None:
        """Answer everything that is in the queue of a scan, once."""
        batches, self.feeder.offered[scan_id] = self.feeder.offered.get(scan_id, []), []
        for batch in batches:
            self.log.store(scan_id, LogEntry.RESULT, result_of(scan_id, batch))


def result_of(scan_id: str, batch: PixelBatch, *, rows: slice = slice(None), failure: str = "") -> bytes:
    """What a worker hands in: llh falls with the pixel's index, so that the last one of all is best."""
    pixel = batch.pixel[rows]
    nothing = np.full(len(pixel), np.nan)
    fits = PixelFits(
        llh=1.0 - pixel / (12.0 * batch.nside**2),
        position_m=batch.seeds[rows, 0, :3],
        time_ns=batch.seeds[rows, 0, 3],
        n_hits=np.full(len(pixel), 4),
        hypothesis=np.zeros(len(pixel), np.int64),
        rival_llh=nothing,
        energy_inside_gev=nothing,
        energy_total_gev=nothing,
    )
    taken = TakenRows(
        number=batch.number,
        first_row=rows.start or 0,
        nside=batch.nside,
        pixel=pixel,
        variation=batch.variation[rows],
        fits=None if failure else fits,
        failure=failure,
        started_unix_ns=NOW_UNIX_NS,
        worker_s=0.5,
    )
    return encode_result(PixelResult(scan_id, taken, "w1", (ModelVersion("pixel_fit", "2"),)))


def make_request(
    scan_id: str = "s1", *, priority: int = 0, created: int = 0, progression: str = "1:0", batch_size: int = 5
) -> ScanRequest:
    """As it is accepted."""
    return ScanRequest(
        scan_id=scan_id,
        event_id=EventId(7, 1),
        detector="icecube86",
        start_unix_ns=0,
        n_pulses=5,
        options=ScanOptions(reco="dummy", progression=Progression.parse(progression), priority=priority),
        frame=Frame.DETECTOR,
        seed=Seed((0.0, 0.0, 0.0), 0.0),
        offsets_m=((0.0, 0.0, 0.0),),
        rotates_offsets=False,
        adds_fallback_seed=False,
        levels_compare=True,
        batch_size=batch_size,
        created_unix_ns=NOW_UNIX_NS + created,
        startup_sha256="startup",
    )


def accepted(log: FakeLog, request: ScanRequest, headers: Mapping[str, str] | None = None) -> None:
    """Put the first entry of a scan into a log."""
    log.store(request.scan_id, LogEntry.ACCEPTED, encode_accepted(request), headers)


def final(record: ScanRecord) -> scan_pb2.Scan:
    """What the log says of the end."""
    assert record.final is not None
    return record.final
