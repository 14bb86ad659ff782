"""All scans as their logs tell them: a fold over the entries, without any effect on the outside."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from icestream.errors import UndecodableMessage, UnknownReco, UnknownScan
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames
from icestream.runtime.jetstream.stored import StoredMessage
from icestream.runtime.tracing import TRACEPARENT
from icestream.scan_codec import decode_accepted, decode_result
from icestream.scans.pixels import PixelBatch
from icestream.scans.recos.reco import Reco
from icestream.scans.request import ScanRequest
from icestream.scans.state import Outcome
from icestream.v1 import scan_pb2
from services.scanner.coordinator.log import REQUEST_SHA256
from services.scanner.coordinator.record import ScanRecord


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What one entry did."""

    kind: LogEntry
    record: ScanRecord | None
    """None where nobody has heard of the scan: the beginning of its log is gone."""
    number: int = 0
    """Of a result, the batch that it is of."""
    outcome: Outcome = field(default_factory=Outcome)
    batches: list[PixelBatch] = field(default_factory=list)
    """What the workers are to do now in addition."""


class ScanBook:
    """Every scan of which the log still has the first entry.

    Attributes:
        find_reco: The reco of a name.
        records: By the scan's id, in the order in which they were accepted.
    """

    def __init__(self, names: ScanNames, find_reco: Callable[[str], Reco]) -> None:
        self.records: dict[str, ScanRecord] = {}
        self._active: dict[str, ScanRecord] = {}
        self._names = names
        self.find_reco = find_reco
        self._grown = asyncio.Event()

    def get(self, scan_id: str) -> ScanRecord:
        """The scan of this id.

        Raises:
            UnknownScan: There is none.
        """
        if scan_id not in self.records:
            raise UnknownScan(scan_id)
        return self.records[scan_id]

    def active(self) -> list[ScanRecord]:
        """Those whose end is not in the log."""
        return list(self._active.values())

    async def known(self, scan_id: str) -> ScanRecord:
        """The scan of this id, once its first entry was read."""
        while scan_id not in self.records:
            await self._grown.wait()
        return self.records[scan_id]

    def fold(self, message: StoredMessage) -> Change | None:
        """Take the next entry; those of one scan must come in the order of the log.

        Returns:
            None where the entry is known already.

        Raises:
            UndecodableMessage: It is no entry.
            InvalidScan: An entry `accepted` that breaks a rule.
        """
        try:
            scan_id, kind = self._names.parse_log(message.subject)
        except ValueError as error:
            raise UndecodableMessage(f"{message.subject} is no subject of a log") from error
        if kind is LogEntry.ACCEPTED:
            return self._accept(message)
        record = self.records.get(scan_id)
        if kind is LogEntry.RESULT:
            return self._take(record, message)
        if record is None or record.final is not None:
            return None
        if kind is LogEntry.CANCELLED:
            record.cancel(sequence=message.sequence, stored_unix_ns=message.stored_unix_ns)
        else:
            record.finish(_final(message), sequence=message.sequence)
            del self._active[scan_id]
        return Change(kind, record)

    def _accept(self, message: StoredMessage) -> Change | None:
        request = decode_accepted(message.payload)
        if request.scan_id in self.records:
            return None
        record = self.records[request.scan_id] = self._active[request.scan_id] = self._fresh(
            request, message.headers
        )
        record.revision = message.sequence
        self._grown.set()
        self._grown = asyncio.Event()
        return Change(LogEntry.ACCEPTED, record)

    def _fresh(self, request: ScanRequest, headers: dict[str, str]) -> ScanRecord:
        """A scan of which nothing but the first entry was read."""
        try:
            hypotheses = self.find_reco(request.options.reco).hypotheses
        except UnknownReco:
            # It was installed when the scan was accepted; the map is there without it.
            hypotheses = ()
        return ScanRecord(
            request,
            hypotheses=hypotheses,
            request_sha256=headers.get(REQUEST_SHA256, ""),
            traceparent=headers.get(TRACEPARENT),
        )

    def _take(self, record: ScanRecord | None, message: StoredMessage) -> Change:
        if record is None or record.final is not None:
            rows = decode_result(message.payload).rows
            outcome = Outcome(n_unknown=len(rows)) if record is None else Outcome(n_late=len(rows))
            return Change(LogEntry.RESULT, record, rows.number, outcome)
        # Another scanner, or we before a restart, began it.
        batches = [] if record.is_begun or record.state.is_ended else record.begin()
        number, outcome = record.take(
            message.payload, sequence=message.sequence, stored_unix_ns=message.stored_unix_ns
        )
        return Change(LogEntry.RESULT, record, number, outcome, batches + outcome.batches)


def _final(message: StoredMessage) -> scan_pb2.Scan:
    ended = scan_pb2.ScanEnded()
    try:
        ended.ParseFromString(message.payload)
    except DecodeError as error:
        raise UndecodableMessage(f"entry {message.sequence} of the log is no ScanEnded: {error}") from error
    return ended.scan
