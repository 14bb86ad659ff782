"""Tables and pictures of what `benchmarks.growth` measured."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

from matplotlib import pyplot as plt
from rich.table import Table

from benchmarks.growth_soak import Soak
from benchmarks.load import Drained
from benchmarks.stack_runs import EMITTER, OTHER, ROUTER

DPI = 100


@dataclass(frozen=True, slots=True)
class Point:
    """One drain, at one size of what grows."""

    size: int
    n_pulses: float
    """Of an event, in the mean."""
    payload_bytes: float
    """Of an event, in the mean."""
    drained: Drained
    broker_mib: float
    """Resident memory of the broker after the drain."""

    @property
    def pulses_per_s(self) -> float:
        """Rate of the whole drain."""
        return self.n_pulses * self.drained.events_per_s

    @property
    def mb_per_s(self) -> float:
        """Rate of the whole drain, as the events were sent."""
        return self.payload_bytes * self.drained.events_per_s / 1e6

    def cost_us(self, part: str) -> float:
        """Processor time of a part for an event; 0 of a part that was not there."""
        return 1e6 * self.drained.cpu_s.get(part, 0.0) / self.drained.n_events

    @property
    def total_cost_us(self) -> float:
        """Processor time of all parts but the emitter for an event."""
        return sum(self.cost_us(part) for part in self.drained.cpu_s if part != EMITTER)


def rate_table(what: str, points: Sequence[Point]) -> Table:
    """Rates at each size: the median of the drains, and for events the range."""
    table = Table(what, "events", "events/s: min", "median", "max", "pulses/s", "MB/s")
    for size, chosen in by_size(points).items():
        rates = [point.drained.events_per_s for point in chosen]
        table.add_row(
            f"{size:,}",
            str(chosen[0].drained.n_events),
            *(f"{rate:.0f}" for rate in (min(rates), statistics.median(rates), max(rates))),
            f"{_median(chosen, lambda point: point.pulses_per_s):,.0f}",
            f"{_median(chosen, lambda point: point.mb_per_s):.1f}",
        )
    return table


def cost_table(what: str, points: Sequence[Point]) -> Table:
    """Processor time of each part for an event at each size, median of the drains; the emitter filled the stream."""
    names = parts_of(points)
    table = Table(
        *(what, *names, "all but the emitter", "min-max", "ns a pulse", "broker, MiB"),
        title="processor time for an event, us",
    )
    for size, chosen in by_size(points).items():
        totals = [point.total_cost_us for point in chosen]
        table.add_row(
            f"{size:,}",
            *(f"{_median_cost(chosen, name):.0f}" for name in names),
            *(f"{statistics.median(totals):.0f}", f"{min(totals):.0f}-{max(totals):.0f}"),
            f"{_median(chosen, lambda point: 1e3 * point.total_cost_us / point.n_pulses):.0f}",
            f"{_median(chosen, lambda point: point.broker_mib):.0f}",
        )
    return table


def memory_table(soaked: Soak) -> Table:
    """Resident memory of each process after the first window and at the end, and its slope."""
    table = Table("process", f"MiB after {soaked.window_s:.0f} s", "at the end", "MiB/hour, second half")
    for memory in soaked.memory:
        after, end = memory.at(soaked.window_s), memory.mib[-1]
        table.add_row(memory.name, f"{after:.1f}", f"{end:.1f}", f"{memory.mib_per_hour():+.1f}")
    return table


def wait_table(soaked: Soak) -> Table:
    """Latencies at both ends of the run, and what was never answered."""
    table = Table(
        *("part of the run", "events", "p50, ms", "p99, ms"),
        caption=f"{soaked.n_events} events at {soaked.rate:.0f}/s; without an answer: {soaked.n_unanswered}",
    )
    for name, waits in (("first", soaked.first), ("last", soaked.last)):
        latencies = (f"{1e3 * seconds:.1f}" for seconds in (waits.p50_s, waits.p99_s))
        table.add_row(f"{name} {soaked.window_s:.0f} s", str(waits.n_events), *latencies)
    return table


def draw_points(what: str, points: Sequence[Point], path: Path, *, logarithmic: str) -> None:
    """Draw the rate, and the processor time of each part, against the size; medians, with the range of the rate.

    Args:
        what: Grows.
        points: What was measured.
        path: Of the picture.
        logarithmic: Which axes are: "x", "xy" or neither.
    """
    groups = by_size(points)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    rates = [[point.drained.events_per_s for point in chosen] for chosen in groups.values()]
    middles = [statistics.median(one) for one in rates]
    below = [middle - min(one) for middle, one in zip(middles, rates, strict=True)]
    above = [max(one) - middle for middle, one in zip(middles, rates, strict=True)]
    left.errorbar(list(groups), middles, yerr=[below, above], marker="o", capsize=3)
    for name in parts_of(points):
        # Less than a tick of the clock has no place on a logarithmic axis.
        costs = [_median_cost(chosen, name) or float("nan") for chosen in groups.values()]
        right.plot(list(groups), costs, marker="o", label=name)
    for axes, label in ((left, "events/s"), (right, "processor time for an event (us)")):
        axes.set(xlabel=what, ylabel=label)
        axes.grid(visible=True, alpha=0.3)
        axes.set(**({"xscale": "log"} if "x" in logarithmic else {"xticks": list(groups)}))
        axes.set(**({"yscale": "log"} if "y" in logarithmic else {"ylim": (0, None)}))
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def draw_memory(soaked: Soak, path: Path) -> None:
    """Resident memory of each process over the run."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for memory in soaked.memory:
        axes.plot([at_s / 60 for at_s in memory.at_s], memory.mib, label=memory.name)
    axes.set(xlabel="time under load (min)", ylabel="resident memory (MiB)", ylim=(0, None))
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def by_size(points: Sequence[Point]) -> dict[int, list[Point]]:
    """The points of each size, the smallest first."""
    groups = dict[int, list[Point]]()
    for point in sorted(points, key=lambda point: point.size):
        groups.setdefault(point.size, []).append(point)
    return groups


def parts_of(points: Sequence[Point]) -> list[str]:
    """All parts that any drain had: routers beside each other, and what has no name last."""
    names = dict.fromkeys(part for point in points for part in point.drained.cpu_s)
    first = [name for name in names if not name.startswith(ROUTER) and name != OTHER]
    return [*first, *sorted(name for name in names if name.startswith(ROUTER)), *({OTHER} & names.keys())]


def _median(points: Sequence[Point], of: Callable[[Point], float]) -> float:
    return statistics.median(map(of, points))


def _median_cost(points: Sequence[Point], part: str) -> float:
    return _median(points, lambda point: point.cost_us(part))
