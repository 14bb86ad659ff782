"""Whatever is killed or taken away: each event has one row, and none is lost."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from icestream.runtime.deadletters import DeadLetter, DeadLetterWriter
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames
from icestream.runtime.jetstream.topology import (
    RECORDER_CONSUMER,
    reconcile_consumer,
    reconcile_stream,
    reconstructions_stream,
)
from services.recorder.topics import reconstructions_topic
from tests.integration.recorder.recorder_stack import NAMES, RecorderStack, running_recorders
from tests.support.eventually import eventually
from tests.support.jetstream import take
from tests.support.nats_server import NatsServer
from tests.support.postgres import PostgresServer, running_postgres
from tests.unit.recorder.recorder_cases import make_ended, make_reconstruction

N_EVENTS = 4000
TOPIC = reconstructions_topic(NAMES, ack_wait_s=2.0, max_ack_pending=16_384)


async def assert_each_once(stack: RecorderStack, n_events: int) -> None:
    await stack.all_answered()
    assert stack.recorded() == list(range(n_events))


def puller_of_recorders(connection: Connection) -> ContinuousPuller:
    """Is given what a recorder would be given."""
    return ContinuousPuller(
        connection,
        stream=NAMES.reconstructions_stream,
        consumer=RECORDER_CONSUMER,
        max_in_flight=N_EVENTS,
    )


async def stays(holds: Callable[[], bool], *, for_s: float) -> None:
    """Look again and again."""
    for _ in range(int(for_s / 0.05)):
        assert holds()
        await asyncio.sleep(0.05)


async def test_a_recorder_that_is_killed_under_load_loses_and_doubles_nothing(
    nats_server: NatsServer, database: str, tmp_path: Path
) -> None:
    async with running_recorders(nats_server, database, tmp_path) as stack:
        await stack.is_up()
        publishing = asyncio.create_task(stack.publish(map(make_reconstruction, range(N_EVENTS))))
        for n_recorded in (100, 1000, 2000):
            await stack.has_recorded(n_recorded)
            stack.recorders[0].kill()
        await publishing
        await assert_each_once(stack, N_EVENTS)
    assert stack.recorders[0].n_started == 4


async def test_two_recorders_that_start_at_once_share_the_work(
    nats_server: NatsServer, database: str, tmp_path: Path
) -> None:
    async with running_recorders(nats_server, database, tmp_path, n_recorders=2) as stack:
        await stack.is_up()
        await stack.publish(map(make_reconstruction, range(N_EVENTS)))
        stack.recorders[0].kill()
        await assert_each_once(stack, N_EVENTS)


async def test_a_broker_that_is_killed_changes_nothing(
    nats_server: NatsServer, database: str, tmp_path: Path
) -> None:
    async with running_recorders(nats_server, database, tmp_path) as stack:
        await stack.is_up()
        publishing = asyncio.create_task(stack.publish(map(make_reconstruction, range(N_EVENTS))))
        await stack.has_recorded(500)
        await nats_server.kill_and_restart(after_s=0.3)
        await publishing
        await assert_each_once(stack, N_EVENTS)


async def test_while_postgresql_is_away_nothing_is_acknowledged_and_then_all_is_recorded(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with running_postgres() as postgres:
        database = postgres.create_database()
        async with running_recorders(nats_server, database, tmp_path) as stack:
            await stack.is_up()
            await stack.publish(map(make_reconstruction, range(1000)))
            await assert_each_once(stack, 1000)
            await asyncio.to_thread(postgres.stop)
            floor = (await stack.consumer()).ack_floor
            assert floor is not None
            await stack.publish(map(make_reconstruction, range(1000, N_EVENTS)))
            await eventually(lambda: stack.readiness()[0] == 503, timeout_s=20)
            status, report = stack.readiness()
            assert status == 503
            assert report["nats"] == "ok"
            assert "the database: connection" in report["database"]
            assert stack.metric("intake_paused") == 1
            floor_of_now = (await stack.consumer()).ack_floor
            assert floor_of_now is not None
            assert floor_of_now.stream_seq == floor.stream_seq
            await asyncio.to_thread(postgres.start)
            await eventually(lambda: stack.readiness()[0] == 200, timeout_s=20)
            await assert_each_once(stack, N_EVENTS)
            assert stack.recorders[0].n_started == 1


async def test_a_database_that_only_reads_keeps_the_recorder_paused(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with running_postgres() as postgres:
        async with running_recorders(nats_server, postgres.create_database(), tmp_path) as stack:
            await stack.is_up()
            await asyncio.to_thread(postgres.set, "default_transaction_read_only", "on")
            await stack.publish(map(make_reconstruction, range(10)))
            await eventually(lambda: stack.metric("intake_paused") == 1)
            # Long enough for some probes.
            await stays(lambda: stack.metric("intake_paused") == 1, for_s=2.0)
            assert "read-only transaction" in stack.readiness()[1]["database"]
            await asyncio.to_thread(postgres.set, "default_transaction_read_only", "off")
            await assert_each_once(stack, 10)
            await eventually(lambda: stack.metric("intake_paused") == 0)


async def test_postgresql_that_crashes_under_load_loses_and_doubles_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with running_postgres() as postgres:
        async with running_recorders(nats_server, postgres.create_database(), tmp_path) as stack:
            await stack.is_up()
            publishing = asyncio.create_task(stack.publish(map(make_reconstruction, range(N_EVENTS))))
            for n_recorded in (200, 1500):
                await stack.has_recorded(n_recorded)
                await asyncio.to_thread(postgres.crash)
                await asyncio.to_thread(postgres.start)
            await publishing
            await assert_each_once(stack, N_EVENTS)


async def test_a_recorder_waits_for_a_database_that_comes_later(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with running_postgres() as postgres:
        database = postgres.create_database()
        postgres.stop()
        async with running_recorders(nats_server, database, tmp_path) as stack:
            await eventually(lambda: "the database" in stack.readiness()[1].get("database", ""), timeout_s=20)
            assert stack.readiness()[0] == 503
            assert stack.metric("intake_paused") == 1
            await asyncio.to_thread(postgres.start)
            await stack.is_up()
            assert stack.metric("intake_paused") == 0
            assert stack.recorders[0].n_started == 1


@pytest.mark.parametrize("is_nak", [True, False])
async def test_what_somebody_else_left_unanswered_is_recorded_once(
    nats_server: NatsServer, postgres: PostgresServer, tmp_path: Path, is_nak: bool
) -> None:
    """Redelivery by a negative acknowledgement, and by the end of the wait for one."""
    async with connect(nats_server.url, name="test") as connection:
        await reconcile_stream(connection, reconstructions_stream(NAMES))
        await reconcile_consumer(connection, NAMES.reconstructions_stream, TOPIC.consumer)
        stack = RecorderStack(nats_server, postgres.create_database(), tmp_path, n_recorders=1)
        await stack.publish(map(make_reconstruction, range(300)))
        async with puller_of_recorders(connection) as puller:
            held = await take(puller, 300)
            if is_nak:
                for delivery in held:
                    await delivery.nak()
    async with running_recorders(nats_server, stack.database, tmp_path) as stack:
        await stack.is_up()
        await assert_each_once(stack, 300)
        assert stack.metric("redelivered_total") == 300
        assert stack.metric("duplicates_total") == 0


async def test_what_was_recorded_and_not_acknowledged_stays_one_row(
    nats_server: NatsServer, database: str, tmp_path: Path
) -> None:
    """As after a recorder that ended between commit and acknowledgement: the consumer begins anew."""
    async with running_recorders(nats_server, database, tmp_path) as stack:
        await stack.is_up()
        await stack.publish(map(make_reconstruction, range(500)))
        await assert_each_once(stack, 500)
        stack.recorders[0].kill()
        async with connect(nats_server.url, name="test") as connection:
            await connection.client.jetstream().delete_consumer(
                NAMES.reconstructions_stream, RECORDER_CONSUMER
            )
        await eventually(lambda: stack.recorders[0].n_started == 2, timeout_s=10)
        await stack.is_up()
        await eventually(lambda: stack.metric("duplicates_total") == 500, timeout_s=30)
        await assert_each_once(stack, 500)
        assert stack.metric("opening_angle_rad_count") == 0


async def test_dead_letters_and_scans_are_recorded_and_a_bad_message_becomes_one_letter(
    nats_server: NatsServer, database: str, tmp_path: Path
) -> None:
    scan_names = ScanNames(NAMES)
    letter = DeadLetter(
        "router", "invalid_event", "no pulses", 1, "a.b", "toy/1.1.0", "1.1.0", b"x" * 900_000
    )
    async with running_recorders(nats_server, database, tmp_path) as stack:
        await stack.is_up()
        async with (
            connect(nats_server.url, name="test") as connection,
            WindowedPublisher(connection) as publisher,
        ):
            await DeadLetterWriter(publisher, NAMES).write(letter)
            bad = [
                (NAMES.reconstructions("toy", "direction"), b"\xff"),
                (NAMES.dead_letters("stranger"), b"whatever"),
                (scan_names.log("s1", LogEntry.ENDED), make_ended("s1").SerializeToString()),
                (scan_names.log("s2", LogEntry.ENDED), b"\xff"),
                (scan_names.log("s2", LogEntry.RESULT), b"not for the recorder"),
            ]
            for number, (subject, payload) in enumerate(bad):
                await publisher.publish(subject, payload, message_id=str(number))
            await publisher.flush()
        query = "SELECT service, reason, count(*) FROM dead_letters GROUP BY service, reason ORDER BY service"
        expected = [
            ("recorder", "undecodable_message", 2),
            ("router", "invalid_event", 1),
            ("stranger", "unknown", 1),
        ]
        await eventually(lambda: stack.query(query) == expected, timeout_s=20)
        for stream in (NAMES.reconstructions_stream, NAMES.dead_letter_stream, scan_names.log_stream):
            await stack.all_answered(stream)
        # Payloads of a megabyte each never come here.
        assert (await stack.consumer(NAMES.dead_letter_stream)).config.headers_only
        # Nothing follows from the letters that were recorded.
        assert stack.query(query) == expected
        assert stack.query("SELECT scan_id FROM scans") == [("s1",)]


async def test_a_recorder_stops_in_peace(nats_server: NatsServer, database: str, tmp_path: Path) -> None:
    stack = RecorderStack(nats_server, database, tmp_path, n_recorders=1, ack_wait_s=60.0)
    stack.recorders[0].start()
    await stack.is_up()
    publishing = asyncio.create_task(stack.publish(map(make_reconstruction, range(N_EVENTS))))
    await stack.has_recorded(100)
    assert await asyncio.to_thread(stack.recorders[0].end) == 0
    assert "everything that was handed out is answered for" in stack.recorders[0].log
    await publishing
    recorded = stack.recorded()
    # The others are there for the next one at once, not after the ack wait.
    async with (
        connect(nats_server.url, name="test") as connection,
        puller_of_recorders(connection) as puller,
    ):
        left = await take(puller, N_EVENTS - len(recorded))
        for delivery in left:
            await delivery.ack()
    assert sorted([*recorded, *(TOPIC.read(delivery).event_id for delivery in left)]) == list(range(N_EVENTS))
    await stack.all_answered()
