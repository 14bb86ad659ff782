"""A real nats-server with deploy/nats/secure.conf, and everything to log in with."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from time import monotonic, sleep

import httpx

from icestream.runtime.jetstream.connection import Connection, Credentials, connect
from icestream.runtime.jetstream.login import tls_to
from icestream.runtime.secret_files import new_secrets, write_secrets
from tests.support.nats_server import _binary, free_port

_CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy/nats"
_START_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class SecureNats:
    """A server that runs, and the folder that `icestream secrets create` would make."""

    directory: Path
    port: int
    monitoring_port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://127.0.0.1:{self.monitoring_port}"

    @property
    def secrets(self) -> Path:
        return self.directory / "secrets"

    @property
    def ca(self) -> Path:
        return self.secrets / "ca.crt"

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text()

    def seed(self, user: str) -> Path:
        return self.secrets / f"nats/{user}.seed"

    def environment(self, service: str) -> dict[str, str]:
        """What a service of this name needs to log in."""
        prefix = f"ICESTREAM_{service.upper().replace('-', '_')}_NATS"
        return {
            f"{prefix}_URL": self.url,
            f"{prefix}_SEED": str(self.seed(service)),
            f"{prefix}_CA": str(self.ca),
        }

    @asynccontextmanager
    async def logged_in(self, user: str, *, seed: Path | None = None) -> AsyncIterator[Connection]:
        """Connect as a user, with its own seed or another one."""
        async with connect(
            self.url,
            name=f"test-{user}",
            credentials=Credentials(nkey_seed_file=seed or self.seed(user)),
            tls=tls_to(self.url, self.ca, "ca"),
            inbox_prefix=f"_INBOX_{user}",
        ) as connection:
            yield connection

    def reload(self) -> None:
        """Let the server read its configuration again."""
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def running_secure_nats(directory: Path) -> Iterator[SecureNats]:
    """A server with new secrets for as long as the context lasts."""
    directory.mkdir(parents=True, exist_ok=True)
    secrets = directory / "secrets"
    write_secrets(secrets, new_secrets([]))
    for name in ("nats.conf", "secure.conf", "users.conf"):
        copy(_CONFIGURATION / name, secrets / "nats")
    port, monitoring_port = free_port(), free_port()
    environment = {
        "ICESTREAM_NATS_CERT": str(secrets / "nats/server.crt"),
        "ICESTREAM_NATS_KEY": str(secrets / "nats/server.key"),
    }
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [
                _binary(),
                *("--config", str(secrets / "nats/secure.conf")),
                *("--addr", "127.0.0.1", "--port", str(port), "--http_port", str(monitoring_port)),
                *("--store_dir", str(directory / "store")),
            ],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    server = SecureNats(directory, port, monitoring_port, process)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.kill()
        process.wait(10)


def _wait_until_ready(server: SecureNats) -> None:
    give_up_at_s = monotonic() + _START_TIMEOUT_S
    while not _is_ready(server):
        if server.process.poll() is not None or monotonic() > give_up_at_s:
            raise RuntimeError(f"nats-server did not start:\n{server.log}")
        sleep(0.01)


def _is_ready(server: SecureNats) -> bool:
    try:
        return httpx.get(f"{server.monitor_url}/healthz?js-enabled-only=true").is_success
    except httpx.TransportError:
        return False
