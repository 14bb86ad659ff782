"""What the exporter shows of a real cluster of three servers, whoever leads and whoever is away."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.topology import (
    Names,
    events_stream,
    reconcile_consumer,
    reconcile_stream,
    router_consumer,
)
from icestream.runtime.nats_metrics import watch_broker
from tests.support.eventually import eventually
from tests.support.nats_cluster import (
    ELECTION_S,
    NatsCluster,
    asked,
    leader,
    running_nats_cluster,
    step_down_until_led_by_another,
)

STREAM, CONSUMER = "STREAM.EVENTS", "CONSUMER.EVENTS.router"
ROUTER = {"stream": "EVENTS", "consumer": "router"}
OLDEST = "icestream_consumer_oldest_unacked_timestamp_seconds"
EVENT = Names().events("ic86", "test")
SCRAPE_TIMEOUT_S = 4.0
"""Of deploy/prometheus/prometheus.yaml."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Site:
    """A cluster with events, of which the router's consumer has six to hand out and three in work."""

    cluster: NatsCluster
    connection: Connection
    oldest_s: float
    """When the first without an answer was stored, in Unix time."""

    def registry(self, monitor_urls: str) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(watch_broker(monitor_urls, self.connection))
        return registry

    async def shows_what_is_there(self, registry: CollectorRegistry, *, n_servers: int) -> None:
        """Wait until a scrape has the numbers of this site, each once, then look whether others have them, too."""
        expected = {
            "icestream_broker_up": {(): 1},
            "icestream_broker_servers": {(): n_servers},
            "icestream_stream_messages": {of(stream="EVENTS"): 10},
            "icestream_stream_stored_total": {of(stream="EVENTS"): 10},
            "icestream_consumer_pending": {of(**ROUTER): 6},
            "icestream_consumer_ack_pending": {of(**ROUTER): 3},
            OLDEST: {of(**ROUTER): pytest.approx(self.oldest_s, abs=1e-4)},
        }

        async def is_right() -> None:
            shown = await scrape(registry)
            assert {name: shown.get(name) for name in expected} == expected

        # Who has just been elected says for some 0.4 s that nothing is pending, to whoever asks.
        await eventually(is_right, timeout_s=ELECTION_S, poll_s=0.2)
        for _ in range(5):
            await is_right()


def of(**labels: str) -> Labels:
    return tuple(sorted(labels.items()))


async def scrape(registry: CollectorRegistry) -> dict[str, dict[Labels, float]]:
    """Every number by its name and labels, as a scrape in a thread of its own sees it."""
    shown: dict[str, dict[Labels, float]] = {}
    for family in await asyncio.to_thread(lambda: list(registry.collect())):
        for sample in family.samples:
            series = shown.setdefault(sample.name, {})
            labels = of(**sample.labels)
            assert labels not in series, f"{sample.name}{labels} is there twice"
            series[labels] = sample.value
    return shown


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    with running_nats_cluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
async def site(cluster: NatsCluster) -> AsyncIterator[Site]:
    async with connect(cluster.url, name="test") as connection:
        await eventually(lambda: _made_streams(connection), timeout_s=ELECTION_S, poll_s=0.2)
        js = connection.client.jetstream()
        for number in range(10):
            await js.publish(EVENT, str(number).encode())
        first, second, *_ = await (await js.pull_subscribe_bind("router", "EVENTS")).fetch(4)
        await first.ack_sync()
        yield Site(cluster, connection, second.metadata.timestamp.timestamp())


async def _made_streams(connection: Connection) -> bool:
    """False while the cluster has no leader yet, or not enough servers."""
    stream = events_stream(Names())
    try:
        await reconcile_stream(connection, stream)
        config = (await connection.client.jetstream().stream_info("EVENTS")).config
        await connection.client.jetstream().update_stream(config.evolve(num_replicas=3))
        # So long that nothing is handed out again while leaders change.
        await reconcile_consumer(connection, "EVENTS", router_consumer(ack_wait_s=600.0))
    except Exception:
        return False
    return True


async def test_numbers_are_those_of_whoever_leads(site: Site) -> None:
    registry = site.registry(site.cluster.monitor_urls)
    for _ in range(3):
        led_by = await leader(site.connection, STREAM)
        await step_down_until_led_by_another(site.connection, CONSUMER, led_by)
        await site.shows_what_is_there(registry, n_servers=3)
        await asked(site.connection, "STREAM.LEADER.STEPDOWN.EVENTS")


async def test_numbers_stay_right_when_the_server_that_leads_is_killed(site: Site) -> None:
    registry = site.registry(site.cluster.monitor_urls)
    led_by = await leader(site.connection, STREAM)
    led_by = await step_down_until_led_by_another(site.connection, CONSUMER, led_by)
    await site.shows_what_is_there(registry, n_servers=3)

    site.cluster.servers[led_by].kill()
    await site.shows_what_is_there(registry, n_servers=2)
    shown = await scrape(registry)
    servers = {of(server=name) for name in site.cluster.servers if name != led_by}
    assert set(shown["icestream_broker_memory_bytes"]) == servers

    await asyncio.to_thread(site.cluster.servers[led_by].start)
    await site.shows_what_is_there(registry, n_servers=3)


async def test_each_server_has_its_own_numbers(site: Site) -> None:
    shown = await scrape(site.registry(site.cluster.monitor_urls))
    servers = {of(server=name) for name in site.cluster.servers}
    for name in ("connections", "slow_consumers_total", "memory_bytes"):
        assert set(shown[f"icestream_broker_{name}"]) == servers
    assert sum(shown["icestream_broker_connections"].values()) == 1


async def test_a_server_that_hangs_spoils_no_scrape(site: Site) -> None:
    registry = site.registry(site.cluster.monitor_urls)
    await site.shows_what_is_there(registry, n_servers=3)
    led_by = await leader(site.connection, STREAM)
    hanging = next(server for name, server in site.cluster.servers.items() if name != led_by)
    hanging.freeze()
    try:
        began_s = monotonic()
        shown = await scrape(registry)
        assert monotonic() - began_s < SCRAPE_TIMEOUT_S
        assert shown["icestream_broker_servers"] == {(): 2}
        assert shown["icestream_stream_messages"] == {of(stream="EVENTS"): 10}
    finally:
        hanging.thaw()


async def test_every_address_of_a_name_is_a_server(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name, port = "nats-headless.nats", site.cluster.monitoring_port
    look_up = socket.getaddrinfo

    def cluster_dns(host: str, *arguments: Any, **options: Any) -> list[Any]:
        hosts = site.cluster.hosts if host == name else [host]
        return [found for each in hosts for found in look_up(each, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", cluster_dns)
    await site.shows_what_is_there(site.registry(f"http://{name}:{port}"), n_servers=3)


async def test_a_server_that_is_reached_in_two_ways_counts_once(site: Site) -> None:
    urls = f"{site.cluster.monitor_urls},{site.cluster.monitor_urls}"
    await site.shows_what_is_there(site.registry(urls), n_servers=3)
