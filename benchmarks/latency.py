"""How long an event waits, and what costs time: `python -m benchmarks.latency`.

Latencies of events on NATS at shares of the rate at which the same run drained a prefilled stream; latencies of gRPC
calls; what uvloop brings; what traces cost. Everything is `icestream up`, started anew twice in each round: once with
uvloop and, in turns, before or after it, once without. See docs/performance.md.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from rich.console import Console

from benchmarks import grpc_load, stack_runs
from benchmarks.event_loops import LOOPS, UVLOOP, environment_for, loop_of
from benchmarks.grpc_load import Called
from benchmarks.latency_report import LoopRound, Round, draw, tables
from benchmarks.load import Drained, Latencies, sample_events
from benchmarks.machine import this_machine
from benchmarks.pipeline import MODELS, TRIVIAL
from benchmarks.stack_runs import RunningStack, running_stack
from benchmarks.trivial_model import write_shipped_repository, write_trivial_repository
from icestream.physics.events import Event
from icestream.runtime.local_stack import find_jaeger

RESULT_FILE = "latency.json"
PLOT_FILE = "latency.png"
WIDTH = 150

_WARM_UP_EVENTS = 600
_WARM_UP_CALLS = 200
_COMPARED_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how much of it."""

    model: str
    batch: int
    """Events in one of the router's requests to the model."""
    rounds: int
    events: int
    """In a drain."""
    seconds: float
    """For each rate of the latencies."""
    calls: int
    """Over gRPC, for each concurrency."""
    sample: int = 2000
    """Different events."""
    loads: tuple[float, ...] = (0.1, 0.5, 0.8)
    """Shares of the rate of the first drain."""
    concurrencies: tuple[int, ...] = (1, 64)
    """Of gRPC calls, beside the one at which the loops are compared."""
    traced_shares: tuple[float, ...] = (0.01, 1.0)
    """Of events, each in a drain that is compared with the one before them, without traces."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share."""

    settings: Settings
    directory: Path
    repository: Path
    sample: Sequence[Event]
    emitters: Executor
    """Emitters are processes of their own, one at a time."""
    callers: Executor
    """The same for clients of gRPC."""
    numbers: Iterator[int]
    """Of folders and of runs; none is used twice."""


def main() -> None:
    """Measure by the command line."""
    settings, out = _arguments()
    console = Console(width=WIDTH)
    if find_jaeger() is None and "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ:
        # Before minutes have passed.
        raise SystemExit(
            "traces would go nowhere and cost nothing: no jaeger found; build it with: make tools"
        )
    console.print(str(this_machine()))
    rounds = measure(settings, console.print)
    console.print(f"load at the end: {this_machine().load_1min}")
    for table in tables(rounds):
        console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": this_machine().as_dict(),
        "settings": asdict(settings),
        "rounds": [asdict(one) for one in rounds],
    }
    (out / RESULT_FILE).write_text(json.dumps(content, indent=1) + "\n")
    draw(rounds, out / PLOT_FILE)


def measure(settings: Settings, report: Callable[[str], object]) -> list[Round]:
    """Let the loops take turns, round after round.

    Args:
        settings: How much is measured.
        report: Told about each round.
    """
    rounds = list[Round]()
    with ExitStack() as stack:
        bench = _bench(stack, settings)
        for number in range(settings.rounds):
            rate = rounds[0].loops[UVLOOP].drained.events_per_s if rounds else None
            rounds.append(_round(bench, LOOPS if number % 2 == 0 else LOOPS[::-1], rate))
            report(f"round {number + 1}: {_in_short(rounds[-1])}")
    return rounds


def _bench(stack: ExitStack, settings: Settings) -> Bench:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="icestream-latency-")))
    # Spawned: a fork would take this process's threads and locks along.
    spawning = multiprocessing.get_context("spawn")
    emitters, callers = (stack.enter_context(ProcessPoolExecutor(1, mp_context=spawning)) for _ in range(2))
    repository, max_batch = directory / "models", settings.batch
    if settings.model == TRIVIAL:
        write_trivial_repository(repository, max_batch_size=max_batch)
    else:
        write_shipped_repository(repository, max_batch_size=max_batch, model=settings.model)
    sample = sample_events(settings.sample)
    return Bench(settings, directory, repository, sample, emitters, callers, count(1))


def _round(bench: Bench, loops: Sequence[str], rate: float | None) -> Round:
    """Everything once.

    Args:
        bench: What is shared.
        loops: In the order in which they are measured.
        rate: Whose shares the loads are, in events/s; None takes that of this round's drain with uvloop.
    """
    of_loops, found = dict[str, LoopRound](), list[Latencies]()
    called, traced = list[Called](), dict[float, Drained]()
    settings = bench.settings
    for loop in loops:
        directory = bench.directory / f"run-{next(bench.numbers)}"
        environment = environment_for(loop, bench.directory / loop)
        router = {"batch": str(settings.batch)}
        with running_stack(directory, bench.repository, router, environment) as stack:
            _check_loop(stack, loop)
            of_loops[loop] = _measure_loop(bench, stack)
            if loop != UVLOOP:
                continue
            traced = {share: _drain(bench, stack, settings.events, share) for share in settings.traced_shares}
            full = rate or of_loops[loop].drained.events_per_s
            found = [_latencies(bench, stack, share * full) for share in settings.loads]
            called = [_call(bench, stack, settings.calls, callers) for callers in settings.concurrencies]
    return Round(of_loops, dict(zip(settings.loads, found, strict=True)), called, traced)


def _check_loop(stack: RunningStack, loop: str) -> None:
    router = stack.router()
    if router is None or loop_of(router) != loop:
        raise RuntimeError(f"the router does not run on {loop}: what it imports has changed")


def _measure_loop(bench: Bench, stack: RunningStack) -> LoopRound:
    """What is compared between loops; it comes first in a stack's life, so that all have the same past."""
    _drain(bench, stack, _WARM_UP_EVENTS, 1.0)
    _call(bench, stack, _WARM_UP_CALLS, _COMPARED_CONCURRENCY)
    called = _call(bench, stack, bench.settings.calls, _COMPARED_CONCURRENCY)
    return LoopRound(_drain(bench, stack, bench.settings.events, 0.0), called)


def _drain(bench: Bench, stack: RunningStack, n_events: int, traced_share: float) -> Drained:
    draining = stack_runs.drain(
        stack,
        bench.emitters,
        bench.sample,
        next(bench.numbers),
        n_events,
        traced_share=traced_share,
        waits_for_rest=True,
    )
    return asyncio.run(draining)


def _latencies(bench: Bench, stack: RunningStack, rate: float) -> Latencies:
    n_events = max(round(rate * bench.settings.seconds), 1)
    load = (bench.emitters, bench.sample, next(bench.numbers), n_events)
    asyncio.run(stack_runs.until_at_rest(stack))
    return asyncio.run(stack_runs.measure_latencies(stack, *load, rate=rate))


def _call(bench: Bench, stack: RunningStack, n_calls: int, concurrency: int) -> Called:
    asyncio.run(stack_runs.until_at_rest(stack))
    calling = bench.callers.submit(
        grpc_load.call, stack.grpc_target, bench.sample, next(bench.numbers), n_calls, concurrency
    )
    return calling.result()


def _in_short(one: Round) -> str:
    drained = ", ".join(f"{found.drained.events_per_s:.0f} on {loop}" for loop, found in one.loops.items())
    p99s = ", ".join(f"{1e3 * found.p99_s:.1f} ms at {found.rate:.0f}/s" for found in one.latencies.values())
    return f"drained events/s: {drained}; p99 {p99s}"


def _arguments() -> tuple[Settings, Path]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="direction_fast", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="of the router (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--events", type=int, default=6000, help="in each drain (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="at each rate (default: %(default)s)")
    parser.add_argument(
        "--calls", type=int, default=2000, help="over gRPC, at each concurrency (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a short run that only shows that it works")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latency"))
    given = parser.parse_args()
    if given.quick:
        return Settings(given.model, given.batch, 1, 300, 1.0, 100, sample=100), given.out
    amounts = (given.rounds, given.events, given.seconds, given.calls)
    return Settings(given.model, given.batch, *amounts), given.out


if __name__ == "__main__":
    main()
