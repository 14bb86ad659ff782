"""What all of our dashboards have in common."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
)

from dashboards.panels import PROMETHEUS, Panel

TAG = "icestream"

_WORDS_OF_ALERTS = {"titleFormat": "{{alertname}}", "textFormat": "{{severity}}", "tagKeys": "job,instance"}
"""What Grafana's Prometheus makes of a series, which the SDK has no words for."""


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    name: str
    """Of its file; its uid has `icestream-` before it."""
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]
    """Panels under the titles of their rows, from left to right."""
    variables: Mapping[str, str] | None = None
    """Names of variables, each with the query whose answers one can choose from; all at first."""


def as_json(board: Board) -> str:
    """What Grafana reads: the same text for the same board."""
    builder = (
        builders.Dashboard(board.title)
        .uid(f"icestream-{board.name}")
        .description(board.description)
        .tags([TAG])
        .timezone("utc")
        .time("now-15m", "now")
        .refresh("10s")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(_to_the_others())
        .annotation(_firing_alerts())
    )
    for name, query in (board.variables or {}).items():
        builder = builder.with_variable(_variable(name, query))
    for title, panels in board.rows.items():
        builder = builder.with_row(builders.Row(title))
        for panel in panels:
            builder = builder.with_panel(panel)
    content: dict[str, Any] = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    for annotation in content["annotations"]["list"]:
        annotation.update(_WORDS_OF_ALERTS)
    # Links to a panel hold its number, so that it must not be Grafana's choice.
    for number, panel in enumerate(content["panels"], start=1):
        panel["id"] = number
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _to_the_others() -> builders.DashboardLink:
    link = builders.DashboardLink("IceStream").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.keep_time(keep_time=True).as_dropdown(as_dropdown=False)


def _firing_alerts() -> builders.AnnotationQuery:
    query = builders.AnnotationQuery().name("Alerts").datasource(PROMETHEUS).icon_color("red")
    return query.enable(enable=True).expr('ALERTS{alertstate="firing"}')


def _variable(name: str, query: str) -> builders.QueryVariable:
    everything = VariableOption(selected=True, text=["All"], value=["$__all"])
    variable = builders.QueryVariable(name).label(name).datasource(PROMETHEUS).query(query)
    variable = variable.multi(multi=True).include_all(include_all=True).all_value(".*").current(everything)
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
