import asyncio
from collections.abc import AsyncIterator

import pytest

from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.follower import StreamFollower
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.stored import StoredMessage, stored_messages
from tests.support.eventually import eventually
from tests.support.jetstream import EventsStream
from tests.support.nats_server import NatsServer


@pytest.fixture
async def publisher(connection: Connection) -> AsyncIterator[WindowedPublisher]:
    async with WindowedPublisher(connection) as publisher:
        yield publisher


def follower(connection: Connection, events: EventsStream, *, after_sequence: int = 0) -> StreamFollower:
    return StreamFollower(
        connection,
        stream=events.name,
        subject=events.subject,
        after_sequence=after_sequence,
        idle_heartbeat_s=0.2,
    )


async def publish(publisher: WindowedPublisher, events: EventsStream, numbers: range, size: int = 0) -> None:
    for number in numbers:
        payload = str(number).encode() + b" " * size
        await publisher.publish(events.subject, payload, message_id=str(number))
    await publisher.flush()


async def read(following: StreamFollower, n: int, *, timeout_s: float = 20.0) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    async with asyncio.timeout(timeout_s):
        while len(messages) < n:
            messages += await following.next_batch(50, 0.5)
    return messages


def numbers(messages: list[StoredMessage]) -> list[int]:
    return [int(message.payload) for message in messages]


async def test_it_begins_where_it_is_told_and_goes_on_with_what_comes(
    connection: Connection, events: EventsStream, publisher: WindowedPublisher
) -> None:
    await publish(publisher, events, range(10))
    async with follower(connection, events, after_sequence=4) as following:
        first = await read(following, 6)
        assert numbers(first) == list(range(4, 10))
        assert following.n_left == 0
        await publish(publisher, events, range(10, 20))
        assert numbers(await read(following, 10)) == list(range(10, 20))
        assert await following.next_batch(10, 0.05) == []
        assert following.n_restarts == 0
    replayed = [message async for message in stored_messages(connection, events.subject, first_sequence=5)]
    # A fold must not see another time when it reads the log again.
    assert replayed[:6] == first


async def test_what_it_does_not_ask_for_waits_at_the_broker(
    connection: Connection, events: EventsStream, publisher: WindowedPublisher
) -> None:
    n, size = 400, 200_000
    await publish(publisher, events, range(n), size)
    async with follower(connection, events) as following:
        await following.next_batch(1, 5.0)
        await asyncio.sleep(1.0)
        assert following.n_queued < n - 1
        assert numbers(await read(following, n - 1)) == list(range(1, n))
        assert following.n_restarts == 0


async def test_it_goes_on_after_a_restart_of_the_broker(
    nats_server: NatsServer, connection: Connection, events: EventsStream, publisher: WindowedPublisher
) -> None:
    async with follower(connection, events) as following:
        publishing = asyncio.create_task(publish(publisher, events, range(3000)))
        first = await read(following, 500)
        await nats_server.kill_and_restart(after_s=0.2)
        rest = await read(following, 3000 - len(first))
        await publishing
        messages = first + rest
        assert [message.sequence for message in messages] == list(range(1, 3001))
        # What was on its way to the broker when it died went there again, behind what came after it.
        assert sorted(numbers(messages)) == list(range(3000))
        assert following.n_restarts >= 1


async def test_it_outlives_a_broker_that_stands_still(
    nats_server: NatsServer, connection: Connection, events: EventsStream, publisher: WindowedPublisher
) -> None:
    async with follower(connection, events) as following:
        await publish(publisher, events, range(5))
        await read(following, 5)
        nats_server.freeze()
        await asyncio.sleep(1.5)
        nats_server.thaw()
        await publish(publisher, events, range(5, 10))
        assert numbers(await read(following, 5)) == list(range(5, 10))


async def test_it_makes_a_new_consumer_when_somebody_deletes_its_own(
    connection: Connection, events: EventsStream, publisher: WindowedPublisher
) -> None:
    async with follower(connection, events) as following:
        await publish(publisher, events, range(5))
        await read(following, 5)
        js = connection.client.jetstream()
        [own] = [info for info in await js.consumers_info(events.name) if info.config.deliver_subject]
        await js.delete_consumer(events.name, own.name)
        await publish(publisher, events, range(5, 10))
        assert numbers(await read(following, 5)) == list(range(5, 10))
        assert following.n_restarts >= 1


async def test_it_leaves_nothing_behind(connection: Connection, events: EventsStream) -> None:
    async with follower(connection, events) as following:
        await following.next_batch(1, 0.3)
    await eventually(lambda: len(connection.client._subs) <= 1)
