"""Jaeger's program on free loopback ports: as the store of traces, and as the collector in front of it."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from icestream.runtime.endpoints import LOOPBACK, free_ports
from icestream.runtime.local_stack import find_jaeger

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
LOCAL_CONFIG = DEPLOY / "jaeger/local.yaml"
COLLECTOR_CONFIG = DEPLOY / "otel-collector/collector.yaml"

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0

Span = Mapping[str, Any]
"""As Jaeger's query API has it."""


class _Program:
    """One process with a configuration of ours; it keeps its ports across restarts."""

    def __init__(
        self, config: Path, log: Path, ready_url: str, environment: Mapping[str, str | int | float]
    ) -> None:
        self._config = config
        self._log = log
        self._ready_url = ready_url
        self._environment = {name: str(value) for name, value in environment.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers; skips the test where the program is not there."""
        program = find_jaeger()
        if program is None:
            pytest.skip("no jaeger program; `make tools` builds it")
        command = [str(program), "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | self._environment
            )
        give_up_at_s = monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or monotonic() > give_up_at_s:
                self.kill()
                raise RuntimeError(f"{self._config} did not start:\n{self._log.read_text()}")
            sleep(0.02)

    def kill(self) -> None:
        """End it at once, which an orderly end would take up to 20 s for; harmless when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    @property
    def is_stopped(self) -> bool:
        return self._process is None

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self._ready_url, trust_env=False).is_success
        except httpx.TransportError:
            return False


class Jaeger(_Program):
    """The store: OTLP in, the query API out."""

    def __init__(self, directory: Path) -> None:
        otlp, query, query_grpc = free_ports(3)
        self.otlp_url = f"http://{LOOPBACK}:{otlp}"
        self.otlp_address = f"{LOOPBACK}:{otlp}"
        self.url = f"http://{LOOPBACK}:{query}"
        super().__init__(
            LOCAL_CONFIG,
            directory / "jaeger.log",
            f"{self.url}/api/services",
            {"JAEGER_OTLP_PORT": otlp, "JAEGER_QUERY_PORT": query, "JAEGER_QUERY_GRPC_PORT": query_grpc},
        )

    def traces(self, service: str) -> dict[str, list[Span]]:
        """The spans of every trace that a service has a part in, by the trace's hexadecimal id."""
        reply = httpx.get(
            f"{self.url}/api/traces",
            params={"service": service, "limit": 10_000},
            trust_env=False,
            timeout=30.0,
        )
        return {trace["traceID"]: trace["spans"] for trace in reply.raise_for_status().json()["data"]}


class Collector(_Program):
    """The collector with the configuration that we ship.

    Args:
        directory: For its log.
        jaeger_address: host:port of the store's OTLP.
        environment: What its configuration reads, beside where it listens.
    """

    def __init__(self, directory: Path, jaeger_address: str, **environment: str | int | float) -> None:
        grpc, http, metrics, health = free_ports(4)
        self.otlp_url = f"http://{LOOPBACK}:{grpc}"
        self.otlp_http_url = f"http://{LOOPBACK}:{http}"
        self.metrics_port = metrics
        ports: dict[str, str | int | float] = {
            "COLLECTOR_HOST": LOOPBACK,
            "COLLECTOR_GRPC_PORT": grpc,
            "COLLECTOR_HTTP_PORT": http,
            "COLLECTOR_METRICS_PORT": metrics,
            "COLLECTOR_HEALTH_PORT": health,
            "JAEGER_ENDPOINT": jaeger_address,
        }
        super().__init__(
            COLLECTOR_CONFIG,
            directory / "collector.log",
            f"http://{LOOPBACK}:{health}/status",
            {**ports, **environment},
        )

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels; 0 where there is none."""
        page = httpx.get(f"http://{LOOPBACK}:{self.metrics_port}/metrics", trust_env=False).text
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in page.splitlines()
            if line.partition("{")[0].partition(" ")[0] == name and all(each in line for each in wanted)
        )
