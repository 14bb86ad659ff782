"""What the NATS servers say of themselves, their streams and consumers; docs/telemetry.md says what each means."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

import structlog
from nats import errors as nats_errors
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.nats_monitoring import Monitoring, MonitoringServer
from icestream.runtime.nats_pages import (
    ConsumerFacts,
    LeafLinks,
    ServerFacts,
    StreamFacts,
    consumers_led_by,
    has_leaf_nodes,
    latest_leaders,
    leaf_links,
    server_facts,
    streams_led_by,
    unix_s,
)

# Prometheus gives a scrape 4 s, in which names are looked up and then three rounds of questions are asked.
_NAME_TIMEOUT_S = 0.5
_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class BrokerFacts:
    """What one scrape found out, filled as answers come in."""

    n_servers: int = 0
    """Those whose monitoring answered."""
    servers: list[ServerFacts] = field(default_factory=list)
    leaf_links: list[LeafLinks] = field(default_factory=list)
    """Of servers that are told to have some."""
    streams: list[StreamFacts] = field(default_factory=list)
    consumers: list[ConsumerFacts] = field(default_factory=list)
    oldest_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """When the oldest message without an answer was stored, in Unix time, by stream and consumer."""
    problems: dict[str, str] = field(default_factory=dict)
    """What is missing here, and why."""


class Broker:
    """Every server of it, as its two faces show them: monitoring over HTTP, and messages over a client's connection."""

    def __init__(
        self, monitoring: Monitoring, connection: Connection, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            monitoring: Of its servers.
            connection: Decides whose streams are meant: those of its account. It may be away.
            loop: Of the connection.
        """
        self._monitoring = monitoring
        self._connection = connection
        self._loop = loop
        self._account: str | None = None

    def facts(self) -> BrokerFacts:
        """Ask anew, from another thread than the loop's; what cannot be found out is among the problems."""
        return asyncio.run_coroutine_threadsafe(self._ask(), self._loop).result()

    async def _ask(self) -> BrokerFacts:
        facts = BrokerFacts()
        servers, account = await asyncio.gather(
            self._monitoring.servers(facts.problems), self._ask_account(facts.problems)
        )
        facts.n_servers = len(servers)
        questions = [self._ask_server(server, facts) for server in servers]
        if account is not None:
            questions += [self._ask_streams(server, account, facts) for server in servers]
        await asyncio.gather(*questions)
        facts.streams = latest_leaders(facts.streams)
        facts.consumers = latest_leaders(facts.consumers)
        if self._connection.is_connected:
            waiting = [each for each in facts.consumers if each.pending or each.ack_pending]
            await asyncio.gather(*(self._ask_oldest(consumer, facts) for consumer in waiting))
        return facts

    async def _ask_account(self, problems: dict[str, str]) -> str | None:
        """Whose streams the connection sees; what was once said holds until something else is."""
        who = "the exporter's own connection"
        if problem := self._connection.problem():
            problems[who] = problem
            return self._account
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reply = await self._connection.client.request("$SYS.REQ.USER.INFO", timeout=_TIMEOUT_S)
            self._account = str(json.loads(reply.data)["data"]["account"])
        except (nats_errors.Error, TimeoutError, KeyError, TypeError, ValueError) as error:
            problems[who] = f"NATS does not say whose streams it sees: {str(error) or repr(error)}"
        return self._account

    async def _ask_server(self, server: MonitoringServer, facts: BrokerFacts) -> None:
        with _missing_without(f"/varz of {server.name}", facts.problems):
            facts.servers.append(server_facts(server.varz))
        with _missing_without(f"/leafz of {server.name}", facts.problems):
            if has_leaf_nodes(server.varz):
                page = await self._monitoring.page(server, "/leafz")
                facts.leaf_links.append(leaf_links(server.name, page))

    async def _ask_streams(self, server: MonitoringServer, account: str, facts: BrokerFacts) -> None:
        path = f"/jsz?acc={quote(account, safe='')}&streams=true&consumers=true&config=true"
        with _missing_without(f"/jsz of {server.name}", facts.problems):
            page = await self._monitoring.page(server, path)
            streams, consumers = streams_led_by(server.name, page), consumers_led_by(server.name, page)
            facts.streams += streams
            facts.consumers += consumers

    async def _ask_oldest(self, consumer: ConsumerFacts, facts: BrokerFacts) -> None:
        found_s: list[float] = []
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                for subject in consumer.subjects or (">",):
                    found_s += await self._stored_s(consumer, subject)
        except (nats_errors.Error, TimeoutError):
            # Nobody leads the stream, or the message went meanwhile; the next scrape asks again.
            return
        if found_s:
            facts.oldest_s[consumer.stream, consumer.name] = min(found_s)

    async def _stored_s(self, consumer: ConsumerFacts, subject: str) -> list[float]:
        """When the first such message without an answer was stored; nothing where there is none."""
        request = json.dumps({"seq": consumer.first_unacknowledged, "next_by_subj": subject}).encode()
        reply = await self._connection.client.request(
            f"$JS.API.DIRECT.GET.{consumer.stream}", request, timeout=_TIMEOUT_S
        )
        stored_at = (reply.headers or {}).get("Nats-Time-Stamp")
        return [unix_s(stored_at)] if stored_at else []


@contextmanager
def _missing_without(page: str, problems: dict[str, str]) -> Iterator[None]:
    """Let a page that is not there, or that is unexpected, spoil nothing but what it would have said."""
    try:
        yield
    except BrokerUnavailable as error:
        problems[page] = str(error)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problems[page] = f"it is not as NATS 2.15 makes it: {error!r}"


class BrokerCollector(Collector):
    """Asks all servers anew at each scrape, from the scrape's own thread."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._problems: Mapping[str, str] = {}

    def describe(self) -> Iterable[Metric]:
        """What there may be, without asking anybody."""
        return _Families().all()

    def collect(self) -> Iterator[Metric]:
        """What there is now; where no server's monitoring answers, only that."""
        facts = self._broker.facts()
        for missing, problem in facts.problems.items():
            # Once, and again when it was there meanwhile.
            if missing not in self._problems:
                _log.warning("NATS is not seen in full", missing=missing, problem=problem)
        self._problems = facts.problems
        families = _Families()
        families.add(facts)
        yield from families.all()


def watch_broker(monitor_urls: str, connection: Connection) -> BrokerCollector:
    """Metrics of a broker's servers, for the registry of whichever process has a connection to it.

    Call it on the event loop of the connection, which need not be there yet.

    Raises:
        Misconfigured: `monitor_urls` are no URLs of monitoring, separated by commas.
    """
    monitoring = Monitoring(monitor_urls, name_timeout_s=_NAME_TIMEOUT_S, timeout_s=_TIMEOUT_S)
    return BrokerCollector(Broker(monitoring, connection, asyncio.get_running_loop()))


class _Families:
    """One scrape's metrics, each empty at first."""

    def __init__(self) -> None:
        self.up = GaugeMetricFamily("icestream_broker_up", "1 while any server's monitoring answers.")
        self.servers = GaugeMetricFamily("icestream_broker_servers", "NATS servers whose monitoring answers.")
        self.connections = _of_server("icestream_broker_connections", "Clients that are connected.")
        self.slow_consumers = CounterMetricFamily(
            "icestream_broker_slow_consumers",
            "Clients that were cut off because they did not read.",
            labels=["server"],
        )
        self.memory_bytes = _of_server("icestream_broker_memory_bytes", "Memory of the server.")
        self.leaf_connections = _of_server(
            "icestream_broker_leaf_connections",
            "Links to other servers as leaf nodes; none where none is configured.",
        )
        self.leaf_rtt_s = GaugeMetricFamily(
            "icestream_broker_leaf_rtt_seconds", "Time to such a server and back.", labels=["server", "peer"]
        )
        self.messages = _of_stream("icestream_stream_messages", "Messages in the stream.")
        self.bytes = _of_stream("icestream_stream_bytes", "Their size, with headers and subjects.")
        self.limit_bytes = GaugeMetricFamily(
            "icestream_stream_limit_bytes", "Most that the stream holds.", labels=["stream", "discard"]
        )
        self.limit_age_s = _of_stream("icestream_stream_limit_age_seconds", "How long it keeps a message.")
        self.stored = CounterMetricFamily(
            "icestream_stream_stored", "Messages stored since the stream was made.", labels=["stream"]
        )
        self.first_s = _of_stream(
            "icestream_stream_first_timestamp_seconds", "When the oldest message in it was stored."
        )
        self.last_s = _of_stream(
            "icestream_stream_last_timestamp_seconds", "When the newest message was stored."
        )
        self.source_lag = _of_source(
            "icestream_stream_source_lag", "Messages of another stream that this one is still to take."
        )
        self.source_silence_s = _of_source(
            "icestream_stream_source_silence_seconds", "Since the other stream was last heard of."
        )
        self.consumer_pending = _of_consumer(
            "icestream_consumer_pending", "Messages that were not handed out yet."
        )
        self.consumer_ack_pending = _of_consumer(
            "icestream_consumer_ack_pending", "Messages handed out and not acknowledged."
        )
        self.consumer_redelivered = _of_consumer(
            "icestream_consumer_redelivered", "Of these, those that were handed out before."
        )
        self.consumer_oldest_s = _of_consumer(
            "icestream_consumer_oldest_unacked_timestamp_seconds",
            "When the oldest message that nobody acknowledged was stored.",
        )

    def all(self) -> list[Metric]:
        return list(vars(self).values())

    def add(self, facts: BrokerFacts) -> None:
        self.up.add_metric([], float(facts.n_servers > 0))
        self.servers.add_metric([], facts.n_servers)
        for server in facts.servers:
            self._add_server(server)
        for links in facts.leaf_links:
            self._add_leaf_links(links)
        for stream in facts.streams:
            self._add_stream(stream)
        for consumer in facts.consumers:
            self._add_consumer(consumer)
        for labels, stored_s in facts.oldest_s.items():
            self.consumer_oldest_s.add_metric(labels, stored_s)

    def _add_server(self, server: ServerFacts) -> None:
        self.connections.add_metric([server.name], server.connections)
        self.slow_consumers.add_metric([server.name], server.slow_consumers)
        self.memory_bytes.add_metric([server.name], server.memory_bytes)

    def _add_leaf_links(self, links: LeafLinks) -> None:
        self.leaf_connections.add_metric([links.server], links.n_links)
        for peer, rtt_s in links.rtt_s.items():
            self.leaf_rtt_s.add_metric([links.server, peer], rtt_s)

    def _add_stream(self, stream: StreamFacts) -> None:
        labels = [stream.name]
        self.messages.add_metric(labels, stream.messages)
        self.bytes.add_metric(labels, stream.bytes)
        if stream.limit_bytes is not None:
            self.limit_bytes.add_metric([stream.name, stream.discard], stream.limit_bytes)
        if stream.limit_age_s is not None:
            self.limit_age_s.add_metric(labels, stream.limit_age_s)
        self.stored.add_metric(labels, stream.stored)
        if stream.first_s is not None:
            self.first_s.add_metric(labels, stream.first_s)
        if stream.last_s is not None:
            self.last_s.add_metric(labels, stream.last_s)
        for source in stream.sources:
            self.source_lag.add_metric([stream.name, source.name, source.domain], source.lag)
            self.source_silence_s.add_metric([stream.name, source.name, source.domain], source.silence_s)

    def _add_consumer(self, consumer: ConsumerFacts) -> None:
        labels = [consumer.stream, consumer.name]
        self.consumer_pending.add_metric(labels, consumer.pending)
        self.consumer_ack_pending.add_metric(labels, consumer.ack_pending)
        self.consumer_redelivered.add_metric(labels, consumer.redelivered)


def _of_server(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["server"])


def _of_stream(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["stream"])


def _of_source(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["stream", "source", "domain"])


def _of_consumer(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["stream", "consumer"])
