"""What `benchmarks.latency` found, as tables and as a plot."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rich.table import Table

from benchmarks.event_loops import UVLOOP
from benchmarks.grpc_load import Called
from benchmarks.load import Drained, Latencies
from benchmarks.stack_runs import EMITTER

_SPREAD = "min / median / max"


@dataclass(frozen=True, slots=True)
class LoopRound:
    """What the services did on one event loop."""

    drained: Drained
    """Without traces."""
    called: Called


@dataclass(frozen=True, slots=True)
class Round:
    """What one turn of everything gave."""

    loops: dict[str, LoopRound]
    latencies: dict[float, Latencies]
    """On NATS with uvloop, by the share of the drained rate."""
    called: list[Called]
    """Over gRPC with uvloop, beside those of the loops."""
    traced: dict[float, Drained]
    """With uvloop, by the share of events that are traced."""

    @property
    def calls(self) -> dict[int, Called]:
        """All calls with uvloop, by their concurrency, the smallest first."""
        found = {one.concurrency: one for one in (self.loops[UVLOOP].called, *self.called)}
        return dict(sorted(found.items()))

    @property
    def drains(self) -> dict[float, Drained]:
        """All drains with uvloop, by the share of events that are traced."""
        return {0.0: self.loops[UVLOOP].drained} | self.traced


def tables(rounds: Sequence[Round]) -> list[Table]:
    """Everything that was measured."""
    return [
        latency_table(rounds),
        grpc_table(rounds),
        loop_table(rounds),
        tracing_table(rounds),
        cost_table(rounds),
    ]


def latency_table(rounds: Sequence[Round]) -> Table:
    """From the moment at which an event is due until a subscriber has its result."""
    table = Table(
        *("of the drained rate", "events/s", "p50 (ms)", "p99 (ms)", "p99.9 (ms)", "sustained"),
        title=f"latency of events on NATS, {_SPREAD} of the rounds",
    )
    for share, first in rounds[0].latencies.items():
        found = [one.latencies[share] for one in rounds]
        n_sustained = sum(one.is_sustained for one in found)
        table.add_row(
            f"{share:.0%}",
            f"{first.rate:.0f}",
            *_quantile_cells(found),
            f"{n_sustained} of {len(found)}",
        )
    return table


def grpc_table(rounds: Sequence[Round]) -> Table:
    """From a call's sending to its answer."""
    table = Table(
        *("calls at once", "calls/s", "p50 (ms)", "p99 (ms)", "p99.9 (ms)"),
        title=f"unary gRPC calls, {_SPREAD} of the rounds",
    )
    for concurrency in rounds[0].calls:
        found = [one.calls[concurrency] for one in rounds]
        rates = spread((one.calls_per_s for one in found), 0)
        table.add_row(str(concurrency), rates, *_quantile_cells(found))
    return table


def loop_table(rounds: Sequence[Round]) -> Table:
    """Event loops of the services, and what uvloop is to the others in each round."""
    n_callers = rounds[0].loops[UVLOOP].called.concurrency
    table = Table(
        *("loop", "drained events/s", "uvloop's / this", f"calls/s, {n_callers} at once", "uvloop's / this"),
        "p99 (ms)",
        title=f"event loops of the services, {_SPREAD} of the rounds",
    )

    def drained(one: LoopRound) -> float:
        return one.drained.events_per_s

    def called(one: LoopRound) -> float:
        return one.called.calls_per_s

    for loop in sorted(rounds[0].loops, reverse=True):
        found = [one.loops[loop] for one in rounds]
        table.add_row(
            loop,
            *(spread(map(drained, found), 0), _advantage(rounds, loop, drained)),
            *(spread(map(called, found), 0), _advantage(rounds, loop, called)),
            spread((1e3 * one.called.p99_s for one in found), 1),
        )
    return table


def tracing_table(rounds: Sequence[Round]) -> Table:
    """Drains by the share of events that are traced, and what is lost in each round."""
    table = Table(
        *("traced", "drained events/s", "rate lost (%)", "still busy after it (s)"),
        title=f"traces, {_SPREAD} of the rounds",
    )
    for share in rounds[0].drains:
        found = [one.drains[share] for one in rounds]
        lost = (100 * (1 - one.drains[share].events_per_s / one.drains[0.0].events_per_s) for one in rounds)
        table.add_row(
            f"{share:.0%}",
            spread((one.events_per_s for one in found), 0),
            spread(lost, 1) if share else "",
            spread((one.rest_s for one in found), 1),
        )
    return table


def cost_table(rounds: Sequence[Round]) -> Table:
    """Processor time of each part for an event, until the stack is at rest; median of the rounds."""
    parts = list(rounds[0].drains[0.0].cpu_s)
    table = Table("traced", *parts, "all but the emitter", title="processor time for an event (us)")
    for share in rounds[0].drains:
        found = [one.drains[share] for one in rounds]
        costs = {
            part: statistics.median(1e6 * one.cpu_s[part] / one.n_events for one in found) for part in parts
        }
        total = sum(cost for part, cost in costs.items() if part != EMITTER)
        table.add_row(f"{share:.0%}", *(f"{costs[part]:.0f}" for part in parts), f"{total:.0f}")
    return table


def draw(rounds: Sequence[Round], path: Path) -> None:
    """Latencies by load and by callers, and rates by what is compared; medians with the range of the rounds."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    loads = {f"{share:.0%}": [one.latencies[share] for one in rounds] for share in rounds[0].latencies}
    calls = {str(callers): [one.calls[callers] for one in rounds] for callers in rounds[0].calls}
    _draw_quantiles(left, loads)
    _draw_quantiles(middle, calls)
    left.set(xlabel="load, of the drained rate", ylabel="event due to result (ms)")
    middle.set(xlabel="gRPC calls at once", ylabel="call to answer (ms)")
    drains = {f"{share:.0%} traced": [one.drains[share] for one in rounds] for share in rounds[0].drains}
    others = {
        f"{loop}, 0% traced": [one.loops[loop].drained for one in rounds]
        for loop in rounds[0].loops
        if loop != UVLOOP
    }
    _draw_rates(right, drains | others)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def spread(values: Iterable[float], digits: int) -> str:
    """Minimum, median and maximum."""
    found = sorted(values)
    return " / ".join(f"{value:.{digits}f}" for value in (found[0], statistics.median(found), found[-1]))


def _advantage(rounds: Sequence[Round], loop: str, rate: Callable[[LoopRound], float]) -> str:
    if loop == UVLOOP:
        return ""
    return spread((rate(one.loops[UVLOOP]) / rate(one.loops[loop]) for one in rounds), 2)


def _quantiles_ms(one: Latencies | Called) -> dict[str, float]:
    return {"p50": 1e3 * one.p50_s, "p99": 1e3 * one.p99_s, "p99.9": 1e3 * one.p999_s}


def _quantile_cells(found: Sequence[Latencies] | Sequence[Called]) -> list[str]:
    quantiles = [_quantiles_ms(one) for one in found]
    return [spread((one[name] for one in quantiles), 1) for name in quantiles[0]]


def _draw_quantiles(axes: Axes, groups: dict[str, list[Latencies]] | dict[str, list[Called]]) -> None:
    quantiles = [[_quantiles_ms(one) for one in found] for found in groups.values()]
    for name in quantiles[0][0]:
        values = [[one[name] for one in found] for found in quantiles]
        medians = [statistics.median(found) for found in values]
        below = [middle - min(found) for middle, found in zip(medians, values, strict=True)]
        above = [max(found) - middle for middle, found in zip(medians, values, strict=True)]
        axes.errorbar(range(len(groups)), medians, yerr=[below, above], marker="o", capsize=3, label=name)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_yscale("log")
    axes.legend()


def _draw_rates(axes: Axes, groups: dict[str, list[Drained]]) -> None:
    for place, found in enumerate(groups.values()):
        rates = [one.events_per_s for one in found]
        middle = statistics.median(rates)
        axes.barh(place, middle, xerr=[[middle - min(rates)], [max(rates) - middle]], color="C0", capsize=3)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set(xlabel="drained events/s")
    axes.invert_yaxis()
