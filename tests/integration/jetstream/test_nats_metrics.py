"""What the exporter shows of a real server."""

import asyncio
import time
from collections.abc import Sequence
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from icestream.errors import Misconfigured
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.scan_topology import (
    Lane,
    ScanNames,
    scan_work_stream,
    scan_worker_consumer,
)
from icestream.runtime.jetstream.topology import Names, reconcile_consumer, reconcile_stream
from icestream.runtime.nats_metrics import (
    Broker,
    BrokerCollector,
    FirstUnacknowledged,
    Page,
    watch_broker,
)
from tests.support.jetstream import EventsStream
from tests.support.nats_server import NatsServer

ROUTER = {"stream": "EVENTS", "consumer": "router"}
OLDEST = "icestream_consumer_oldest_unacked_timestamp_seconds"


@pytest.fixture
async def registry(
    nats_server: NatsServer, connection: Connection, events: EventsStream
) -> CollectorRegistry:
    """Metrics of a server with an events stream and the routers' consumer."""
    return await watching(nats_server, connection)


async def watching(nats_server: NatsServer, connection: Connection) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(watch_broker(f"http://127.0.0.1:{nats_server.monitoring_port}", connection))
    return registry


async def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """One number, as a scrape in a thread of its own sees it."""
    return await asyncio.to_thread(registry.get_sample_value, name, labels)


async def values(registry: CollectorRegistry, names: Sequence[str], **labels: str) -> list[float | None]:
    return [await value(registry, name, **labels) for name in names]


async def test_an_empty_stream_has_limits_and_no_times(registry: CollectorRegistry) -> None:
    assert await value(registry, "icestream_broker_up") == 1
    assert await value(registry, "icestream_broker_connections") == 1
    assert await value(registry, "icestream_broker_slow_consumers_total") == 0
    assert await value(registry, "icestream_broker_memory_bytes")
    assert await value(registry, "icestream_stream_limit_bytes", stream="EVENTS", discard="new") == 4 << 30
    assert await value(registry, "icestream_stream_limit_age_seconds", stream="EVENTS") == 48 * 3600
    counts = ["icestream_stream_messages", "icestream_stream_bytes", "icestream_stream_stored_total"]
    assert await values(registry, counts, stream="EVENTS") == [0, 0, 0]
    times = ["icestream_stream_first_timestamp_seconds", "icestream_stream_last_timestamp_seconds"]
    assert await values(registry, times, stream="EVENTS") == [None, None]
    assert await value(registry, OLDEST, **ROUTER) is None


async def test_a_server_without_leaf_nodes_and_sources_shows_none(registry: CollectorRegistry) -> None:
    families = {family.name: family for family in await asyncio.to_thread(lambda: list(registry.collect()))}
    for name in (
        "icestream_broker_leaf_connections",
        "icestream_broker_leaf_rtt_seconds",
        "icestream_stream_source_lag",
        "icestream_stream_source_silence_seconds",
    ):
        assert families[name].samples == []


@pytest.mark.parametrize(
    ("rtt", "seconds"),
    [("404µs", 404e-6), ("612.3ms", 0.6123), ("1.25s", 1.25), ("1m0.5s", 60.5), ("900ns", 9e-7)],
)
def test_the_time_to_a_leaf_node_is_in_seconds(rtt: str, seconds: float) -> None:
    registry = CollectorRegistry()
    # The second is the same server, come again before its old link was given up.
    links = [{"name": "pole", "rtt": "5s"}, {"name": "pole", "rtt": rtt}]
    registry.register(BrokerCollector(cast("Broker", LeafPages(links))))
    assert registry.get_sample_value("icestream_broker_leaf_connections") == 2
    found = registry.get_sample_value("icestream_broker_leaf_rtt_seconds", {"server": "pole"})
    assert found == pytest.approx(seconds)


class LeafPages:
    """The pages of a server whose only interest is its leaf nodes."""

    def __init__(self, links: list[dict[str, str]]) -> None:
        self._pages: dict[str, Page] = {
            "/varz": {"connections": 0, "slow_consumers": 0, "mem": 0, "leaf": {"port": 7422}},
            "/leafz": {"leafs": links},
        }

    def page(self, path: str) -> Page:
        return self._pages.get(path, {})

    def account(self) -> str:
        return "$G"

    def stored_at_s(self, questions: Sequence[FirstUnacknowledged]) -> list[float | None]:
        return [None for _ in questions]


async def test_what_waits_and_what_is_handed_out_are_told_apart(
    registry: CollectorRegistry, connection: Connection, events: EventsStream
) -> None:
    before_s = time.time() - 0.001
    js = connection.client.jetstream()
    for number in range(4):
        await js.publish(events.subject, str(number).encode())
    first, second = await (await js.pull_subscribe_bind("router", events.name)).fetch(2)
    counts = [f"icestream_consumer_{what}" for what in ("pending", "ack_pending", "redelivered")]
    assert await values(registry, counts, **ROUTER) == [2, 2, 0]
    assert await value(registry, "icestream_stream_stored_total", stream="EVENTS") == 4
    oldest_s = await value(registry, OLDEST, **ROUTER)
    assert oldest_s is not None
    assert oldest_s == pytest.approx(first.metadata.timestamp.timestamp(), abs=1e-4)
    assert oldest_s >= before_s

    await second.ack_sync()
    assert await value(registry, OLDEST, **ROUTER) == oldest_s, "the first one still lacks its answer"
    await first.ack_sync()
    later_s = await value(registry, OLDEST, **ROUTER)
    assert later_s is not None
    assert later_s > oldest_s


async def test_a_message_that_was_given_back_counts_as_redelivered(
    registry: CollectorRegistry, connection: Connection, events: EventsStream
) -> None:
    js = connection.client.jetstream()
    await js.publish(events.subject, b"x")
    subscription = await js.pull_subscribe_bind("router", events.name)
    [message] = await subscription.fetch(1)
    await message.nak()
    [again] = await subscription.fetch(1)
    assert await value(registry, "icestream_consumer_redelivered", **ROUTER) == 1
    await again.ack_sync()
    assert await value(registry, "icestream_consumer_redelivered", **ROUTER) == 0
    assert await value(registry, OLDEST, **ROUTER) is None


async def test_the_oldest_message_of_a_lane_is_one_of_its_own(
    nats_server: NatsServer, connection: Connection
) -> None:
    names = ScanNames(Names())
    await reconcile_stream(connection, scan_work_stream(names))
    for lane in Lane:
        await reconcile_consumer(connection, names.work_stream, scan_worker_consumer(names, lane))
    js = connection.client.jetstream()
    await js.publish(names.work(Lane.CATALOGUE, "a"), b"first")
    stored = await js.publish(names.work(Lane.ALERT, "b"), b"second")
    registry = await watching(nats_server, connection)
    wanted = await js.get_msg(names.work_stream, stored.seq)
    assert wanted.time is not None
    found_s = await value(registry, OLDEST, stream=names.work_stream, consumer="scan-worker-alert")
    assert found_s == pytest.approx(wanted.time.timestamp(), abs=1e-4)


async def test_readers_that_come_and_go_are_not_shown(
    registry: CollectorRegistry, connection: Connection, events: EventsStream
) -> None:
    js = connection.client.jetstream()
    await js.publish(events.subject, b"x")
    subscription = await js.subscribe(events.subject, stream=events.name, ordered_consumer=True)
    await subscription.next_msg()
    families = {family.name: family for family in await asyncio.to_thread(lambda: list(registry.collect()))}
    assert {sample.labels["consumer"] for sample in families["icestream_consumer_pending"].samples} == {
        "router"
    }


async def test_a_server_that_is_away_is_down_and_comes_back(
    nats_server: NatsServer, registry: CollectorRegistry
) -> None:
    nats_server.kill()
    families = await asyncio.to_thread(lambda: list(registry.collect()))
    assert [(family.name, family.samples[0].value) for family in families] == [("icestream_broker_up", 0.0)]
    await asyncio.to_thread(nats_server.start)
    for _ in range(100):
        if await value(registry, "icestream_broker_up") == 1:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the server came back and is not seen")


async def test_a_server_that_hangs_is_down(nats_server: NatsServer, registry: CollectorRegistry) -> None:
    nats_server.freeze()
    try:
        assert await value(registry, "icestream_broker_up") == 0
    finally:
        nats_server.thaw()


async def test_an_address_that_is_none_is_refused(connection: Connection) -> None:
    with pytest.raises(Misconfigured, match="--http_port"):
        watch_broker("127.0.0.1:8222", connection)
