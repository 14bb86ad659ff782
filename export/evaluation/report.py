"""Writes an evaluation as a table, for the terminal and for a document."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from export.evaluation.sample import ROBUST
from export.evaluation.scores import MODEL

Report = dict[str, Any]
REPORT_WIDTH = 170
EXPLANATION = (
    "Angles are median / mean in deg; the last columns are shares of true directions within the radii"
)


def header(report: Report) -> list[str]:
    """Names of the columns of `rows`."""
    return ["group", "events", *report["groups"]["all"]["angle_deg"], "model : robust", "in 50 %", "in 90 %"]


def rows(report: Report) -> list[list[str]]:
    """One row per group: angles of every method, the model's as shares of the robust line fit's, coverage."""
    return [[name, str(group["n"]), *_cells(group)] for name, group in report["groups"].items()]


def show(report: Report, title: str) -> None:
    """Print the table."""
    table = Table(*header(report), title=title, caption=EXPLANATION)
    for row in rows(report):
        table.add_row(*row)
    # A file or a pipe has no width; 80 columns would break every word of the table.
    console = Console(width=None if sys.stdout.isatty() else REPORT_WIDTH)
    console.print(table)
    console.print(f"{report['events_per_s_one_thread']:.0f} events/s on one thread")


def _cells(group: Report) -> list[str]:
    angles = group["angle_deg"]
    ratios = [angles[MODEL][statistic] / angles[ROBUST][statistic] for statistic in ("median", "mean")]
    return [
        *(f"{each['median']:.2f} / {each['mean']:.2f}" for each in angles.values()),
        "{:.2f} / {:.2f}".format(*ratios),
        *(f"{100 * share:.1f} %" for share in group["coverage"].values()),
    ]
