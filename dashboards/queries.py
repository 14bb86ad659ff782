"""What the panels of the dashboards ask, with variables replaced as Grafana does."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "deploy/grafana/dashboards"

SCRAPE_INTERVAL_S = 5
"""That of the data source, from which Grafana computes the window of rates."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time that a dashboard shows."""

    start_s: float
    end_s: float
    """Unix times."""
    step_s: int
    """Between two points."""


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of one panel."""

    board: str
    panel: str
    expr: str
    """As it is in the dashboard, with variables."""
    legend: str
    is_instant: bool
    has_exemplars: bool
    choices: Mapping[str, str]
    """What variables stand for while nobody has chosen."""

    @property
    def name(self) -> str:
        """Tells the queries of one panel apart by what their series are called."""
        return f"{self.board}/{self.panel}/{self.legend}"

    def as_sent(self, span: Span) -> str:
        """The expression that Prometheus gets.

        Source of the window: Grafana's documentation of $__rate_interval.
        """
        window_s = max(span.step_s + SCRAPE_INTERVAL_S, 4 * SCRAPE_INTERVAL_S)
        values = {
            "__rate_interval": f"{window_s}s",
            "__range": f"{round(span.end_s - span.start_s)}s",
            **self.choices,
        }
        return re.sub(r"\$(\w+)", lambda found: values[found[1]], self.expr)


def boards() -> dict[str, dict[str, Any]]:
    """Each dashboard as Grafana reads it, by the name of its file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the rows that they stand in."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries_of(name: str, board: Mapping[str, Any], panel: Mapping[str, Any]) -> list[PanelQuery]:
    """What one panel asks."""
    variables = board["templating"].get("list", [])
    choices = {variable["name"]: variable["allValue"] for variable in variables}
    return [
        PanelQuery(
            name,
            panel["title"],
            target["expr"],
            target["legendFormat"],
            is_instant=target["instant"],
            has_exemplars=target["exemplar"],
            choices=choices,
        )
        for target in panel["targets"]
    ]


def all_queries() -> Iterator[PanelQuery]:
    """What all panels of all dashboards ask."""
    for name, board in boards().items():
        for panel in panels(board):
            yield from queries_of(name, board, panel)
