"""Starts an emitter: read `serve` from top to bottom to see what it is made of."""

import asyncio
import sys
import time
from contextlib import AsyncExitStack, suppress
from functools import partial

import numpy as np
import structlog

from icestream.errors import StreamFull
from icestream.physics.detector import Detector, icecube86
from icestream.readers.datasets import open_dataset
from icestream.readers.geometry import read_sensor_geometry
from icestream.runtime.deadletters import DeadLetterWriter
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.topology import dead_letter_stream, events_stream, reconcile_stream
from icestream.runtime.lifecycle import run_service
from icestream.runtime.logs import configure_logs
from icestream.runtime.service import service_frame
from services.emitter.checkpoints import Checkpoints
from services.emitter.emission import Destination, Emission
from services.emitter.metrics import EmitterMetrics
from services.emitter.pacing import Pace
from services.emitter.progress import Checkpoint, Progress
from services.emitter.settings import EmitterSettings
from services.emitter.source import Source, dataset_source, in_thread, simulated_source

SERVICE = "icestream-emitter"
_CHECKPOINT_EVERY_S = 0.5
_REPORT_EVERY_S = 5.0

_log = structlog.get_logger()


def main() -> None:
    """Run an emitter until its source ends or it is told to stop."""
    settings = EmitterSettings.load(sys.argv[1:])
    configure_logs(SERVICE, settings.instance, level=settings.log_level, log_format=settings.log_format)
    run_service(partial(serve, settings))


async def serve(settings: EmitterSettings, stop: asyncio.Event) -> None:
    """Put the emitter together, publish, and take it apart in reverse order."""
    source = _source(settings)
    async with AsyncExitStack() as stack:
        frame = await stack.enter_async_context(
            service_frame("emitter", settings, trace_ratio=settings.trace_ratio)
        )
        names, connection, metrics = frame.names, frame.connection, EmitterMetrics(frame.registry)
        for stream in (events_stream(names), dead_letter_stream(names)):
            await reconcile_stream(connection, stream)
        publisher = await stack.enter_async_context(
            WindowedPublisher(
                connection, window=settings.window, on_stream_full=partial(_report_full, metrics)
            )
        )
        frame.health.watch("stream", lambda: "full: waiting for room" if publisher.is_stream_full else None)
        metrics.in_flight.set_function(lambda: publisher.in_flight)
        destination = Destination(
            subject=names.events(settings.detector, source.name),
            detector=settings.detector,
            publisher=publisher,
            pulse_objects=await PulseObjects.open(connection, names.pulses_bucket),
            pulses_bucket=names.pulses_bucket,
            dead_letters=DeadLetterWriter(publisher, names),
        )
        checkpoints = await Checkpoints.open(connection, names, settings.detector, source.name)
        start = await _start(settings, checkpoints, source)
        already_stored = await checkpoints.stored_behind(start)
        progress = Progress(start, may_be_stored_ahead=already_stored is None or bool(already_stored))
        done = asyncio.Event()
        keeping = asyncio.create_task(_keep_checkpoints(progress, checkpoints, source, metrics, done))
        stack.push_async_callback(_finish, keeping, done, progress, source)
        _log.info("emitter starts", source=source.name, n_events=source.n_events)
        emission = Emission(destination, progress, metrics, frame.tracer)
        await emission.run(
            in_thread(source.events_from(start.position)),
            start.position,
            already_stored or (),
            _pace(settings),
            stop,
        )


def _source(settings: EmitterSettings) -> Source:
    if settings.dataset is None:
        return simulated_source(
            _detector(settings), seed=settings.seed, name=settings.source, limit=settings.events
        )
    dataset = open_dataset(
        settings.dataset,
        split=settings.split,
        detector=settings.detector,
        run_ids=settings.batch_ids or None,
        event_ids=settings.event_ids or None,
    )
    _log.info("data set opened", facts=str(dataset.describe()))
    return dataset_source(dataset, settings.source, settings.events)


def _detector(settings: EmitterSettings) -> Detector:
    if settings.geometry is None:
        return icecube86()
    return read_sensor_geometry(settings.geometry, settings.detector)


async def _start(settings: EmitterSettings, checkpoints: Checkpoints, source: Source) -> Checkpoint:
    checkpoint = None if settings.restart else await checkpoints.load(source.fingerprint)
    if checkpoint is not None:
        _log.info(
            "resuming where the last emitter stopped; --restart begins at the first event",
            n_published=checkpoint.position,
            n_events=source.n_events,
        )
        return checkpoint
    beginning = await checkpoints.beginning()
    # Before the first event: a crash before the next checkpoint must find this one.
    await checkpoints.save(beginning, source.fingerprint)
    return beginning


def _pace(settings: EmitterSettings) -> Pace:
    return Pace(settings.rate, np.random.default_rng(settings.seed) if settings.poisson else None)


async def _keep_checkpoints(
    progress: Progress,
    checkpoints: Checkpoints,
    source: Source,
    metrics: EmitterMetrics,
    done: asyncio.Event,
) -> None:
    """Store checkpoints until everything is done, and say from time to time how far it is."""
    saved = progress.checkpoint()
    reported_s, reported_position = time.monotonic(), saved.position
    while not done.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(_CHECKPOINT_EVERY_S):
                await done.wait()
        current = progress.checkpoint()
        metrics.position.set(current.position)
        if current != saved:
            await checkpoints.save(current, source.fingerprint)
            saved = current
        elapsed_s = time.monotonic() - reported_s
        if elapsed_s >= _REPORT_EVERY_S:
            rate = (current.position - reported_position) / elapsed_s
            _log.info(
                "emitting", n_published=current.position, n_events=source.n_events, events_per_s=round(rate)
            )
            reported_s, reported_position = time.monotonic(), current.position


async def _finish(
    keeping: "asyncio.Task[None]", done: asyncio.Event, progress: Progress, source: Source
) -> None:
    # A flag, because the NATS client swallows cancellations.
    done.set()
    await keeping
    _log.info("emitter stops", n_published=progress.checkpoint().position, n_events=source.n_events)


def _report_full(metrics: EmitterMetrics, full: StreamFull) -> None:
    metrics.stream_full.inc()
    _log.warning("stream full: waiting for room", stream=full.stream, problem=str(full))


if __name__ == "__main__":
    main()
