"""A NATS exporter as a process of its own, at a broker that is away, or that does not let it in."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import httpx
from prometheus_client.parser import text_string_to_metric_families

from icestream.runtime.nkey_pairs import new_seed
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer, free_port
from tests.support.secure_nats import running_secure_nats
from tests.support.stack import running

START_S = 20.0
FIRST_CONNECTION_S = 5.0
"""After which a service that needs NATS ends."""


@dataclass(frozen=True)
class Exporter:
    process: subprocess.Popen[bytes]
    port: int
    log_file: Path

    def shown(self) -> dict[str, float]:
        """Every number that has no labels, or those of a server; none while the exporter is not there."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        except httpx.TransportError:
            return {}
        families = text_string_to_metric_families(text)
        return {
            sample.name: sample.value
            for family in families
            for sample in family.samples
            if set(sample.labels) <= {"server"}
        }

    def is_ready(self) -> bool:
        return httpx.get(f"http://127.0.0.1:{self.port}/readyz").is_success

    @property
    def log(self) -> str:
        return self.log_file.read_text()


@contextmanager
def running_exporter(
    directory: Path, nats_url: str, monitor_urls: str, **environment: str
) -> Iterator[Exporter]:
    port, log = free_port(), directory / "exporter.log"
    command = [sys.executable, "-m", "services.nats_exporter", "--metrics-port", str(port)]
    flags = ["--nats-url", nats_url, "--monitor-urls", monitor_urls]
    with running([*command, *flags], log, **environment) as process:
        yield Exporter(process, port, log)


async def test_an_exporter_that_starts_without_nats_says_so_and_finds_it_when_it_comes(
    tmp_path: Path,
) -> None:
    (tmp_path / "nats").mkdir()
    server = NatsServer(tmp_path / "nats")
    with running_exporter(tmp_path, server.url, server.monitor_url) as exporter:
        began_s = monotonic()
        await eventually(lambda: exporter.shown().get("icestream_broker_up") == 0, timeout_s=START_S)
        assert exporter.shown()["icestream_nats_connected"] == 0
        assert not exporter.is_ready()

        await eventually(lambda: "no NATS server lets us in" in exporter.log, timeout_s=START_S)
        assert monotonic() - began_s > FIRST_CONNECTION_S
        assert exporter.process.poll() is None
        assert exporter.shown()["icestream_broker_up"] == 0
        assert exporter.shown()["icestream_heartbeat_timestamp_seconds"] > 0

        try:
            server.start()
            await eventually(lambda: exporter.shown()["icestream_broker_up"] == 1, timeout_s=START_S)
            await eventually(lambda: exporter.shown()["icestream_nats_connected"] == 1, timeout_s=START_S)
            assert exporter.is_ready()
        finally:
            server.kill()
    assert exporter.log.count("no NATS server lets us in") == 1


async def test_an_exporter_without_nats_ends_when_it_is_told_to(tmp_path: Path) -> None:
    nowhere = free_port()
    urls = (f"nats://127.0.0.1:{nowhere}", f"http://127.0.0.1:{nowhere}")
    with running_exporter(tmp_path, *urls) as exporter:
        await eventually(lambda: exporter.shown().get("icestream_broker_up") == 0, timeout_s=START_S)
        exporter.process.terminate()
        assert exporter.process.wait(5) == 0, exporter.log
    assert "Traceback" not in exporter.log


async def test_an_exporter_that_nats_does_not_let_in_shows_what_it_can_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    seed = tmp_path / "unknown.seed"
    seed.write_text(new_seed())
    with running_secure_nats(tmp_path / "nats") as nats:
        environment = nats.environment("nats-exporter") | {"ICESTREAM_NATS_EXPORTER_NATS_SEED": str(seed)}
        with running_exporter(tmp_path, nats.url, nats.monitor_url, **environment) as exporter:
            await eventually(lambda: exporter.shown().get("icestream_broker_up") == 1, timeout_s=START_S)
            assert exporter.shown()["icestream_broker_memory_bytes"] > 0
            await eventually(lambda: "--nats-seed" in exporter.log, timeout_s=START_S)
            assert exporter.shown()["icestream_broker_up"] == 1
            assert exporter.process.poll() is None
    assert exporter.log.count("broker_client_error") == 1


async def test_a_url_that_cannot_be_used_ends_an_exporter_at_once(tmp_path: Path) -> None:
    with running_exporter(tmp_path, "nats://:4222", "http://127.0.0.1:8222") as exporter:
        assert exporter.process.wait(START_S) == 1
    assert "cannot connect" in exporter.log
