"""Grafana's files are what the code makes of them, and name only what is there."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.__main__ import files
from dashboards.limits import expressions, limit
from dashboards.queries import (
    FOLDER,
    SCRAPE_INTERVAL_S,
    PanelQuery,
    Span,
    all_queries,
    boards,
    panels,
)
from tests.support.prometheus import CONFIG, program
from tests.unit.deploy.recipes import REPOSITORY, services
from tests.unit.deploy.test_prometheus import is_documented, names_in, runbook

GRAFANA = REPOSITORY / "deploy/grafana"
DATA_SOURCES: list[dict[str, Any]] = yaml.safe_load(
    (GRAFANA / "provisioning/datasources/icestream.yaml").read_text()
)["datasources"]
[PROVIDER] = yaml.safe_load((GRAFANA / "provisioning/dashboards/icestream.yaml").read_text())["providers"]

BOARDS = boards()
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in panels(board)]
PANEL_NAMES = [f"{name}/{panel['title']}" for name, panel in PANELS]
QUERIES = list(all_queries())
SPAN = Span(1_800_000_000.0, 1_800_000_900.0, step_s=5)

UNITS = {"bytes", "cps", "none", "percentunit", "radian", "reqps", "s", "short"}
"""Those of Grafana's that we use; a misspelt one would be shown behind the number."""


def named(queries: Sequence[PanelQuery]) -> list[str]:
    return [query.name for query in queries]


def test_what_is_committed_is_what_the_code_writes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == files(), "run: make dashboards"


def test_the_four_dashboards_are_there_under_lasting_names() -> None:
    """Bookmarks and alerts hold the uid."""
    assert {name: board["uid"] for name, board in BOARDS.items()} == {
        "pipeline": "icestream-pipeline",
        "triton": "icestream-triton",
        "scans": "icestream-scans",
        "physics": "icestream-physics",
    }


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_numbers_of_their_own_and_do_not_overlap(name: str) -> None:
    everything = BOARDS[name]["panels"]
    numbers = [panel["id"] for panel in everything]
    assert sorted(numbers) == sorted(set(numbers))
    taken = [
        (grid["x"] + column, grid["y"] + row)
        for grid in (panel["gridPos"] for panel in everything)
        for column in range(grid["w"])
        for row in range(grid["h"])
    ]
    assert sorted(taken) == sorted(set(taken))
    assert max(column for column, _ in taken) < 24


@pytest.mark.parametrize("name", BOARDS)
def test_the_marks_of_alerts_carry_their_names(name: str) -> None:
    [marks] = BOARDS[name]["annotations"]["list"]
    assert names_in(marks["expr"]) == {"ALERTS"}
    assert marks["titleFormat"] == "{{alertname}}"
    # A label that every alert has: Grafana shows the name of one that is not there. It omits such tags.
    assert marks["textFormat"] == "{{severity}}"
    assert marks["tagKeys"] == "job,instance"


@pytest.mark.parametrize("panel", [panel for _, panel in PANELS], ids=PANEL_NAMES)
class TestPanels:
    def test_it_says_what_it_is_and_in_which_unit(self, panel: dict[str, Any]) -> None:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["targets"]

    def test_it_says_what_to_look_for_and_which_part_of_the_runbook_helps(
        self, panel: dict[str, Any]
    ) -> None:
        look_for, _, runbook_part = panel["description"].partition("\n\nWhat to do: ")
        assert len(look_for) > 15
        anchors = re.findall(r"docs/operations\.md#(\w+)", runbook_part)
        assert anchors
        assert set(anchors) - set(runbook()) == set()

    def test_its_data_source_is_provisioned(self, panel: dict[str, Any]) -> None:
        known = {(source["type"], source["uid"]) for source in DATA_SOURCES}
        for part in (panel, *panel["targets"]):
            assert (part["datasource"]["type"], part["datasource"]["uid"]) in known

    def test_its_queries_have_letters_of_their_own(self, panel: dict[str, Any]) -> None:
        letters = [target["refId"] for target in panel["targets"]]
        assert sorted(letters) == sorted(set(letters))


@pytest.mark.parametrize("query", QUERIES, ids=named(QUERIES))
class TestQueries:
    def test_it_reads_only_what_is_documented(self, query: PanelQuery) -> None:
        names = names_in(query.expr)
        assert names
        assert {name for name in names if not is_documented(name)} == set()

    def test_all_its_variables_have_a_value(self, query: PanelQuery) -> None:
        assert "$" not in query.as_sent(SPAN)


def test_no_two_queries_have_one_name() -> None:
    """Tests name queries so."""
    assert sorted(named(QUERIES)) == sorted(set(named(QUERIES)))


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    """Promtool's parser is Prometheus' own; it looks at the expressions of rules."""
    rules = [
        {"record": f"query:{number}", "expr": query.as_sent(SPAN)} for number, query in enumerate(QUERIES)
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    command = [program("promtool"), "check", "rules", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(QUERIES)} rules found" in result.stdout


def test_rates_are_taken_over_four_scrapes_and_variables_stand_for_everything() -> None:
    expr = 'rate(a{model=~"$model"}[$__rate_interval]) + increase(a[$__range])'
    query = PanelQuery("b", "p", expr, "", is_instant=False, has_exemplars=False, choices={"model": ".*"})
    assert query.as_sent(SPAN) == 'rate(a{model=~".*"}[20s]) + increase(a[900s])'
    assert "[65s]" in query.as_sent(Span(0.0, 900.0, step_s=60))


class TestLimits:
    def test_a_number_comes_from_the_rule(self) -> None:
        assert limit("ConsumerLag", "icestream_consumer_pending") == 1000
        assert "icestream_consumer_pending > 1000" in expressions()["ConsumerLag"]

    def test_a_comparison_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(LookupError, match="ConsumerLag has no 'icestream_broker_up'"):
            limit("ConsumerLag", "icestream_broker_up")

    def test_dashed_lines_are_where_alerts_are(self) -> None:
        [panel] = [
            panel for name, panel in PANELS if name == "pipeline" and panel["title"] == "Fill of streams"
        ]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert [(step["color"], step["value"]) for step in steps] == [
            ("green", None),
            ("orange", 0.8),
            ("red", 0.97),
        ]


class TestProvisioning:
    def test_data_sources_are_services_of_compose(self) -> None:
        hosts = {source["uid"]: source["url"].removeprefix("http://").split(":") for source in DATA_SOURCES}
        published = {
            uid: [port.split(":")[-1] for port in services()[host]["ports"]]
            for uid, (host, _) in hosts.items()
        }
        assert set(hosts) == {"prometheus", "jaeger"}
        assert {uid for uid, (_, port) in hosts.items() if port in published[uid]} == set(hosts)

    def test_exemplars_lead_to_traces(self) -> None:
        [prometheus] = [source for source in DATA_SOURCES if source["type"] == "prometheus"]
        [destination] = prometheus["jsonData"]["exemplarTraceIdDestinations"]
        assert destination["name"] == "trace_id"
        assert destination["datasourceUid"] in {s["uid"] for s in DATA_SOURCES if s["type"] == "jaeger"}
        latency = [query for query in QUERIES if query.has_exemplars]
        assert {query.panel for query in latency} == {"Latency", "Latency, quantiles"}

    def test_rates_know_how_often_prometheus_scrapes(self) -> None:
        [prometheus] = [source for source in DATA_SOURCES if source["type"] == "prometheus"]
        interval = yaml.safe_load(CONFIG.read_text())["global"]["scrape_interval"]
        assert prometheus["jsonData"]["timeInterval"] == interval == f"{SCRAPE_INTERVAL_S}s"

    def test_traces_lead_to_metrics_that_are_documented(self) -> None:
        [jaeger] = [source for source in DATA_SOURCES if source["type"] == "jaeger"]
        to_metrics = jaeger["jsonData"]["tracesToMetrics"]
        assert to_metrics["datasourceUid"] in {source["uid"] for source in DATA_SOURCES}
        for query in to_metrics["queries"]:
            assert all(is_documented(name) for name in names_in(query["query"])), query

    def test_one_data_source_is_the_default_and_nobody_edits_any(self) -> None:
        assert [source["uid"] for source in DATA_SOURCES if source.get("isDefault")] == ["prometheus"]
        assert not any(source["editable"] for source in DATA_SOURCES)

    def test_dashboards_are_read_from_one_folder_and_not_changed_on_the_page(self) -> None:
        assert PROVIDER["options"]["path"] == "/etc/grafana/dashboards"
        assert PROVIDER["allowUiUpdates"] is False
