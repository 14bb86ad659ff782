"""Runs a Triton server with one model in one setting, and reads what it counted."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.processes import wait_until
from icestream.runtime.endpoints import free_ports
from icestream.runtime.local_stack import CHECKOUT
from icestream.runtime.tritonserver import (
    LOOPBACK,
    START_TIMEOUT_S,
    TritonPorts,
    prepare_tritonserver,
    sweep_shared_memory,
)

CONFIG_FILE = "config.pbtxt"

_THREADS = "intra_op_thread_count"
_POLICY = """
priority_levels: 2
default_priority_level: 2
default_queue_policy {
  max_queue_size: 256
  timeout_action: REJECT
  default_timeout_microseconds: 10000000
  allow_timeout_override: true
}
"""
_COUNT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """What a model's configuration says about batches and instances."""

    max_batch_size: int
    max_queue_delay_us: int
    """How long a request waits for company while an instance is free."""
    n_instances: int
    n_threads: int
    """Of one operation, in each instance."""
    has_queue_policy: bool
    """Priorities, timeouts and a bounded queue, for which server 2.51 fetches no request ahead and misses wake-ups."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What a server has done since its start."""

    n_requests: int
    """That were answered."""
    n_events: int
    n_executions: int
    queue_us: int
    """Sum over requests."""
    compute_us: int
    """Sum over requests; one that was merged with others counts the time of them all."""


@dataclass(frozen=True, slots=True)
class Executed:
    """How a server worked off a load."""

    batch: float
    """Mean of events in an execution."""
    queue_ms: float
    """Mean for a request."""
    compute_ms: float
    """Mean for a request, its inputs and outputs included."""


@dataclass(frozen=True, slots=True)
class RunningTriton:
    """A server that is ready."""

    ports: TritonPorts

    @property
    def target(self) -> str:
        """Where its gRPC endpoint is."""
        return f"{LOOPBACK}:{self.ports.grpc}"

    def counters(self) -> Counters:
        """What it has counted until now."""
        return read_counters(httpx.get(f"http://{LOOPBACK}:{self.ports.metrics}/metrics").text)

    def executed_since(self, before: Counters, n_requests: int) -> Executed:
        """How it worked off these requests, which all have been answered."""

        def all_counted() -> bool:
            return self.counters().n_requests >= before.n_requests + n_requests

        # An answer leaves the server a little before it is counted.
        wait_until(all_counted, "the count of the last request", _COUNT_TIMEOUT_S)
        return difference(self.counters(), before)


def shipped_folder(model: str) -> Path:
    """Where the repository has a model."""
    return CHECKOUT / "model_repository" / model


def read_setting(config: str) -> ServerSetting:
    """The setting in a configuration's text."""
    parsed = _parsed(config)
    return ServerSetting(
        max_batch_size=parsed.max_batch_size,
        max_queue_delay_us=parsed.dynamic_batching.max_queue_delay_microseconds,
        n_instances=parsed.instance_group[0].count,
        n_threads=int(parsed.parameters[_THREADS].string_value),
        has_queue_policy=parsed.dynamic_batching.HasField("default_queue_policy"),
    )


def events_computed_together(model: str) -> int:
    """The shipped model's batch in one run of onnxruntime, which is the fastest for it."""
    parsed = _parsed((shipped_folder(model) / CONFIG_FILE).read_text())
    return int(parsed.parameters["sub_batch_size"].string_value or parsed.max_batch_size)


def changed_config(config: str, setting: ServerSetting) -> str:
    """A configuration's text with another setting, and otherwise as it was."""
    parsed = _parsed(config)
    parsed.max_batch_size = setting.max_batch_size
    parsed.dynamic_batching.max_queue_delay_microseconds = setting.max_queue_delay_us
    parsed.instance_group[0].count = setting.n_instances
    parsed.parameters[_THREADS].string_value = str(setting.n_threads)
    if setting.has_queue_policy:
        text_format.Merge(_POLICY, parsed.dynamic_batching)
    for sample in parsed.model_warmup:
        # A server does not load a model that warms up with more than it takes.
        sample.batch_size = min(sample.batch_size, setting.max_batch_size)
    return text_format.MessageToString(parsed)


def write_repository(repository: Path, model: str, setting: ServerSetting) -> Path:
    """Copy one shipped model into a repository of its own, in another setting; returns `repository`."""
    folder = repository / model
    shutil.copytree(shipped_folder(model), folder)
    config = folder / CONFIG_FILE
    config.write_text(changed_config(config.read_text(), setting))
    return repository


@contextmanager
def running_triton(repository: Path, directory: Path) -> Iterator[RunningTriton]:
    """Run a server on free ports until the block ends, and leave nothing of it behind.

    Args:
        repository: What it serves.
        directory: For its backends and its log.
    """
    directory.mkdir(parents=True, exist_ok=True)
    plan = prepare_tritonserver(repository, directory, TritonPorts(*free_ports(3)))
    log = directory / "tritonserver.log"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - the server of the installed wheel
            plan.command,
            env=dict(plan.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = RunningTriton(plan.ports)

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"tritonserver did not start:\n{log.read_text()}")
        # The port of the metrics opens last.
        return _answers(plan.ports.http, "/v2/health/ready") and _answers(plan.ports.metrics, "/metrics")

    try:
        wait_until(is_ready, "the start of tritonserver", START_TIMEOUT_S)
        yield server
    finally:
        # The backend's processes ignore anything gentler.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        sweep_shared_memory(plan.shm_prefix)


def read_counters(metrics: str) -> Counters:
    """Sum what a server says about its models, in Prometheus' text format."""

    def total(name: str) -> int:
        found = [line for line in metrics.splitlines() if line.startswith(f"nv_inference_{name}{{")]
        if not found:
            raise ValueError(f"the server's metrics have no nv_inference_{name}")
        return sum(int(float(line.rpartition(" ")[2])) for line in found)

    return Counters(
        n_requests=total("request_success"),
        n_events=total("count"),
        n_executions=total("exec_count"),
        queue_us=total("queue_duration_us"),
        compute_us=sum(total(f"compute_{part}_duration_us") for part in ("input", "infer", "output")),
    )


def difference(after: Counters, before: Counters) -> Executed:
    """How a server worked off what came in between."""
    n_requests = after.n_requests - before.n_requests
    return Executed(
        batch=(after.n_events - before.n_events) / (after.n_executions - before.n_executions),
        queue_ms=(after.queue_us - before.queue_us) / n_requests / 1e3,
        compute_ms=(after.compute_us - before.compute_us) / n_requests / 1e3,
    )


def _parsed(config: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(config, model_config_pb2.ModelConfig())


def _answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://{LOOPBACK}:{port}{path}").is_success
    except httpx.TransportError:
        return False
