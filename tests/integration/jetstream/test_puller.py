import asyncio
from time import sleep, time_ns

from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.puller import ContinuousPuller, Delivery
from tests.support.eventually import eventually
from tests.support.jetstream import EventsStream, take
from tests.support.nats_server import NatsServer


def puller_of(events: EventsStream, *, batch: int = 256, max_in_flight: int = 1024) -> ContinuousPuller:
    return ContinuousPuller(
        events.connection,
        stream=events.name,
        consumer="router",
        batch=batch,
        max_in_flight=max_in_flight,
        idle_heartbeat_s=0.2,
    )


async def test_every_message_arrives_once_and_in_order(events: EventsStream) -> None:
    await events.fill(700)
    async with puller_of(events, batch=64) as puller:
        taken: list[Delivery] = []
        while len(taken) < 700:
            batch = await puller.next_batch(50, 1.0)
            assert 0 < len(batch) <= 50
            for delivery in batch:
                await delivery.ack()
            taken += batch
        assert [int(delivery.payload) for delivery in taken] == list(range(700))
        assert (puller.in_flight, puller.n_redelivered, puller.n_left_in_stream) == (0, 0, 0)
        assert puller.n_refused_pulls == 0
    await eventually(lambda: _is_zero(events))


async def test_a_delivery_says_where_it_comes_from(events: EventsStream) -> None:
    await events.connection.client.jetstream().publish(
        events.subject, b"payload", headers={"traceparent": "00-1-2-01"}
    )
    async with puller_of(events) as puller:
        (delivery,) = await take(puller, 1)
        assert (delivery.subject, delivery.payload) == (events.subject, b"payload")
        assert delivery.headers == {"traceparent": "00-1-2-01"}
        assert (delivery.stream_sequence, delivery.n_delivered) == (1, 1)
        assert abs(time_ns() - delivery.published_unix_ns) < 60e9


async def test_an_empty_stream_gives_nothing_in_time_and_a_new_message_at_once(events: EventsStream) -> None:
    async with puller_of(events) as puller:
        assert await puller.next_batch(10, 0.05) == []
        waiting = asyncio.create_task(puller.next_batch(10, 30.0))
        await events.fill(1)
        assert len(await asyncio.wait_for(waiting, 2)) == 1


async def test_no_more_than_the_bound_is_in_flight(events: EventsStream) -> None:
    await events.fill(300)
    async with puller_of(events, batch=32, max_in_flight=48) as puller:
        held: list[Delivery] = []
        for _ in range(300):
            if not (batch := await puller.next_batch(7, 0.05)):
                break
            held += batch
            assert puller.in_flight <= 48
        assert len(held) == puller.in_flight == 48
        assert await events.n_unacknowledged() == 48

        n_done = 0
        while n_done < 300:
            for delivery in held:
                await delivery.ack()
            n_done += len(held)
            assert puller.in_flight <= 48
            held = await puller.next_batch(7, 0.5)
        assert puller.in_flight == 0


async def test_large_messages_wait_at_the_broker_while_nobody_reads(events: EventsStream) -> None:
    js = events.connection.client.jetstream()
    for _ in range(100):
        await js.publish(events.subject, bytes(900_000))
    async with puller_of(events) as puller:
        # The broker has time to send all that was asked for, and hangs up where that is more than 64 MiB.
        await asyncio.sleep(0)
        sleep(0.4)  # noqa: ASYNC251 - so that nobody reads
        sequences: list[int] = []
        while len(sequences) < 100:
            for delivery in await take(puller, 1):
                await delivery.ack()
                sequences.append(delivery.stream_sequence)
        assert sequences == list(range(1, 101))
        assert (puller.n_redelivered, puller.n_refused_pulls, events.connection.n_reconnects) == (0, 0, 0)


async def test_settling_twice_counts_once(events: EventsStream) -> None:
    await events.fill(2)
    async with puller_of(events) as puller:
        first, _ = await take(puller, 2)
        await first.ack()
        await first.nak()
        await first.ack()
        assert puller.in_flight == 1


async def test_what_is_not_acknowledged_in_time_comes_again(events: EventsStream) -> None:
    await events.fill(1)
    async with puller_of(events) as puller:
        await take(puller, 1)
        (again,) = await take(puller, 1)
        assert again.n_delivered == 2
        assert puller.n_redelivered == 1


async def test_progress_postpones_the_next_delivery(events: EventsStream) -> None:
    await events.fill(1)
    async with puller_of(events) as puller:
        (delivery,) = await take(puller, 1)
        for _ in range(8):
            assert await puller.next_batch(1, 0.25) == []
            await delivery.in_progress()
        await delivery.ack()
        await eventually(lambda: _is_zero(events))


async def test_a_refused_message_comes_again_after_its_delay(events: EventsStream) -> None:
    await events.fill(1)
    async with puller_of(events) as puller:
        (delivery,) = await take(puller, 1)
        started_s = asyncio.get_running_loop().time()
        await delivery.nak(0.3)
        assert puller.in_flight == 0
        (again,) = await take(puller, 1)
        assert asyncio.get_running_loop().time() - started_s > 0.25
        assert again.n_delivered == 2


async def test_a_terminated_message_never_comes_again(events: EventsStream) -> None:
    await events.fill(2)
    async with puller_of(events) as puller:
        bad, good = await take(puller, 2)
        await bad.term("not an event")
        await good.ack()
        await eventually(lambda: _is_zero(events))
        assert await puller.next_batch(1, 1.2) == []


async def test_messages_flow_again_soon_after_the_broker_restarts(
    nats_server: NatsServer, events: EventsStream
) -> None:
    await events.fill(100)
    async with puller_of(events, batch=16, max_in_flight=64) as puller:
        for delivery in await take(puller, 50):
            await delivery.ack()
        await nats_server.kill_and_restart(after_s=0.2)
        started_s = asyncio.get_running_loop().time()
        (first,) = await take(puller, 1)
        assert asyncio.get_running_loop().time() - started_s < 2.0
        await first.ack()

        # Acks that were on their way when the broker died are lost, so that some messages come again.
        seen = {first.stream_sequence}
        while await events.n_unacknowledged() > 0 or len(seen - set(range(51))) < 49:
            for delivery in await puller.next_batch(64, 0.1):
                seen.add(delivery.stream_sequence)
                await delivery.ack()
        assert seen >= set(range(52, 101))


async def test_silence_of_the_broker_makes_the_pulls_anew(
    nats_server: NatsServer, events: EventsStream
) -> None:
    async with puller_of(events) as puller:
        assert await puller.next_batch(1, 0.05) == []
        nats_server.freeze()
        await eventually(lambda: puller.n_stalls > 0)
        nats_server.thaw()
        await events.fill(3)
        assert len(await take(puller, 3)) == 3


async def test_a_missing_consumer_is_waited_for(connection: Connection, events: EventsStream) -> None:
    await events.fill(1)
    js = connection.client.jetstream()
    config = (await events.consumer()).config
    await js.delete_consumer(events.name, "router")
    async with puller_of(events) as puller:
        await eventually(lambda: puller.n_refused_pulls > 0)
        await js.add_consumer(events.name, config)
        assert len(await take(puller, 1)) == 1
        # It asks a few times a second, not as fast as it is refused.
        assert puller.n_refused_pulls < 20


async def test_paused_means_that_nothing_arrives(events: EventsStream) -> None:
    await events.fill(20)
    async with puller_of(events, batch=8, max_in_flight=8) as puller:
        await eventually(lambda: puller.n_queued == 8)
        await puller.pause()
        assert puller.is_paused
        for delivery in await take(puller, 8):
            await delivery.ack()
        assert await puller.next_batch(8, 0.5) == []
        assert puller.n_received == 8

        await puller.resume()
        assert [d.stream_sequence for d in await take(puller, 8)] == list(range(9, 17))


async def test_pausing_under_load_strands_nothing(events: EventsStream) -> None:
    await events.fill(500)
    seen: set[int] = set()
    async with puller_of(events, batch=64) as puller:
        async with asyncio.timeout(10):
            while len(seen) < 500:
                for delivery in await puller.next_batch(20, 0.2):
                    seen.add(delivery.stream_sequence)
                    await delivery.ack()
                await puller.pause()
                await puller.resume()
        await eventually(lambda: _is_zero(events), timeout_s=0.8)


async def test_stopping_gives_back_what_was_not_handed_out(events: EventsStream) -> None:
    await events.fill(100)
    async with puller_of(events, batch=40, max_in_flight=40) as puller:
        await eventually(lambda: puller.n_queued == 40)
        taken = await take(puller, 10)
        await puller.stop()
        assert puller.in_flight == 10
        assert await puller.next_batch(10, 5.0) == []
        for delivery in taken:
            await delivery.ack()

    async with puller_of(events) as other:
        # At once, not after an ack_wait.
        await take(other, 90, timeout_s=0.8)
        assert other.n_redelivered == 30


async def test_two_pullers_share_the_work(events: EventsStream) -> None:
    await events.fill(200)
    async with puller_of(events, batch=8) as one, puller_of(events, batch=8) as two:
        seen: list[int] = []
        async with asyncio.timeout(10):
            while len(seen) < 200:
                for puller in (one, two):
                    for delivery in await puller.next_batch(4, 0.05):
                        seen.append(delivery.stream_sequence)
                        await delivery.ack()
        assert sorted(seen) == list(range(1, 201))
        assert min(one.n_received, two.n_received) > 0


async def _is_zero(events: EventsStream) -> bool:
    return await events.n_unacknowledged() == 0
