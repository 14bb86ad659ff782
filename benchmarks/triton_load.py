"""Loads a Triton server with the requests of a router, from a process of its own."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import cycle

import uvloop

from benchmarks.load import Latencies, Schedule, latencies, sample_events
from benchmarks.router_batches import SINGLY, Cut, cut_events
from icestream.errors import DeadlineExceeded, ModelOverloaded
from icestream.physics.detector import icecube86
from icestream.ports import CallOptions, ModelInput
from icestream.runtime.triton import TritonModel
from services.router.reconstruction import PreparedEvent
from services.router.settings import RouterSettings

IN_FLIGHT: int = RouterSettings.model_fields["requests_in_flight"].default
CONCURRENCY: int = RouterSettings.model_fields["grpc_concurrency"].default

_TIMEOUT_S = 3.0
"""Less than a router's patience: a server that stalls must not hold up the benchmark."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A closed loop: a new request for each answer."""

    n_requests: int
    n_events: int
    n_failed: int
    """Requests that were refused, as the server's queue was full, or not answered in time."""
    seconds: float

    @property
    def events_per_s(self) -> float:
        """Rate of the whole run."""
        return self.n_events / self.seconds


@dataclass(frozen=True, slots=True)
class Arrived:
    """An open loop: requests come when they come."""

    latencies: Latencies
    """Of those that were answered."""
    n_answered: int
    n_failed: int
    """Were refused, as the server's queue was full, or not answered in time."""


@contextmanager
def client_process(n_sample: int) -> Iterator[Executor]:
    """A process for `closed_loop` and `open_loop`, with requests ready in its memory."""
    # Spawned: a fork would take this process's threads and locks along.
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning, initializer=_load, initargs=(n_sample,)) as client:
        yield client


def prepared_sample(n_events: int) -> list[PreparedEvent]:
    """Simulated events as the router holds them."""
    detector = icecube86()
    return [PreparedEvent.prepare(event, {detector.name: detector}) for event in sample_events(n_events)]


def closed_loop(target: str, model: str, cut: Cut, seconds: float) -> Answered:
    """Keep as many requests at the server as a router does.

    Args:
        target: The server.
        model: On it.
        cut: `SINGLY` asks as the router's gRPC face does, urgently; any other as its consumer does.
        seconds: No window is begun after them, but the last one is finished, so that all lengths count alike.
    """
    return uvloop.run(_closed_loop(target, model, cut, seconds))


def open_loop(target: str, model: str, rate: float, seconds: float, seed: int) -> Arrived:
    """Send single events as a Poisson process, as urgently as the router's gRPC face does.

    Args:
        target: The server.
        model: On it.
        rate: Events/s.
        seconds: How long events come.
        seed: Of the times.
    """
    return uvloop.run(_open_loop(target, model, rate, seconds, seed))


def arrived(rate: float, due_unix_ns: Sequence[int], answered_unix_ns: Mapping[int, int]) -> Arrived:
    """Compare when events were due with when they were answered, by number; those without an answer failed."""
    numbers = sorted(answered_unix_ns)
    found = latencies(
        rate,
        [due_unix_ns[number] for number in numbers],
        {place: answered_unix_ns[number] for place, number in enumerate(numbers)},
    )
    return Arrived(found, len(numbers), len(due_unix_ns) - len(numbers))


def _load(n_sample: int) -> None:
    """What the client's process keeps."""
    _kept.extend(prepared_sample(n_sample))


async def _closed_loop(target: str, model: str, cut: Cut, seconds: float) -> Answered:
    is_single = cut == SINGLY
    options = CallOptions(is_urgent=is_single, timeout_s=_TIMEOUT_S)
    sizes = list[int]()
    async with TritonModel(target) as triton:
        await triton.is_ready(model)  # Connects.
        started_s = time.perf_counter()
        requests = _until(started_s + seconds, _windows(cut))

        async def ask_on() -> None:
            for request in requests:
                try:
                    await triton.infer(model, request, options)
                except (ModelOverloaded, DeadlineExceeded):
                    sizes.append(0)
                else:
                    sizes.append(len(request.lengths))

        await asyncio.gather(*(ask_on() for _ in range(CONCURRENCY if is_single else IN_FLIGHT)))
        seconds = time.perf_counter() - started_s
    n_failed = sizes.count(0)
    return Answered(len(sizes) - n_failed, sum(sizes), n_failed, seconds)


async def _open_loop(target: str, model: str, rate: float, seconds: float, seed: int) -> Arrived:
    options = CallOptions(is_urgent=True, timeout_s=_TIMEOUT_S)
    answered_unix_ns = dict[int, int]()
    async with TritonModel(target) as triton:

        async def ask(number: int, request: ModelInput) -> None:
            with suppress(ModelOverloaded, DeadlineExceeded):
                await triton.infer(model, request, options)
                answered_unix_ns[number] = time.time_ns()

        await triton.is_ready(model)  # Connects.
        schedule = Schedule(round(rate * seconds), rate, seed)
        singles = cycle(request for [request] in _windows(SINGLY))
        async with asyncio.TaskGroup() as asking:
            for number in range(len(schedule.due_unix_ns)):
                await asyncio.sleep(schedule.early_s(number))
                asking.create_task(ask(number, next(singles)))
    return arrived(rate, schedule.due_unix_ns, answered_unix_ns)


def _until(end_s: float, windows: Sequence[Sequence[ModelInput]]) -> Iterator[ModelInput]:
    """Requests of one window after the other; none is begun after the end."""
    for window in cycle(windows):
        if time.perf_counter() >= end_s:
            return
        yield from window


@cache
def _windows(cut: Cut) -> list[list[ModelInput]]:
    return cut_events(_kept, cut)


_kept = list[PreparedEvent]()
"""In the client's process: its events."""
