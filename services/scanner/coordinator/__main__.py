"""Starts a scanner: read `serve` from top to bottom to see what it is made of."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import grpc
import numpy as np
import structlog
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from icestream.errors import Misconfigured
from icestream.physics import celestial
from icestream.physics.detector import Detector, icecube86
from icestream.readers.geometry import read_sensor_geometry
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
    recos, detectors = registry.available(), _detectors(settings)
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
        grpc_port = await stack.enter_async_context(_serve_grpc(settings, service))
        frame.health.hold("log")
        _log.info("scanner is up", grpc_port=grpc_port, recos=recos)
        await coordinator.run(entries, stop)
        _log.info("scanner stops: the log has everything")


def _detectors(settings: ScannerSettings) -> dict[str, Detector]:
    built_in = icecube86()
    if settings.geometry is None:
        return {built_in.name: built_in}
    own = read_sensor_geometry(settings.geometry, settings.detector)
    return {built_in.name: built_in, own.name: own}


def _warm_up() -> None:
    """Read the tables of the Earth's rotation, which takes a second, before the first scan needs them."""
    celestial.to_detector(np.array([[0.0, 0.0, 1.0]]), 1_700_000_000 * 10**9)


async def _reconcile(frame: ServiceFrame, names: ScanNames) -> None:
    for stream in (scan_log_stream(names), scan_work_stream(names), events_stream(frame.names)):
        await reconcile_stream(frame.connection, stream)


@asynccontextmanager
async def _serve_grpc(settings: ScannerSettings, service: ScanService) -> AsyncIterator[int]:
    """Serve gRPC; at the end say so to load balancers, then let running calls finish."""
    server = grpc.aio.server(options=_server_options(settings))
    scan_pb2_grpc.add_ScanServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    name = scan_pb2.DESCRIPTOR.services_by_name["ScanService"].full_name
    health = grpc_health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack it
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((name, health_name, reflection.SERVICE_NAME), server)
    port = _bind(server, settings.grpc_host, settings.grpc_port)
    await server.start()
    for served in ("", name):
        await health.set(served, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield port
    finally:
        await health.enter_graceful_shutdown()
        await server.stop(_GRACE_S)


def _bind(server: grpc.aio.Server, host: str, port: int) -> int:
    address = f"{host}:{port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise Misconfigured(f"cannot serve gRPC on {address}: {error}; choose another --grpc-port") from error


def _server_options(settings: ScannerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.grpc_max_message_bytes),
        # With it two servers share a port in silence and get half of the calls each.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]


if __name__ == "__main__":
    main()
