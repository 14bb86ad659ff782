"""A real PostgreSQL on a free loopback port, with its data in a temporary folder."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest

from tests.support.nats_server import free_port

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
USER = "icestream"

_DEBIAN = Path("/usr/lib/postgresql")
_UNPRIVILEGED = "nobody"


class PostgresServer:
    """One server process; it keeps its port and its data across restarts."""

    def __init__(self, directory: Path, *, is_durable: bool = False) -> None:
        """Make the data folder.

        Args:
            directory: Whoever the server runs as can write there.
            is_durable: Whether commits wait for the disk, which only a power cut would show.
        """
        self._directory = directory
        self._data = directory / "data"
        self._is_durable = is_durable
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self.port = free_port()
        command = [str(_program("initdb")), "-D", str(self._data), "-U", USER, "--auth=trust", "--no-sync"]
        subprocess.run(
            [*command, "--encoding=UTF8", "--locale=C"], check=True, stdout=subprocess.DEVNULL, **_identity()
        )

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> str:
        """What the server wrote, for a failing test."""
        return (self._directory / "server.log").read_text(errors="replace")

    def create_database(self) -> str:
        """A new, empty database; its URL."""
        name = f"test{next(self._numbers)}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def start(self) -> None:
        """Start and wait until it takes connections."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.port}
        if not self._is_durable:
            settings["fsync"] = "off"
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", self._data, *flags], stdout=log, stderr=log, **_identity()
            )
        give_up_at_s = monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or monotonic() > give_up_at_s:
                self.crash()
                raise RuntimeError(f"postgres did not start:\n{self.log}")
            sleep(0.02)

    def set(self, name: str, value: str) -> None:
        """Change a setting while it runs, for sessions that are open as well."""
        with self._connect() as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
            connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """End it as `pg_ctl stop` does: connections are cut, nothing is lost."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End it at once; it recovers at its next start. Its helpers outlive a kill -9 for seconds."""
        self._end(signal.SIGQUIT)

    async def stop_and_start(self, *, after_s: float = 0.0) -> None:
        """Stay away for a while and come back, while the event loop goes on."""
        await asyncio.to_thread(self.stop)
        await asyncio.sleep(after_s)
        await asyncio.to_thread(self.start)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def _connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.url(), autocommit=True, connect_timeout=2)

    def _is_ready(self) -> bool:
        try:
            with self._connect():
                return True
        except psycopg.OperationalError:
            return False


@contextmanager
def running_postgres(*, is_durable: bool = False) -> Iterator[PostgresServer]:
    """A server for as long as the context lasts; skips the test where PostgreSQL is not installed."""
    if not has_postgres():
        pytest.skip(
            "PostgreSQL is not installed: sudo apt-get install postgresql (as root, `make tools` does)"
        )
    # Not in pytest's folder, which is for nobody but its owner; postgres refuses to be root.
    directory = Path(tempfile.mkdtemp(prefix="icestream-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(directory, _UNPRIVILEGED)
    try:
        server = PostgresServer(directory, is_durable=is_durable)
        try:
            server.start()
            yield server
        finally:
            server.crash()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def has_postgres() -> bool:
    """Whether the server is installed."""
    return _find("initdb") is not None and _find("postgres") is not None


def _program(name: str) -> Path:
    found = _find(name)
    assert found is not None, f"{name} is not installed: apt-get install postgresql"
    return found


def _find(name: str) -> Path | None:
    """Where Debian puts it, the newest release first, or on the PATH."""
    releases = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]), reverse=True)
    on_path = shutil.which(name)
    return releases[0] if releases else Path(on_path) if on_path else None


def _identity() -> dict[str, Any]:
    """Who runs the server, as arguments of subprocess."""
    if os.geteuid() != 0:
        return {}
    return {"user": _UNPRIVILEGED, "group": "nogroup", "extra_groups": [], "cwd": "/"}
