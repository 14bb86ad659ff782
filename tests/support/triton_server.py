"""Runs the real tritonserver on free ports for a test."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from icestream.runtime.tritonserver import (
    START_TIMEOUT_S,
    TritonPorts,
    TritonServerProcess,
    prepare_tritonserver,
    sweep_shared_memory,
)


@dataclass(eq=False)
class RunningTriton:
    """A server that is ready, until it is killed; it keeps its ports when it is started again."""

    plan: TritonServerProcess
    model_repository: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.plan.ports.grpc}"

    def backend_processes(self, model: str) -> list[psutil.Process]:
        """The processes that compute, one for each instance of each version."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if f"/{model}/" in " ".join(child.cmdline())]

    def metric(self, name: str, *labels: str) -> float:
        """Sum of the counters of that name that carry all labels, each like `reason="CANCELED"`."""
        text = _get(f"http://127.0.0.1:{self.plan.ports.metrics}/metrics").decode()
        lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))

    def kill(self) -> None:
        """End everything at once, as a supervisor does after its patience."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def start_again(self) -> None:
        """After `kill`: clean up as the supervisor does, start and wait until it is ready."""
        sweep_shared_memory(self.plan.shm_prefix)
        self.process = _spawned(self.plan, self.log)
        _wait_until_ready(self)


@contextmanager
def running_triton(
    model_repository: Path, work_dir: Path, *, otlp_endpoint: str | None = None
) -> Iterator[RunningTriton]:
    """Start a server, wait until it is ready, and leave nothing of it behind."""
    work_dir.mkdir(parents=True, exist_ok=True)
    plan = prepare_tritonserver(model_repository, work_dir, free_ports(), otlp_endpoint=otlp_endpoint)
    log = work_dir / "tritonserver.log"
    server = RunningTriton(plan, model_repository, log, _spawned(plan, log))
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
        sweep_shared_memory(plan.shm_prefix)


def free_ports() -> TritonPorts:
    """Three ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    numbers = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return TritonPorts(*numbers)


def _spawned(plan: TritonServerProcess, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            plan.command, env=dict(plan.env), stdout=output, stderr=output, start_new_session=True
        )


def _wait_until_ready(server: RunningTriton) -> None:
    # The metrics port opens last.
    urls = [
        f"http://127.0.0.1:{server.plan.ports.http}/v2/health/ready",
        f"http://127.0.0.1:{server.plan.ports.metrics}/metrics",
    ]
    deadline = time.monotonic() + START_TIMEOUT_S
    while not all(_answers(url) for url in urls):
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"tritonserver did not start:\n{server.log.read_text()}")
        time.sleep(0.02)


def _answers(url: str) -> bool:
    try:
        _get(url)
    except (urllib.error.URLError, OSError):
        return False
    return True


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=2) as response:
        content: bytes = response.read()
        return content
