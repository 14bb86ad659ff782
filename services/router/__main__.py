"""Starts a router: read `serve` from top to bottom to see what it is made of."""

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

from icestream.errors import IceStreamError, Misconfigured
from icestream.physics.detector import Detector, icecube86
from icestream.ports import CallOptions, Model, ModelInput
from icestream.readers.geometry import read_sensor_geometry
from icestream.runtime.deadletters import DeadLetterWriter
from icestream.runtime.health import Health
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller
from icestream.runtime.jetstream.topology import (
    ROUTER_CONSUMER,
    dead_letter_stream,
    events_stream,
    reconcile_consumer,
    reconcile_stream,
    reconstructions_stream,
    router_consumer,
)
from icestream.runtime.lifecycle import run_service
from icestream.runtime.logs import configure_logs
from icestream.runtime.service import ServiceFrame, service_frame
from icestream.runtime.triton import TritonModel
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from services.router.api import ApiLimits, ReconstructionService
from services.router.consumer import ConsumerLimits, EventConsumer
from services.router.intake import Intake
from services.router.metrics import RouterMetrics
from services.router.reconstruction import LENGTH_STEP
from services.router.settings import RouterSettings
from services.router.telemetry import ObservedModel

SERVICE = "icestream-router"
_PROBE_TIMEOUT_S = 3.0
_GRACE_S = 5.0

_log = structlog.get_logger()


def main() -> None:
    """Run a router until it is told to stop."""
    settings = RouterSettings.load(sys.argv[1:])
    configure_logs(SERVICE, settings.instance, level=settings.log_level, log_format=settings.log_format)
    run_service(partial(serve, settings))


async def serve(settings: RouterSettings, stop: asyncio.Event) -> None:
    """Put the router together, work until `stop` is set, and take it apart in reverse order."""
    detectors = _detectors(settings)
    async with AsyncExitStack() as stack:
        frame = await stack.enter_async_context(
            service_frame("router", settings, trace_ratio=settings.trace_ratio, conditions=["model"])
        )
        metrics = RouterMetrics(frame.registry)
        await _reconcile(frame, settings)

        triton = await stack.enter_async_context(TritonModel(settings.triton_url))
        model = ObservedModel(triton, metrics, frame.tracer)
        intake = _intake(triton, settings.model, metrics, frame.health)
        stack.push_async_callback(intake.stop)
        await _check_model(triton, settings.model, intake, frame.health)

        publisher = await stack.enter_async_context(WindowedPublisher(frame.connection))
        puller = await stack.enter_async_context(
            ContinuousPuller(
                frame.connection,
                stream=frame.names.events_stream,
                consumer=ROUTER_CONSUMER,
                max_in_flight=settings.events_in_flight,
            )
        )
        metrics.in_flight.labels("nats").set_function(lambda: puller.in_flight)
        consumer = EventConsumer(
            puller=puller,
            publisher=publisher,
            pulse_objects=await PulseObjects.open(frame.connection, frame.names.pulses_bucket),
            dead_letters=DeadLetterWriter(publisher, frame.names),
            model=model,
            model_name=settings.model,
            detectors=detectors,
            names=frame.names,
            intake=intake,
            limits=_consumer_limits(settings),
            metrics=metrics,
            tracer=frame.tracer,
        )
        service = ReconstructionService(
            model=model,
            default_model=settings.model,
            detectors=detectors,
            limits=ApiLimits(settings.grpc_concurrency, settings.model_timeout_s),
            metrics=metrics,
            tracer=frame.tracer,
        )
        metrics.in_flight.labels("grpc").set_function(lambda: service.n_in_work)
        grpc_port = await stack.enter_async_context(_serve_grpc(settings, service))
        _log.info("router is up", grpc_port=grpc_port, model=settings.model)
        await consumer.run(stop)
        _log.info("router stops: everything that was handed out is answered for")


def _detectors(settings: RouterSettings) -> dict[str, Detector]:
    built_in = icecube86()
    if settings.geometry is None:
        return {built_in.name: built_in}
    own = read_sensor_geometry(settings.geometry, settings.detector)
    return {built_in.name: built_in, own.name: own}


async def _reconcile(frame: ServiceFrame, settings: RouterSettings) -> None:
    names = frame.names
    for stream in (events_stream(names), reconstructions_stream(names), dead_letter_stream(names)):
        await reconcile_stream(frame.connection, stream)
    consumer = router_consumer(ack_wait_s=settings.ack_wait_s, max_ack_pending=settings.max_ack_pending)
    await reconcile_consumer(frame.connection, names.events_stream, consumer)


def _intake(triton: Model, model: str, metrics: RouterMetrics, health: Health) -> Intake:
    def on_change(problem: str | None) -> None:
        metrics.is_paused.set(problem is not None)
        if problem is None:
            health.hold("model")
        else:
            health.fail("model", problem)

    return Intake(partial(_probe, triton, model), on_change)


async def _probe(triton: Model, model: str) -> None:
    """Ask for a direction of one pulse: only an answer proves that the model computes."""
    question = ModelInput(np.zeros((1, LENGTH_STEP, 6), np.float32), np.ones((1, 1), np.int32))
    await triton.infer(model, question, CallOptions(is_urgent=True, timeout_s=_PROBE_TIMEOUT_S))


async def _check_model(triton: Model, model: str, intake: Intake, health: Health) -> None:
    try:
        await _probe(triton, model)
    except IceStreamError as error:
        intake.close(error)
    else:
        health.hold("model")


def _consumer_limits(settings: RouterSettings) -> ConsumerLimits:
    return ConsumerLimits(
        window=settings.window,
        batch=settings.batch,
        requests_in_flight=settings.requests_in_flight,
        delivery_limit=settings.delivery_limit,
        model_timeout_s=settings.model_timeout_s,
    )


@asynccontextmanager
async def _serve_grpc(settings: RouterSettings, service: ReconstructionService) -> AsyncIterator[int]:
    """Serve gRPC; at the end say so to load balancers, then let running calls finish."""
    server = grpc.aio.server(options=_server_options(settings))
    reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    name = reconstruction_pb2.DESCRIPTOR.services_by_name["ReconstructionService"].full_name
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


def _server_options(settings: RouterSettings) -> list[tuple[str, int]]:
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
