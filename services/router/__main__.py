"""Starts a router: read `serve` from top to bottom to see what it is made of."""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial

import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from icestream.errors import IceStreamError
from icestream.physics.features import MAX_MODEL_PULSES, N_FEATURES, compile_for_messages
from icestream.ports import CallOptions, Model, ModelInput
from icestream.readers.geometry import detectors_with
from icestream.runtime.deadletters import DeadLetterWriter
from icestream.runtime.grpc_certificates import watched_certificate
from icestream.runtime.grpc_server import serve_grpc
from icestream.runtime.grpc_tokens import token_gate
from icestream.runtime.health import Health
from icestream.runtime.jetstream.checkpoints import open_checkpoints
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller
from icestream.runtime.jetstream.sourcing import kept_sourcing
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
    detectors = detectors_with(settings.geometry, settings.detector)
    # Before there is an event to wait for it: without a cache on the disk it takes seconds.
    compile_for_messages()
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
        pulse_objects = await PulseObjects.open(
            frame.connection, frame.names.pulses_bucket, from_domain=settings.events_from_domain
        )
        if (domain := settings.events_from_domain) is not None:
            sourced = (frame.names.events_stream, frame.names.pulses_stream)
            await stack.enter_async_context(kept_sourcing(frame.connection, sourced, domain))
        consumer = EventConsumer(
            puller=puller,
            publisher=publisher,
            pulse_objects=pulse_objects,
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
        grpc_port = await stack.enter_async_context(_serve_grpc(settings, service, frame.registry))
        _log.info("router is up", grpc_port=grpc_port, model=settings.model)
        await consumer.run(stop)
        _log.info("router stops: everything that was handed out is answered for")


async def _reconcile(frame: ServiceFrame, settings: RouterSettings) -> None:
    names = frame.names
    for stream in (events_stream(names), reconstructions_stream(names), dead_letter_stream(names)):
        await reconcile_stream(frame.connection, stream)
    # For emitters, which may not be allowed to make it.
    await open_checkpoints(frame.connection, names)
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
    question = ModelInput(np.zeros((1, MAX_MODEL_PULSES, N_FEATURES), np.float32), np.ones((1, 1), np.int32))
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


def _serve_grpc(
    settings: RouterSettings, service: ReconstructionService, registry: CollectorRegistry
) -> AbstractAsyncContextManager[int]:
    return serve_grpc(
        reconstruction_pb2.DESCRIPTOR.services_by_name["ReconstructionService"],
        partial(reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server, service),
        host=settings.grpc_host,
        port=settings.grpc_port,
        max_message_bytes=settings.grpc_max_message_bytes,
        grace_s=_GRACE_S,
        certificate=watched_certificate(settings.grpc_certificate, registry),
        gate=token_gate(settings.grpc_tokens, registry),
    )


if __name__ == "__main__":
    main()
