"""Runs the main job once and accounts for every event."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import structlog

from icestream.cli.demo_report import DemoReport, Spread
from icestream.cli.directions_table import error_rad
from icestream.codec import DetachedEvent, decode_event, decode_pulses, decode_reconstruction
from icestream.errors import InvalidInput
from icestream.physics.detector import Detector, icecube86
from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.events import Event, Reconstruction, check_event
from icestream.physics.linefit import robust_line_fit
from icestream.readers.geometry import read_sensor_geometry
from icestream.readers.kaggle.layout import GEOMETRY_FILE
from icestream.runtime.deadletters import DeadLetterBox
from icestream.runtime.endpoints import Endpoints
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.stored import StoredMessage, stored_messages
from icestream.runtime.jetstream.topology import ROUTER_CONSUMER, Names
from icestream.runtime.lifecycle import ended_by_signals
from icestream.runtime.local_stack import RunningStack, StackOptions, local_stack, service_environment
from icestream.runtime.supervisor import ProcessSpec, python_command

_POLL_S = 0.1
_SAY_EVERY_S = 5.0
_QUIET_FOR_S = 60.0
_TRACE_PATIENCE_S = 10.0
_SERVICES_OF_A_WHOLE_TRACE = 3

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What a demo does."""

    directory: Path
    endpoints: Endpoints
    n_events: int
    rate: float | None
    dataset: Path | None
    trace_ratio: float


@dataclass(frozen=True, slots=True)
class _Stored:
    """One reconstruction and when the broker stored it."""

    reconstruction: Reconstruction
    unix_ns: int

    @property
    def latency_ms(self) -> float:
        return (self.unix_ns - self.reconstruction.timings.published_unix_ns) / 1e6


async def run_demo(options: DemoOptions) -> DemoReport | None:
    """Run the main job on a stack of its own; None where a signal ended it."""
    with ended_by_signals():
        stack_options = StackOptions(
            options.directory,
            options.endpoints,
            geometry=_own_geometry(options.dataset),
            detector="icecube86",
        )
        async with local_stack(stack_options) as stack:
            await stack.supervisor.run_to_end(_emitter(options, stack))
            async with connect(options.endpoints.nats_url, name="icestream-demo") as connection:
                await _until_accounted_for(connection, Names())
                return await _report(connection, Names(), stack)
    return None


def _own_geometry(dataset: Path | None) -> Path | None:
    """The data set's own sensor positions, which always win."""
    path = dataset / GEOMETRY_FILE if dataset is not None else None
    return path.resolve() if path is not None and path.exists() else None


def _emitter(options: DemoOptions, stack: RunningStack) -> ProcessSpec:
    flags: dict[str, object] = {
        "--nats-url": options.endpoints.nats_url,
        "--trace-ratio": options.trace_ratio,
        "--events": options.n_events,
    }
    if options.rate is not None:
        flags["--rate"] = options.rate
    if options.dataset is not None:
        flags["--dataset"] = options.dataset.resolve()
    arguments = [str(part) for pair in flags.items() for part in pair]
    return ProcessSpec(
        name="emitter",
        command=python_command("services.emitter", *arguments),
        env=service_environment(stack.otlp_endpoint),
        is_ready=_at_once,
    )


async def _at_once() -> bool:
    return True


async def _until_accounted_for(connection: Connection, names: Names) -> None:
    """Wait until no event waits for a router or is at one, or nothing moves any more."""
    js = connection.client.jetstream()
    left_before, moved_s, said_s = -1, time.monotonic(), time.monotonic()
    while True:
        info = await js.consumer_info(names.events_stream, ROUTER_CONSUMER)
        left = (info.num_pending or 0) + (info.num_ack_pending or 0)
        now_s = time.monotonic()
        if left != left_before:
            left_before, moved_s = left, now_s
        if left == 0 or now_s - moved_s > _QUIET_FOR_S:
            return
        if now_s - said_s > _SAY_EVERY_S:
            _log.info("reconstructing", events_left=left)
            said_s = now_s
        await asyncio.sleep(_POLL_S)


async def _report(connection: Connection, names: Names, stack: RunningStack) -> DemoReport:
    stored = await _stored_reconstructions(connection, names)
    reconstructions = [result.reconstruction for result in stored]
    n_different = len({(row.detector, row.event_id) for row in reconstructions})
    letters = [letter async for letter in DeadLetterBox(connection, names).letters()]
    errors_rad = [error for row in reconstructions if (error := error_rad(row)) is not None]
    n_published, first_unix_ns, linefit_errors_rad = await _line_fits(connection, names, stack)
    latencies_ms = np.array([result.latency_ms for result in stored] or [np.nan])
    last_unix_ns = max((result.unix_ns for result in stored), default=first_unix_ns)
    trace_id, services = await _whole_trace(reconstructions, stack)
    return DemoReport(
        n_published=n_published,
        n_reconstructed=n_different,
        n_dead_letters=len(letters),
        n_dead_published=sum(letter.letter.service == "router" for letter in letters),
        n_duplicates=len(reconstructions) - n_different,
        events_per_s=len(stored) / max((last_unix_ns - first_unix_ns) / 1e9, 1e-9),
        latency_p50_ms=float(np.percentile(latencies_ms, 50)),
        latency_p99_ms=float(np.percentile(latencies_ms, 99)),
        opening_angle_deg=Spread.of_degrees(np.array(errors_rad)),
        linefit_opening_angle_deg=Spread.of_degrees(np.array(linefit_errors_rad)),
        model=_models(reconstructions),
        trace_id=trace_id,
        trace_services=services,
    )


async def _stored_reconstructions(connection: Connection, names: Names) -> list[_Stored]:
    messages = stored_messages(connection, names.everything_in("reconstructions"))
    return [_Stored(decode_reconstruction(m.payload), m.stored_unix_ns) async for m in messages]


def _models(reconstructions: list[Reconstruction]) -> str:
    return (
        ", ".join(sorted({f"{row.model.name} {row.model.version}" for row in reconstructions})) or "no model"
    )


async def _line_fits(
    connection: Connection, names: Names, stack: RunningStack
) -> tuple[int, int, list[float]]:
    """Fit lines to the published events, read back from their stream.

    Returns:
        Number of published events, when the first was stored (Unix ns), and the fits' errors in rad.
    """
    geometry = stack.options.geometry
    detector = read_sensor_geometry(geometry) if geometry else icecube86()
    objects = await PulseObjects.open(connection, names.pulses_bucket)
    n_published, first_unix_ns = 0, 0
    errors_rad = []
    async for message in stored_messages(connection, names.everything_in("events")):
        n_published += 1
        first_unix_ns = first_unix_ns or message.stored_unix_ns
        event = await _usable_event(message, objects, detector)
        if event is not None and event.truth is not None:
            fit = robust_line_fit(event.pulses, detector)
            true_direction = unit_vectors(event.truth.azimuth_rad, event.truth.zenith_rad)
            errors_rad.append(float(opening_angles_rad(fit, true_direction)))
    return n_published, first_unix_ns, errors_rad


async def _usable_event(message: StoredMessage, objects: PulseObjects, detector: Detector) -> Event | None:
    """The event, or None for one that the router refused too."""
    try:
        event = decode_event(message.payload)
        if isinstance(event, DetachedEvent):
            event = event.attach(decode_pulses(await objects.get(event.reference.sha256), event.event.id))
        check_event(event, detector.n_sensors)
    except InvalidInput:
        return None
    return event


async def _whole_trace(
    reconstructions: list[Reconstruction], stack: RunningStack
) -> tuple[str | None, tuple[str, ...]]:
    """A sampled event's trace and whose spans are in it, read back from Jaeger."""
    trace_id = next((row.trace_id for row in reconstructions if row.trace_id), None)
    if trace_id is None or not stack.has_jaeger:
        return trace_id, ()
    services: tuple[str, ...] = ()
    deadline_s = time.monotonic() + _TRACE_PATIENCE_S
    async with httpx.AsyncClient(base_url=stack.options.endpoints.jaeger_url) as jaeger:
        # Every process sends its spans within a second or so.
        while len(services) < _SERVICES_OF_A_WHOLE_TRACE and time.monotonic() < deadline_s:
            reply = await jaeger.get(f"/api/traces/{trace_id}")
            traces = reply.json().get("data") or [] if reply.is_success else []
            names = {process["serviceName"] for trace in traces for process in trace["processes"].values()}
            services = tuple(sorted(names))
            await asyncio.sleep(_POLL_S)
    return trace_id, services
