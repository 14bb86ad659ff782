"""`icestream status` against a real NATS where heartbeats of services that run elsewhere come in."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from icestream.cli.roll_call import services_heard
from icestream.runtime.endpoints import Endpoints, Stack, free_ports
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.heartbeats import beating
from icestream.runtime.jetstream.topology import DEFAULT_PREFIX, Names
from tests.support.nats_server import NatsServer, running_nats_server
from tests.support.stack import ICESTREAM

SCAN_WORKERS = [("scan-worker", "pool-7-0", "running"), ("scan-worker", "pool-7-1", "waiting [/]")]


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@asynccontextmanager
async def alive(
    server: NatsServer,
    services: Sequence[tuple[str, str, str]],
    *,
    interval_s: float,
    prefix: str = DEFAULT_PREFIX,
) -> AsyncIterator[None]:
    """Services of these names, instances and states, for as long as the block lasts."""
    async with connect(server.url, name="test") as connection, AsyncExitStack() as stack:
        for service, instance, state in services:
            await stack.enter_async_context(
                beating(
                    connection,
                    Names(prefix),
                    service=service,
                    instance=instance,
                    version="1.2.3",
                    state=partial(str, state),
                    interval_s=interval_s,
                )
            )
        yield


async def status(server: NatsServer, directory: Path, *flags: str) -> tuple[int | None, str, str]:
    """How the command ends for a stack of which NATS alone is there, and what it writes to stdout and stderr."""
    [nowhere] = free_ports(1)
    endpoints = Endpoints(
        nats=server.port,
        router_grpc=nowhere,
        scanner_grpc=nowhere,
        recorder_grpc=nowhere,
        triton_grpc=nowhere,
    )
    Stack(os.getpid(), endpoints, is_traced=False).write(directory)
    process = await asyncio.create_subprocess_exec(
        *(ICESTREAM, "status", "--dir", str(directory), *flags),
        env=os.environ | {"COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60.0)
    return process.returncode, output.decode(), errors.decode()


def rows(output: str) -> list[list[str]]:
    """The cells of the tables."""
    lines = [line for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


async def test_services_are_shown_with_version_and_state_wherever_they_run(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with alive(nats_server, SCAN_WORKERS, interval_s=0.5):
        code, output, errors = await status(nats_server, tmp_path)
    cells = rows(output)
    assert ["scan-worker", "pool-7-0", "1.2.3", "running"] in [row[:4] for row in cells]
    assert ["scan-worker", "pool-7-1", "1.2.3", "waiting [/]"] in [row[:4] for row in cells]
    assert "listening for heartbeats of services for 6 s" in errors
    # The parts of the local stack and the streams are there as well, and the former decide how it ends.
    assert ["router", "does not answer"] in [[row[0], row[-1]] for row in cells]
    assert ["EVENTS", "not made yet"] in [row[:2] for row in cells]
    assert code == 1


async def test_that_nobody_is_heard_is_said(nats_server: NatsServer, tmp_path: Path) -> None:
    """Nobody of this deployment: another one has the same NATS."""
    async with alive(nats_server, SCAN_WORKERS, interval_s=0.5, prefix="south"):
        _, output, _ = await status(nats_server, tmp_path)
    assert "no service was heard within 6 s" in output
    assert "scan-worker" not in output


async def test_the_last_heartbeat_of_each_instance_counts(nats_server: NatsServer) -> None:
    async with connect(nats_server.url, name="test") as connection:
        listening = asyncio.create_task(services_heard(connection, Names(), listen_s=1.0))
        async with alive(
            nats_server, [("router", "b", "running"), ("router", "a", "running")], interval_s=0.1
        ):
            await asyncio.sleep(0.5)
        heard = await listening
    assert [(one.heartbeat.instance, one.heartbeat.state) for one in heard] == [
        ("a", "stopping"),
        ("b", "stopping"),
    ]
    assert all(0.2 < one.age_s < 1.0 for one in heard)
