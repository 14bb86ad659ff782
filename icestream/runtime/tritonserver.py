"""Says how to run the real tritonserver on one machine, from the files of the wheel nvidia-pytriton.

The wheel has the server and its Python backend, but no onnxruntime: ours is in deploy/triton/backends.
Nothing is started here; a supervisor runs `TritonServerProcess` in a session of its own, and ends it with
`killpg`, because the backend's processes ignore SIGTERM and outlive a server that crashed.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icestream.errors import Misconfigured

BACKEND = Path(__file__).resolve().parents[2] / "deploy/triton/backends/onnxruntime/model.py"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the Python backend keeps its regions
LOOPBACK = "127.0.0.1"
EXIT_TIMEOUT_S = 10
START_TIMEOUT_S = 60.0
"""A server that is not ready by then hangs: it waits for ever for a backend process that cannot start."""
STOP_TIMEOUT_S = EXIT_TIMEOUT_S + 5.0
"""From SIGTERM to SIGKILL; an idle server takes 2 to 3 s."""

_INSTALL_WHEEL = "install it with: uv pip install --no-deps -r requirements/tritonserver.txt"


@dataclass(frozen=True, slots=True)
class TritonPorts:
    """Where the server listens, on loopback."""

    grpc: int
    http: int
    metrics: int


@dataclass(frozen=True, slots=True)
class TritonServerProcess:
    """All that a supervisor needs to run one server."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    ports: TritonPorts
    shm_prefix: str
    """To give to `sweep_shared_memory` before the start and after the end."""


@dataclass(frozen=True, slots=True)
class TritonWheel:
    """The files of the installed wheel."""

    server: Path
    libraries: Path
    python_backend: Path
    stub: Path
    """The program that runs model.py, for the running Python."""


def prepare_tritonserver(
    model_repository: Path, work_dir: Path, ports: TritonPorts, *, otlp_endpoint: str | None = None
) -> TritonServerProcess:
    """Check that a server can run here and lay out its backends.

    Args:
        model_repository: Triton's layout, `<model>/config.pbtxt` and `<model>/<version>/model.onnx`.
        work_dir: Ours to write; `backends` below it is replaced.
        ports: Must be free.
        otlp_endpoint: Where spans go, for example `http://127.0.0.1:4317`; none are made without.

    Raises:
        Misconfigured: Something is missing; the text says what to install or to do.
    """
    wheel = find_wheel()
    libpython_dir = find_libpython(wheel)
    check_onnxruntime()
    check_model_repository(model_repository)
    backends = _lay_out_backends(wheel, work_dir / "backends")
    # The process id tells whose the regions are; the port tells two servers of one supervisor apart.
    shm_prefix = f"icestream_{os.getpid()}_{ports.grpc}_"
    return TritonServerProcess(
        command=_command(wheel, model_repository, backends, ports, shm_prefix),
        env=_environment(wheel, libpython_dir, otlp_endpoint),
        ports=ports,
        shm_prefix=shm_prefix,
    )


def find_wheel(python: tuple[int, int] = sys.version_info[:2]) -> TritonWheel:
    """Find the files of nvidia-pytriton without importing it: its Python side wants an older numpy."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured(f"the Triton server is not installed; {_INSTALL_WHEEL}")
    package = Path(spec.submodule_search_locations[0])
    root = package / "tritonserver"
    version = f"{python[0]}.{python[1]}"
    wheel = TritonWheel(
        server=root / "bin/tritonserver",
        libraries=package.parent / "nvidia_pytriton.libs",
        python_backend=root / "backends/python",
        stub=root / f"python_backend_stubs/{version}/triton_python_backend_stub",
    )
    if not wheel.stub.is_file():
        raise Misconfigured(
            f"the Triton server of nvidia-pytriton cannot run Python {version}; use 3.11 to 3.13"
        )
    if not wheel.server.is_file() or not wheel.libraries.is_dir():
        raise Misconfigured(f"the installed nvidia-pytriton lacks files; {_INSTALL_WHEEL} --reinstall")
    return wheel


def libpython_directories() -> list[Path]:
    """Where the running Python's shared library may be, the likeliest first."""
    return [
        Path(sysconfig.get_config_var("LIBDIR") or "/nowhere"),
        Path(sys.base_prefix, "lib"),
        Path(sys.prefix, "lib"),
        Path("/usr/lib/x86_64-linux-gnu"),
    ]


def find_libpython(wheel: TritonWheel, directories: Sequence[Path] | None = None) -> Path:
    """Find the directory with the shared library that the backend's process is linked to.

    Without it the server hangs while it loads the first model, and says nothing.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    # For one Python the wheel brings the library itself.
    if any(wheel.libraries.glob(f"libpython3-*.{sys.version_info.minor}.so*")):
        return wheel.libraries
    for directory in libpython_directories() if directories is None else directories:
        if (directory / name).exists():
            return directory
    raise Misconfigured(
        f"{name} is not installed, and the Triton server needs it; install the package libpython"
        f"{sys.version_info.major}.{sys.version_info.minor}, or a Python that was built with --enable-shared"
    )


def check_onnxruntime() -> None:
    """Refuse to start where the backend could not load a model."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise Misconfigured(
            "onnxruntime is not installed; install it with: uv pip install 'icestream[local]'"
        )


def check_model_repository(model_repository: Path) -> None:
    """Refuse a repository from which the server would not start."""
    models = sorted(path.parent for path in model_repository.glob("*/config.pbtxt"))
    if not models:
        raise Misconfigured(
            f"the model repository {model_repository} has no model; write one with: python -m export.to_onnx"
        )
    for model in models:
        if not any(path.parent.name.isdecimal() for path in model.glob("*/model.onnx")):
            raise Misconfigured(f"the model {model} has no version; write one with: python -m export.to_onnx")


def sweep_shared_memory(prefix: str) -> list[str]:
    """Remove the shared memory that a killed server left behind.

    Args:
        prefix: `TritonServerProcess.shm_prefix`; its server must not run.

    Returns:
        The names of what was removed.
    """
    if not prefix:
        raise ValueError("an empty prefix would remove the shared memory of every program")
    left = [path for path in SHARED_MEMORY.iterdir() if path.name.startswith(prefix)]
    for path in left:
        path.unlink(missing_ok=True)
    return sorted(path.name for path in left)


def has_dead_backend(server_pid: int) -> bool:
    """Whether a process that computes has died below a server that goes on without noticing.

    Faster than the canary, which has to meet the dead one of several; but only the canary sees one that
    lives and does not work.
    """
    # Triton never asks for the end of a backend that died on its own, so it stays a zombie.
    threads = Path(f"/proc/{server_pid}/task").glob("*/children")
    pids = [pid for thread in threads for pid in _read_if_alive(thread).split()]
    return any(_is_zombie(pid) for pid in pids)


def _is_zombie(pid: str) -> bool:
    # The name before the state is in brackets and may hold anything.
    state = _read_if_alive(Path(f"/proc/{pid}/stat")).rpartition(")")[2]
    return state.split()[:1] == ["Z"]


def _read_if_alive(path: Path) -> str:
    """The text, or none where the process or thread ended in between."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _lay_out_backends(wheel: TritonWheel, backends: Path) -> Path:
    shutil.rmtree(backends, ignore_errors=True)
    python = backends / "python"
    shutil.copytree(wheel.python_backend, python)
    stub = python / wheel.stub.name
    shutil.copyfile(wheel.stub, stub)
    stub.chmod(0o755)  # some installers lose the run bit
    ours = backends / "onnxruntime"
    ours.mkdir()
    shutil.copyfile(BACKEND, ours / "model.py")
    return backends


def _command(
    wheel: TritonWheel, model_repository: Path, backends: Path, ports: TritonPorts, shm_prefix: str
) -> tuple[str, ...]:
    return (
        str(wheel.server),
        f"--model-repository={model_repository}",
        f"--backend-directory={backends}",
        # Polling serves a new version without anyone having to ask for it, and needs no right to change
        # what is served. It may see a version that is half copied: that fails to load, the versions before
        # it go on, and the next poll loads what is then complete. `export` avoids even that: it renames a
        # finished folder into place.
        "--model-control-mode=poll",
        "--repository-poll-secs=1",
        "--strict-readiness=true",
        "--exit-on-error=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={LOOPBACK}",
        f"--http-port={ports.http}",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={ports.metrics}",
        "--metrics-interval-ms=5000",
        "--metrics-config=summary_latencies=true",
        # Looking for a GPU that is not there only fills the log.
        "--allow-gpu-metrics=false",
        # Clients ping every 30 s; by default the server hangs up on whoever pings within 300 s.
        "--grpc-http2-min-recv-ping-interval-without-data=10000",
        # How the trace context reaches our backend. The server's own OpenTelemetry mode crashes under
        # load before 2.57, and exports what is not sampled.
        "--grpc-header-forward-pattern=^(traceparent|tracestate)$",
        # The Python backend reads these under its own name, also for backends that are built on it.
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        # Room for any batch from the start: a region grows by copying.
        f"--backend-config=python,shm-default-byte-size={8 * 1024 * 1024}",
    )


def _environment(wheel: TritonWheel, libpython_dir: Path, otlp_endpoint: str | None) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    env["LD_LIBRARY_PATH"] = f"{wheel.libraries}:{libpython_dir}"
    # The backend's process finds its packages through the first `python3` on the path.
    env["PATH"] = f"{Path(sys.prefix, 'bin')}:{env.get('PATH', '/usr/bin:/bin')}"
    # Instances are the unit of parallelism; threads below them only compete.
    env["OMP_NUM_THREADS"] = "1"
    if otlp_endpoint is not None:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = otlp_endpoint
    return env
