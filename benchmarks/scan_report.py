"""What is shown of the speed of scans: tables and a plot."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rich.table import Table

from benchmarks.scan_runs import Scanned, Turn, cpu_per_fit_s
from benchmarks.spread import spread


@dataclass(frozen=True, slots=True)
class Way:
    """All scans of one event by one reco in one way."""

    reco: str
    n_modules: int
    name: str
    scans: list[Scanned]
    turns: list[Turn]
    """Those in which the service went this way; empty for scans in process."""

    def rate_ratios(self, n_threads: int) -> list[float]:
        """The service's fits/s over those in process with so many threads, in each turn."""
        return [turn.service.fits_per_s / turn.in_process[n_threads].fits_per_s for turn in self.turns]


def ways(turns: Sequence[Turn]) -> Iterator[Way]:
    """Everything that was compared, in the order of the turns' recos and events: in process first."""
    for reco, n_modules in dict.fromkeys((turn.reco, turn.n_modules) for turn in turns):
        chosen = [turn for turn in turns if (turn.reco, turn.n_modules) == (reco, n_modules)]
        for n_threads in chosen[0].in_process:
            scans = [turn.in_process[n_threads] for turn in chosen]
            yield Way(reco, n_modules, f"in process, {_counted(n_threads, 'thread')}", scans, [])
        for n_workers in sorted({turn.n_workers for turn in chosen}):
            of_way = [turn for turn in chosen if turn.n_workers == n_workers]
            name = f"service, {_counted(n_workers, 'worker')}"
            yield Way(reco, n_modules, name, [turn.service for turn in of_way], of_way)


def speed_table(turns: Sequence[Turn]) -> Table:
    """Rates and times of each way, and the service's rate over those in process in the same turn."""
    threads = list(turns[0].in_process)
    ratios = [f"fits/s of {_counted(n, 'thread')}" for n in threads]
    table = Table(
        *("reco", "modules", "way", "fits", "fits/s", "seconds", "first map, s", *ratios),
        title="minimum, median, maximum",
    )
    for way in ways(turns):
        compared = [_text(way.rate_ratios(n), 2) if way.turns else "" for n in threads]
        table.add_row(
            *(way.reco, str(way.n_modules), way.name, str(way.scans[0].n_fits)),
            _text([one.fits_per_s for one in way.scans], 0),
            _text([one.seconds for one in way.scans], 2),
            _text([one.first_map_s for one in way.scans], 2),
            *compared,
        )
    return table


def cost_table(turns: Sequence[Turn]) -> Table:
    """Processor time of each part for a fit, over all turns."""
    parts = list(turns[0].service.cpu_s)
    table = Table("reco", "modules", "way", *parts, "all", title="processor time for a fit, us")
    for way in ways(turns):
        costs = cpu_per_fit_s(way.scans)
        cells = [f"{1e6 * costs[part]:.0f}" if part in costs else "" for part in parts]
        table.add_row(way.reco, str(way.n_modules), way.name, *cells, f"{1e6 * sum(costs.values()):.0f}")
    return table


def draw(turns: Sequence[Turn], path: Path) -> None:
    """Rates and times of scans by hit modules, a row for each reco; medians with the range of the turns."""
    recos = list(dict.fromkeys(turn.reco for turn in turns))
    figure, rows = plt.subplots(
        len(recos), 2, figsize=(11, 3.6 * len(recos)), layout="constrained", squeeze=False
    )
    for reco, (left, right) in zip(recos, rows, strict=True):
        of_reco = [way for way in ways(turns) if way.reco == reco]
        _draw_ways(left, of_reco, lambda one: one.fits_per_s)
        _draw_ways(right, of_reco, lambda one: one.seconds)
        left.set(xlabel="hit modules", ylabel=f"fits/s, {reco}")
        right.set(xlabel="hit modules", ylabel=f"seconds per scan, {reco}")
        left.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_ways(axes: Axes, of_reco: Sequence[Way], quantity: Callable[[Scanned], float]) -> None:
    for number, name in enumerate(dict.fromkeys(way.name for way in of_reco)):
        chosen = [way for way in of_reco if way.name == name]
        spreads = [spread(map(quantity, way.scans)) for way in chosen]
        axes.errorbar(
            [way.n_modules for way in chosen],
            [middle for _, middle, _ in spreads],
            yerr=[[mid - low for low, mid, _ in spreads], [high - mid for _, mid, high in spreads]],
            label=name,
            linestyle="-" if chosen[0].turns else ":",
            color=f"C{number}",
            marker="o",
            capsize=3,
        )
    axes.set_ylim(bottom=0)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _text(values: Iterable[float], digits: int) -> str:
    return "-".join(f"{value:.{digits}f}" for value in spread(values))
