"""A server and a connection for each test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.topology import (
    Names,
    events_stream,
    reconcile_consumer,
    reconcile_stream,
    router_consumer,
)
from tests.support.jetstream import EventsStream
from tests.support.nats_server import NatsServer, running_nats_server


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    async with connect(nats_server.url, name="test") as connection:
        yield connection


@pytest.fixture
async def events(connection: Connection) -> EventsStream:
    """The events stream with a router's consumer whose ack_wait is short."""
    names = Names()
    await reconcile_stream(connection, events_stream(names))
    await reconcile_consumer(connection, names.events_stream, router_consumer(ack_wait_s=1.0))
    return EventsStream(connection, names.events_stream, names.events("ic86", "test"))
