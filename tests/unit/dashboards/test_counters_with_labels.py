"""A counter with labels is born with its first value, which a panel must show: asked of Prometheus' own evaluation."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.panels import growth
from dashboards.queries import Span, all_queries
from tests.support.prometheus import program

SPAN = Span(1_800_000_000.0, 1_800_000_900.0, step_s=5)

TEN_MINUTES = [
    ("pipeline/Failures/{{job}} {{reason}}", 'icestream_router_failures_total{reason="model_failed"}'),
    (
        "pipeline/Dead letters/{{job}} {{reason}}",
        'icestream_router_dead_letters_total{reason="invalid_event"}',
    ),
    ("pipeline/Second deliveries/came again, {{job}}", 'icestream_recorder_redelivered_total{table="scans"}'),
    ("pipeline/Second deliveries/given back, {{job}}", 'icestream_recorder_postponed_total{table="scans"}'),
    ("triton/Requests failed/routers: {{reason}}", 'icestream_router_failures_total{reason="model_failed"}'),
    ("triton/Requests failed/Triton: {{reason}}", 'nv_inference_request_failure{model="a",reason="BACKEND"}'),
    ("scans/Failed batches/{{reason}}", 'icestream_scan_worker_failures_total{reason="fit_timeout"}'),
    (
        "scans/Log of the scanner/dropped: {{reason}}",
        'icestream_scanner_dropped_results_total{reason="late"}',
    ),
]
AN_HOUR = [
    (
        "pipeline/Dead letters, last hour/__auto",
        'icestream_router_dead_letters_total{reason="invalid_event"}',
    ),
    (
        "scans/Accepted and ended, last hour/accepted, {{lane}}",
        'icestream_scanner_scans_accepted_total{lane="alert"}',
    ),
    (
        "scans/Accepted and ended, last hour/{{state}}",
        'icestream_scanner_scans_ended_total{state="complete"}',
    ),
]


def expression(name: str) -> str:
    """What a panel's query asks, summed over its series."""
    [query] = [query for query in all_queries() if query.name == name]
    return f"sum({query.as_sent(SPAN)})"


def answers(expr: str, series: str, values: str, expected: dict[str, float], directory: Path) -> None:
    """Let promtool say that the expression has these values at these times, for one series with a value a minute."""
    samples: list[dict[str, Any]] = [
        {"expr": expr, "eval_time": at, "exp_samples": [{"labels": "{}", "value": value}]}
        for at, value in expected.items()
    ]
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values}],
        "promql_expr_test": samples,
    }
    path = directory / "test.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    result = subprocess.run(
        [program("promtool"), "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("name", "series"), TEN_MINUTES, ids=[name for name, _ in TEN_MINUTES])
def test_the_first_of_its_kind_counts_for_ten_minutes(name: str, series: str, tmp_path: Path) -> None:
    answers(expression(name), series, "_x20 1x60", {"21m": 1, "25m": 1, "40m": 0}, tmp_path)


@pytest.mark.parametrize(("name", "series"), AN_HOUR, ids=[name for name, _ in AN_HOUR])
def test_the_first_of_its_kind_counts_for_an_hour(name: str, series: str, tmp_path: Path) -> None:
    answers(expression(name), series, "_x20 1x100", {"21m": 1, "70m": 1, "100m": 0}, tmp_path)


def test_those_after_the_first_count_with_it(tmp_path: Path) -> None:
    answers(
        f"sum({growth('a_total', '10m')})",
        'a_total{b="c"}',
        "_x20 1x2 3x2 4x60",
        {"26m": 4, "40m": 0},
        tmp_path,
    )


def test_a_process_that_begins_anew_takes_nothing_away(tmp_path: Path) -> None:
    """It was at 100, is away for two minutes, and has its first two at once."""
    # increase() takes what it saw for a little more: to the ends of the window.
    expr = f"sum(round({growth('a_total', '10m')}))"
    answers(expr, 'a_total{b="c"}', "100x20 stale _x1 2x60", {"24m": 2, "40m": 0}, tmp_path)


def test_a_scrape_that_failed_brings_nothing_back(tmp_path: Path) -> None:
    answers(
        f"sum({growth('a_total', '10m')})",
        'a_total{b="c"}',
        "5x30 stale 5x60",
        {"30m": 0, "41m": 0},
        tmp_path,
    )
