"""What the exporter shows of a real server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from icestream.errors import Misconfigured
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.scan_topology import (
    Lane,
    ScanNames,
    scan_work_stream,
    scan_worker_consumer,
)
from icestream.runtime.jetstream.topology import Names, reconcile_consumer, reconcile_stream
from icestream.runtime.nats_metrics import Broker, BrokerCollector, BrokerFacts, watch_broker
from icestream.runtime.nats_pages import leaf_links
from tests.support.eventually import eventually
from tests.support.jetstream import EventsStream
from tests.support.link import Link, linked
from tests.support.nats_server import NatsServer, free_port, running_nats_server

SERVER = "alone"
ROUTER = {"stream": "EVENTS", "consumer": "router"}
OLDEST = "icestream_consumer_oldest_unacked_timestamp_seconds"


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats_server(tmp_path / "nats", extra_config=f"server_name: {SERVER}") as server:
        yield server


@pytest.fixture
async def registry(
    nats_server: NatsServer, connection: Connection, events: EventsStream
) -> CollectorRegistry:
    """Metrics of a server with an events stream and the routers' consumer."""
    return await watching(nats_server, connection)


async def watching(nats_server: NatsServer, connection: Connection) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(watch_broker(nats_server.monitor_url, connection))
    return registry


async def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """One number, as a scrape in a thread of its own sees it."""
    return await asyncio.to_thread(registry.get_sample_value, name, labels)


async def values(registry: CollectorRegistry, names: Sequence[str], **labels: str) -> list[float | None]:
    return [await value(registry, name, **labels) for name in names]


async def test_an_empty_stream_has_limits_and_no_times(registry: CollectorRegistry) -> None:
    assert await values(registry, ["icestream_broker_up", "icestream_broker_servers"]) == [1, 1]
    counts = ["icestream_broker_connections", "icestream_broker_slow_consumers_total"]
    assert await values(registry, counts, server=SERVER) == [1, 0]
    assert await value(registry, "icestream_broker_memory_bytes", server=SERVER)
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
    page = {"leafs": [{"name": "pole", "rtt": "5s"}, {"name": "pole", "rtt": rtt}]}
    registry.register(
        BrokerCollector(cast("Broker", FoundOut(BrokerFacts(leaf_links=[leaf_links("north", page)]))))
    )
    assert registry.get_sample_value("icestream_broker_leaf_connections", {"server": "north"}) == 2
    link = {"server": "north", "peer": "pole"}
    found = registry.get_sample_value("icestream_broker_leaf_rtt_seconds", link)
    assert found == pytest.approx(seconds)


@dataclass
class FoundOut:
    """A broker of which this is known."""

    known: BrokerFacts

    def facts(self) -> BrokerFacts:
        return self.known


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
    shown = {sample.name: sample.value for family in families for sample in family.samples}
    assert shown == {"icestream_broker_up": 0, "icestream_broker_servers": 0}
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


@pytest.mark.parametrize("urls", ["127.0.0.1:8222", "http://:8222", "http://one:8222,two:8222", "http://a:b"])
async def test_an_address_that_is_none_is_refused(connection: Connection, urls: str) -> None:
    with pytest.raises(Misconfigured, match="--http_port"):
        watch_broker(urls, connection)


class TestWithoutItsClient:
    """What monitoring says needs no connection of a client."""

    @pytest.mark.usefixtures("events")
    async def test_a_client_that_was_never_let_in_leaves_the_server_in_sight(
        self, nats_server: NatsServer
    ) -> None:
        closed = f"nats://127.0.0.1:{free_port()}"
        async with connect(closed, name="exporter", on_late=lambda _: None) as away:
            registry = await watching(nats_server, away)
            with capture_logs() as logs:
                assert await value(registry, "icestream_broker_up") == 1
                assert await value(registry, "icestream_broker_connections", server=SERVER) == 1
            assert await value(registry, "icestream_stream_messages", stream="EVENTS") is None
        [warning] = [line for line in logs if line["event"] == "NATS is not seen in full"]
        assert warning["missing"] == "the exporter's own connection"
        assert closed in warning["problem"]

    @pytest.mark.parametrize("outage", [Link.cut, Link.freeze], ids=["lost", "slow"])
    async def test_streams_stay_in_sight_when_the_client_is(
        self, nats_server: NatsServer, events: EventsStream, outage: Callable[[Link], Awaitable[None] | None]
    ) -> None:
        await events.fill(3)
        async with (
            linked(nats_server.port) as link,
            connect(f"nats://127.0.0.1:{link.port}", name="exporter") as connection,
        ):
            registry = await watching(nats_server, connection)
            assert await value(registry, OLDEST, **ROUTER) is not None
            if (ending := outage(link)) is not None:
                await ending
                await eventually(lambda: not connection.is_connected)
            assert await value(registry, "icestream_broker_up") == 1
            assert await value(registry, "icestream_stream_messages", stream="EVENTS") == 3
            assert await value(registry, "icestream_consumer_pending", **ROUTER) == 3
            assert await value(registry, OLDEST, **ROUTER) is None


class TestUnexpectedPages:
    """Those of a server that is not as we know it."""

    async def test_what_is_understood_is_shown_and_the_rest_is_said_once(
        self, connection: Connection
    ) -> None:
        varz = {"server_name": "odd", "connections": 2, "slow_consumers": 0, "leaf": {"port": 7422}}
        pages = {"/varz": varz, "/jsz": {"account_details": [{"stream_detail": [{"name": "EVENTS"}]}]}}
        async with monitoring_with({**pages, "/leafz": {"leafs": [{"name": "pole", "rtt": "1ms"}]}}) as url:
            registry = CollectorRegistry()
            registry.register(watch_broker(url, connection))
            with capture_logs() as logs:
                for _ in range(2):
                    assert await value(registry, "icestream_broker_up") == 1
                    assert await value(registry, "icestream_broker_leaf_connections", server="odd") == 1
                    assert await value(registry, "icestream_broker_connections", server="odd") is None
        missing = {line["missing"]: line["problem"] for line in logs}
        assert len(logs) == len(missing) == 2
        assert "'mem'" in missing["/varz of odd"]
        assert "'config'" in missing["/jsz of odd"]

    @pytest.mark.parametrize("varz", [{}, [], "x", {"server_name": "odd", "connections": "many"}])
    @pytest.mark.parametrize(
        "jsz", [[], {"account_details": 3}, {"account_details": [{"stream_detail": [7]}]}]
    )
    async def test_no_page_ends_a_scrape(self, connection: Connection, varz: object, jsz: object) -> None:
        async with monitoring_with({"/varz": varz, "/jsz": jsz}) as url:
            registry = CollectorRegistry()
            registry.register(watch_broker(url, connection))
            assert await value(registry, "icestream_broker_up") == (
                isinstance(varz, dict) and "server_name" in varz
            )

    async def test_who_is_not_a_nats_server_is_down(self, connection: Connection) -> None:
        async with monitoring_with({}) as url:
            registry = CollectorRegistry()
            registry.register(watch_broker(url, connection))
            with capture_logs() as logs:
                assert await value(registry, "icestream_broker_up") == 0
        [warning] = logs
        assert url in warning["missing"]
        assert "404" in warning["problem"]


@asynccontextmanager
async def monitoring_with(pages: Mapping[str, object]) -> AsyncIterator[str]:
    """The URL of a monitoring that has these pages, whatever is asked of them."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = request.split(" ")[1].partition("?")[0]
        status = "200 OK" if path in pages else "404 Not Found"
        writer.write(f"HTTP/1.0 {status}\r\n\r\n{json.dumps(pages.get(path))}".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
