"""A stream of events that count as worked off, on a real broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import growth_events
from benchmarks.growth_events import n_stored, resized, store_worked_off
from benchmarks.load import sample_events
from icestream.codec import decode_event, encode_event
from icestream.physics.events import Event
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.puller import ContinuousPuller
from icestream.runtime.jetstream.topology import (
    ROUTER_CONSUMER,
    Names,
    events_stream,
    reconcile_consumer,
    reconcile_stream,
    router_consumer,
)
from tests.support.nats_server import NatsServer, running_nats_server

NAMES = Names()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats_server(tmp_path / "nats") as server:
        yield server


async def test_a_router_gets_only_what_came_after_the_events_that_count_as_worked_off(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth_events, "_CHUNK", 40)
    sample = [resized(event, 8) for event in sample_events(3)]
    async with connect(nats_server.url, name="test") as connection:
        await reconcile_stream(connection, events_stream(NAMES))
        await reconcile_consumer(connection, NAMES.events_stream, router_consumer())
        async with ContinuousPuller(
            connection, stream=NAMES.events_stream, consumer=ROUTER_CONSUMER
        ) as router:
            await store_worked_off(nats_server.url, sample, 1, 100)
            assert await n_stored(nats_server.url) == 100
            await store_worked_off(nats_server.url, sample, 2, 60)
            await connection.client.jetstream().publish(
                NAMES.events("icecube86", "test"), encode_event(sample[0])
            )
            [delivery] = await router.next_batch(10, 30.0)
            event = decode_event(delivery.payload)
            assert isinstance(event, Event)
            assert event.id == sample[0].id
            assert await n_stored(nats_server.url) == 161
