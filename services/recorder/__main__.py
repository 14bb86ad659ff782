"""Starts a recorder: read `serve` from top to bottom to see what it is made of."""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from icestream.errors import Unavailable
from icestream.physics import celestial
from icestream.runtime.deadletters import DeadLetterWriter
from icestream.runtime.grpc_certificates import watched_certificate
from icestream.runtime.grpc_server import serve_grpc
from icestream.runtime.grpc_tokens import token_gate
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller
from icestream.runtime.jetstream.topology import (
    RECORDER_CONSUMER,
    dead_letter_stream,
    reconcile_consumer,
    reconcile_stream,
)
from icestream.runtime.lifecycle import first_of, run_service
from icestream.runtime.logs import configure_logs
from icestream.runtime.service import ServiceFrame, service_frame
from icestream.v1 import record_pb2, record_pb2_grpc
from services.recorder.api import RecordService
from services.recorder.consumer import SERVICE, RecordConsumer
from services.recorder.database import database_url, open_reader, open_writer
from services.recorder.intake import Intake
from services.recorder.metrics import RecorderMetrics
from services.recorder.questions import Questions
from services.recorder.settings import RecorderSettings
from services.recorder.store import RecordStore
from services.recorder.topics import Topic, dead_letters_topic, reconstructions_topic, scans_topic

_GRACE_S = 2.0

_log = structlog.get_logger()


def main() -> None:
    """Run a recorder until it is told to stop."""
    settings = RecorderSettings.load(sys.argv[1:])
    configure_logs(
        f"icestream-{SERVICE}", settings.instance, level=settings.log_level, log_format=settings.log_format
    )
    run_service(partial(serve, settings))


async def serve(settings: RecorderSettings, stop: asyncio.Event) -> None:
    """Put the recorder together, work until `stop` is set, and take it apart in reverse order."""
    url = database_url(settings.database_url)
    async with AsyncExitStack() as stack:
        frame = await stack.enter_async_context(
            service_frame(SERVICE, settings, trace_ratio=settings.trace_ratio, conditions=["database"])
        )
        metrics = RecorderMetrics(frame.registry)
        store = await stack.enter_async_context(RecordStore(open_writer(url)))
        intake = Intake(store.probe)
        stack.push_async_callback(intake.stop)
        metrics.is_paused.set(1)
        await _migrate(store, frame, stop)
        if stop.is_set():
            return
        metrics.is_paused.set_function(lambda: bool(intake.problem() or store.problem()))
        _warm_up()

        publisher = await stack.enter_async_context(WindowedPublisher(frame.connection))
        topics = _topics(frame, settings)
        await _reconcile(frame, topics)
        consumers = [
            RecordConsumer(
                topic,
                puller=await stack.enter_async_context(_puller(frame, topic, settings, metrics)),
                store=store,
                dead_letters=DeadLetterWriter(publisher, frame.names),
                intake=intake,
                batch_rows=settings.batch_rows,
                gather_s=settings.gather_s,
                metrics=metrics,
                tracer=frame.tracer,
            )
            for topic in topics
        ]
        reader = open_reader(url, n_connections=settings.readers, timeout_s=settings.query_timeout_s)
        questions = await stack.enter_async_context(
            Questions(reader, n_threads=settings.readers, n_calls=settings.grpc_concurrency)
        )
        service = RecordService(questions, metrics, frame.tracer)
        grpc_port = await stack.enter_async_context(_serve_grpc(settings, service, frame.registry))
        frame.health.watch("database", lambda: intake.problem() or store.problem())
        _log.info("recorder is up", grpc_port=grpc_port, database=url.render_as_string())
        async with asyncio.TaskGroup() as group:
            for consumer in consumers:
                group.create_task(consumer.run(stop))
        _log.info("recorder stops: everything that was handed out is answered for")


async def _migrate(store: RecordStore, frame: ServiceFrame, stop: asyncio.Event) -> None:
    """Wait for the database, and bring its tables to this version."""
    pause_s = 0.1
    while not stop.is_set():
        try:
            await store.migrate()
        except Unavailable as error:
            frame.health.fail("database", str(error))
            _log.warning("database not ready", problem=str(error))
        else:
            return
        await first_of(asyncio.sleep(pause_s), stop.wait())
        pause_s = min(2 * pause_s, 5.0)


def _warm_up() -> None:
    """Read the tables of the Earth's rotation, which takes a second, before the first row needs them."""
    celestial.to_equatorial(np.array([[0.0, 0.0, 1.0]]), 1_700_000_000 * 10**9)


def _topics(frame: ServiceFrame, settings: RecorderSettings) -> list[Topic[Any]]:
    return [
        make(frame.names, ack_wait_s=settings.ack_wait_s, max_ack_pending=settings.max_ack_pending)
        for make in (reconstructions_topic, dead_letters_topic, scans_topic)
    ]


async def _reconcile(frame: ServiceFrame, topics: list[Topic[Any]]) -> None:
    await reconcile_stream(frame.connection, dead_letter_stream(frame.names))
    for topic in topics:
        await reconcile_stream(frame.connection, topic.stream)
        assert topic.stream.name is not None
        await reconcile_consumer(frame.connection, topic.stream.name, topic.consumer)


def _puller(
    frame: ServiceFrame, topic: Topic[Any], settings: RecorderSettings, metrics: RecorderMetrics
) -> ContinuousPuller:
    assert topic.stream.name is not None
    puller = ContinuousPuller(
        frame.connection,
        stream=topic.stream.name,
        consumer=RECORDER_CONSUMER,
        batch=settings.batch_rows,
        max_in_flight=settings.messages_in_flight,
    )
    metrics.in_flight.labels(topic.name).set_function(lambda: puller.in_flight)
    return puller


def _serve_grpc(
    settings: RecorderSettings, service: RecordService, registry: CollectorRegistry
) -> AbstractAsyncContextManager[int]:
    return serve_grpc(
        record_pb2.DESCRIPTOR.services_by_name["RecordService"],
        partial(record_pb2_grpc.add_RecordServiceServicer_to_server, service),
        host=settings.grpc_host,
        port=settings.grpc_port,
        max_message_bytes=1 << 20,
        grace_s=_GRACE_S,
        certificate=watched_certificate(settings.grpc_certificate, registry),
        gate=token_gate(settings.grpc_tokens, registry),
    )


if __name__ == "__main__":
    main()
