"""A real cluster of three nats-servers on loopback addresses of their own, as behind a headless service."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nats import errors as nats_errors

from icestream.runtime.jetstream.connection import Connection
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer, free_port

ELECTION_S = 30.0
"""Within which there is a leader again; it takes from one to ten seconds."""


class NatsCluster:
    """Servers that run, by their names; their monitoring is at the same port of each."""

    def __init__(self, directory: Path) -> None:
        hosts = {f"nats-{number}": f"127.0.0.{number + 1}" for number in range(3)}
        routes = {name: f"{host}:{free_port()}" for name, host in hosts.items()}
        self.monitoring_port = free_port()
        self.servers = {
            name: NatsServer(
                _made(directory / name),
                extra_config=_cluster_config(name, routes),
                host=host,
                monitoring_port=self.monitoring_port,
            )
            for name, host in hosts.items()
        }

    @property
    def url(self) -> str:
        return ",".join(server.url for server in self.servers.values())

    @property
    def monitor_urls(self) -> str:
        return ",".join(server.monitor_url for server in self.servers.values())

    @property
    def hosts(self) -> list[str]:
        """Address of each server."""
        return [server.host for server in self.servers.values()]


@contextmanager
def running_nats_cluster(directory: Path) -> Iterator[NatsCluster]:
    """A cluster for as long as the context lasts; its first leader is still to be elected."""
    cluster = NatsCluster(directory)
    try:
        for server in cluster.servers.values():
            server.start()
        yield cluster
    finally:
        for server in cluster.servers.values():
            server.kill()


async def asked(connection: Connection, subject: str, **request: object) -> dict[str, Any]:
    """What JetStream answers at `$JS.API`, as soon as it answers without an error."""
    answers: list[dict[str, Any]] = []

    async def answered() -> bool:
        try:
            reply = await connection.client.request(f"$JS.API.{subject}", json.dumps(request).encode())
        except (nats_errors.Error, TimeoutError):
            return False
        answers.append(json.loads(reply.data))
        return "error" not in answers[-1]

    await eventually(answered, timeout_s=ELECTION_S, poll_s=0.2)
    return answers[-1]


async def leader(connection: Connection, asset: str) -> str:
    """Name of the server that leads an asset, `STREAM.name` or `CONSUMER.stream.name`."""
    kind, _, name = asset.partition(".")
    found: list[str] = []

    async def is_led() -> bool:
        info = await asked(connection, f"{kind}.INFO.{name}")
        found.append(info["cluster"].get("leader", ""))
        return bool(found[-1])

    await eventually(is_led, timeout_s=ELECTION_S, poll_s=0.2)
    return found[-1]


async def step_down_until_led_by_another(connection: Connection, asset: str, server: str) -> str:
    """Elect leaders until it is another than this server; its name."""
    kind, _, name = asset.partition(".")
    while (led_by := await leader(connection, asset)) == server:
        await asked(connection, f"{kind}.LEADER.STEPDOWN.{name}")
        await asyncio.sleep(0.1)
    return led_by


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _cluster_config(name: str, routes: dict[str, str]) -> str:
    others = ", ".join(f'"nats://{address}"' for other, address in routes.items() if other != name)
    return f"""
        server_name: {name}
        cluster {{ name: icestream, listen: "{routes[name]}", routes: [{others}] }}
    """
