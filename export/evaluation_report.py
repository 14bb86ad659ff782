"""Shows an evaluation: a table on the terminal, plots in files."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # No display is needed; the choice must come before pyplot is imported.

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Report = dict[str, Any]
REPORT_WIDTH = 150


def show(report: Report, title: str) -> None:
    """Print one row per group: median / mean angle of every method, coverage of both radii."""
    methods = list(report["groups"]["all"]["angle_deg"])
    table = Table(
        "group", "events", *methods, "in 50 %", "in 90 %", title=title, caption="median / mean angle in deg"
    )
    for name, group in report["groups"].items():
        cells = [f"{s['median']:.2f} / {s['mean']:.2f}" for s in group["angle_deg"].values()]
        coverage = [f"{100 * share:.1f} %" for share in group["coverage"].values()]
        table.add_row(name, str(group["n"]), *cells, *coverage)
    # A file or a pipe has no width; 80 columns would break every word of the table.
    console = Console(width=None if sys.stdout.isatty() else REPORT_WIDTH)
    console.print(table)
    console.print(f"{report['events_per_s_one_thread']:.0f} events/s on one thread")


def draw(report: Report, angles_rad: Mapping[str, NDArray[np.float64]], folder: Path) -> None:
    """Plot how often each method is how far off, and its median by energy and by zenith."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for method, radians in angles_rad.items():
        axes[0].plot(np.degrees(np.sort(radians)), np.linspace(0, 1, len(radians)), label=method)
    axes[0].set(xscale="log", xlim=(0.1, 180), xlabel="opening angle (deg)", ylabel="share of events below")
    axes[0].legend()
    for axis, kind in zip(axes[1:], ("energy", "zenith"), strict=True):
        _draw_medians(axis, report, kind)
    figure.savefig(folder / "angles.png", dpi=120)
    plt.close(figure)


def _draw_medians(axis: Any, report: Report, kind: str) -> None:
    groups = {
        name.removeprefix(kind): group for name, group in report["groups"].items() if name.startswith(kind)
    }
    for method in report["groups"]["all"]["angle_deg"]:
        axis.plot(
            list(groups),
            [group["angle_deg"][method]["median"] for group in groups.values()],
            "o-",
            label=method,
        )
    axis.set(ylabel="median opening angle (deg)", xlabel=kind, ylim=(0, None))
    axis.tick_params(axis="x", rotation=30)
