"""How a direction model should be batched and served: `python -m benchmarks.batching [--model direction_fast]`.

A Triton server with the model and nothing else serves the shipped configuration and others that differ from it in one
thing, each started anew in each round, in turns. A client in a process of its own loads it (1) as the router's consumer
does: batches of like length, so many outstanding as the router has; (2) as its gRPC face does: single events, 64
outstanding; (3) with single events that come as a Poisson process, at shares of the rate that the shipped
configuration answered in (2) before the first round: the same events for all. What was executed together and how long
requests waited and computed is from the server's own counters.

Beside that onnxruntime, on one core and without a server, answers for the requests that routers with other windows,
batches and steps of padded lengths would make.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import this_machine
from benchmarks.router_batches import (
    CUTS,
    PARTS,
    ROUTER_WINDOW,
    SINGLY,
    Cut,
    CutCost,
    measure_cut,
    run_shapes_once,
)
from benchmarks.spread import median_and_error, median_and_range, spread
from benchmarks.triton_load import (
    CONCURRENCY,
    IN_FLIGHT,
    Answered,
    Arrived,
    client_process,
    closed_loop,
    open_loop,
    prepared_sample,
)
from benchmarks.triton_runs import (
    CONFIG_FILE,
    Executed,
    RunningTriton,
    ServerSetting,
    events_computed_together,
    read_setting,
    running_triton,
    shipped_folder,
    write_repository,
)
from export.served import open_session
from icestream.runtime.local_stack import CHECKOUT
from icestream.runtime.onnx_models import newest_version

MODELS = ("direction", "direction_fast")
RATE_SHARES = (1 / 3, 0.7)
RESULT_FILE = "{model}.json"
PLOT_FILE = "{model}.png"
WIDTH = 150

K = TypeVar("K")
V = TypeVar("V")

_DELAYS_US = (0, 2000, 10_000)
_INSTANCES_AND_THREADS = ((1, 1), (1, 2), (2, 2), (3, 1))
_BATCHES = (8, 32)
_WARM_UP_WINDOW = 64


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to serve a model, and to ask for many events."""

    server: ServerSetting
    batch: int
    """Events in a request of the router's consumer."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What a server did while a client asked as fast as it was answered."""

    answered: Answered
    executed: Executed


@dataclass(frozen=True, slots=True)
class Open:
    """What a server did while events came as they came."""

    arrived: Arrived
    executed: Executed

    @property
    def is_sustained(self) -> bool:
        """Whether the server answered for everything in time."""
        return self.arrived.n_failed == 0 and self.arrived.latencies.is_sustained


@dataclass(frozen=True, slots=True)
class Turn:
    """What one start of a candidate gave."""

    candidate: Candidate
    bulk: Closed
    single: Closed
    poisson: list[Open]
    """At each rate."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int
    closed_s: float
    """For each closed loop."""
    open_s: float
    """For each rate of single events."""
    sample: int = 1024
    """Different events; at least the largest window."""
    warm_up_s: float = 0.3
    """For each closed loop, before anything counts."""


QUICK = Settings(rounds=1, closed_s=0.4, open_s=0.4, sample=256, warm_up_s=0.2)
"""Shows that everything works; its numbers say nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """All turns of all candidates and cuts, in the order in which they were measured."""

    shipped: Candidate
    computed_together: int
    """Events in a run of the shipped model, which the server cuts requests into."""
    rates: list[float]
    """Of single events, events/s."""
    turns: list[Turn]
    cuts: list[CutCost]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all turns share."""

    model: str
    settings: Settings
    client: Executor
    directory: Path
    numbers: Iterator[int]
    """Of folders and of seeds; none is used twice."""


def main() -> None:
    """Measure by the command line."""
    model, settings, out = _arguments()
    console = Console(width=WIDTH)
    console.print(str(this_machine()))
    measured = measure(model, settings, console.print)
    console.print(f"load at the end: {this_machine().load_1min}")
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": this_machine().as_dict(),
        "model": model,
        "settings": asdict(settings),
        "measured": asdict(measured),
    }
    (out / RESULT_FILE.format(model=model)).write_text(json.dumps(content, indent=1) + "\n")
    for table in tables(measured):
        console.print(table)
    draw(measured, out / PLOT_FILE.format(model=model))


def shipped_candidate(model: str) -> Candidate:
    """What the repository's configuration says; a router that fits it fills the batch."""
    server = read_setting((shipped_folder(model) / CONFIG_FILE).read_text())
    return Candidate(server, server.max_batch_size)


def candidates(shipped: Candidate) -> list[Candidate]:
    """The shipped one first, then those that differ from it in one thing: delay, policy, instances, batches."""
    server = shipped.server
    servers = [
        *(replace(server, max_queue_delay_us=delay) for delay in _DELAYS_US),
        replace(server, has_queue_policy=True),
        *(
            replace(server, n_instances=n_instances, n_threads=n_threads)
            for n_instances, n_threads in _INSTANCES_AND_THREADS
        ),
    ]
    batches = [
        Candidate(replace(server, max_batch_size=max_batch_size), batch)
        for max_batch_size in _BATCHES
        for batch in _BATCHES
        if batch <= max_batch_size
    ]
    others = [replace(shipped, server=other) for other in servers]
    return list(dict.fromkeys([shipped, *others, *batches]))


def name_of(candidate: Candidate, shipped: Candidate) -> str:
    """In what a candidate differs from the shipped one."""
    pairs = zip(_words(candidate), _words(shipped), strict=True)
    return ", ".join(words for words, as_shipped in pairs if words != as_shipped) or "as shipped"


def measure(model: str, settings: Settings, report: Callable[[str], object]) -> Measured:
    """Let all candidates take turns, and then all cuts, round after round."""
    shipped = shipped_candidate(model)
    events = prepared_sample(settings.sample)
    session = open_session(_graph(model))
    run_shapes_once(session, events, CUTS)
    turns, costs = list[Turn](), list[CutCost]()
    with (
        tempfile.TemporaryDirectory(prefix="icestream-batching-") as directory,
        client_process(settings.sample) as client,
    ):
        bench = Bench(model, settings, client, Path(directory), count(1))
        answered_per_s = _answered_singly(bench, shipped)
        rates = [round(share * answered_per_s) for share in RATE_SHARES]
        report(f"single events at {' and '.join(map(str, rates))} events/s of {answered_per_s:.0f}")
        for number in range(settings.rounds):
            for candidate in candidates(shipped):
                turns.append(_turn(bench, candidate, rates))
                report(f"round {number + 1}, {name_of(candidate, shipped)}: {_in_short(turns[-1])}")
            costs += [measure_cut(session, events, cut, number % PARTS) for cut in CUTS]
    return Measured(shipped, events_computed_together(model), [float(rate) for rate in rates], turns, costs)


def tables(measured: Measured) -> list[Table]:
    """Everything that was measured."""
    return [
        closed_table(measured, f"requests of like length, {IN_FLIGHT} outstanding", lambda turn: turn.bulk),
        closed_table(measured, f"single events, {CONCURRENCY} outstanding", lambda turn: turn.single),
        *(
            open_table(measured, f"single events, Poisson process of {rate:g} events/s", number)
            for number, rate in enumerate(measured.rates)
        ),
        cut_table(measured),
    ]


def closed_table(measured: Measured, title: str, chosen: Callable[[Turn], Closed]) -> Table:
    """Events/s of each candidate, and how they were executed; medians of the rounds."""
    table = Table(
        *("configuration", "events/s: min", "median", "max", "of the shipped", "failed"),
        *("executed together", "queued (ms)", "computed (ms)"),
        title=title,
        caption=f"as shipped: {', '.join(_words(measured.shipped))}",
    )
    by_candidate = _by_candidate(measured)
    reference = statistics.median(
        chosen(turn).answered.events_per_s for turn in by_candidate[measured.shipped]
    )
    for candidate, turns in by_candidate.items():
        found = [chosen(turn) for turn in turns]
        low, middle, high = spread([one.answered.events_per_s for one in found])
        _add(
            *(table, measured, candidate),
            *(f"{low:.0f}", f"{middle:.0f}", f"{high:.0f}", f"{middle / reference:.2f}"),
            str(sum(one.answered.n_failed for one in found)),
            *_executed_cells([one.executed for one in found]),
        )
    return table


def open_table(measured: Measured, title: str, number: int) -> Table:
    """From when an event was due to its answer; medians of the rounds and their range."""
    table = Table(
        *("configuration", "p50 (ms)", "min-max", "p99 (ms)", "min-max", "sustained"),
        *("executed together", "queued (ms)", "computed (ms)"),
        title=title,
        caption=f"as shipped: {', '.join(_words(measured.shipped))}",
    )
    for candidate, turns in _by_candidate(measured).items():
        found = [turn.poisson[number] for turn in turns]
        _add(
            *(table, measured, candidate),
            *median_and_range([1e3 * one.arrived.latencies.p50_s for one in found]),
            *median_and_range([1e3 * one.arrived.latencies.p99_s for one in found]),
            f"{sum(one.is_sustained for one in found)} of {len(found)}",
            *_executed_cells([one.executed for one in found]),
        )
    return table


def cut_table(measured: Measured) -> Table:
    """Padding and processor time of an event by window, step of lengths and batch."""
    routers = Cut(ROUTER_WINDOW, measured.computed_together)
    by_cut = _by_cut(measured)
    reference = statistics.median(_us_per_event(by_cut[routers]))
    table = Table(
        *("window", "lengths a multiple of", "batch", "padding", "us an event: min", "median", "max"),
        "of the router's",
        title="onnxruntime alone, one thread",
    )
    for cut, costs in by_cut.items():
        low, middle, high = spread(_us_per_event(costs))
        table.add_row(
            *(f"{cut.window}", f"{cut.length_step}", f"{cut.batch}", f"{costs[0].padding_share:.1%}"),
            *(f"{low:.0f}", f"{middle:.0f}", f"{high:.0f}", f"{middle / reference:.2f}"),
            style="bold" if cut == routers else None,
        )
    return table


def draw(measured: Measured, path: Path) -> None:
    """Throughput and p99 of the candidates, and the cost of an event by cut; medians with the range of the rounds."""
    by_candidate = _by_candidate(measured)
    figure, (rates, waits, costs) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for place, turns in enumerate(by_candidate.values()):
        loads = ([turn.bulk for turn in turns], [turn.single for turn in turns])
        for number, found in enumerate(loads):
            middle, error = median_and_error([one.answered.events_per_s for one in found])
            rates.barh(place + 0.4 * number, middle, 0.4, xerr=error, color=f"C{number}", capsize=2)
        for number in range(len(measured.rates)):
            p99s_ms = [1e3 * turn.poisson[number].arrived.latencies.p99_s for turn in turns]
            middle, error = median_and_error(p99s_ms)
            waits.errorbar(
                middle, place + 0.2 * number, xerr=error, color=f"C{number}", marker="o", capsize=3
            )
    _label(rates, ["requests of like length", "single events"])
    _label(waits, [f"{rate:g} events/s" for rate in measured.rates])
    names = [name_of(candidate, measured.shipped) for candidate in by_candidate]
    rates.set_yticks(range(len(names)), names)
    waits.set_yticks(range(len(names)), [""] * len(names))
    rates.set(xlabel="events/s")
    waits.set(xlabel="p99 latency (ms)", xscale="log")
    _draw_costs(costs, _by_cut(measured))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_costs(axes: Axes, by_cut: Mapping[Cut, Sequence[CutCost]]) -> None:
    for window, step in dict.fromkeys((cut.window, cut.length_step) for cut in by_cut):
        cuts = [cut for cut in by_cut if (cut.window, cut.length_step) == (window, step)]
        medians = [statistics.median(_us_per_event(by_cut[cut])) for cut in cuts]
        axes.plot([cut.batch for cut in cuts], medians, "o-", label=f"window {window}, lengths by {step}")
    axes.set(xlabel="batch", ylabel="processor time of an event (us)", xscale="log")
    batches = sorted({cut.batch for cut in by_cut})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.legend()


def _label(axes: Axes, labels: Sequence[str]) -> None:
    axes.legend(handles=[Patch(color=f"C{number}", label=label) for number, label in enumerate(labels)])
    axes.invert_yaxis()


def _arguments() -> tuple[str, Settings, Path]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each server (default: %(default)s)")
    parser.add_argument(
        "--closed-seconds", type=float, default=1.0, help="for each throughput (default: %(default)s)"
    )
    parser.add_argument(
        "--open-seconds",
        type=float,
        default=1.75,
        help="for the latencies at each rate (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="a short run that only shows that it works")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/batching"))
    given = parser.parse_args()
    settings = Settings(given.rounds, given.closed_seconds, given.open_seconds)
    return given.model, QUICK if given.quick else settings, given.out


def _graph(model: str) -> Path:
    version = newest_version(CHECKOUT / "model_repository", model)
    if version is None:
        raise SystemExit(f"{shipped_folder(model)} has no version; write one with: python -m export.to_onnx")
    return shipped_folder(model) / version / "model.onnx"


@contextmanager
def _serving(bench: Bench, candidate: Candidate) -> Iterator[RunningTriton]:
    """A server that has met the requests that will come."""
    directory = bench.directory / f"run-{next(bench.numbers)}"
    repository = write_repository(directory / "models", bench.model, candidate.server)
    with running_triton(repository, directory) as server:
        for cut in (Cut(_WARM_UP_WINDOW, candidate.batch), SINGLY):
            _ask(bench, server, cut, bench.settings.warm_up_s)
        yield server


def _answered_singly(bench: Bench, candidate: Candidate) -> float:
    with _serving(bench, candidate) as server:
        return _ask(bench, server, SINGLY, bench.settings.closed_s).answered.events_per_s


def _turn(bench: Bench, candidate: Candidate, rates: Sequence[float]) -> Turn:
    with _serving(bench, candidate) as server:
        return Turn(
            candidate,
            bulk=_ask(bench, server, Cut(ROUTER_WINDOW, candidate.batch), bench.settings.closed_s),
            single=_ask(bench, server, SINGLY, bench.settings.closed_s),
            poisson=[_trickle(bench, server, rate) for rate in rates],
        )


def _ask(bench: Bench, server: RunningTriton, cut: Cut, seconds: float) -> Closed:
    before = server.counters()
    answered = bench.client.submit(closed_loop, server.target, bench.model, cut, seconds).result()
    return Closed(answered, server.executed_since(before, answered.n_requests))


def _trickle(bench: Bench, server: RunningTriton, rate: float) -> Open:
    before = server.counters()
    arguments = (server.target, bench.model, rate, bench.settings.open_s, next(bench.numbers))
    arrived = bench.client.submit(open_loop, *arguments).result()
    return Open(arrived, server.executed_since(before, arrived.n_answered))


def _words(candidate: Candidate) -> tuple[str, ...]:
    server = candidate.server
    return (
        f"max batch {server.max_batch_size}",
        f"delay {server.max_queue_delay_us} us",
        f"{server.n_instances} x {server.n_threads} threads",
        "queue policy" if server.has_queue_policy else "no queue policy",
        f"requests of {candidate.batch}",
    )


def _in_short(turn: Turn) -> str:
    p99s = ", ".join(f"{1e3 * one.arrived.latencies.p99_s:.0f} ms" for one in turn.poisson)
    return f"{turn.bulk.answered.events_per_s:.0f} and {turn.single.answered.events_per_s:.0f} events/s; p99 {p99s}"


def _add(table: Table, measured: Measured, candidate: Candidate, *cells: str) -> None:
    style = "bold" if candidate == measured.shipped else None
    table.add_row(name_of(candidate, measured.shipped), *cells, style=style)


def _executed_cells(executed: Sequence[Executed]) -> tuple[str, ...]:
    return (
        f"{statistics.median(one.batch for one in executed):.1f}",
        f"{statistics.median(one.queue_ms for one in executed):.2f}",
        f"{statistics.median(one.compute_ms for one in executed):.2f}",
    )


def _by_candidate(measured: Measured) -> dict[Candidate, list[Turn]]:
    return _grouped((turn.candidate, turn) for turn in measured.turns)


def _by_cut(measured: Measured) -> dict[Cut, list[CutCost]]:
    return _grouped((cost.cut, cost) for cost in measured.cuts)


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Values by key, in the order in which the keys first came."""
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _us_per_event(costs: Sequence[CutCost]) -> list[float]:
    return [cost.us_per_event for cost in costs]


if __name__ == "__main__":
    main()
