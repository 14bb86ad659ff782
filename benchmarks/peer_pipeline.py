"""Our stack against what a user would otherwise build: `python -m benchmarks.peer_pipeline`.

The peer (`benchmarks/peer`) is a list in Redis, consumers, Flask under gunicorn and a store. Both pipelines work
through the same simulated events with the same ONNX model: one that costs next to nothing, so that everything around
the model is what counts, and the shipped one. The batch is the peer's events in an item of the list and a request to
Flask, and our routers' events in a request to Triton. Where batches are the peer's, we have a router for each core, as
it has a consumer; beside that our default runs, one router and 32 events in a request. Our stack is `icestream up`, so
its recorder writes every result into a database beside what is measured, which the peer does not.

Each pipeline is started anew, alone, in each round; the pipelines take turns.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from benchmarks import stack_runs
from benchmarks.load import Accounted, Drained, Latencies, sample_events
from benchmarks.machine import this_machine
from benchmarks.peer.pipeline import find_redis, running_peer
from benchmarks.router_batches import ROUTER_BATCH
from benchmarks.spread import median_and_error, median_and_range, spread
from benchmarks.stack_runs import running_stack
from benchmarks.trivial_model import model_file, write_shipped_repository, write_trivial_repository
from icestream.errors import Misconfigured
from icestream.physics.events import Event

PEER, OURS = "peer", "icestream"
TRIVIAL, SHIPPED = "trivial", "shipped"
MAX_BATCH = 64
RESULT_FILE = "peer_pipeline.json"
PLOT_FILE = "peer_pipeline.png"
WIDTH = 150

_COLORS = {PEER: "C1", OURS: "C0"}
_MARKERS = "os"
_WARM_UP_EVENTS = 2000
"""Until memory has been taken and code compiled, a process that has just started does half of what it does later."""
_ACK_WAIT_S = "5"
"""How long the events of a killed router wait for the next one; with the default of 30 it would take minutes."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A pipeline in one setting."""

    side: str
    batch: int
    n_routers: int = 1
    """The peer has a consumer for each core."""

    @property
    def name(self) -> str:
        """For tables."""
        routers = f", {self.n_routers} routers" if self.n_routers > 1 else ""
        return f"{self.side}, batch {self.batch}{routers}"


N_CORES = os.cpu_count() or 1
CONTENDERS = (
    Contender(PEER, 1),
    Contender(OURS, 1, N_CORES),
    Contender(PEER, MAX_BATCH),
    Contender(OURS, MAX_BATCH, N_CORES),
    Contender(OURS, ROUTER_BATCH),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int
    events: int
    """In a drain."""
    seconds: float
    """For each rate of the latencies."""
    kills: int
    sample: int = 2000
    """Different events."""
    rates: tuple[float, ...] = (100.0, 500.0)
    models: tuple[str, ...] = (TRIVIAL, SHIPPED)
    contenders: tuple[Contender, ...] = CONTENDERS


QUICK = Settings(
    rounds=1,
    events=300,
    seconds=1.0,
    kills=2,
    sample=100,
    models=(TRIVIAL,),
    contenders=(Contender(PEER, MAX_BATCH), Contender(OURS, MAX_BATCH, 2)),
)
"""Shows that everything works; its numbers say nothing."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one start of a contender gave."""

    model: str
    contender: Contender
    drained: Drained
    latencies: list[Latencies]


@dataclass(frozen=True, slots=True)
class Killed:
    """What killing its consumers did to a contender."""

    contender: Contender
    accounted: Accounted


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share."""

    settings: Settings
    directory: Path
    repositories: Mapping[str, Path]
    """By model."""
    sample: Sequence[Event]
    emitters: Executor
    """Emitters are processes of their own, one at a time."""
    numbers: Iterator[int]
    """Of folders and of runs; none is used twice."""


def main() -> None:
    """Measure by the command line."""
    settings, out = _arguments()
    console = Console(width=WIDTH)
    try:
        find_redis()
    except Misconfigured as error:
        # Before minutes have passed.
        raise SystemExit(str(error)) from None
    console.print(str(this_machine()))
    rounds, killed = measure(settings, console.print)
    console.print(f"load at the end: {this_machine().load_1min}")
    for table in (drain_table(rounds), latency_table(rounds), cost_table(rounds), loss_table(killed)):
        console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": this_machine().as_dict(),
        "settings": asdict(settings),
        "rounds": [asdict(one) for one in rounds],
        "killed": [asdict(one) for one in killed],
    }
    (out / RESULT_FILE).write_text(json.dumps(content, indent=1) + "\n")
    draw(rounds, out / PLOT_FILE)


def measure(settings: Settings, report: Callable[[str], object]) -> tuple[list[Round], list[Killed]]:
    """Run every contender with every model, round after round, and then kill consumers."""
    with (
        tempfile.TemporaryDirectory() as directory,
        # Spawned: a fork would take this process's threads and locks along.
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as emitters,
    ):
        bench = Bench(
            settings,
            Path(directory),
            _repositories(Path(directory), settings.models),
            sample_events(settings.sample),
            emitters,
            count(1),
        )
        rounds = list[Round]()
        for number in range(settings.rounds):
            for model in settings.models:
                for contender in settings.contenders:
                    rounds.append(_round(bench, model, contender))
                    report(f"round {number + 1}, {model} model: {_in_short(rounds[-1])}")
        killed = list[Killed]()
        for contender in settings.contenders:
            killed.append(Killed(contender, _kill(bench, contender)))
            report(f"{contender.name}: {killed[-1].accounted.n_lost} lost")
    return rounds, killed


def drain_table(rounds: Sequence[Round]) -> Table:
    """Events/s by model and contender, and how that compares with the peer in each of its settings."""
    groups = _groups(rounds)
    peers = [one for one in dict.fromkeys(one for _, one in groups) if one.side == PEER]
    table = Table(
        *("model", "contender", "events/s: min", "median", "max"),
        *(f"times {peer.name}" for peer in peers),
        title="drain of a prefilled queue",
    )
    for (model, contender), chosen in groups.items():
        low, middle, high = spread(_events_per_s(chosen))
        references = [statistics.median(_events_per_s(groups[model, peer])) for peer in peers]
        table.add_row(
            *(model, contender.name),
            *(f"{rate:.0f}" for rate in (low, middle, high)),
            *(f"{middle / reference:.2f}" for reference in references),
        )
    return table


def latency_table(rounds: Sequence[Round]) -> Table:
    """From the moment at which an event is due to its result; medians of the rounds and their range."""
    table = Table(
        *("model", "contender", "events/s", "p50 (ms)", "min-max", "p99 (ms)", "min-max", "sustained"),
        title="latency under a Poisson process",
    )
    for (model, contender), chosen in _groups(rounds).items():
        for number, first in enumerate(chosen[0].latencies):
            found = [one.latencies[number] for one in chosen]
            n_sustained = sum(one.is_sustained for one in found)
            table.add_row(
                *(model, contender.name, f"{first.rate:g}"),
                *median_and_range([1e3 * one.p50_s for one in found]),
                *median_and_range([1e3 * one.p99_s for one in found]),
                f"{n_sustained} of {len(found)}",
            )
    return table


def cost_table(rounds: Sequence[Round]) -> Table:
    """Processor time of each part and bytes in the broker, for one event of a drain; medians of the rounds."""
    parts = list(dict.fromkeys(part for one in rounds for part in one.drained.cpu_s))
    table = Table(
        *("model", "contender", *parts, "sum", "bytes in the broker"),
        title="processor time (ms) and bytes for one event",
    )
    for (model, contender), chosen in _groups(rounds).items():
        costs = {
            part: statistics.median(1e3 * one.drained.cpu_s[part] / one.drained.n_events for one in chosen)
            for part in chosen[0].drained.cpu_s
        }
        n_bytes = statistics.median(one.drained.bytes_per_event for one in chosen)
        cells = [f"{costs[part]:.3f}" if part in costs else "" for part in parts]
        table.add_row(model, contender.name, *cells, f"{sum(costs.values()):.3f}", f"{n_bytes:.0f}")
    return table


def loss_table(killed: Sequence[Killed]) -> Table:
    """Events without a result, and results that are there twice."""
    table = Table(
        *("contender", "events", "kill -9", "lost", "duplicates"),
        title="consumers (peer) or routers (icestream) killed while they drain a queue, trivial model",
    )
    for one in killed:
        found = one.accounted
        numbers = (found.n_events, found.n_kills, found.n_lost, found.n_duplicates)
        table.add_row(one.contender.name, *map(str, numbers))
    return table


def draw(rounds: Sequence[Round], path: Path) -> None:
    """Throughput, and p99 at each rate; medians with the range of the rounds."""
    groups = _groups(rounds)
    models = list(dict.fromkeys(model for model, _ in groups))
    figure, rows = plt.subplots(
        len(models), 2, figsize=(11, 3.2 * len(models)), layout="constrained", squeeze=False
    )
    for model, (left, right) in zip(models, rows, strict=True):
        of_model = {contender: chosen for (name, contender), chosen in groups.items() if name == model}
        _draw_rates(left, of_model)
        _draw_latencies(right, of_model)
        left.set(xlabel=f"drained events/s, {model} model")
        right.set(xlabel=f"p99 latency (ms), {model} model")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_rates(axes: Axes, groups: Mapping[Contender, Sequence[Round]]) -> None:
    for place, (contender, chosen) in enumerate(groups.items()):
        middle, error = median_and_error(_events_per_s(chosen))
        axes.barh(place, middle, xerr=error, color=_COLORS[contender.side], capsize=3)
    axes.set_yticks(range(len(groups)), [contender.name for contender in groups])
    axes.invert_yaxis()


def _draw_latencies(axes: Axes, groups: Mapping[Contender, Sequence[Round]]) -> None:
    for place, (contender, chosen) in enumerate(groups.items()):
        for number, first in enumerate(chosen[0].latencies):
            middle, error = median_and_error([1e3 * one.latencies[number].p99_s for one in chosen])
            axes.errorbar(
                middle,
                place + 0.2 * number,
                xerr=error,
                color=_COLORS[contender.side],
                marker=_MARKERS[number],
                capsize=3,
                label=f"{first.rate:g} events/s" if place == 0 else None,
            )
    axes.set_yticks(range(len(groups)), [""] * len(groups))
    axes.set_xscale("log")
    axes.legend()
    axes.invert_yaxis()


def _arguments() -> tuple[Settings, Path]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peer_pipeline", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="starts of each contender (default: %(default)s)"
    )
    parser.add_argument("--events", type=int, default=6000, help="in each drain (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="at each rate (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=10, help="of consumers (default: %(default)s)")
    parser.add_argument(
        "--models", choices=(TRIVIAL, SHIPPED), nargs="+", default=(TRIVIAL, SHIPPED), help="default: both"
    )
    parser.add_argument("--quick", action="store_true", help="a short run that only shows that it works")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/peer_pipeline"))
    given = parser.parse_args()
    settings = Settings(
        given.rounds, given.events, given.seconds, given.kills, models=tuple(dict.fromkeys(given.models))
    )
    return QUICK if given.quick else settings, given.out


def _repositories(directory: Path, models: Sequence[str]) -> dict[str, Path]:
    write = {TRIVIAL: write_trivial_repository, SHIPPED: write_shipped_repository}
    return {model: write[model](directory / model, max_batch_size=MAX_BATCH) for model in models}


def _round(bench: Bench, model: str, contender: Contender) -> Round:
    directory, repository = bench.directory / f"run-{next(bench.numbers)}", bench.repositories[model]
    batch, load = contender.batch, (bench.emitters, bench.sample)
    settings = bench.settings
    if contender.side == PEER:
        with running_peer(directory, model_file(repository)) as peer:
            peer.drain(*load, next(bench.numbers), _WARM_UP_EVENTS, batch=batch)
            drained = peer.drain(*load, next(bench.numbers), settings.events, batch=batch)
            found = [
                peer.latencies(
                    *load, next(bench.numbers), round(rate * settings.seconds), batch=batch, rate=rate
                )
                for rate in settings.rates
            ]
    else:
        with running_stack(directory, repository, _router(batch), n_routers=contender.n_routers) as stack:
            drain = partial(stack_runs.drain, stack, *load)
            asyncio.run(drain(next(bench.numbers), _WARM_UP_EVENTS))
            drained = asyncio.run(drain(next(bench.numbers), settings.events))
            found = [
                asyncio.run(
                    stack_runs.measure_latencies(
                        stack, *load, next(bench.numbers), round(rate * settings.seconds), rate=rate
                    )
                )
                for rate in settings.rates
            ]
    return Round(model, contender, drained, found)


def _kill(bench: Bench, contender: Contender) -> Accounted:
    directory, repository = bench.directory / f"run-{next(bench.numbers)}", bench.repositories[TRIVIAL]
    load = (bench.emitters, bench.sample, next(bench.numbers), bench.settings.events)
    n_kills = bench.settings.kills
    if contender.side == PEER:
        with running_peer(directory, model_file(repository)) as peer:
            return peer.account_for_kills(*load, batch=contender.batch, n_kills=n_kills)
    router = _router(contender.batch) | {"ack_wait_s": _ACK_WAIT_S}
    with running_stack(directory, repository, router, n_routers=contender.n_routers) as stack:
        return asyncio.run(stack_runs.account_for_kills(stack, *load, n_kills=n_kills))


def _router(batch: int) -> dict[str, str]:
    """Settings for requests of so many events; where they are small, more are in flight, so that Triton can merge."""
    return {"batch": str(batch), "requests_in_flight": str(max(6, MAX_BATCH // batch))}


def _in_short(one: Round) -> str:
    p99s = ", ".join(f"{1e3 * found.p99_s:.0f} ms at {found.rate:g}/s" for found in one.latencies)
    return f"{one.contender.name}: {one.drained.events_per_s:.0f} events/s; p99 {p99s}"


def _groups(rounds: Sequence[Round]) -> dict[tuple[str, Contender], list[Round]]:
    """The rounds by model and contender, in the order in which these were first measured."""
    models = list(dict.fromkeys(one.model for one in rounds))
    groups: dict[tuple[str, Contender], list[Round]] = {}
    for one in sorted(rounds, key=lambda one: models.index(one.model)):
        groups.setdefault((one.model, one.contender), []).append(one)
    return groups


def _events_per_s(rounds: Sequence[Round]) -> list[float]:
    return [one.drained.events_per_s for one in rounds]


if __name__ == "__main__":
    main()
