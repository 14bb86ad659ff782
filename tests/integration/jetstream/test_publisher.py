import asyncio
from collections import Counter
from functools import partial

import pytest

from icestream.errors import BrokerUnavailable, InvalidInput, MessageTooLarge, StreamFull
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import Ack, WhenFull, WindowedPublisher
from icestream.runtime.jetstream.topology import Names, StreamLimits, events_stream, reconcile_stream
from tests.support.eventually import eventually
from tests.support.jetstream import EventsStream
from tests.support.nats_server import NatsServer

SMALL = StreamLimits(
    max_bytes=64 * 1024, max_age_s=3600.0, duplicate_window_s=120.0, max_message_bytes=20_000
)


async def publish_many(
    publisher: WindowedPublisher, subject: str, n: int, *, first: int = 0, n_bytes: int = 100
) -> list[asyncio.Future[Ack]]:
    return [
        await publisher.publish(subject, str(i).encode().ljust(n_bytes), message_id=str(i))
        for i in range(first, first + n)
    ]


async def test_everything_published_is_stored_once_and_in_order(events: EventsStream) -> None:
    async with WindowedPublisher(events.connection, window=64) as publisher:
        futures = await publish_many(publisher, events.subject, 1000)
        await publisher.flush()

        acks = [future.result() for future in futures]
        assert [ack.sequence for ack in acks] == list(range(1, 1001))
        assert {(ack.stream, ack.is_duplicate, ack.n_attempts) for ack in acks} == {("EVENTS", False, 1)}
        assert (publisher.in_flight, publisher.n_published, publisher.n_retries) == (0, 1000, 0)


async def test_a_repeated_id_is_acknowledged_as_a_duplicate(events: EventsStream) -> None:
    async with WindowedPublisher(events.connection) as publisher:
        first = await (await publisher.publish(events.subject, b"a", message_id="7.1.0"))
        second = await (await publisher.publish(events.subject, b"a", message_id="7.1.0"))

        assert (first.is_duplicate, second.is_duplicate) == (False, True)
        assert second.sequence == first.sequence
        assert publisher.n_duplicates == 1
    assert await events.n_messages() == 1


async def test_headers_travel_with_the_message(events: EventsStream) -> None:
    async with WindowedPublisher(events.connection) as publisher:
        ack = await (
            await publisher.publish(events.subject, b"", message_id="1", headers={"traceparent": "00-1-2-01"})
        )
    stored = await events.connection.client.jetstream().get_msg(ack.stream, ack.sequence)
    assert stored.headers == {"Nats-Msg-Id": "1", "traceparent": "00-1-2-01"}


async def test_killing_the_broker_loses_and_doubles_nothing(
    nats_server: NatsServer, events: EventsStream
) -> None:
    n = 6000
    async with WindowedPublisher(events.connection, window=128, retry_after_s=0.5) as publisher:
        publishing = asyncio.create_task(publish_many(publisher, events.subject, n))
        for _ in range(3):
            n_enough = publisher.n_published + n // 5
            await eventually(partial(_has_published, publisher, n_enough), timeout_s=30)
            await nats_server.kill_and_restart(after_s=0.1)
        futures = await asyncio.wait_for(publishing, 60)
        await asyncio.wait_for(publisher.flush(), 30)

        assert all(isinstance(future.result(), Ack) for future in futures)
        assert publisher.in_flight == 0
        assert publisher.n_retries > 0

    stored = Counter(int(payload) for payload in await events.stored_payloads())
    assert set(stored) == set(range(n))
    assert max(stored.values()) == 1


async def test_an_unanswered_message_is_sent_again_and_stored_once(
    nats_server: NatsServer, events: EventsStream
) -> None:
    async with WindowedPublisher(events.connection, retry_after_s=0.1) as publisher:
        nats_server.freeze()
        future = await publisher.publish(events.subject, b"a", message_id="1")
        await eventually(lambda: publisher.n_retries >= 2)
        nats_server.thaw()
        ack = await asyncio.wait_for(future, 5)
        assert ack.n_attempts > 1
    assert await events.n_messages() == 1


async def test_a_message_fails_at_its_deadline_and_frees_its_place(
    nats_server: NatsServer, events: EventsStream
) -> None:
    async with WindowedPublisher(events.connection, window=1, deadline_s=0.3) as publisher:
        nats_server.freeze()
        for i in range(2):
            future = await asyncio.wait_for(publisher.publish(events.subject, b"a", message_id=str(i)), 5)
        with pytest.raises(BrokerUnavailable, match=r"did not confirm.*0\.3 s"):
            await future
        nats_server.thaw()
        ack = await (await publisher.publish(events.subject, b"b", message_id="later"))
        assert not ack.is_duplicate
        assert publisher.n_failed == 2


async def test_what_is_published_while_the_broker_is_away_arrives_when_it_is_back(
    nats_server: NatsServer, events: EventsStream
) -> None:
    async with WindowedPublisher(events.connection) as publisher:
        nats_server.kill()
        await eventually(lambda: not events.connection.is_connected)
        futures = await publish_many(publisher, events.subject, 200, n_bytes=20_000)
        await asyncio.to_thread(nats_server.start)
        acks = await asyncio.wait_for(asyncio.gather(*futures), 10)
        assert not any(ack.is_duplicate for ack in acks)


async def test_a_full_stream_holds_messages_until_there_is_room(connection: Connection) -> None:
    names, full = Names(), list[StreamFull]()
    await reconcile_stream(connection, events_stream(names, SMALL))
    subject = names.events("ic86", "test")
    async with WindowedPublisher(connection, window=16, on_stream_full=full.append) as publisher:
        publishing = asyncio.create_task(publish_many(publisher, subject, 100, n_bytes=2000))
        await eventually(lambda: publisher.is_stream_full)
        await eventually(lambda: publisher.n_refused > 50)
        n_stored = publisher.n_published
        assert 0 < n_stored < 100
        # A full window takes nothing new before a quarter of it is free, so up to three of its sixteen
        # messages may have been stored since it was full.
        assert 12 < publisher.in_flight <= 16
        assert [error.stream for error in full] == ["EVENTS"]

        js = connection.client.jetstream()
        while not publishing.done():
            await js.purge_stream(names.events_stream)
            await asyncio.sleep(0.01)
        await js.purge_stream(names.events_stream)
        futures = await publishing
        await eventually(lambda: publisher.in_flight == 0)

        assert not any(future.result().is_duplicate for future in futures)
        assert not publisher.is_stream_full


async def test_a_full_stream_is_an_error_where_the_caller_prefers_that(connection: Connection) -> None:
    names = Names()
    await reconcile_stream(connection, events_stream(names, SMALL))
    async with WindowedPublisher(connection, when_full=WhenFull.RAISE) as publisher:
        futures = await publish_many(publisher, names.events("ic86", "test"), 100, n_bytes=2000)
        await publisher.flush()
        failures = [future.exception() for future in futures if future.exception()]
        assert {type(failure) for failure in failures} == {StreamFull}
        assert len(failures) == 100 - publisher.n_published
        assert publisher.in_flight == 0


async def test_an_oversize_payload_is_refused_at_once_and_keeps_no_place(events: EventsStream) -> None:
    async with WindowedPublisher(events.connection, window=1) as publisher:
        for _ in range(3):
            with pytest.raises(MessageTooLarge):
                await publisher.publish(events.subject, bytes(1 << 21), message_id="large")
        await asyncio.wait_for(await publisher.publish(events.subject, b"small", message_id="small"), 5)


async def test_a_payload_that_is_oversize_only_with_its_headers_does_not_cost_the_connection(
    events: EventsStream,
) -> None:
    async with WindowedPublisher(events.connection) as publisher:
        limit = events.connection.client.max_payload
        with pytest.raises(MessageTooLarge):
            await publisher.publish(events.subject, bytes(limit - 10), message_id="a")
        with pytest.raises(MessageTooLarge):
            await publisher.publish(
                events.subject, bytes(limit - 5000), message_id="a", headers={"baggage": "x" * 6000}
            )
        assert events.connection.is_connected
        assert publisher.max_payload_bytes < limit


async def test_a_message_larger_than_the_stream_takes_is_a_typed_error(connection: Connection) -> None:
    names = Names()
    await reconcile_stream(connection, events_stream(names, SMALL))
    async with WindowedPublisher(connection) as publisher:
        future = await publisher.publish(names.events("ic86", "test"), bytes(30_000), message_id="1")
        with pytest.raises(MessageTooLarge, match="the stream's limit"):
            await future


async def test_a_subject_that_no_stream_stores_is_an_error_after_some_patience(
    connection: Connection,
) -> None:
    async with WindowedPublisher(connection, unready_patience_s=0.5) as publisher:
        future = await publisher.publish("icestream.events.ic86.test", b"", message_id="1")
        with pytest.raises(BrokerUnavailable, match=r"no stream stores icestream\.events\.ic86\.test"):
            await asyncio.wait_for(future, 5)
        assert publisher.in_flight == 0


async def test_a_stream_that_is_made_in_time_gets_the_message(connection: Connection) -> None:
    names = Names()
    async with WindowedPublisher(connection) as publisher:
        future = await publisher.publish(names.events("ic86", "test"), b"", message_id="1")
        await eventually(lambda: publisher.n_refused > 0)
        await reconcile_stream(connection, events_stream(names))
        assert (await asyncio.wait_for(future, 5)).sequence == 1


async def test_a_subject_that_nats_does_not_know_is_invalid(events: EventsStream) -> None:
    async with WindowedPublisher(events.connection, window=1) as publisher:
        with pytest.raises(InvalidInput, match="two words"):
            await (await publisher.publish("two words", b"", message_id="1"))
        assert publisher.in_flight == 0


async def test_cancelled_callers_leave_no_place_taken(nats_server: NatsServer, events: EventsStream) -> None:
    async with WindowedPublisher(events.connection, window=2, retry_after_s=0.2) as publisher:
        nats_server.freeze()
        futures = await publish_many(publisher, events.subject, 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(publisher.publish(events.subject, b"", message_id="waits"), 0.1)
        futures[0].cancel()
        nats_server.thaw()
        await eventually(lambda: publisher.in_flight == 0)
        for future in await publish_many(publisher, events.subject, 10, first=10):
            await asyncio.wait_for(future, 5)


async def test_closing_is_bounded_and_tells_who_still_waits(
    nats_server: NatsServer, events: EventsStream
) -> None:
    async with WindowedPublisher(events.connection, window=1) as publisher:
        nats_server.freeze()
        future = await publisher.publish(events.subject, b"", message_id="1")
        waiting = asyncio.create_task(publisher.publish(events.subject, b"", message_id="2"))
        await asyncio.wait_for(publisher.close(timeout_s=0.2), 2)
        with pytest.raises(BrokerUnavailable, match="closed before"):
            await future
        with pytest.raises(BrokerUnavailable, match="publisher is closed"):
            await waiting
        nats_server.thaw()


def _has_published(publisher: WindowedPublisher, n: int) -> bool:
    return publisher.n_published >= n


async def test_a_broker_that_stops_reading_blocks_nobody_for_ever(
    nats_server: NatsServer, events: EventsStream
) -> None:
    async with WindowedPublisher(events.connection, retry_after_s=0.2, deadline_s=1.0) as publisher:
        nats_server.freeze()
        publishing = asyncio.create_task(publish_many(publisher, events.subject, 60, n_bytes=500_000))
        await eventually(lambda: publisher.n_failed >= 2)
        # Retries do not pile up in memory.
        assert events.connection.client.pending_data_size < 4 << 20
        nats_server.thaw()
        futures = await asyncio.wait_for(publishing, 20)
        await publisher.flush()
        assert publisher.n_failed + publisher.n_published == len(futures)
        assert publisher.in_flight == 0
