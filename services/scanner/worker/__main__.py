"""Starts a scan worker: read `serve` from top to bottom to see what it is made of."""

import asyncio
import sys
from contextlib import AsyncExitStack
from functools import partial

import structlog

from icestream.runtime.deadletters import DeadLetterWriter
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WhenFull, WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller
from icestream.runtime.jetstream.scan_topology import (
    STARTUP_MAX_AGE_S,
    Lane,
    ScanNames,
    consumer_name,
    scan_log_stream,
    scan_work_stream,
    scan_worker_consumer,
)
from icestream.runtime.jetstream.topology import dead_letter_stream, reconcile_consumer, reconcile_stream
from icestream.runtime.lifecycle import run_service
from icestream.runtime.logs import configure_logs
from icestream.runtime.service import ServiceFrame, service_frame
from icestream.runtime.triton import TritonModel
from icestream.scans.recos import registry
from services.scanner.worker.consumer import BatchConsumer, ConsumerLimits
from services.scanner.worker.failures import SERVICE, FailedBatches
from services.scanner.worker.metrics import ScanWorkerMetrics
from services.scanner.worker.prepared import PreparedScans
from services.scanner.worker.queue import WorkQueue
from services.scanner.worker.results import ResultPublisher
from services.scanner.worker.settings import ScanWorkerSettings
from services.scanner.worker.standing import Standing
from services.scanner.worker.watchdog import ended_at_standstill

_log = structlog.get_logger()


def main() -> None:
    """Run a scan worker until it is told to stop."""
    settings = ScanWorkerSettings.load(sys.argv[1:])
    configure_logs(
        f"icestream-{SERVICE}", settings.instance, level=settings.log_level, log_format=settings.log_format
    )
    run_service(partial(serve, settings))


async def serve(settings: ScanWorkerSettings, stop: asyncio.Event) -> None:
    """Put the worker together, work until `stop` is set, and take it apart in reverse order."""
    # Before anything else: a reco that cannot be loaded is to be noticed now, not with its first batch.
    recos = registry.available()
    async with AsyncExitStack() as stack:
        # A batch brings its scan's decision on tracing, so that no trace begins here.
        frame = await stack.enter_async_context(service_frame(SERVICE, settings, trace_ratio=0.0))
        metrics, names = ScanWorkerMetrics(frame.registry), ScanNames(frame.names)
        await _reconcile(frame, names, settings)
        startup_data = await PulseObjects.open(
            frame.connection, names.startup_bucket, max_age_s=STARTUP_MAX_AGE_S
        )

        model = await stack.enter_async_context(TritonModel(settings.triton_url))
        publisher = await stack.enter_async_context(
            # A queue without room must not keep the batches that would make some.
            WindowedPublisher(frame.connection, when_full=WhenFull.RAISE)
        )
        pullers = {
            lane: await stack.enter_async_context(_puller(frame, names, lane, settings)) for lane in Lane
        }
        queue = WorkQueue(
            pullers,
            publisher,
            metrics,
            delivery_limit=settings.delivery_limit,
            heartbeat_s=settings.ack_wait_s / 3,
        )
        metrics.in_flight.set_function(lambda: queue.n_held)
        standing = Standing(quarantine_after=settings.quarantine_after, quarantine_s=settings.quarantine_s)
        frame.health.watch("standing", standing.problem)
        results = ResultPublisher(publisher, names, frame.tracer, worker=settings.instance)
        consumer = BatchConsumer(
            queue=queue,
            scans=PreparedScans(startup_data, registry.get, capacity=settings.scans_in_memory),
            model=model,
            results=results,
            failed_batches=FailedBatches(
                queue=queue,
                publisher=publisher,
                results=results,
                dead_letters=DeadLetterWriter(publisher, frame.names),
                metrics=metrics,
                delivery_limit=settings.delivery_limit,
            ),
            standing=standing,
            limits=ConsumerLimits(
                settings.batches_at_once, settings.batch_timeout_s, settings.delivery_limit
            ),
            metrics=metrics,
            tracer=frame.tracer,
        )
        _log.info("scan worker is up", recos=recos)
        await stack.enter_async_context(ended_at_standstill(after_s=settings.batch_timeout_s))
        await consumer.run(stop)
        _log.info("scan worker stops: every batch that it held is answered for")


async def _reconcile(frame: ServiceFrame, names: ScanNames, settings: ScanWorkerSettings) -> None:
    for stream in (scan_log_stream(names), scan_work_stream(names), dead_letter_stream(frame.names)):
        await reconcile_stream(frame.connection, stream)
    for lane in Lane:
        consumer = scan_worker_consumer(
            names, lane, ack_wait_s=settings.ack_wait_s, max_ack_pending=settings.max_ack_pending
        )
        await reconcile_consumer(frame.connection, names.work_stream, consumer)


def _puller(
    frame: ServiceFrame, names: ScanNames, lane: Lane, settings: ScanWorkerSettings
) -> ContinuousPuller:
    return ContinuousPuller(
        frame.connection,
        stream=names.work_stream,
        consumer=consumer_name(lane),
        batch=1,
        # One waits for the place of the first that is done; more would be kept from other workers.
        max_in_flight=settings.batches_at_once + 1,
    )


if __name__ == "__main__":
    main()
