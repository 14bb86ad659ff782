"""Draws how a training run went."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # A training machine has no display; the choice must come before pyplot is imported.

from matplotlib import pyplot as plt

from export.checkpoint import ANGLE_LOSS, CURVES_FILE, LOSS, METRICS_FILE


def draw_curves(run: Path) -> None:
    """Plot the metrics file of a run beside it: loss and validation angles over the events seen."""
    lines = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
    figure, (loss, angle) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    loss.plot(*_column(lines, LOSS), lw=1, label="likelihood and fits")
    loss.plot(*_column(lines, ANGLE_LOSS), lw=1, label="angle and fits")
    loss.legend()
    loss.set(xlabel="events seen", ylabel="loss of one step", title="training")
    for statistic in ("median", "mean"):
        angle.plot(*_column(lines, f"validation_{statistic}_deg"), "o-", ms=3, label=statistic)
    angle.set(xlabel="events seen", ylabel="opening angle (deg)", title="validation")
    angle.legend()
    figure.savefig(run / CURVES_FILE, dpi=120)
    plt.close(figure)


def _column(lines: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """The lines that hold a value: events seen, and the value."""
    found = [line for line in lines if name in line]
    return [line["events"] for line in found], [line[name] for line in found]
