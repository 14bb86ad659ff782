"""Starts a scanner: read `serve` from top to bottom to see what it is made of."""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial

import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from icestream.physics import celestial
from icestream.readers.geometry import detectors_with
from icestream.runtime.grpc_certificates import watched_certificate
from icestream.runtime.grpc_server import serve_grpc
from icestream.runtime.grpc_tokens import token_gate
from icestream.runtime.jetstream.follower import StreamFollower
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.scan_topology import (
    STARTUP_MAX_AGE_S,
    Lane,
    ScanNames,
    scan_log_stream,
    scan_work_stream,
)
from icestream.runtime.jetstream.topology import events_stream, reconcile_stream
from icestream.runtime.lifecycle import run_service
from icestream.runtime.logs import configure_logs
from icestream.runtime.service import ServiceFrame, service_frame
from icestream.scans.recos import registry
from icestream.v1 import scan_pb2, scan_pb2_grpc
from services.scanner.coordinator.acceptance import Acceptance
from services.scanner.coordinator.api import ScanService
from services.scanner.coordinator.book import ScanBook
from services.scanner.coordinator.coordinator import Coordinator, CoordinatorLimits
from services.scanner.coordinator.events import StoredEvents
from services.scanner.coordinator.log import ScanLog
from services.scanner.coordinator.maps import Maps
from services.scanner.coordinator.metrics import ScannerMetrics
from services.scanner.coordinator.settings import ScannerSettings
from services.scanner.coordinator.work import WorkFeeder

SERVICE = "scanner"
_LOG_DEADLINE_S = 10.0
_GRACE_S = 1.0

_log = structlog.get_logger()


def main() -> None:
    """Run a scanner until it is told to stop."""
    settings = ScannerSettings.load(sys.argv[1:])
    configure_logs(
        f"icestream-{SERVICE}", settings.instance, level=settings.log_level, log_format=settings.log_format
    )
    run_service(partial(serve, settings))


async def serve(settings: ScannerSettings, stop: asyncio.Event) -> None:
    """Put the scanner together, work until `stop` is set, and take it apart in reverse order."""
    # Before anything else: a reco that cannot be loaded is to be noticed now, not with its first scan.
    recos, detectors = registry.available(), detectors_with(settings.geometry, settings.detector)
    registry.get(settings.default_reco)
    _warm_up()
    async with AsyncExitStack() as stack:
        frame = await stack.enter_async_context(
            service_frame(SERVICE, settings, trace_ratio=settings.trace_ratio, conditions=["log"])
        )
        metrics, names = ScannerMetrics(frame.registry), ScanNames(frame.names)
        await _reconcile(frame, names)
        pulse_objects = await PulseObjects.open(frame.connection, frame.names.pulses_bucket)
        startup_store = await PulseObjects.open(
            frame.connection, names.startup_bucket, max_age_s=STARTUP_MAX_AGE_S
        )

        publisher = await stack.enter_async_context(
            WindowedPublisher(frame.connection, deadline_s=_LOG_DEADLINE_S)
        )
        log, book = ScanLog(frame.connection, publisher, names), ScanBook(names, registry.get)
        publishers = {
            lane: await stack.enter_async_context(WindowedPublisher(frame.connection)) for lane in Lane
        }
        feeder = await stack.enter_async_context(
            WorkFeeder(frame.connection, publishers, names, batches_queued=settings.batches_queued)
        )
        coordinator = Coordinator(
            book=book,
            log=log,
            feeder=feeder,
            limits=CoordinatorLimits(settings.max_running, settings.stalled_after_s),
            metrics=metrics,
            tracer=frame.tracer,
        )
        last_sequence = await coordinator.replay()
        entries = await stack.enter_async_context(
            StreamFollower(
                frame.connection,
                stream=names.log_stream,
                subject=names.all_logs,
                after_sequence=last_sequence,
            )
        )
        service = ScanService(
            acceptance=Acceptance(
                book=book,
                log=log,
                events=StoredEvents(frame.connection, frame.names, pulse_objects),
                startup_store=startup_store,
                detectors=detectors,
                default_reco=settings.default_reco,
                find_reco=registry.get,
                max_queued=settings.max_queued,
            ),
            book=book,
            log=log,
            maps=Maps(log, book, names, capacity=settings.maps_in_memory),
            metrics=metrics,
            tracer=frame.tracer,
        )
        grpc_port = await stack.enter_async_context(_serve_grpc(settings, service, frame.registry))
        frame.health.hold("log")
        _log.info("scanner is up", grpc_port=grpc_port, recos=recos)
        await coordinator.run(entries, stop)
        _log.info("scanner stops: the log has everything")


def _warm_up() -> None:
    """Read the tables of the Earth's rotation, which takes a second, before the first scan needs them."""
    celestial.to_detector(np.array([[0.0, 0.0, 1.0]]), 1_700_000_000 * 10**9)


async def _reconcile(frame: ServiceFrame, names: ScanNames) -> None:
    for stream in (scan_log_stream(names), scan_work_stream(names), events_stream(frame.names)):
        await reconcile_stream(frame.connection, stream)


def _serve_grpc(
    settings: ScannerSettings, service: ScanService, registry: CollectorRegistry
) -> AbstractAsyncContextManager[int]:
    return serve_grpc(
        scan_pb2.DESCRIPTOR.services_by_name["ScanService"],
        partial(scan_pb2_grpc.add_ScanServiceServicer_to_server, service),
        host=settings.grpc_host,
        port=settings.grpc_port,
        max_message_bytes=settings.grpc_max_message_bytes,
        grace_s=_GRACE_S,
        certificate=watched_certificate(settings.grpc_certificate, registry),
        gate=token_gate(settings.grpc_tokens, registry),
    )


if __name__ == "__main__":
    main()
