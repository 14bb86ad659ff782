"""How the pipeline grows: `python -m benchmarks.growth [routers] [sizes] [streams] [soak]`.

Each part has a stack of its own (`icestream up`) and measures drains: the stream is filled while the router is held
back, and time runs until every event is acknowledged. A drain fails unless every event has exactly one reconstruction.

routers: more routers on the one durable consumer, as processes beside the stack's own. On a machine without idle cores
they bring nothing; it shows what they cost, and that nothing is lost or done twice.

sizes: events of 50 to 100 000 pulses; the longest do not fit into a message and travel by the object store.

streams: the same drain behind 10^4, 10^5 and 10^6 events that were worked off before.

soak: minutes under 70 % of the load that a drain takes: memory of each process, latencies, and what was not answered.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from rich.console import Console

from benchmarks import stack_runs
from benchmarks.growth_events import (
    Room,
    mean_bytes,
    n_stored,
    resized,
    store_worked_off,
    stored_bytes,
)
from benchmarks.growth_report import (
    Point,
    cost_table,
    draw_memory,
    draw_points,
    memory_table,
    rate_table,
    wait_table,
)
from benchmarks.growth_soak import KEPT_S, Soak, resident_mib, soak
from benchmarks.load import sample_events
from benchmarks.machine import this_machine
from benchmarks.pipeline import MODELS, TRIVIAL
from benchmarks.processes import end, start, wait_until
from benchmarks.stack_runs import ROUTER, RunningStack, running_stack
from benchmarks.trivial_model import write_shipped_repository, write_trivial_repository
from icestream.physics.events import Event
from icestream.runtime.endpoints import LOOPBACK, free_ports
from icestream.runtime.jetstream.topology import EVENTS_LIMITS
from icestream.runtime.local_stack import serves_grpc
from icestream.runtime.supervisor import python_command

ROUTERS, SIZES, STREAMS, SOAK = "routers", "sizes", "streams", "soak"
PARTS = (ROUTERS, SIZES, STREAMS, SOAK)
BY_DEFAULT = (ROUTERS, SIZES, STREAMS)
LABELS = {ROUTERS: "routers", SIZES: "pulses in an event", STREAMS: "events worked off before"}
LOGARITHMIC = {ROUTERS: "", SIZES: "xy", STREAMS: "x"}
"""Axes of the pictures."""
LOAD = 0.7
"""Of the drained rate, in the soak."""
SMALL_PULSES = 8
"""Of events in long streams."""
WIDTH = 150

_START_TIMEOUT_S = 120.0
_MOST_EVENT_PULSES = 2_000_000
"""Of a sample of equal events, which is copied into the emitter's process."""

Report = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured."""

    model: str = "direction_fast"
    batch: int = 32
    rounds: int = 3
    """Drains at each size of what grows."""
    minutes: float = 10.0
    """Of the soak."""
    n_sample: int = 2000
    n_events: int = 6000
    """In a drain of events as they are simulated."""
    n_warm_up: int = 600
    n_routers: tuple[int, ...] = (1, 2, 4)
    pulses: tuple[int, ...] = (50, 500, 5000, 50_000, 100_000)
    drain_pulses: int = 10_000_000
    """Most pulses in a drain, so that long events do not take all the time."""
    worked_off: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    n_last: int = 10_000
    """Events that are drained behind those."""

    def n_events_of(self, n_pulses: int) -> int:
        """How many events of so many pulses are drained."""
        return min(self.n_events, max(self.drain_pulses // n_pulses, 1))


QUICK = Settings(
    rounds=1,
    minutes=0.25,
    n_sample=200,
    n_events=600,
    n_warm_up=200,
    drain_pulses=1_000_000,
    worked_off=(1000, 10_000),
    n_last=600,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """A stack, what it is loaded by and with, and how much."""

    settings: Settings
    stack: RunningStack
    directory: Path
    emitters: Executor
    sample: list[Event]
    run_ids: Iterator[int]

    def drain(self, size: int, sample: Sequence[Event], n_events: int) -> Point:
        """Drain so many events once."""
        draining = stack_runs.drain(self.stack, self.emitters, sample, next(self.run_ids), n_events)
        drained = asyncio.run(draining)
        n_pulses = statistics.mean(len(event.pulses) for event in sample)
        memory = resident_mib(self.stack.process.pid).values()
        broker_mib = sum(mib for name, mib in memory if name == "broker")
        return Point(size, n_pulses, mean_bytes(sample), drained, broker_mib)

    def warm_up(self) -> None:
        """Let the caches of all parts fill."""
        self.drain(0, self.sample, self.settings.n_warm_up)

    def check_room(self, needed_bytes: float) -> None:
        """See `Room.check`."""
        Room.of(self.directory, EVENTS_LIMITS.max_bytes).check(needed_bytes)


def main() -> None:
    """Measure by the command line."""
    given = _parser().parse_args()
    settings = replace(
        QUICK if given.quick else Settings(minutes=given.minutes, rounds=given.rounds),
        model=given.model,
        batch=given.batch,
    )
    console = Console(width=WIDTH)
    console.print(str(this_machine()))
    given.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        emitters = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        sample = sample_events(settings.n_sample)
        for part in given.parts or BY_DEFAULT:
            console.rule(part)
            with bench(settings, emitters, sample) as one:
                found = (
                    soak_at_load(one, console.print) if part == SOAK else MEASURE[part](one, console.print)
                )
            _show(part, found, settings, given.out, console)
    console.print(f"load at the end: {this_machine().load_1min}")


@contextmanager
def bench(settings: Settings, emitters: Executor, sample: list[Event]) -> Iterator[Bench]:
    """A stack that is up and warm."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="icestream-growth-")))
        repository = _write_repository(settings, directory / "models")
        running = stack.enter_context(
            running_stack(directory / "stack", repository, {"batch": str(settings.batch)})
        )
        one = Bench(settings, running, directory, emitters, sample, count(1))
        one.warm_up()
        yield one


def measure_routers(bench: Bench, report: Report) -> list[Point]:
    """Drain with several routers, in turns."""
    settings, points = bench.settings, list[Point]()
    n_drains = settings.rounds * len(settings.n_routers)
    bench.check_room(stored_bytes(bench.sample, n_drains * (settings.n_events + settings.n_warm_up)))
    for _ in range(settings.rounds):
        for n_routers in settings.n_routers:
            with _more_routers(bench, n_routers - 1) as grown:
                grown.warm_up()
                points.append(grown.drain(n_routers, bench.sample, settings.n_events))
            report(_in_short(ROUTERS, points[-1]))
    return points


def measure_sizes(bench: Bench, report: Report) -> list[Point]:
    """Drain events of several lengths, in turns."""
    settings, points = bench.settings, list[Point]()
    samples = {n_pulses: _sample_of(bench.sample, n_pulses) for n_pulses in settings.pulses}
    bench.check_room(
        sum(
            stored_bytes(sample, settings.rounds * settings.n_events_of(n_pulses))
            for n_pulses, sample in samples.items()
        )
    )
    for _ in range(settings.rounds):
        for n_pulses, sample in samples.items():
            points.append(bench.drain(n_pulses, sample, settings.n_events_of(n_pulses)))
            report(_in_short(SIZES, points[-1]))
    return points


def measure_streams(bench: Bench, report: Report) -> list[Point]:
    """Drain the last events of a stream that grows."""
    settings, points = bench.settings, list[Point]()
    small = [resized(event, SMALL_PULSES) for event in bench.sample]
    n_drained = settings.rounds * len(settings.worked_off) * settings.n_last
    bench.check_room(stored_bytes(small, max(settings.worked_off) + n_drained))
    url = bench.stack.nats_url
    for n_worked_off in settings.worked_off:
        n_missing = n_worked_off - asyncio.run(n_stored(url))
        if n_missing > 0:
            asyncio.run(store_worked_off(url, small, next(bench.run_ids), n_missing))
        bench.warm_up()
        for _ in range(settings.rounds):
            points.append(bench.drain(n_worked_off, small, settings.n_last))
            report(_in_short(STREAMS, points[-1]))
    return points


MEASURE: Mapping[str, Callable[[Bench, Report], list[Point]]] = {
    ROUTERS: measure_routers,
    SIZES: measure_sizes,
    STREAMS: measure_streams,
}


def soak_at_load(bench: Bench, report: Report) -> Soak:
    """Find out what a drain takes, and load the stack with a part of that for minutes."""
    settings = bench.settings
    drains = [bench.drain(0, bench.sample, settings.n_events) for _ in range(settings.rounds)]
    rate = LOAD * statistics.median(point.drained.events_per_s for point in drains)
    report(f"{rate:.0f} events/s for {settings.minutes:g} minutes")
    bench.check_room(stored_bytes(bench.sample, round(rate * min(60 * settings.minutes, KEPT_S))))
    soaking = soak(
        *(bench.stack, bench.emitters, bench.sample, next(bench.run_ids)),
        rate=rate,
        seconds=60 * settings.minutes,
    )
    return asyncio.run(soaking)


@contextmanager
def _more_routers(bench: Bench, n_more: int) -> Iterator[Bench]:
    """The bench with so many routers beside the stack's own, on the same durable consumer."""
    with ExitStack() as stack:
        pids = dict[str, int]()
        for number in range(2, n_more + 2):
            pids[f"{ROUTER} {number}"] = stack.enter_context(_router(bench, number))
        yield replace(bench, stack=replace(bench.stack, beside=pids))


@contextmanager
def _router(bench: Bench, number: int) -> Iterator[int]:
    """One more router that is up; its process id."""
    endpoints = bench.stack.endpoints
    grpc_port, metrics_port = free_ports(2)
    flags = {
        "nats-url": endpoints.nats_url,
        "triton-url": f"{LOOPBACK}:{endpoints.triton_grpc}",
        "grpc-port": grpc_port,
        "metrics-port": metrics_port,
        "instance": f"local-{number}",
        "trace-ratio": 0,
        "batch": bench.settings.batch,
    }
    command = python_command("services.router", *(f"--{name}={value}" for name, value in flags.items()))
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoints.otlp_url} if bench.stack.is_traced else {}
    log = bench.directory / f"router-{number}.log"
    process = start(command, log, environment)

    def is_up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"router {number} did not start:\n{log.read_text()}")
        return asyncio.run(serves_grpc(grpc_port))

    try:
        wait_until(is_up, f"the start of router {number}", _START_TIMEOUT_S)
        yield process.pid
    finally:
        end(process)


def _write_repository(settings: Settings, repository: Path) -> Path:
    if settings.model == TRIVIAL:
        return write_trivial_repository(repository, max_batch_size=settings.batch)
    return write_shipped_repository(repository, max_batch_size=settings.batch, model=settings.model)


def _sample_of(sample: Sequence[Event], n_pulses: int) -> list[Event]:
    """Events of so many pulses, as many different ones as are copied quickly."""
    n_different = max(_MOST_EVENT_PULSES // n_pulses, 1)
    return [resized(event, n_pulses) for event in sample[:n_different]]


def _show(part: str, found: list[Point] | Soak, settings: Settings, out: Path, console: Console) -> None:
    """Print the tables, and write the picture and the numbers."""
    if isinstance(found, Soak):
        tables = [memory_table(found), wait_table(found)]
        draw_memory(found, out / f"{part}.png")
        numbers: object = asdict(found)
    else:
        label = LABELS[part]
        tables = [table(label, found) for table in (rate_table, cost_table)]
        draw_points(label, found, out / f"{part}.png", logarithmic=LOGARITHMIC[part])
        numbers = [asdict(point) for point in found]
    for table in tables:
        console.print(table)
    content = {"machine": this_machine().as_dict(), "settings": asdict(settings), part: numbers}
    (out / f"{part}.json").write_text(json.dumps(content, indent=1) + "\n")


def _in_short(part: str, point: Point) -> str:
    return (
        f"{LABELS[part]}, {point.size:,}: {point.drained.events_per_s:.0f} events/s, "
        f"{point.total_cost_us:.0f} us of processor time an event"
    )


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(PARTS)}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n")[0])
    parser.add_argument(
        "parts",
        nargs="*",
        type=_part,
        metavar="part",
        help=f"{', '.join(PARTS)} (default: {' '.join(BY_DEFAULT)})",
    )
    defaults = Settings()
    parser.add_argument("--model", choices=MODELS, default=defaults.model, help="default: %(default)s")
    parser.add_argument(
        "--batch", type=int, default=defaults.batch, help="of the routers (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=defaults.rounds, help="drains at each size (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=defaults.minutes, help="of the soak (default: %(default)s)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a short run that only shows that it works, with rounds and minutes of its own",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/growth"))
    return parser


if __name__ == "__main__":
    main()
