from collections.abc import AsyncIterator, Awaitable

import pytest
from nats.js.api import StreamConfig

from icestream.errors import Misconfigured
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller
from icestream.runtime.jetstream.scan_topology import (
    Lane,
    LogEntry,
    ScanNames,
    consumer_name,
    scan_log_stream,
    scan_work_stream,
    scan_worker_consumer,
)
from icestream.runtime.jetstream.topology import Names, reconcile_consumer, reconcile_stream, shared_consumer
from tests.support.eventually import eventually

NAMES = ScanNames(Names())


@pytest.fixture
async def scans(connection: Connection) -> Connection:
    """A broker with everything that scans need."""
    for stream in (scan_log_stream(NAMES), scan_work_stream(NAMES)):
        await reconcile_stream(connection, stream)
    for lane in Lane:
        await reconcile_consumer(connection, NAMES.work_stream, scan_worker_consumer(NAMES, lane))
    return connection


@pytest.fixture
async def publisher(scans: Connection) -> AsyncIterator[WindowedPublisher]:
    async with WindowedPublisher(scans) as publisher:
        yield publisher


def puller_of(connection: Connection, lane: Lane, *, max_in_flight: int = 4) -> ContinuousPuller:
    return ContinuousPuller(
        connection, stream=NAMES.work_stream, consumer=consumer_name(lane), max_in_flight=max_in_flight
    )


async def put(publisher: WindowedPublisher, lane: Lane, scan_id: str, message_id: str) -> bool:
    """Queue some work; whether it was there before."""
    stored = await publisher.publish(NAMES.work(lane, scan_id), b"work", message_id=message_id)
    return (await stored).is_duplicate


async def config_of(connection: Connection, stream: str) -> StreamConfig:
    return (await connection.client.jetstream().stream_info(stream)).config


async def n_messages(connection: Connection, stream: str) -> int:
    return (await connection.client.jetstream().stream_info(stream)).state.messages


def test_the_default_names_are_the_documented_ones() -> None:
    assert (NAMES.log_stream, NAMES.work_stream) == ("SCANS", "SCANWORK")
    assert NAMES.startup_bucket == "icestream-scan-startup"
    assert NAMES.log("s1", LogEntry.RESULT) == "icestream.scans.log.s1.result"
    assert NAMES.log_of("s1") == "icestream.scans.log.s1.>"
    assert NAMES.logs(LogEntry.ACCEPTED) == "icestream.scans.log.*.accepted"
    assert NAMES.work(Lane.ALERT, "s1") == "icestream.scans.work.alert.s1"
    assert NAMES.work_in(Lane.CATALOGUE) == "icestream.scans.work.catalogue.>"
    assert [consumer_name(lane) for lane in Lane] == ["scan-worker-alert", "scan-worker-catalogue"]


def test_another_prefix_shares_nothing() -> None:
    other = ScanNames(Names("other"))
    assert (other.log_stream, other.work_stream) == ("other_SCANS", "other_SCANWORK")
    assert other.startup_bucket == "other-scan-startup"
    assert other.work(Lane.ALERT, "s1") == "other.scans.work.alert.s1"


async def test_what_exists_is_left_alone(scans: Connection) -> None:
    for stream in (scan_log_stream(NAMES), scan_work_stream(NAMES)):
        assert await reconcile_stream(scans, stream) == ()
    for lane in Lane:
        assert await reconcile_consumer(scans, NAMES.work_stream, scan_worker_consumer(NAMES, lane)) == ()


async def test_the_log_drops_the_oldest_and_the_queue_refuses(scans: Connection) -> None:
    log, work = await config_of(scans, "SCANS"), await config_of(scans, "SCANWORK")
    assert (log.retention, log.discard, log.max_age) == ("limits", "old", 7 * 86_400.0)
    assert (work.retention, work.discard, work.duplicate_window) == ("workqueue", "new", 120.0)


async def test_finished_work_leaves_the_queue_and_other_work_stays(
    scans: Connection, publisher: WindowedPublisher
) -> None:
    for number in range(3):
        await put(publisher, Lane.CATALOGUE, "s1", f"s1/{number}/")
    async with puller_of(scans, Lane.CATALOGUE) as puller:
        first, second, third = await puller.next_batch(3, 5.0)
        await first.ack()
        await second.term("undecodable_message")
        await eventually(lambda: _is(n_messages(scans, "SCANWORK"), 1))
        await third.nak()
        [again] = await puller.next_batch(1, 5.0)
        assert (again.n_delivered, again.stream_sequence) == (2, third.stream_sequence)
        await again.ack()
        await eventually(lambda: _is(n_messages(scans, "SCANWORK"), 0))


async def test_each_lane_gets_its_own_work_only(scans: Connection, publisher: WindowedPublisher) -> None:
    for number in range(20):
        await put(publisher, Lane.CATALOGUE, "slow", f"slow/{number}/")
    async with puller_of(scans, Lane.ALERT) as alerts, puller_of(scans, Lane.CATALOGUE) as catalogue:
        await put(publisher, Lane.ALERT, "urgent", "urgent/0/")
        # Behind 20 batches in the stream, and yet the first of its lane.
        [alert] = await alerts.next_batch(1, 5.0)
        assert alert.subject == "icestream.scans.work.alert.urgent"
        assert {each.subject for each in await catalogue.next_batch(4, 5.0)} == {
            "icestream.scans.work.catalogue.slow"
        }
        assert await alerts.next_batch(1, 0.05) == []


async def test_the_same_work_is_queued_once(publisher: WindowedPublisher) -> None:
    assert not await put(publisher, Lane.CATALOGUE, "s1", "s1/0/")
    assert await put(publisher, Lane.CATALOGUE, "s1", "s1/0/")
    assert not await put(publisher, Lane.CATALOGUE, "s1", "s1/0/0")


async def test_the_work_of_one_scan_can_be_purged(scans: Connection, publisher: WindowedPublisher) -> None:
    for scan_id in ("s1", "s2"):
        await put(publisher, Lane.CATALOGUE, scan_id, f"{scan_id}/0/")
    subject = NAMES.work(Lane.CATALOGUE, "s1")
    await scans.client.jetstream().purge_stream("SCANWORK", subject=subject)
    async with puller_of(scans, Lane.CATALOGUE) as puller:
        [left] = await puller.next_batch(2, 5.0)
        assert left.subject == NAMES.work(Lane.CATALOGUE, "s2")


async def test_a_second_consumer_of_a_lane_is_refused(scans: Connection) -> None:
    # A work queue gives each message to one consumer: another one would take work away from it.
    greedy = shared_consumer("greedy", subjects=[NAMES.work_in(Lane.ALERT)])
    with pytest.raises(Misconfigured, match="10100"):
        await reconcile_consumer(scans, NAMES.work_stream, greedy)


async def _is(value: Awaitable[int], wanted: int) -> bool:
    return await value == wanted
