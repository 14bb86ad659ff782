"""A full stream slows the emitter down; nothing is lost, and it goes on by itself when there is room."""

from dataclasses import replace
from pathlib import Path

from icestream.codec import decode_event
from icestream.physics.events import Event
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import EVENTS_LIMITS, MIB, Names, events_stream, reconcile_stream
from tests.support.eventually import eventually
from tests.support.stack import UpStack, running

FULL = Names("full")
N_EVENTS = 600


async def stored_event_ids(connection: Connection) -> list[int]:
    decoded = [
        decode_event(m.payload) async for m in stored_messages(connection, FULL.everything_in("events"))
    ]
    return [event.id.event_id for event in decoded if isinstance(event, Event)]


async def test_an_emitter_waits_for_a_full_stream_and_loses_nothing(stack: UpStack, log: Path) -> None:
    limits = replace(EVENTS_LIMITS, max_bytes=MIB // 4)
    async with connect(stack.endpoints.nats_url, name="test") as connection:
        await reconcile_stream(connection, events_stream(FULL, limits))
        flags = ("--prefix", "full", "--seed", "401", "--events", str(N_EVENTS))
        with running(stack.command("emit", *flags), log) as emitter:
            await eventually(lambda: "stream full: waiting for room" in log.read_text(), timeout_s=60.0)
            assert len(await stored_event_ids(connection)) < N_EVENTS
            assert emitter.poll() is None

            wider = events_stream(FULL, replace(limits, max_bytes=64 * MIB))
            await connection.client.jetstream().update_stream(wider)
            assert emitter.wait(60) == 0, log.read_text()
        stored = await stored_event_ids(connection)
        assert len(stored) == N_EVENTS
        assert set(stored) == set(range(N_EVENTS))
