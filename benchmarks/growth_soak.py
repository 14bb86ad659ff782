"""The stack under a steady load for a long time: what its processes keep, and whether its answers become slower."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil

from benchmarks.stack_runs import RunningStack, answer_times
from icestream.physics.events import Event
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.topology import Names

PROGRAMS = {
    "nats-server": "broker",
    "services.router": "router",
    "triton_python_backend_stub": "model server's backend",
    "tritonserver": "model server",
    "services.recorder": "recorder",
    "services.scanner": "scanner",
    "services.nats_exporter": "NATS exporter",
    "jaeger": "Jaeger",
    "icestream": "supervisor",
}
"""What a process is called whose command line has a word, the first that it has."""
OTHER = "other"
WINDOW_S = 60.0
"""The first and the last so many seconds are compared; a third of a run that is shorter than three."""
KEPT_S = 180.0
"""For so long the broker keeps events and results."""

_EVERY_S = 5.0
_MIB = 1 << 20
_IDS_KNOWN_S = 120.0
_NAMES = Names()


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process had resident, over time."""

    name: str
    at_s: list[float]
    """From the start of the load."""
    mib: list[float]

    def at(self, seconds: float) -> float:
        """MiB at the measurement that is nearest to a time."""
        return self.mib[int(np.argmin(np.abs(np.array(self.at_s) - seconds)))]

    def mib_per_hour(self) -> float:
        """Slope of a line through the second half, by least squares; NaN of less than two measurements."""
        middle_s = (self.at_s[0] + self.at_s[-1]) / 2
        half = [(at_s, mib) for at_s, mib in zip(self.at_s, self.mib, strict=True) if at_s >= middle_s]
        if len(half) < 2:
            return float("nan")
        at_s, mib = np.array(half).T
        return float(np.polyfit(at_s, mib, 1)[0]) * 3600


@dataclass(frozen=True, slots=True)
class Waits:
    """From when events of a part of the run were due to when their results could be had."""

    n_events: int
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Soak:
    """What came of a long run."""

    rate: float
    seconds: float
    window_s: float
    memory: list[Memory]
    first: Waits
    last: Waits
    n_events: int
    n_unanswered: int


Measured = tuple[float, dict[int, tuple[str, float]]]
"""Seconds since the start, and MiB of each process under its name, by process id."""


async def soak(
    stack: RunningStack,
    emitters: Executor,
    sample: Sequence[Event],
    run_id: int,
    *,
    rate: float,
    seconds: float,
) -> Soak:
    """Publish events as a Poisson process for so long, and look at all processes every few seconds.

    What the broker keeps for a time, it keeps for minutes here, so that it is as full as it gets before the second
    half: events and results for three, message ids of both for two.
    """
    await _keep_for_minutes(stack.nats_url)
    n_events, done = round(rate * seconds), asyncio.Event()
    watching = asyncio.create_task(_watch(stack.process.pid, done))
    due, available = await answer_times(stack, emitters, sample, run_id, n_events, rate=rate)
    done.set()
    window_s = min(WINDOW_S, seconds / 3)
    first, last = first_and_last(due, available, window_s)
    return Soak(
        rate, seconds, window_s, by_process(await watching), first, last, n_events, n_events - len(available)
    )


def first_and_last(
    due_unix_ns: Sequence[int], available_unix_ns: Mapping[int, int], window_s: float
) -> tuple[Waits, Waits]:
    """Waits of the events that were due first, and of those that were due last; those without an answer left out."""
    due = np.array(due_unix_ns)
    answered = np.array(sorted(available_unix_ns), dtype=np.int64)
    waits_s = (np.array([available_unix_ns[number] for number in answered.tolist()]) - due[answered]) / 1e9
    is_first = due[answered] < due[0] + window_s * 1e9
    is_last = due[answered] > due[-1] - window_s * 1e9
    return _waits(waits_s[is_first]), _waits(waits_s[is_last])


def by_process(measured: Sequence[Measured]) -> list[Memory]:
    """One series for each process; of those that have the same name the later ones are numbered."""
    series = dict[int, Memory]()
    n_named = Counter[str]()
    for at_s, processes in measured:
        for pid, (name, mib) in sorted(processes.items()):
            if pid not in series:
                n_named[name] += 1
                number = f" ({n_named[name]})" if n_named[name] > 1 else ""
                series[pid] = Memory(name + number, [], [])
            series[pid].at_s.append(at_s)
            series[pid].mib.append(mib)
    return list(series.values())


def process_name(command: Sequence[str]) -> str:
    """What the process of a command line is called here."""
    # The program or the module is among the first words, or behind setpriv's.
    words = command[:8]
    return next((name for word, name in PROGRAMS.items() if any(word in given for given in words)), OTHER)


def resident_mib(pid: int) -> dict[int, tuple[str, float]]:
    """Names and resident memory of a process and of all below it, by process id."""
    parent = psutil.Process(pid)
    found = dict[int, tuple[str, float]]()
    for process in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = (process_name(process.cmdline()), process.memory_info().rss / _MIB)
    return found


def _waits(waits_s: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Waits:
    if not len(waits_s):
        return Waits(0, float("nan"), float("nan"))
    p50_s, p99_s = np.quantile(waits_s, (0.5, 0.99)).tolist()
    return Waits(len(waits_s), p50_s, p99_s)


async def _watch(pid: int, done: asyncio.Event) -> list[Measured]:
    started_s, measured = time.monotonic(), list[Measured]()
    while not done.is_set():
        # In a thread: results are being received meanwhile, whose times count.
        measured.append((time.monotonic() - started_s, await asyncio.to_thread(resident_mib, pid)))
        with suppress(TimeoutError):
            async with asyncio.timeout(_EVERY_S):
                await done.wait()
    return measured


async def _keep_for_minutes(nats_url: str) -> None:
    async with connect(nats_url, name="benchmark") as connection:
        js = connection.client.jetstream()
        for name in (_NAMES.events_stream, _NAMES.reconstructions_stream):
            config = (await js.stream_info(name)).config
            await js.update_stream(config.evolve(max_age=KEPT_S, duplicate_window=_IDS_KNOWN_S))
