"""The gRPC face of the scanner."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from opentelemetry.trace import Span, SpanKind, Tracer

from icestream.errors import IceStreamError, InvalidScan
from icestream.runtime.grpc_status import Context, abort, traceparent_of_call
from icestream.runtime.jetstream.scan_topology import LogEntry
from icestream.runtime.tracing import URGENT, end_span, parent_context, traceparent_of
from icestream.scans.request import ALERT_PRIORITY
from icestream.v1 import scan_pb2, scan_pb2_grpc
from services.scanner.coordinator.acceptance import Acceptance
from services.scanner.coordinator.book import ScanBook
from services.scanner.coordinator.listing import page_of
from services.scanner.coordinator.log import ScanLog
from services.scanner.coordinator.maps import Maps
from services.scanner.coordinator.metrics import ScannerMetrics
from services.scanner.coordinator.record import ScanRecord

_SERVICE = "icestream.v1.ScanService"
_UPDATE_S = 0.1
_CANCELLED_WITHIN_S = 5.0


class ScanService(scan_pb2_grpc.ScanServiceServicer):
    """See protos/icestream/v1/scan.proto."""

    def __init__(
        self,
        *,
        acceptance: Acceptance,
        book: ScanBook,
        log: ScanLog,
        maps: Maps,
        metrics: ScannerMetrics,
        tracer: Tracer,
    ) -> None:
        self._acceptance = acceptance
        self._book = book
        self._log = log
        self._maps = maps
        self._metrics = metrics
        self._tracer = tracer

    async def StartScan(  # noqa: N802 - the name of the rpc
        self, request: scan_pb2.StartScanRequest, context: Context
    ) -> scan_pb2.StartScanResponse:
        """Accept a scan."""
        is_urgent = request.options.priority >= ALERT_PRIORITY
        try:
            with self._span("StartScan", context, is_urgent=is_urgent) as span:
                traceparent = traceparent_of(span) if span.is_recording() else None
                accepted = await self._acceptance.accept(request, traceparent)
        except IceStreamError as error:
            await self._refuse("StartScan", context, error)
        return scan_pb2.StartScanResponse(scan=_now(accepted.record), is_new=accepted.is_new)

    async def GetScan(  # noqa: N802
        self, request: scan_pb2.GetScanRequest, context: Context
    ) -> scan_pb2.GetScanResponse:
        """Tell how a scan is doing."""
        return scan_pb2.GetScanResponse(scan=_now(await self._find("GetScan", request.scan_id, context)))

    async def ListScans(  # noqa: N802
        self, request: scan_pb2.ListScansRequest, context: Context
    ) -> scan_pb2.ListScansResponse:
        """List scans, the newest first."""
        try:
            records, token = page_of(self._book.records.values(), request)
        except InvalidScan as error:
            await self._refuse("ListScans", context, error)
        return scan_pb2.ListScansResponse(scans=[_now(record) for record in records], next_page_token=token)

    async def WatchScan(  # noqa: N802
        self, request: scan_pb2.WatchScanRequest, context: Context
    ) -> AsyncIterator[scan_pb2.WatchScanResponse]:
        """Send a scan now and at each change; changes that follow each other closely are sent as one."""
        record = await self._find("WatchScan", request.scan_id, context)
        n_sent = record.n_changes if record.revision <= request.after_revision else -1
        while True:
            if n_sent != record.n_changes:
                n_sent = record.n_changes
                yield await self._update(record, with_skymap=request.with_skymap, context=context)
                await _ended(record, within_s=_UPDATE_S)
            elif record.final is not None:
                return
            else:
                await record.changed()

    async def GetSkymap(  # noqa: N802
        self, request: scan_pb2.GetSkymapRequest, context: Context
    ) -> scan_pb2.GetSkymapResponse:
        """Return the map as far as it is there."""
        record = await self._find("GetSkymap", request.scan_id, context)
        try:
            with self._span("GetSkymap", context):
                skymap = await self._maps.get(record, time.time_ns())
        except IceStreamError as error:
            await self._refuse("GetSkymap", context, error)
        return scan_pb2.GetSkymapResponse(skymap=skymap)

    async def CancelScan(  # noqa: N802
        self, request: scan_pb2.CancelScanRequest, context: Context
    ) -> scan_pb2.CancelScanResponse:
        """End a scan early."""
        record = await self._find("CancelScan", request.scan_id, context)
        try:
            with self._span("CancelScan", context):
                await self._cancel(record)
        except IceStreamError as error:
            await self._refuse("CancelScan", context, error)
        return scan_pb2.CancelScanResponse(scan=_now(record))

    async def _cancel(self, record: ScanRecord) -> None:
        if record.final is not None:
            return
        await self._log.append(record.scan_id, LogEntry.CANCELLED, b"")
        # Where it takes longer it will happen all the same: it is in the log.
        await _ended(record, within_s=_CANCELLED_WITHIN_S)

    async def _update(
        self, record: ScanRecord, *, with_skymap: bool, context: Context
    ) -> scan_pb2.WatchScanResponse:
        now_unix_ns = time.time_ns()
        response = scan_pb2.WatchScanResponse(scan=record.to_message(now_unix_ns))
        if with_skymap:
            try:
                response.skymap.CopyFrom(await self._maps.get(record, now_unix_ns))
            except IceStreamError as error:
                await self._refuse("WatchScan", context, error)
        return response

    async def _find(self, rpc: str, scan_id: str, context: Context) -> ScanRecord:
        try:
            return self._book.get(scan_id)
        except IceStreamError as error:
            await self._refuse(rpc, context, error)

    async def _refuse(self, rpc: str, context: Context, error: IceStreamError) -> NoReturn:
        self._metrics.failures.labels(rpc, error.reason).inc()
        await abort(context, error)

    @contextmanager
    def _span(self, rpc: str, context: Context, *, is_urgent: bool = False) -> Iterator[Span]:
        span = self._tracer.start_span(
            f"{_SERVICE}/{rpc}",
            context=parent_context(traceparent_of_call(context)),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": f"{_SERVICE}/{rpc}",
                URGENT: is_urgent,
            },
        )
        try:
            yield span
        except BaseException as error:
            end_span(span, error)
            raise
        end_span(span)


async def _ended(record: ScanRecord, *, within_s: float) -> None:
    """Return when the scan has ended, at the latest after this long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while record.final is None:
                await record.changed()


def _now(record: ScanRecord) -> scan_pb2.Scan:
    return record.to_message(time.time_ns())
