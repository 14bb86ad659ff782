"""What simulated events look like, against what is known of real ones.

    python -m benchmarks.simulation_distributions --out docs/physics

Prints the table of docs/physics.md and draws its plots.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventKind
from icestream.physics.simulation import DEFAULT_SETTINGS, simulate

SEED = 20_260_000
N_EVENTS = 20_000
DPI = 80
"""Keeps each file far below 150 kB."""
KINDS = {
    EventKind.THROUGH_GOING_TRACK: "through-going tracks",
    EventKind.STARTING_TRACK: "starting tracks",
    EventKind.CASCADE: "cascades",
}

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sample:
    """Columns over events, shape (n_events,), and over all their pulses, shape (n_pulses,)."""

    n_pulses: IntArray
    n_hlc: IntArray
    charge_pe: FloatArray
    """Total of an event."""
    duration_ns: FloatArray
    """From the first pulse to the last."""
    kind: IntArray
    energy_gev: FloatArray
    cos_zenith: FloatArray
    pulse_charge_pe: FloatArray
    pulse_time_ns: FloatArray
    """After the start of the readout."""
    pulse_is_hlc: BoolArray


def draw_sample(n_events: int) -> Sample:
    """Simulate events and keep what is looked at."""
    events = list(simulate(icecube86(), seed=SEED, n_events=n_events))
    pulses = [event.pulses for event in events]
    truths = [event.truth for event in events if event.truth is not None]
    return Sample(
        n_pulses=np.array([len(p) for p in pulses]),
        n_hlc=np.array([np.count_nonzero(p.is_hlc) for p in pulses]),
        charge_pe=_per_event(events, lambda event: float(event.pulses.charge_pe.sum())),
        duration_ns=_per_event(events, lambda event: float(np.ptp(event.pulses.time_ns))),
        kind=np.array([int(truth.kind) for truth in truths]),
        energy_gev=np.array([truth.energy_gev for truth in truths], np.float64),
        cos_zenith=np.cos([truth.zenith_rad for truth in truths]),
        pulse_charge_pe=np.concatenate([p.charge_pe for p in pulses]).astype(np.float64),
        pulse_time_ns=np.concatenate([p.time_ns for p in pulses]),
        pulse_is_hlc=np.concatenate([p.is_hlc for p in pulses]),
    )


def _per_event(events: list[Event], value: Callable[[Event], float]) -> FloatArray:
    """One number of each event."""
    return np.array([value(event) for event in events])


def rows(sample: Sample) -> list[tuple[str, str]]:
    """Name and value of each measured number."""
    quantiles = np.quantile(sample.n_pulses, (0.05, 0.25, 0.75, 0.95, 0.99))
    hlc, slc = (sample.pulse_charge_pe[mask] for mask in (sample.pulse_is_hlc, ~sample.pulse_is_hlc))
    energies = np.quantile(sample.energy_gev, (0.05, 0.5, 0.95))
    kinds = [f"{name} {np.mean(sample.kind == kind):.3f}" for kind, name in KINDS.items()]
    return [
        ("pulses per event, median", f"{np.median(sample.n_pulses):.0f}"),
        ("pulses per event, mean", f"{_mean(sample.n_pulses.astype(np.float64))}"),
        ("pulses per event, quantiles 5, 25, 75, 95, 99 %", ", ".join(f"{q:.0f}" for q in quantiles)),
        ("pulses per event, largest", f"{sample.n_pulses.max()}"),
        *(
            (f"pulses per event, median of {name}", f"{np.median(sample.n_pulses[sample.kind == kind]):.0f}")
            for kind, name in KINDS.items()
        ),
        ("HLC pulses per event, median", f"{np.median(sample.n_hlc):.0f}"),
        ("SLC pulses per event, median", f"{np.median(sample.n_pulses - sample.n_hlc):.0f}"),
        ("HLC share of all pulses", f"{sample.pulse_is_hlc.mean():.3f}"),
        ("HLC share, mean over events", f"{_mean(sample.n_hlc / sample.n_pulses, 3)}"),
        ("charge of an HLC pulse (p.e.), median, 95 %", _two(hlc)),
        ("charge of an SLC pulse (p.e.), median, 95 %", _two(slc)),
        ("largest charge of a pulse (p.e.)", f"{sample.pulse_charge_pe.max():.0f}"),
        ("charge of an event (p.e.), median, 95 %", _two(sample.charge_pe)),
        ("first to last pulse (ns), median, 95 %", _two(sample.duration_ns, 0)),
        ("kinds of triggered events", ", ".join(kinds)),
        ("neutrino energy (GeV), quantiles 5, 50, 95 %", ", ".join(f"{e:.3g}" for e in energies)),
        ("from below the horizon", f"{_mean((sample.cos_zenith < 0).astype(np.float64), 3)}"),
    ]


def _mean(values: FloatArray, digits: int = 1) -> str:
    """Mean with its standard error, which a long tail makes too small."""
    return f"{values.mean():.{digits}f} ± {values.std() / np.sqrt(len(values)):.{digits}f}"


def _two(values: FloatArray, digits: int = 2) -> str:
    """Median and 95 % quantile."""
    return ", ".join(f"{q:.{digits}f}" for q in np.quantile(values, (0.5, 0.95)))


def draw_sizes(sample: Sample, axes: tuple[Axes, Axes]) -> None:
    """Pulses per event: by kind of neutrino, and by kind of pulse."""
    edges = np.logspace(0.8, 4.2, 60)
    for kind, name in KINDS.items():
        _steps(axes[0], sample.n_pulses[sample.kind == kind], edges, name)
    _steps(axes[1], sample.n_hlc, edges, "HLC")
    _steps(axes[1], sample.n_pulses - sample.n_hlc, edges, "SLC")
    for axis in axes:
        axis.set(xscale="log", yscale="log", xlabel="pulses per event", ylabel="events")
        axis.legend()


def draw_pulses(sample: Sample, axes: tuple[Axes, Axes]) -> None:
    """Charges and times of single pulses."""
    for name, mask in (("HLC", sample.pulse_is_hlc), ("SLC", ~sample.pulse_is_hlc)):
        _steps(axes[0], sample.pulse_charge_pe[mask], np.arange(0.0125, 4, 0.05), name)
        _steps(axes[1], sample.pulse_time_ns[mask], np.linspace(0, 15_000, 76), name)
    axes[0].set(xlabel="charge (p.e.)", ylabel="pulses", yscale="log")
    axes[1].set(xlabel="time after the start of the readout (ns)", ylabel="pulses", yscale="log")
    for axis in axes:
        axis.legend()


def draw_neutrinos(sample: Sample, axes: tuple[Axes, Axes]) -> None:
    """Energies and zeniths of the neutrinos that triggered."""
    settings = DEFAULT_SETTINGS
    edges, power = np.logspace(2, 8, 37), 1 - settings.spectral_index
    shares = np.diff(edges**power) / (settings.max_energy_gev**power - settings.min_energy_gev**power)
    axes[0].stairs(len(sample.kind) * shares, edges, color="0.6", label="as tried, scaled")
    for kind, name in KINDS.items():
        chosen = sample.kind == kind
        _steps(axes[0], sample.energy_gev[chosen], edges, name)
        _steps(axes[1], sample.cos_zenith[chosen], np.linspace(-1, 1, 31), name)
    axes[0].set(xlabel="neutrino energy (GeV)", ylabel="events", xscale="log", yscale="log")
    axes[1].set(xlabel="cosine of the zenith (1: from above)", ylabel="events", ylim=(0, None))
    axes[0].legend()
    axes[1].legend()


def _steps(axis: Axes, values: NDArray[np.generic], edges: FloatArray, name: str) -> None:
    """One histogram as a line."""
    axis.stairs(np.histogram(values, edges)[0], edges, label=name)


def draw(sample: Sample, out: Path) -> None:
    """Write sizes.png, pulses.png and neutrinos.png."""
    out.mkdir(parents=True, exist_ok=True)
    plots = {"sizes": draw_sizes, "pulses": draw_pulses, "neutrinos": draw_neutrinos}
    for name, plot in plots.items():
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        plot(sample, (left, right))
        figure.savefig(out / f"{name}.png", dpi=DPI)
        plt.close(figure)


def main() -> None:
    """Simulate, print and draw."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.simulation_distributions", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the plots")
    arguments = parser.parse_args()

    sample = draw_sample(N_EVENTS)
    print(f"{N_EVENTS} events of seed {SEED}\n")
    print("| quantity | simulated |\n|---|---|")
    for name, value in rows(sample):
        print(f"| {name} | {value} |")
    draw(sample, arguments.out)


if __name__ == "__main__":
    main()
