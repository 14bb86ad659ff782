"""How many triggered events a second one core simulates.

    python -m benchmarks.simulation [--out DIR]

Reference: brute force. The same kernels, but no group of modules is dismissed at once: every source of light
looks at each of the 5160 modules. Both make the same events, bit by bit, which each run checks.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.machine import Machine, this_machine
from icestream.physics.detector import icecube86
from icestream.physics.events import Pulses
from icestream.physics.ice import ice_table
from icestream.physics.interactions import Spectrum
from icestream.physics.layout import Layout, layout_of
from icestream.physics.light import Ice
from icestream.physics.light_bounds import light_bounds
from icestream.physics.randomness import random_stream
from icestream.physics.readout import read_out
from icestream.physics.simulation import DEFAULT_SETTINGS, draw_event, simulate

SEED = 1
TARGET_PER_S = 3000.0
"""Triggered events per second on one core that the project asks for."""

Simulator = Callable[[int], Iterator[Pulses]]
"""Makes the pulses of so many events."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Triggered events per second, one number for each run."""

    name: str
    per_cpu_s: list[float]
    """By the processor time of this process, which runs on one core: hardly changed by other processes."""
    per_s: list[float]
    """By the clock."""


def as_shipped(n_events: int) -> Iterator[Pulses]:
    """The simulation as everybody calls it."""
    for event in simulate(icecube86(), seed=SEED, n_events=n_events):
        yield event.pulses


def by_brute_force(n_events: int) -> Iterator[Pulses]:
    """The same events, every module tried for every source of light."""
    layout, ice = without_dismissal(layout_of(icecube86())), Ice(ice_table(), light_bounds())
    settings = DEFAULT_SETTINGS
    spectrum = Spectrum(settings.spectral_index, settings.min_energy_gev, settings.max_energy_gev)
    shares = (settings.through_going_share, settings.starting_share)
    for index in range(n_events):
        recorded, _ = draw_event(random_stream(SEED, index), layout, ice, spectrum, shares)
        yield read_out(recorded)


def without_dismissal(layout: Layout) -> Layout:
    """The layout with cells so large that light reaches all of them."""
    endless = np.full_like(layout.cells.radius_m, np.inf)
    return layout._replace(cells=layout.cells._replace(radius_m=endless))


def check_same_events(n_events: int) -> None:
    """Refuse to compare rates of different events.

    Raises:
        RuntimeError: The two ways differ.
    """
    for index, (shipped, brute) in enumerate(
        zip(as_shipped(n_events), by_brute_force(n_events), strict=True)
    ):
        for column in ("sensor_id", "time_ns", "charge_pe", "flags"):
            if not np.array_equal(getattr(shipped, column), getattr(brute, column)):
                raise RuntimeError(f"event {index} differs in {column} from brute force")


def measure(n_events: int, n_runs: int) -> list[Rates]:
    """Run both ways in turn, so that both meet the same disturbances."""
    simulators: dict[str, Simulator] = {"icestream": as_shipped, "brute force": by_brute_force}
    rates = [Rates(name, [], []) for name in simulators]
    for _ in range(n_runs):
        for rate, simulator in zip(rates, simulators.values(), strict=True):
            cpu_s, clock_s = time.process_time(), time.perf_counter()
            for _ in simulator(n_events):
                pass
            rate.per_cpu_s.append(n_events / (time.process_time() - cpu_s))
            rate.per_s.append(n_events / (time.perf_counter() - clock_s))
    return rates


def table(rates: list[Rates]) -> str:
    """The rates as lines of text."""
    lines = [f"{'triggered events/s on one core':32} {'minimum':>8} {'median':>8} {'maximum':>8}"]
    for rate in rates:
        for unit, values in (("processor time", rate.per_cpu_s), ("clock", rate.per_s)):
            low, middle, high = np.quantile(values, (0.0, 0.5, 1.0))
            lines.append(f"{f'{rate.name}, {unit}':32} {low:8.0f} {middle:8.0f} {high:8.0f}")
    return "\n".join(lines)


def write(out: Path, machine: Machine, rates: list[Rates], n_events: int) -> None:
    """Write simulation.json and simulation.png."""
    out.mkdir(parents=True, exist_ok=True)
    runs = {rate.name: {"per_cpu_s": rate.per_cpu_s, "per_s": rate.per_s} for rate in rates}
    result = {"machine": machine.as_dict(), "n_events": n_events, "seed": SEED, "runs": runs}
    (out / "simulation.json").write_text(json.dumps(result, indent=2) + "\n")

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.boxplot([rate.per_cpu_s for rate in rates], whis=(0, 100), orientation="horizontal")
    axes.set_yticks(range(1, len(rates) + 1), [rate.name for rate in rates])
    axes.axvline(TARGET_PER_S, linestyle="--", color="grey", label="target")
    axes.set(xlabel="triggered events per second of processor time", xlim=(0, None))
    axes.legend()
    figure.savefig(out / "simulation.png", dpi=100)
    plt.close(figure)


def main() -> None:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.simulation", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=3000, help="events per run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="runs of each way (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for simulation.json and simulation.png")
    arguments = parser.parse_args()

    check_same_events(arguments.events)
    machine = this_machine()
    rates = measure(arguments.events, arguments.runs)
    print(machine)
    print(f"{arguments.runs} runs of {arguments.events} events, seed {SEED}; both ways made the same events")
    print(table(rates))
    if arguments.out is not None:
        write(arguments.out, machine, rates, arguments.events)


if __name__ == "__main__":
    main()
