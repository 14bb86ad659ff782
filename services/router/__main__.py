"""Starts a router: read `serve` from top to bottom to see what it is made of."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version

import grpc
import numpy as np
import structlog
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from icestream.errors import IceStreamError, Misconfigured
from icestream.physics.detector import Detector, icecube86
from icestream.ports import CallOptions, Model, ModelInput
from icestream.readers.geometry import read_sensor_geometry
from icestream.runtime.deadletters import DeadLetterWriter
from icestream.runtime.health import Health, serve_health
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.heartbeats import beating
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller
from icestream.runtime.jetstream.topology import (
    ROUTER_CONSUMER,
    Names,
    dead_letter_stream,
    events_stream,
    reconcile_consumer,
    reconcile_stream,
    reconstructions_stream,
    router_consumer,
)
from icestream.runtime.lifecycle import run_service
from icestream.runtime.logs import configure_logs
from icestream.runtime.metrics import ServiceMetrics
from icestream.runtime.tracing import Tracing, tracing
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
    names = Names(settings.prefix)
    detectors = _detectors(settings)
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    common = ServiceMetrics(registry, SERVICE, settings.instance)
    health = Health("nats", "model")
    async with AsyncExitStack() as stack:
        traces = stack.enter_context(
            tracing(SERVICE, settings.instance, settings.otlp_endpoint, ratio=settings.trace_ratio)
        )
        common.watch_tracing(traces)
        port = stack.enter_context(
            serve_health(settings.metrics_host, settings.metrics_port, registry, health)
        )
        connection = await stack.enter_async_context(connect(settings.nats_url, name=settings.instance))
        common.watch_connection(connection)
        await _reconcile(connection, names, settings)
        health.watch("nats", connection.problem)

        triton = await stack.enter_async_context(TritonModel(settings.triton_url))
        model = ObservedModel(triton, metrics, traces.tracer)
        intake = _intake(triton, settings.model, metrics, health)
        stack.push_async_callback(intake.stop)
        await _check_model(triton, settings.model, intake, health)

        publisher = await stack.enter_async_context(WindowedPublisher(connection))
        puller = await stack.enter_async_context(
            ContinuousPuller(
                connection,
                stream=names.events_stream,
                consumer=ROUTER_CONSUMER,
                max_in_flight=settings.events_in_flight,
            )
        )
        metrics.in_flight.labels("nats").set_function(lambda: puller.in_flight)
        consumer = EventConsumer(
            puller=puller,
            publisher=publisher,
            pulse_objects=await PulseObjects.open(connection, names.pulses_bucket),
            dead_letters=DeadLetterWriter(publisher, names),
            model=model,
            model_name=settings.model,
            detectors=detectors,
            names=names,
            intake=intake,
            limits=_consumer_limits(settings),
            metrics=metrics,
            tracer=traces.tracer,
        )
        grpc_port = await stack.enter_async_context(_serve_api(settings, detectors, model, metrics, traces))
        await stack.enter_async_context(
            beating(
                connection,
                names,
                service="router",
                instance=settings.instance,
                version=version("icestream"),
                state=partial(_state, common, health),
            )
        )
        _log.info("router is up", grpc_port=grpc_port, metrics_port=port, model=settings.model)
        await consumer.run(stop)
        _log.info("router stops: everything that was handed out is answered for")


def _detectors(settings: RouterSettings) -> dict[str, Detector]:
    built_in = icecube86()
    if settings.geometry is None:
        return {built_in.name: built_in}
    own = read_sensor_geometry(settings.geometry)
    name = settings.detector or own.name
    return {built_in.name: built_in, name: Detector(name, own.positions_m, own.efficiency)}


async def _reconcile(connection: Connection, names: Names, settings: RouterSettings) -> None:
    for stream in (events_stream(names), reconstructions_stream(names), dead_letter_stream(names)):
        await reconcile_stream(connection, stream)
    consumer = router_consumer(ack_wait_s=settings.ack_wait_s, max_ack_pending=settings.max_ack_pending)
    await reconcile_consumer(connection, names.events_stream, consumer)


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
async def _serve_api(
    settings: RouterSettings,
    detectors: dict[str, Detector],
    model: Model,
    metrics: RouterMetrics,
    traces: Tracing,
) -> AsyncIterator[int]:
    """Serve gRPC; at the end say so to load balancers, then let running calls finish."""
    server = grpc.aio.server(options=_server_options(settings))
    service = ReconstructionService(
        model=model,
        default_model=settings.model,
        detectors=detectors,
        limits=ApiLimits(settings.grpc_concurrency, settings.model_timeout_s),
        metrics=metrics,
        tracer=traces.tracer,
    )
    metrics.in_flight.labels("grpc").set_function(lambda: service.n_in_work)
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


def _state(common: ServiceMetrics, health: Health) -> str:
    common.heartbeat()
    return "running" if health.is_ready else "waiting"


if __name__ == "__main__":
    main()
