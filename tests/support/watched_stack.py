"""The stack of `icestream up` with a real Prometheus over it, and an emitter that comes and goes."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.nats_server import free_port
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.stack import UpStack, running

SERVICES = {
    "router": "services.router",
    "scanner": "services.scanner.coordinator",
    "scan-worker": "services.scanner.worker",
    "recorder": "services.recorder",
    "nats-exporter": "services.nats_exporter",
}
"""Those that `icestream up` starts: Prometheus' job of each, and the module that it runs."""


@dataclass(frozen=True)
class Watched:
    """A stack, whoever watches it, and where an emitter is to show its metrics."""

    stack: UpStack
    prometheus: Prometheus
    emitter_port: int
    log: Path
    """Of the emitters."""

    @contextmanager
    def emitting(self, source: str, seed: int, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        """Have events published for as long as the block lasts; at its end the emitter is killed."""
        command = self.stack.command(
            *("emit", "--seed", str(seed), "--source", source, "--rate", "50"),
            *("--metrics-port", str(self.emitter_port), *flags),
        )
        with running(command, self.log) as emitter:
            yield emitter

    def value(self, expr: str) -> float:
        """Sum of a query's series; 0 where there is none."""
        return sum(float(series["value"][1]) for series in self.prometheus.query(expr))

    async def all_up(self, *, but: str = "emitter") -> None:
        """Wait until every target answers; `but` one job."""

        def nothing_is_down() -> None:
            down = {job: health for job, health in self.prometheus.health().items() if health != "up"}
            assert set(down) - {but} == set(), down

        await eventually(nothing_is_down, timeout_s=120.0, poll_s=0.2)


@contextmanager
def watching(stack: UpStack, directory: Path, *, interval_s: int = 1) -> Iterator[Watched]:
    """A Prometheus that scrapes every part of a stack, for as long as the block lasts."""
    endpoints = stack.endpoints
    emitter_port = free_port()
    targets = {
        "emitter": [emitter_port],
        "router": [endpoints.router_metrics],
        "scanner": [endpoints.scanner_metrics],
        "scan-worker": stack.scan_worker_metrics,
        "recorder": [endpoints.recorder_metrics],
        "nats-exporter": [endpoints.nats_exporter_metrics],
        "triton": [endpoints.triton_metrics],
    }
    with running_prometheus(directory, targets, interval_s=interval_s) as prometheus:
        yield Watched(stack, prometheus, emitter_port, directory / "emitter.log")


@contextmanager
def nobody_restarts(stack: UpStack) -> Iterator[None]:
    """What is killed in the block stays away: otherwise it is back within a second, before a scrape misses it."""
    stack.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.process.send_signal(signal.SIGCONT)
