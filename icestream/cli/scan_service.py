"""Asks the scan service, and says what its statuses mean to somebody at a terminal."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import grpc
import typer
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from icestream.cli.access import Access
from icestream.cli.target import endpoints_in
from icestream.errors import (
    DeadlineExceeded,
    IceStreamError,
    InvalidInput,
    InvalidScan,
    Misconfigured,
    TooManyRequests,
    Unavailable,
    UnknownScan,
)
from icestream.runtime.endpoints import LOOPBACK
from icestream.v1 import scan_pb2, scan_pb2_grpc

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="host:port of a scan service's gRPC; by default the local stack's.",
        show_default=False,
    ),
]

ENDED = (scan_pb2.SCAN_STATE_COMPLETE, scan_pb2.SCAN_STATE_INCOMPLETE, scan_pb2.SCAN_STATE_CANCELLED)
"""States that a scan stays in."""

_CALL_TIMEOUT_S = 60.0
_LONGEST_ABSENCE_S = 60.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_PAGE = 50
_CHANNEL_OPTIONS = [
    # A map of the whole sky in fine pixels is far above gRPC's 4 MB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def scanner_address(directory: Path, given: str | None) -> str:
    """The address that was given, or the local stack's."""
    return given or f"{LOOPBACK}:{endpoints_in(directory).scanner_grpc}"


class ScanService:
    """A scan service; an async context manager that owns the connection.

    All calls raise what the status means: `InvalidScan`, `UnknownScan` or `InvalidInput` for what can never
    work, `Unavailable`, `TooManyRequests` or `DeadlineExceeded` for what may work later.
    """

    def __init__(self, address: str, access: Access) -> None:
        self._address = address
        self._access = access

    async def __aenter__(self) -> Self:
        self._channel = self._access.channel(self._address, _CHANNEL_OPTIONS)
        self._stub = scan_pb2_grpc.ScanServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close(None)

    async def start(self, request: scan_pb2.StartScanRequest) -> scan_pb2.StartScanResponse:
        """Start a scan."""
        try:
            response: scan_pb2.StartScanResponse = await self._stub.StartScan(
                request, timeout=_CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        return response

    async def get(self, scan_id: str) -> scan_pb2.Scan:
        """How a scan is doing."""
        request = scan_pb2.GetScanRequest(scan_id=scan_id)
        try:
            response = await self._stub.GetScan(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, scan_id) from error
        scan: scan_pb2.Scan = response.scan
        return scan

    async def cancel(self, scan_id: str) -> scan_pb2.Scan:
        """End a scan early."""
        request = scan_pb2.CancelScanRequest(scan_id=scan_id)
        try:
            response = await self._stub.CancelScan(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, scan_id) from error
        scan: scan_pb2.Scan = response.scan
        return scan

    async def skymap(self, scan_id: str) -> scan_pb2.Skymap:
        """The map as far as it is there."""
        request = scan_pb2.GetSkymapRequest(scan_id=scan_id)
        try:
            response = await self._stub.GetSkymap(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, scan_id) from error
        skymap: scan_pb2.Skymap = response.skymap
        return skymap

    async def scans(self, request: scan_pb2.ListScansRequest, limit: int) -> list[scan_pb2.Scan]:
        """The newest scans that a request chooses, page by page."""
        found: list[scan_pb2.Scan] = []
        while len(found) < limit:
            request.page_size = min(limit - len(found), _PAGE)
            try:
                response = await self._stub.ListScans(request, timeout=_CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise self._translated(error) from error
            found += response.scans
            request.page_token = response.next_page_token
            if not request.page_token:
                break
        return found[:limit]

    async def watch(
        self, scan: scan_pb2.Scan, on_break: Callable[[], object], *, patience_s: float = _LONGEST_ABSENCE_S
    ) -> AsyncGenerator[scan_pb2.Scan, None]:
        """The changes of a scan from the given one on, until it ends; goes on where the connection breaks.

        Args:
            scan: As it was last seen.
            on_break: Told when the service goes away, once each time.
            patience_s: For how long it may be away.
        """
        revision, away_since_s, pause_s = scan.revision, 0.0, _FIRST_PAUSE_S
        while scan.state not in ENDED:
            call = self._stub.WatchScan(
                scan_pb2.WatchScanRequest(scan_id=scan.scan_id, after_revision=revision)
            )
            failure: IceStreamError | None = None
            try:
                async for change in call:
                    away_since_s, pause_s = 0.0, _FIRST_PAUSE_S
                    scan, revision = change.scan, change.scan.revision
                    yield scan
                    if scan.state in ENDED:
                        return
            except grpc.aio.AioRpcError as error:
                failure = self._translated(error, scan.scan_id)
                if not failure.retryable:
                    raise failure from error
            finally:
                call.cancel()
            # A service that stops in peace ends the stream without an error.
            if not away_since_s:
                away_since_s = time.monotonic()
                on_break()
            elif time.monotonic() - away_since_s > patience_s:
                raise failure or Unavailable(f"{self._address} ends every watch at once")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _translated(self, error: grpc.aio.AioRpcError, scan_id: str = "") -> IceStreamError:
        code, problem = error.code(), error.details() or error.code().name
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        if (refusal := self._access.refusal(error, self._address)) is not None:
            return refusal
        if code is grpc.StatusCode.UNAVAILABLE and status is None:
            # The service itself gives the reason, and when to try again.
            return Unavailable(
                f"no scan service answers at {self._address} ({problem}); start one with `icestream up`, "
                "or scan without any: `icestream scan --local`"
            )
        if code is grpc.StatusCode.NOT_FOUND and scan_id:
            return UnknownScan(scan_id)
        make = _MEANINGS.get(code)
        if make is None:
            return Unavailable(f"the scan service failed: {code.name}: {problem}")
        return make("; ".join([problem, *_violations(status, problem)]))


_MEANINGS: Mapping[grpc.StatusCode, Callable[[str], IceStreamError]] = {
    grpc.StatusCode.NOT_FOUND: InvalidInput,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidScan,
    grpc.StatusCode.FAILED_PRECONDITION: Misconfigured,
    grpc.StatusCode.UNIMPLEMENTED: lambda problem: Misconfigured(f"that is no scan service: {problem}"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: lambda problem: TooManyRequests(
        f"the scan service is busy: {problem}"
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: lambda problem: DeadlineExceeded(
        f"the scan service did not answer in time: {problem}"
    ),
    grpc.StatusCode.UNAVAILABLE: lambda problem: Unavailable(f"the scan service is not ready: {problem}"),
}
"""All others are failures of the service that may pass."""


def _violations(status: object, problem: str) -> list[str]:
    """The fields that break rules, as far as the text does not say so."""
    found = []
    for detail in getattr(status, "details", ()):
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            found += [
                f"{violation.field}: {violation.description}"
                for violation in bad_request.field_violations
                if violation.description not in problem
            ]
    return found
