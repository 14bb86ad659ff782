"""Maps on request: of scans that run as far as they are, of ended ones from their logs."""

from collections import OrderedDict

from icestream.errors import UnknownScan
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames
from icestream.scan_codec import skymap_to_message
from icestream.v1 import scan_pb2
from services.scanner.coordinator.book import ScanBook
from services.scanner.coordinator.log import ScanLog
from services.scanner.coordinator.record import ScanRecord


class Maps:
    """Makes maps, and keeps those of ended scans for a while."""

    def __init__(self, log: ScanLog, book: ScanBook, names: ScanNames, *, capacity: int) -> None:
        self._log = log
        self._book = book
        self._names = names
        self._capacity = capacity
        self._ended: OrderedDict[str, scan_pb2.Skymap] = OrderedDict()

    async def get(self, record: ScanRecord, now_unix_ns: int) -> scan_pb2.Skymap:
        """The map as far as it is there.

        Raises:
            UnknownScan: Its log is gone.
            BrokerUnavailable: The broker does not answer.
        """
        if record.final is None:
            return partial_map(record, now_unix_ns)
        if record.scan_id not in self._ended:
            self._ended[record.scan_id] = await self._from_log(record, record.final)
            if len(self._ended) > self._capacity:
                self._ended.popitem(last=False)
        self._ended.move_to_end(record.scan_id)
        return self._ended[record.scan_id]

    async def _from_log(self, record: ScanRecord, final: scan_pb2.Scan) -> scan_pb2.Skymap:
        book = ScanBook(self._names, self._book.find_reco)
        async for message in self._log.of(record.scan_id, until=final.revision):
            _, kind = self._names.parse_log(message.subject)
            if kind is not LogEntry.ENDED:
                book.fold(message)
        if record.scan_id not in book.records:
            raise UnknownScan(record.scan_id)
        return skymap_to_message(book.records[record.scan_id].skymap(), final)


def partial_map(record: ScanRecord, now_unix_ns: int) -> scan_pb2.Skymap:
    """The map of a scan that has not ended."""
    return skymap_to_message(record.skymap(), record.to_message(now_unix_ns))
