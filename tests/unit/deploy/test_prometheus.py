"""What Prometheus and Alertmanager are told: their own programs accept it, and nothing in it is undocumented."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import (
    ALERTMANAGER_CONFIG,
    CONFIG,
    RULE_TESTS,
    RULES,
    Rule,
    all_alerts,
    all_rules,
    program,
)
from tests.unit.deploy.recipes import REPOSITORY
from tests.unit.deploy.test_telemetry_docs import declared_metrics, rows_of

FOREIGN_SECTIONS = ("Metrics of Triton", "Metrics of Prometheus", "Metrics of the collector", "Recorded")
ALERTS = all_alerts()
NAMES = [alert.name for alert in ALERTS]

_WORDS = {
    *(
        "and",
        "or",
        "unless",
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "offset",
        "bool",
    ),
    *("inf", "nan"),
}
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"


def run(*command: str | Path) -> str:
    """What a program says of our files, which must be that they are right."""
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def documented_names() -> set[str]:
    """Every series that docs/telemetry.md knows, ours and those of others."""
    ours: set[str] = set()
    for name, kind, _ in declared_metrics():
        ours |= (
            {f"{name}_{suffix}" for suffix in ("bucket", "sum", "count")} if kind == "histogram" else {name}
        )
    foreign = [row[0] for section in FOREIGN_SECTIONS for row in rows_of(section)]
    return ours | {name for cell in foreign for name in re.findall(r"`([^`]+)`", cell)}


def names_in(expr: str) -> set[str]:
    """The metrics that an expression reads; what a pattern names comes as `=~pattern`."""
    patterns = {f"=~{pattern}" for pattern in re.findall(r'__name__=~"([^"]*)"', expr)}
    bare = re.sub(r'"[^"]*"', '""', expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    found = re.findall(rf"(?<![\w:.])({_NAME})\b(?!\s*\()", bare)
    return patterns | {name for name in found if name.lower() not in _WORDS and not _is_duration(name)}


def _is_duration(word: str) -> bool:
    return re.fullmatch(r"\d+[smhdwy]|e\d+", word) is not None


def is_documented(name: str) -> bool:
    known = documented_names()
    if name.startswith("=~"):
        return any(re.fullmatch(name.removeprefix("=~"), one) for one in known)
    return name in known


def runbook() -> dict[str, str]:
    """The sections of docs/operations.md about alerts, by the anchor that GitHub gives them."""
    text = (REPOSITORY / "docs/operations.md").read_text().partition("\n## Alerts\n")[2]
    sections = re.split(r"^### ", re.split(r"^## ", text, flags=re.MULTILINE)[0], flags=re.MULTILINE)[1:]
    titles_and_bodies = [section.partition("\n") for section in sections]
    return {title.strip().lower(): body for title, _, body in titles_and_bodies}


def rule_tests() -> Iterator[dict[str, Any]]:
    for path in RULE_TESTS:
        yield from yaml.safe_load(path.read_text())["tests"]


class TestTheirOwnPrograms:
    def test_prometheus_accepts_its_configuration(self) -> None:
        assert "SUCCESS" in run(program("promtool"), "check", "config", CONFIG)

    @pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
    def test_prometheus_accepts_the_rules(self, path: Path) -> None:
        assert "SUCCESS" in run(program("promtool"), "check", "rules", path)

    @pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
    def test_alerts_fire_and_clear_as_their_tests_say(self, path: Path) -> None:
        assert "SUCCESS" in run(program("promtool"), "test", "rules", path)

    def test_a_wrong_expectation_is_found(self, tmp_path: Path) -> None:
        """What the test above rests on."""
        [source] = [path for path in RULE_TESTS if path.stem == "records"]
        content = yaml.safe_load(source.read_text())
        content["rule_files"] = [str(source.parent / name) for name in content["rule_files"]]
        for expectation in content["tests"][0]["promql_expr_test"]:
            expectation["exp_samples"] = []
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text(yaml.safe_dump(content))
        result = subprocess.run(
            [program("promtool"), "test", "rules", wrong], capture_output=True, text=True, check=False
        )
        assert result.returncode != 0
        assert "RecorderPaused" in result.stdout + result.stderr

    def test_alertmanager_accepts_its_configuration(self) -> None:
        assert "SUCCESS" in run(program("amtool"), "check-config", ALERTMANAGER_CONFIG)

    @pytest.mark.parametrize(("severity", "receiver"), [("page", "on-call"), ("warn", "shift")])
    def test_each_severity_goes_to_its_receiver(self, severity: str, receiver: str) -> None:
        command = [program("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER_CONFIG}"]
        assert run(*command, "alertname=Anything", f"severity={severity}").strip() == receiver


class TestAlerts:
    def test_names_are_unique(self) -> None:
        assert sorted(NAMES) == sorted(set(NAMES))

    @pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
    def test_an_alert_says_how_bad_what_and_what_to_do(self, alert: Rule) -> None:
        assert alert.alert is not None
        assert alert.alert["labels"]["severity"] in ("warn", "page")
        annotations = alert.alert["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}
        assert all(annotations.values())
        assert annotations["runbook_url"] == f"docs/operations.md#{alert.name.lower()}"

    @pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
    def test_an_alert_has_a_section_in_the_runbook(self, alert: Rule) -> None:
        section = runbook()[alert.name.lower()]
        for part in ("**Means:**", "**Look:**", "**Do:**"):
            assert part in section, f"{alert.name} lacks {part}"

    def test_the_runbook_has_no_section_without_an_alert(self) -> None:
        assert set(runbook()) == {name.lower() for name in NAMES}

    @pytest.mark.parametrize("name", NAMES)
    def test_a_test_fires_an_alert_and_then_clears_it(self, name: str) -> None:
        """In one and the same course of events."""
        wanted = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
        for test in rule_tests():
            asked = [one for one in test["promql_expr_test"] if one["expr"] == wanted]
            fired_s = [_seconds(one["eval_time"]) for one in asked if one["exp_samples"]]
            clear_s = [_seconds(one["eval_time"]) for one in asked if not one["exp_samples"]]
            if fired_s and clear_s and min(fired_s) < max(clear_s):
                return
        pytest.fail(f"no test in deploy/prometheus/tests fires {name} and clears it")

    def test_inhibitions_are_between_alerts_that_exist(self) -> None:
        rules = yaml.safe_load(ALERTMANAGER_CONFIG.read_text())["inhibit_rules"]
        matchers = [
            text for rule in rules for side in ("source", "target") for text in rule[f"{side}_matchers"]
        ]
        found = [re.fullmatch(r'alertname =~? "([\w|]+)"', text) for text in matchers]
        named = {name for match in found if match for name in match[1].split("|")}
        assert len(named) > 5
        assert named - set(NAMES) == set()

    def test_no_secret_is_in_the_configuration(self) -> None:
        secret_keys = re.compile(r"^\s*-?\s*\w*(password|secret|credentials|token|_key):", re.MULTILINE)
        assert not secret_keys.search(ALERTMANAGER_CONFIG.read_text())


def _seconds(duration: str) -> int:
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smh])", duration))


class TestNames:
    @pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)
    def test_a_rule_reads_only_what_is_documented(self, rule: Rule) -> None:
        names = names_in(rule.expr)
        assert names
        assert {name for name in names if not is_documented(name)} == set()

    def test_what_is_recorded_is_documented_and_nothing_else(self) -> None:
        recorded = {rule.name for rule in all_rules() if rule.alert is None}
        _, *rows = rows_of("Recorded")
        assert {row[0].strip("`") for row in rows} == recorded

    @pytest.mark.parametrize(
        ("expr", "names"),
        [
            ('sum by (le) (rate(a_bucket{x="b_c"}[5m])) / 1e6 > 0.5', {"a_bucket"}),
            ("a:b:c > 1.3 * d and on (job, instance) e offset 1h", {"a:b:c", "d", "e"}),
            ("a / on (x) group_right () b unless time() - c < 5", {"a", "b", "c"}),
            ('increase({__name__=~"a_(b|c)"}[1m]) > 10', {"=~a_(b|c)"}),
        ],
    )
    def test_names_are_found_in_expressions(self, expr: str, names: set[str]) -> None:
        assert names_in(expr) == names
