"""A scan service that says what it is told to, on a real port, in threads of the test."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from icestream.scan_codec import options_to_message, skymap_to_message
from icestream.scans.progression import Progression
from icestream.scans.request import ScanOptions
from icestream.scans.skymap import Skymap
from icestream.v1 import scan_pb2, scan_pb2_grpc
from tests.unit.scans.scan_cases import Fit, at_target, make_request, run

SCAN_ID = "20261121T070000-0a1b2c3d"
BEST = scan_pb2.BestFit(
    horizontal=scan_pb2.Horizontal(azimuth_rad=1.0, zenith_rad=2.0),
    equatorial=scan_pb2.Equatorial(ra_rad=0.5, dec_rad=-0.25),
    llh=12.5,
    nside=4,
    pixel=17,
    hypothesis="track",
    evidence=3.25,
)


def make_scan(
    state: scan_pb2.ScanState = scan_pb2.SCAN_STATE_RUNNING, *, revision: int = 1, n_done: int = 6
) -> scan_pb2.Scan:
    """A scan of two levels, in the middle of the second one."""
    options = options_to_message(ScanOptions("fake", Progression.parse("2:0,4:12")), make_request().frame)
    options.classifiers["campaign"] = "[spring]"
    return scan_pb2.Scan(
        scan_id=SCAN_ID,
        run_id=1,
        event_id=2,
        detector="toy",
        options=options,
        state=state,
        created_unix_ns=1_700_000_000_000_000_000,
        revision=revision,
        best=BEST,
        progress=scan_pb2.ScanProgress(
            levels=[
                scan_pb2.LevelProgress(nside=2, n_pixels_planned=48, n_pixels_done=48, n_pixels_expected=48),
                scan_pb2.LevelProgress(
                    nside=4, n_pixels_planned=48, n_pixels_done=n_done, n_pixels_expected=48, mean_fit_s=0.025
                ),
            ],
            n_fits_sent=96,
            n_fits_done=48 + n_done,
            fits_per_s=40.0,
            eta_s=1.0,
            elapsed_s=75.0,
            n_duplicates=3,
        ),
    )


def make_skymap(fit: Fit = at_target) -> Skymap:
    """The map of such a scan when it has ended."""
    state, _, _ = run(make_request("2:0,4:12"), fit)
    return state.skymap(hypotheses=("track",))


class FakeScanService(scan_pb2_grpc.ScanServiceServicer):
    """Answers with what lies in its attributes.

    Attributes:
        changes: What each call of WatchScan sends, call by call; a status ends the call with it.
        refusal: Ends every unary call while it is set.
        requests: Every request, in order.
        on_watch: Called after the last change of a call, which then stays open.
    """

    def __init__(self) -> None:
        self.is_new = True
        self.scans = [make_scan()]
        self.changes: list[list[scan_pb2.Scan | grpc.StatusCode]] = [
            [make_scan(scan_pb2.SCAN_STATE_COMPLETE)]
        ]
        self.refusal: status_pb2.Status | None = None
        self.skymap = make_skymap()
        self.requests: list[Any] = []
        self.on_watch: Callable[[], object] | None = None
        self._is_over = threading.Event()

    def of(self, kind: type[Any]) -> list[Any]:
        """The requests of one kind."""
        return [request for request in self.requests if isinstance(request, kind)]

    def stop(self) -> None:
        """End the calls that stay open."""
        self._is_over.set()

    def StartScan(self, request: Any, context: Any) -> scan_pb2.StartScanResponse:  # noqa: N802
        self._receive(request, context)
        return scan_pb2.StartScanResponse(scan=self.scans[0], is_new=self.is_new)

    def GetScan(self, request: Any, context: Any) -> scan_pb2.GetScanResponse:  # noqa: N802
        self._receive(request, context)
        return scan_pb2.GetScanResponse(scan=self.scans[0])

    def CancelScan(self, request: Any, context: Any) -> scan_pb2.CancelScanResponse:  # noqa: N802
        self._receive(request, context)
        return scan_pb2.CancelScanResponse(scan=make_scan(scan_pb2.SCAN_STATE_CANCELLED))

    def ListScans(self, request: Any, context: Any) -> scan_pb2.ListScansResponse:  # noqa: N802
        self._receive(request, context)
        first = int(request.page_token or 0)
        after = first + request.page_size
        token = str(after) if after < len(self.scans) else ""
        return scan_pb2.ListScansResponse(scans=self.scans[first:after], next_page_token=token)

    def GetSkymap(self, request: Any, context: Any) -> scan_pb2.GetSkymapResponse:  # noqa: N802
        self._receive(request, context)
        return scan_pb2.GetSkymapResponse(skymap=skymap_to_message(self.skymap, make_scan()))

    def WatchScan(self, request: Any, context: Any) -> Iterator[scan_pb2.WatchScanResponse]:  # noqa: N802
        self.requests.append(request)
        for change in self.changes.pop(0):
            if isinstance(change, scan_pb2.Scan):
                yield scan_pb2.WatchScanResponse(scan=change)
            else:
                context.abort(change, "as it was told to")
        if self.on_watch is not None:
            self.on_watch()
            self._is_over.wait(30)

    def _receive(self, request: Any, context: Any) -> None:
        copy = type(request)()
        copy.CopyFrom(request)
        self.requests.append(copy)
        if self.refusal is not None:
            context.abort_with_status(rpc_status.to_status(self.refusal))


def refusal(code: int, text: str, violations: Mapping[str, str] | None = None) -> status_pb2.Status:
    """A status as the service makes them."""
    status = status_pb2.Status(code=code, message=text)
    if violations:
        detail = any_pb2.Any()
        detail.Pack(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=problem)
                    for field, problem in violations.items()
                ]
            )
        )
        status.details.append(detail)
    return status


@contextmanager
def served(service: FakeScanService) -> Iterator[str]:
    """Serve it; the address."""
    server = grpc.server(ThreadPoolExecutor(4))
    scan_pb2_grpc.add_ScanServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        service.stop()
        server.stop(None).wait()
