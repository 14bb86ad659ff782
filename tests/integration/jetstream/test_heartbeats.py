import asyncio

import pytest

from icestream.errors import UndecodableMessage
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.heartbeats import Heartbeat, beating, listen
from icestream.runtime.jetstream.topology import Names
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer

ROUTER = Heartbeat(service="router", instance="a1", unix_ns=17, version="0.1.0", state="running")


async def test_heartbeats_come_at_once_then_regularly_and_say_goodbye(connection: Connection) -> None:
    names, heard = Names(), list[Heartbeat]()
    async with listen(connection, names, heard.append):
        async with beating(
            connection,
            names,
            service="router",
            instance="a1",
            version="0.1.0",
            state=lambda: "running",
            interval_s=0.05,
            now_ns=lambda: 17,
        ):
            await eventually(lambda: len(heard) >= 3)
        await eventually(lambda: heard[-1].state == "stopping")
    assert heard[0] == ROUTER


async def test_only_the_own_deployment_is_heard(connection: Connection) -> None:
    heard: list[Heartbeat] = []
    async with listen(connection, Names("south"), heard.append):
        for names in (Names(), Names("south")):
            await connection.client.publish(names.heartbeats("router", "a1"), ROUTER.encode())
        await eventually(lambda: len(heard) == 1)


async def test_what_is_no_heartbeat_does_not_stop_the_listening(connection: Connection) -> None:
    names, heard = Names(), list[Heartbeat]()
    async with listen(connection, names, heard.append):
        for payload in (b"\xff", b"[]", b'{"service": "router"}', ROUTER.encode()):
            await connection.client.publish(names.heartbeats("router", "a1"), payload)
        await eventually(lambda: heard == [ROUTER])


async def test_heartbeats_of_an_outage_are_not_sent_afterwards(
    nats_server: NatsServer, connection: Connection
) -> None:
    names, heard, states = Names(), list[Heartbeat](), ["before"]
    async with (
        listen(connection, names, heard.append),
        beating(
            connection,
            names,
            service="router",
            instance="a1",
            version="0.1.0",
            state=lambda: states[-1],
            interval_s=0.02,
        ),
    ):
        await eventually(lambda: heard)
        nats_server.kill()
        await eventually(lambda: not connection.is_connected)
        states.append("away")
        await asyncio.sleep(0.1)
        states.append("after")
        await asyncio.to_thread(nats_server.start)
        await eventually(lambda: heard[-1].state == "after")
    assert "away" not in {heartbeat.state for heartbeat in heard}


@pytest.mark.parametrize("payload", [b"", b"{}", b"null", b'{"unix_ns": "now"}'])
def test_what_is_no_heartbeat_is_refused(payload: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        Heartbeat.decode(payload)
