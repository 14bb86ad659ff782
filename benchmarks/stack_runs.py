"""Runs our stack, as `icestream up` starts it, and measures it."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy

from benchmarks.load import Accounted, Drained, Latencies, Published, Schedule, latencies, repeated
from benchmarks.processes import cpu_s, difference, running, wait_until
from icestream.codec import (
    PulseReference,
    decode_reconstruction,
    encode_detached_event,
    encode_event,
    encode_pulses,
)
from icestream.errors import IceStreamError
from icestream.physics.detector import icecube86
from icestream.physics.events import Event
from icestream.runtime.endpoints import LOOPBACK, Endpoints, Stack
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import RECORDER_CONSUMER, ROUTER_CONSUMER, Names
from icestream.runtime.tracing import TRACEPARENT

EMITTER = "emitter"
ROUTER = "router"
PARTS = {
    "nats-server": "broker",
    "services.router": ROUTER,
    "tritonserver": "model server",
    "triton_python_backend_stub": "model server",
    "services.recorder": "recorder",
    "bin/jaeger": "jaeger",
}
"""What a word of a process's command line says about which part it is."""
OTHER = "all others"

_NAMES = Names()
_ROUTING = _NAMES.events_stream, ROUTER_CONSUMER
_RECORDING = _NAMES.reconstructions_stream, RECORDER_CONSUMER
_SOURCE = "benchmark"
_START_TIMEOUT_S = 120.0
_PATIENCE_S = 600.0
_REST_WINDOW_S = 1.2
"""Longer than the second after which spans are sent at the latest."""
_REST_CORES = 0.15
"""Of a core; what is up and has nothing to do takes less."""
_REST_PATIENCE_S = 90.0
_POLL_S = 0.02
"""Asking more often would cost the broker more than a percent of a core."""
_FIRST_POLL_S = 0.005
_LONGEST_POLL_S = 0.5
_LONG_S = 3600.0
_ON_ITS_WAY_S = 10.0


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that is up."""

    process: subprocess.Popen[bytes]
    endpoints: Endpoints
    is_traced: bool
    """Whether there is somebody who takes spans."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Process ids of parts that somebody else started for it, by their names."""

    @property
    def nats_url(self) -> str:
        """Where its broker is."""
        return self.endpoints.nats_url

    @property
    def grpc_target(self) -> str:
        """`host:port` of its router."""
        return f"{LOOPBACK}:{self.endpoints.router_grpc}"

    def cpu_s(self) -> dict[str, float]:
        """Processor time so far, by part."""
        total = defaultdict[str, float](float)
        total[OTHER] = cpu_s(self.process.pid)
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                total[_part(child)] += cpu_s(child.pid)
        return dict(total) | {part: cpu_s(pid) for part, pid in self.beside.items()}

    def router(self) -> psutil.Process | None:
        """The router's process; None while it is being restarted."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if _part(child) == ROUTER:
                    return child
        return None


@contextmanager
def running_stack(
    directory: Path,
    model_repository: Path,
    router: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    n_routers: int = 1,
) -> Iterator[RunningStack]:
    """Run `icestream up`, without scan workers, on ports that are free.

    Args:
        directory: The stack's.
        model_repository: What Triton serves.
        router: Settings of the router by name, for example {"batch": "64"}.
        environment: Of all its processes, beside ours.
        n_routers: That share the stream of events, all with these settings.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [
        *(str(Path(sys.executable).with_name("icestream")), "up", "--dir", str(directory)),
        *("--port-offset", str(_free_offset()), "--model-repository", str(model_repository)),
        *("--trace-ratio", "0", "--scan-workers", "0", "--routers", str(n_routers)),
    ]
    settings = {f"ICESTREAM_ROUTER_{name.upper()}": value for name, value in (router or {}).items()}
    log = directory / "up.log"
    with running(command, log, settings | dict(environment or {})) as process:

        def is_up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"the stack did not start:\n{log.read_text()}")
            return Stack.read(directory) is not None

        wait_until(is_up, "the start of the stack", _START_TIMEOUT_S)
        stack = Stack.read(directory)
        assert stack is not None
        yield RunningStack(process, stack.endpoints, stack.is_traced)


def publish(
    nats_url: str,
    sample: Sequence[Event],
    run_id: int,
    n_events: int,
    *,
    rate: float | None = None,
    traced_share: float = 0.0,
) -> Published:
    """Publish events as the emitter does, each as soon as it is due.

    Args:
        nats_url: The broker.
        sample: What is repeated under new ids.
        run_id: Of the new ids; also the seed of the times.
        n_events: How many.
        rate: Events/s, as a Poisson process; None publishes as fast as the broker takes them.
        traced_share: Of events that bring the context of a sampled trace, evenly among the others.
    """
    return asyncio.run(_publish(nats_url, sample, run_id, n_events, rate, traced_share))


async def drain(
    stack: RunningStack,
    emitters: Executor,
    sample: Sequence[Event],
    run_id: int,
    n_events: int,
    *,
    traced_share: float = 0.0,
    waits_for_rest: bool = False,
    records: bool = True,
) -> Drained:
    """Fill the stream while the router is held back, let it go, and wait until it answered for every event.

    The time runs from the first event that the broker hands out.

    Args:
        stack: What works.
        emitters: Where an emitter runs.
        sample: What is repeated under new ids.
        run_id: Of the new ids.
        n_events: How many.
        traced_share: Of events that are traced.
        waits_for_rest: Count also the processor time of what is left to do then, such as spans to export.
        records: Whether the recorder writes the results into its database meanwhile, or only afterwards.

    Raises:
        RuntimeError: An event has no reconstruction, or several.
    """
    async with connect(stack.nats_url, name="benchmark") as connection:
        n_bytes_before, n_results_before = await _events_bytes(connection), await _last_result(connection)
        emitted = await _fill(connection, stack, emitters, sample, run_id, n_events, traced_share)
        n_bytes = await _events_bytes(connection) - n_bytes_before
        if not records:
            await _hold(connection, _RECORDING)
        cpu_before_s = stack.cpu_s()
        await _let_go(connection)
        started_s = time.perf_counter()
        await _until_left(connection, 0)
        seconds = time.perf_counter() - started_s
        rest_s = await until_at_rest(stack) if waits_for_rest else 0.0
        cpu = difference(stack.cpu_s(), cpu_before_s)
        if not records:
            await connection.client.jsm().resume_consumer(*_RECORDING)
        await _until_left(connection, 0, _RECORDING)
        found = Counter(await _results(connection, run_id, n_results_before + 1))
    if len(found) != n_events:
        raise RuntimeError(f"{n_events - len(found)} of {n_events} events have no reconstruction")
    if found.total() != n_events:
        raise RuntimeError(f"{found.total() - n_events} reconstructions of {n_events} events are duplicates")
    return Drained(n_events, seconds, {EMITTER: emitted.cpu_s} | cpu, n_bytes / n_events, rest_s)


async def until_at_rest(stack: RunningStack) -> float:
    """Wait until the stack has nothing left to do; returns how long it had, in s.

    Raises:
        TimeoutError: It always has; a part may fail and try again for ever.
    """
    started_s = time.perf_counter()
    while (elapsed_s := time.perf_counter() - started_s) < _REST_PATIENCE_S:
        before_s = stack.cpu_s()
        await asyncio.sleep(_REST_WINDOW_S)
        took_s = difference(stack.cpu_s(), before_s)
        if sum(took_s.values()) < _REST_CORES * _REST_WINDOW_S:
            return elapsed_s
    busiest = max(took_s, key=lambda part: took_s[part])
    raise TimeoutError(f"not at rest after {_REST_PATIENCE_S:g} s: {busiest} is still busy; its log says why")


async def measure_latencies(
    stack: RunningStack,
    emitters: Executor,
    sample: Sequence[Event],
    run_id: int,
    n_events: int,
    *,
    rate: float,
) -> Latencies:
    """Publish events as they come, and compare with the times at which a subscriber got their results.

    Raises:
        RuntimeError: An event has no result.
    """
    return latencies(rate, *await answer_times(stack, emitters, sample, run_id, n_events, rate=rate))


async def answer_times(
    stack: RunningStack,
    emitters: Executor,
    sample: Sequence[Event],
    run_id: int,
    n_events: int,
    *,
    rate: float,
) -> tuple[list[int], dict[int, int]]:
    """Publish events as they come.

    Returns:
        When each event was due, and when a subscriber got each result, by the events' numbers; Unix times in ns.
    """
    async with connect(stack.nats_url, name="benchmark") as connection:
        subscription = await connection.client.jetstream().subscribe(
            _NAMES.everything_in("reconstructions"),
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.NEW),
        )
        available = dict[int, int]()
        receiving = asyncio.create_task(_receive(subscription, run_id, n_events, available))
        published = await asyncio.wrap_future(
            emitters.submit(publish, stack.nats_url, list(sample), run_id, n_events, rate=rate)
        )
        # An event is acknowledged after its result is stored, which is then on its way here.
        await _until_left(connection, 0)
        await asyncio.wait({receiving}, timeout=_ON_ITS_WAY_S)
        receiving.cancel()
        return published.due_unix_ns, available


async def account_for_kills(
    stack: RunningStack,
    emitters: Executor,
    sample: Sequence[Event],
    run_id: int,
    n_events: int,
    *,
    n_kills: int,
) -> Accounted:
    """Kill -9 the router again and again while a full stream is worked off; the supervisor restarts it."""
    async with connect(stack.nats_url, name="benchmark") as connection:
        await _fill(connection, stack, emitters, sample, run_id, n_events)
        await _let_go(connection)
        killed = 0
        for number in range(n_kills):
            await _until_left(connection, n_events - (number + 1) * n_events // (n_kills + 1))
            killed = await _kill_router(stack, killed)
        await _until_left(connection, 0)
        found = Counter(await _results(connection, run_id))
    return Accounted(n_events, n_kills, n_events - len(found), found.total() - len(found))


async def _publish(
    nats_url: str,
    sample: Sequence[Event],
    run_id: int,
    n_events: int,
    rate: float | None,
    traced_share: float,
) -> Published:
    async with connect(nats_url, name="benchmark") as connection, WindowedPublisher(connection) as publisher:
        objects = await PulseObjects.open(connection, _NAMES.pulses_bucket)
        started_cpu_s = time.process_time()
        schedule = Schedule(n_events, rate, seed=run_id)
        subject = _NAMES.events(icecube86().name, _SOURCE)
        for number, event in enumerate(repeated(sample, run_id, n_events)):
            if early_s := schedule.early_s(number):
                await asyncio.sleep(early_s)
            is_traced = int((number + 1) * traced_share) > int(number * traced_share)
            await publisher.publish(
                subject,
                await _encode(event, publisher.max_payload_bytes, objects),
                message_id=f"{event.detector}/{event.id}",
                headers={TRACEPARENT: _new_trace()} if is_traced else None,
            )
        await publisher.flush()
        return Published(schedule.due_unix_ns, time.process_time() - started_cpu_s)


async def _encode(event: Event, max_bytes: int, objects: PulseObjects) -> bytes:
    """With the pulses in the object store where they are too many for a message."""
    payload = encode_event(event)
    if len(payload) <= max_bytes:
        return payload
    pulses = encode_pulses(event.pulses)
    reference = PulseReference(_NAMES.pulses_bucket, await objects.put(pulses), len(pulses))
    return encode_detached_event(event, reference)


async def _fill(
    connection: Connection,
    stack: RunningStack,
    emitters: Executor,
    sample: Sequence[Event],
    run_id: int,
    n_events: int,
    traced_share: float = 0.0,
) -> Published:
    await _hold(connection, _ROUTING)
    filling = emitters.submit(
        publish, stack.nats_url, list(sample), run_id, n_events, traced_share=traced_share
    )
    return await asyncio.wrap_future(filling)


async def _hold(connection: Connection, consumer: tuple[str, str]) -> None:
    """Let the broker hand nothing out to a stream's consumer until it is resumed."""
    until = datetime.fromtimestamp(time.time() + _LONG_S, UTC).isoformat()
    await connection.client.jsm().pause_consumer(*consumer, until)


def _new_trace() -> str:
    """Context of a sampled trace that begins here. Source: W3C Trace Context, section 3.2."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


async def _let_go(connection: Connection) -> None:
    """Resume the router's consumer; returns when it has handed out its first event.

    A consumer that was paused looks at its stream again with the next heartbeat, up to half a second later.
    """
    n_delivered = await _n_delivered(connection)
    await connection.client.jsm().resume_consumer(*_ROUTING)

    async def has_begun() -> bool:
        return await _n_delivered(connection) > n_delivered

    await _until(has_begun, poll_s=_FIRST_POLL_S)


async def _n_delivered(connection: Connection) -> int:
    info = await connection.client.jetstream().consumer_info(*_ROUTING)
    return info.delivered.consumer_seq if info.delivered else 0


async def _until_left(connection: Connection, n_events: int, consumer: tuple[str, str] = _ROUTING) -> None:
    """Wait until no more messages than these are unacknowledged; asks the more often the nearer that is."""
    async with asyncio.timeout(_PATIENCE_S):
        started_s, n_first = time.perf_counter(), await _n_left(connection, consumer)
        n_left = n_first
        while n_left > n_events:
            per_event_s = (time.perf_counter() - started_s) / max(n_first - n_left, 1)
            expected_s = (n_left - n_events) * per_event_s
            await asyncio.sleep(min(max(expected_s / 4, _POLL_S), _LONGEST_POLL_S))
            n_left = await _n_left(connection, consumer)


async def _n_left(connection: Connection, consumer: tuple[str, str]) -> int:
    info = await connection.client.jetstream().consumer_info(*consumer)
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def _until(condition: Callable[[], Awaitable[bool]], *, poll_s: float = _POLL_S) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(poll_s)


async def _events_bytes(connection: Connection) -> int:
    info = await connection.client.jetstream().stream_info(_NAMES.events_stream)
    return info.state.bytes


async def _last_result(connection: Connection) -> int:
    """Sequence number in the stream of results."""
    info = await connection.client.jetstream().stream_info(_NAMES.reconstructions_stream)
    return info.state.last_seq


async def _results(connection: Connection, run_id: int, first_sequence: int = 1) -> list[int]:
    """Numbers of a run's events in the stream of results, as often as they are there."""
    messages = stored_messages(
        connection, _NAMES.everything_in("reconstructions"), first_sequence=first_sequence
    )
    ids = [decode_reconstruction(message.payload).event_id async for message in messages]
    return [event_id.event_id for event_id in ids if event_id.run_id == run_id]


async def _receive(
    subscription: JetStreamContext.PushSubscription, run_id: int, n_events: int, available: dict[int, int]
) -> None:
    """Note when each event's reconstruction came in here, in Unix ns by number."""
    async for message in subscription.messages:
        received_unix_ns = time.time_ns()
        event_id = decode_reconstruction(message.data).event_id
        if event_id.run_id == run_id:
            available.setdefault(event_id.event_id, received_unix_ns)
        if len(available) == n_events:
            break


async def _kill_router(stack: RunningStack, killed_before: int) -> int:
    """Kill the router that came after the one that was killed before; returns its process id."""
    found = list[psutil.Process]()

    async def is_another() -> bool:
        router = await asyncio.to_thread(stack.router)
        if router is None or router.pid == killed_before:
            return False
        found.append(router)
        return True

    await _until(is_another)
    found[-1].send_signal(signal.SIGKILL)
    return found[-1].pid


def _part(process: psutil.Process) -> str:
    # The program or the module is among the first words, or behind setpriv's.
    words = process.cmdline()[:8]
    return next((part for word, part in PARTS.items() if any(word in given for given in words)), OTHER)


def _free_offset() -> int:
    """A port offset at which every default port is free."""
    # Not everybody's first: two benchmarks that start together would find the same ports free.
    for offset in range(1000 + os.getpid() % 100 * 100, 15_000, 100):
        with suppress(IceStreamError):
            Endpoints.shifted(offset).check_free()
            return offset
    raise RuntimeError("no port offset is free")
