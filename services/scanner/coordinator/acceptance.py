"""Accepting a scan: everything that could be wrong is found here, before anybody works on it."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

from icestream.errors import (
    BrokerUnavailable,
    IceStreamError,
    InvalidEvent,
    InvalidScan,
    ModelFailed,
    TooManyRequests,
    Violation,
)
from icestream.physics.detector import Detector
from icestream.physics.events import Event, check_event
from icestream.runtime.jetstream.scan_topology import LogEntry
from icestream.runtime.tracing import TRACEPARENT
from icestream.scan_acceptance import accepted_request, checked_options
from icestream.scan_codec import encode_accepted, encode_startup
from icestream.scans.recos.reco import PreparedEvent, Reco
from icestream.scans.request import ALERT_PRIORITY, ScanRequest
from icestream.v1 import event_pb2, scan_pb2
from services.scanner.coordinator.book import ScanBook
from services.scanner.coordinator.log import REQUEST_SHA256, ScanLog
from services.scanner.coordinator.record import ScanRecord

MAX_REQUEST_ID = 256
_READ_BACK_S = 10.0
_RETRY_AFTER_S = 30.0


class Events(Protocol):
    """Where events come from; as `StoredEvents`."""

    async def read(self, message: event_pb2.Event) -> Event:
        """The event of a message, with its pulses."""
        ...

    async def find(self, name: str) -> Event:
        """The event of a name."""
        ...


class StartupStore(Protocol):
    """Where workers find events and detectors."""

    async def put(self, payload: bytes) -> str:
        """Store the bytes, and return the name to get them by."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """A scan, and whether it is a new one."""

    record: ScanRecord
    is_new: bool


class Acceptance:
    """Turns requests into scans."""

    def __init__(
        self,
        *,
        book: ScanBook,
        log: ScanLog,
        events: Events,
        startup_store: StartupStore,
        detectors: Mapping[str, Detector],
        default_reco: str,
        find_reco: Callable[[str], Reco],
        max_queued: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._book = book
        self._log = log
        self._events = events
        self._startup_store = startup_store
        self._detectors = detectors
        self._default_reco = default_reco
        self._find_reco = find_reco
        self._max_queued = max_queued
        self._clock_ns = clock_ns
        # Each lives for as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def accept(self, request: scan_pb2.StartScanRequest, traceparent: str | None) -> Accepted:
        """Accept a scan, or find the one that this request id has started before.

        Raises:
            InvalidScan: Options break a rule, or the request id is of another request.
            InvalidEvent: The event breaks a rule, or is nothing for the reco.
            UnknownReco: There is no such reco.
            UnknownEvent: There is no such event.
            TooManyRequests: Too many scans wait.
            ModelFailed: The reco fails for this event.
            BrokerUnavailable: The broker does not answer.
        """
        sha256 = _sha256_of(request)
        if not request.request_id:
            return await self._accept_new(self._new_id(), request, sha256, traceparent)
        if len(request.request_id) > MAX_REQUEST_ID:
            raise InvalidScan(
                f"the request id is longer than {MAX_REQUEST_ID} characters", field="request_id"
            )
        scan_id = _id_of(request.request_id)
        lock = self._locks.setdefault(scan_id, asyncio.Lock())
        async with lock:
            if scan_id in self._book.records:
                return _known(self._book.records[scan_id], sha256, request.request_id)
            return await self._accept_new(scan_id, request, sha256, traceparent)

    async def _accept_new(
        self, scan_id: str, message: scan_pb2.StartScanRequest, sha256: str, traceparent: str | None
    ) -> Accepted:
        self._refuse_overload(message.options.priority)
        request = await self._prepare(scan_id, message)
        headers = {REQUEST_SHA256: sha256} | ({TRACEPARENT: traceparent} if traceparent else {})
        ack = await self._log.append(scan_id, LogEntry.ACCEPTED, encode_accepted(request), headers)
        try:
            async with asyncio.timeout(_READ_BACK_S):
                record = await self._book.known(scan_id)
        except TimeoutError as error:
            raise BrokerUnavailable(f"scan {scan_id} is accepted, but its log cannot be read") from error
        # Another scanner may have been faster.
        return (
            _known(record, sha256, message.request_id) if ack.is_duplicate else Accepted(record, is_new=True)
        )

    async def _prepare(self, scan_id: str, message: scan_pb2.StartScanRequest) -> ScanRequest:
        event = await self._event(message)
        detector = self._detector(event)
        check_event(event, detector.n_sensors)
        options, reco, frame = checked_options(
            message.options,
            default_reco=self._default_reco,
            find_reco=self._find_reco,
            start_unix_ns=event.start_unix_ns,
        )
        prepared = await _prepared(reco, event, detector)
        return accepted_request(
            scan_id,
            event,
            options,
            reco,
            prepared,
            frame,
            created_unix_ns=self._clock_ns(),
            startup_sha256=await self._startup_store.put(encode_startup(event, detector)),
        )

    async def _event(self, message: scan_pb2.StartScanRequest) -> Event:
        match message.WhichOneof("event_source"):
            case "event":
                return await self._events.read(message.event)
            case "event_name":
                return await self._events.find(message.event_name)
            case _:
                raise InvalidScan("a scan is of an event; set event or event_name", field="event")

    def _detector(self, event: Event) -> Detector:
        if event.detector not in self._detectors:
            known = ", ".join(sorted(self._detectors))
            problem = f"detector {event.detector!r} is not known here; known: {known}"
            raise InvalidEvent(str(event.id), [Violation("detector", problem)])
        return self._detectors[event.detector]

    def _refuse_overload(self, priority: int) -> None:
        n_waiting = sum(not record.is_begun for record in self._book.active())
        if priority < ALERT_PRIORITY and n_waiting >= self._max_queued:
            raise TooManyRequests(f"{n_waiting} scans wait; come back later", retry_after_s=_RETRY_AFTER_S)

    def _new_id(self) -> str:
        return f"{self._clock_ns() // 1_000_000:x}x{secrets.token_hex(4)}"


async def _prepared(reco: Reco, event: Event, detector: Detector) -> PreparedEvent:
    try:
        # It may compute for a while, and other calls must go on.
        return await asyncio.to_thread(reco.prepare, event, detector)
    except IceStreamError:
        raise
    except Exception as error:
        # Somebody else's code.
        raise ModelFailed(f"reco {reco.name} cannot prepare event {event.id}: {error!r}") from error


def _known(record: ScanRecord, sha256: str, request_id: str) -> Accepted:
    if record.request_sha256 != sha256:
        raise InvalidScan(
            f"request id {request_id!r} was used for another request, which became scan {record.scan_id}",
            field="request_id",
        )
    return Accepted(record, is_new=False)


def _id_of(request_id: str) -> str:
    return f"r{hashlib.sha256(request_id.encode()).hexdigest()[:24]}"


def _sha256_of(request: scan_pb2.StartScanRequest) -> str:
    """Of everything but the request id."""
    body = scan_pb2.StartScanRequest()
    body.CopyFrom(request)
    body.request_id = ""
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()
