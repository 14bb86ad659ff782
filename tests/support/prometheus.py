"""A real Prometheus with our rules, over a local stack instead of compose."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import yaml

from icestream.runtime.local_stack import TOOL_CACHE
from tests.support.nats_server import free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CONFIG = DEPLOY / "prometheus/prometheus.yaml"
RULES = sorted((DEPLOY / "prometheus/rules").glob("*.yaml"))
RULE_TESTS = sorted((DEPLOY / "prometheus/tests").glob("*.yaml"))
ALERTMANAGER_CONFIG = DEPLOY / "alertmanager/alertmanager.yaml"

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0

_WORDS = {"and", "or", "unless", "offset", "bool"}
_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"

Result = list[dict[str, Any]]
"""What a query returns: series with `metric` and `value`."""


@dataclass(frozen=True)
class Rule:
    """One rule of ours; of an alert also what it says."""

    file: str
    name: str
    expr: str
    alert: Mapping[str, Any] | None
    """The rule as it is written; None for one that only records."""


def all_rules() -> list[Rule]:
    """Every rule in deploy/prometheus/rules."""
    return [
        Rule(path.name, rule.get("alert") or rule["record"], rule["expr"], rule if "alert" in rule else None)
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def all_alerts() -> list[Rule]:
    """Those that tell somebody."""
    return [rule for rule in all_rules() if rule.alert is not None]


def selectors_in(expr: str) -> set[str]:
    """The series that an expression reads, as `name`, `name{...}` or `{...}`, without ranges and offsets."""
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\[[^\]]*\]", " ", expr)
    found = re.findall(rf"(?:(?<![\w:.]){_NAME})?\{{[^}}]*\}}|(?<![\w:.]){_NAME}(?![\w:]|\s*\()", bare)
    return set(found) - _WORDS


def undecided(expr: str) -> str:
    """An expression that answers its comparisons with 0 or 1 instead of leaving series out, and leaves out nothing.

    Where all is well an alert's own is empty, and so it is where a name or a label in it is misspelt. This one is
    empty in the second case alone.
    """
    answered = re.sub(
        r'"[^"]*"|\{[^}]*\}|(==|!=|>=|<=|>|<)', lambda one: f"{one[1]} bool" if one[1] else one[0], expr
    )
    return re.sub(r"\bunless\b", "or", answered)


def find_program(name: str) -> str | None:
    """A program of Prometheus, on the PATH or where `make tools` puts it."""
    return shutil.which(name) or shutil.which(name, path=str(TOOL_CACHE))


def program(name: str) -> str:
    """The same; skips the test where there is none."""
    found = find_program(name)
    if found is None:
        pytest.skip(
            f"no {name}: `make tools` gets it, or: sudo apt-get install prometheus prometheus-alertmanager"
        )
    return found


def config_for(targets: Mapping[str, Sequence[int]], *, interval_s: int) -> dict[str, Any]:
    """The configuration that we ship, with its jobs at these ports of this machine and without an Alertmanager."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    del config["alerting"]
    interval = f"{interval_s}s"
    config["global"] |= {
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "evaluation_interval": interval,
    }
    config["rule_files"] = [str(CONFIG.parent / pattern) for pattern in config["rule_files"]]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert set(targets) <= set(jobs), f"no such job: {set(targets) - set(jobs)}"
    for name, ports in targets.items():
        jobs[name].pop("dns_sd_configs", None)
        jobs[name]["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    config["scrape_configs"] = [jobs[name] for name in targets]
    return config


class Prometheus:
    """One server process and its query API."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0, trust_env=False)

    def query(self, expr: str) -> Result:
        """An instant query, now.

        Raises:
            AssertionError: Prometheus cannot evaluate it.
        """
        result: Result = self._get("/api/v1/query", query=expr)["result"]
        return result

    def families(self, job: str) -> set[str]:
        """Names of everything that a job's targets declare, of metrics without a value, too."""
        metadata = self._get("/api/v1/targets/metadata", match_target=f'{{job="{job}"}}')
        return {entry["metric"] for entry in metadata}

    def health(self) -> dict[str, str]:
        """Each job with `up`, or with what is wrong with the worst of its targets."""
        worst: dict[str, str] = {}
        for target in self._get("/api/v1/targets", state="active")["activeTargets"]:
            health = "up" if target["health"] == "up" else target["lastError"] or target["health"]
            job = target["labels"]["job"]
            worst[job] = health if worst.get(job, "up") == "up" else worst[job]
        return worst

    def rule_errors(self) -> dict[str, str]:
        """Rules whose last evaluation failed."""
        groups = self._get("/api/v1/rules")["groups"]
        return {
            rule["name"]: rule["lastError"]
            for group in groups
            for rule in group["rules"]
            if rule["health"] == "err"
        }

    def alerts(self, name: str, **labels: str) -> list[dict[str, Any]]:
        """Alerts that are pending or firing, with their annotations."""
        alerts = self._get("/api/v1/alerts")["alerts"]
        return [
            alert for alert in alerts if alert["labels"].items() >= ({"alertname": name} | labels).items()
        ]

    def firing_instances(self, name: str) -> set[str]:
        """For which instances an alert has been true for as long as it must be."""
        return {alert["labels"]["instance"] for alert in self.alerts(name) if alert["state"] == "firing"}

    def is_firing(self, name: str, **labels: str) -> bool:
        """Whether an alert has been true for as long as it must be."""
        return any(alert["state"] == "firing" for alert in self.alerts(name, **labels))

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()

    def _get(self, path: str, **parameters: str) -> Any:
        reply = self._client.get(path, params=parameters)
        content = reply.json()
        assert content["status"] == "success", f"{parameters}: {content}"
        return content["data"]


@contextmanager
def running_prometheus(
    directory: Path, targets: Mapping[str, Sequence[int]], *, interval_s: int = 1
) -> Iterator[Prometheus]:
    """A server for as long as the context lasts; skips the test where Prometheus is not installed.

    Args:
        directory: For its data, its configuration and its log.
        targets: Ports of this machine for each job of ours; its own is added.
        interval_s: How often it scrapes and evaluates.
    """
    binary = program("prometheus")
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = directory / "prometheus.yaml"
    config.write_text(yaml.safe_dump(config_for({**targets, "prometheus": [port]}, interval_s=interval_s)))
    command = [
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Prometheus(port)
    try:
        give_up_at_s = monotonic() + START_TIMEOUT_S
        while not server.is_ready():
            if process.poll() is not None or monotonic() > give_up_at_s:
                raise RuntimeError(f"Prometheus did not start:\n{(directory / 'prometheus.log').read_text()}")
            sleep(0.05)
        yield server
    finally:
        server.close()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
