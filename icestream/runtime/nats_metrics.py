"""What the NATS server says of itself, its streams and its consumers; docs/telemetry.md says what each means."""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, build_opener

import structlog
from nats import errors as nats_errors
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from icestream.errors import Misconfigured
from icestream.runtime.jetstream.connection import Connection

# Prometheus gives a scrape 4 s, and there are four questions in it.
_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)

Page = Mapping[str, Any]
"""A page of the server's monitoring, as JSON says it."""


@dataclass(frozen=True, slots=True)
class FirstUnacknowledged:
    """Where a consumer's oldest message that nobody acknowledged is to be found."""

    stream: str
    consumer: str
    from_sequence: int
    """It is the first one from here on that the consumer is for."""
    subjects: tuple[str, ...]
    """What the consumer is for; everything in the stream where it is empty."""


class Broker:
    """The server as its two faces show it: monitoring over HTTP, and messages over a client's connection."""

    def __init__(
        self, monitor_url: str, connection: Connection, loop: asyncio.AbstractEventLoop, *, timeout_s: float
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            monitor_url: The server's monitoring, for example http://127.0.0.1:8222.
            connection: Decides whose streams are meant: those of its account.
            loop: Of the connection.
            timeout_s: For each question.

        Raises:
            Misconfigured: This is no URL of monitoring.
        """
        if urlsplit(monitor_url).scheme not in ("http", "https"):
            raise Misconfigured(
                f"NATS' monitoring at {monitor_url!r}: give it like http://127.0.0.1:8222, the server's --http_port"
            )
        self._monitor_url = monitor_url.rstrip("/")
        # Past the proxies of the environment: the server is at hand.
        self._opener = build_opener(ProxyHandler({}))
        self._connection = connection
        self._loop = loop
        self._timeout_s = timeout_s

    def page(self, path: str) -> Page:
        """One page of monitoring.

        Raises:
            OSError, HTTPException, ValueError: There is no such page now.
        """
        with self._opener.open(f"{self._monitor_url}{path}", timeout=self._timeout_s) as reply:
            page: Page = json.load(reply)
            return page

    def account(self) -> str:
        """Whose streams the connection sees.

        Raises:
            nats.errors.Error, TimeoutError: The server does not say.
        """
        asked = self._connection.client.request("$SYS.REQ.USER.INFO", b"", timeout=self._timeout_s)
        reply = asyncio.run_coroutine_threadsafe(asked, self._loop).result(2 * self._timeout_s)
        return str(json.loads(reply.data)["data"]["account"])

    def stored_at_s(self, questions: Sequence[FirstUnacknowledged]) -> list[float | None]:
        """When each message was stored, in Unix time; None where there is none, or no answer."""
        asked = self._ask_all(questions)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(2 * self._timeout_s)

    async def _ask_all(self, questions: Sequence[FirstUnacknowledged]) -> list[float | None]:
        return await asyncio.gather(*map(self._ask, questions))

    async def _ask(self, question: FirstUnacknowledged) -> float | None:
        found = [await self._stored_at_s(question, subject) for subject in question.subjects or (">",)]
        return min((stored_s for stored_s in found if stored_s is not None), default=None)

    async def _stored_at_s(self, question: FirstUnacknowledged, subject: str) -> float | None:
        request = json.dumps({"seq": question.from_sequence, "next_by_subj": subject}).encode()
        try:
            reply = await self._connection.client.request(
                f"$JS.API.DIRECT.GET.{question.stream}", request, timeout=self._timeout_s
            )
        except nats_errors.Error:
            return None
        stored_at = (reply.headers or {}).get("Nats-Time-Stamp")
        return _unix_s(stored_at) if stored_at else None


class BrokerCollector(Collector):
    """Asks the server anew at each scrape, from the scrape's own thread."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._was_up = True

    def describe(self) -> Iterable[Metric]:
        """What there may be, without asking the server."""
        return _Families().all()

    def collect(self) -> Iterator[Metric]:
        """What there is now; where monitoring does not answer, only that."""
        families = _Families()
        try:
            self._fill(families)
        except (OSError, HTTPException, ValueError, CancelledError, nats_errors.Error) as error:
            if self._was_up:
                _log.warning("NATS' monitoring does not answer", problem=str(error) or repr(error))
            self._was_up = False
            families.up.add_metric([], 0.0)
            yield families.up
        else:
            self._was_up = True
            families.up.add_metric([], 1.0)
            yield from families.all()

    def _fill(self, families: "_Families") -> None:
        server = self._broker.page("/varz")
        account = quote(self._broker.account(), safe="")
        jetstream = self._broker.page(f"/jsz?acc={account}&streams=true&consumers=true&config=true")
        families.add_server(server)
        if has_leaf_nodes(server):
            families.add_leaf_nodes(self._broker.page("/leafz"))
        streams = [
            stream
            for details in jetstream.get("account_details", ())
            for stream in details.get("stream_detail", ())
        ]
        for stream in streams:
            families.add_stream(stream)
        questions = [question for stream in streams for question in unacknowledged(stream)]
        for question, stored_s in zip(questions, self._broker.stored_at_s(questions), strict=True):
            if stored_s is not None:
                families.consumer_oldest_s.add_metric([question.stream, question.consumer], stored_s)


def watch_broker(monitor_url: str, connection: Connection) -> BrokerCollector:
    """Metrics of the server, for the registry of whichever process has a connection to it.

    Call it on the event loop of the connection.

    Raises:
        Misconfigured: `monitor_url` is no URL of monitoring.
    """
    loop = asyncio.get_running_loop()
    return BrokerCollector(Broker(monitor_url, connection, loop, timeout_s=_TIMEOUT_S))


def unacknowledged(stream: Page) -> Iterator[FirstUnacknowledged]:
    """The durable consumers of a stream that have something to do, and where that begins.

    Args:
        stream: One of `stream_detail` of /jsz.
    """
    for consumer in durable_consumers(stream):
        if consumer["num_pending"] or consumer["num_ack_pending"]:
            config = consumer["config"]
            subjects = config.get("filter_subjects") or [config.get("filter_subject")]
            yield FirstUnacknowledged(
                stream["name"],
                consumer["name"],
                consumer["ack_floor"]["stream_seq"] + 1,
                tuple(subject for subject in subjects if subject),
            )


def has_leaf_nodes(varz: Page) -> bool:
    """Whether the server is told to listen for leaf nodes, or to be one."""
    leaf = varz.get("leaf", {})
    return bool(leaf.get("port") or leaf.get("remotes"))


def durable_consumers(stream: Page) -> list[Page]:
    """Those with a name of ours; the others come and go with each reader, under random names."""
    return [one for one in stream.get("consumer_detail", ()) if one["config"].get("durable_name")]


class _Families:
    """One scrape's metrics, each empty at first."""

    def __init__(self) -> None:
        self.up = GaugeMetricFamily("icestream_broker_up", "1 while NATS' monitoring answers.")
        self.connections = GaugeMetricFamily("icestream_broker_connections", "Clients that are connected.")
        self.slow_consumers = CounterMetricFamily(
            "icestream_broker_slow_consumers", "Clients that were cut off because they did not read."
        )
        self.memory_bytes = GaugeMetricFamily("icestream_broker_memory_bytes", "Memory of the server.")
        self.leaf_connections = GaugeMetricFamily(
            "icestream_broker_leaf_connections",
            "Links to other servers as leaf nodes; none where none is configured.",
        )
        self.leaf_rtt_s = GaugeMetricFamily(
            "icestream_broker_leaf_rtt_seconds", "Time to such a server and back.", labels=["server"]
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

    def add_server(self, varz: Page) -> None:
        self.connections.add_metric([], varz["connections"])
        self.slow_consumers.add_metric([], varz["slow_consumers"])
        self.memory_bytes.add_metric([], varz["mem"])

    def add_leaf_nodes(self, leafz: Page) -> None:
        links = leafz.get("leafs") or ()
        self.leaf_connections.add_metric([], len(links))
        # A server that comes again is there twice until its old link is given up.
        rtts_s = {link["name"]: _duration_s(link["rtt"]) for link in links if "rtt" in link}
        for name, rtt_s in rtts_s.items():
            self.leaf_rtt_s.add_metric([name], rtt_s)

    def add_stream(self, stream: Page) -> None:
        name, config, state = stream["name"], stream["config"], stream["state"]
        self.messages.add_metric([name], state["messages"])
        self.bytes.add_metric([name], state["bytes"])
        if config["max_bytes"] > 0:
            self.limit_bytes.add_metric([name, config["discard"]], config["max_bytes"])
        if config["max_age"] > 0:
            self.limit_age_s.add_metric([name], config["max_age"] / 1e9)
        self.stored.add_metric([name], state["last_seq"])
        if state["messages"]:
            self.first_s.add_metric([name], _unix_s(state["first_ts"]))
        if state["last_seq"]:
            self.last_s.add_metric([name], _unix_s(state["last_ts"]))
        for source in stream.get("sources", ()):
            labels = [name, source["name"], _domain(source)]
            self.source_lag.add_metric(labels, source["lag"])
            # Negative: not since the broker last tried to begin.
            silence_s = source["active"] / 1e9 if source["active"] >= 0 else float("inf")
            self.source_silence_s.add_metric(labels, silence_s)
        for consumer in durable_consumers(stream):
            labels = [name, consumer["name"]]
            self.consumer_pending.add_metric(labels, consumer["num_pending"])
            self.consumer_ack_pending.add_metric(labels, consumer["num_ack_pending"])
            self.consumer_redelivered.add_metric(labels, consumer["num_redelivered"])


def _of_stream(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["stream"])


def _of_source(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["stream", "source", "domain"])


def _of_consumer(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["stream", "consumer"])


def _domain(source: Page) -> str:
    """The JetStream domain that a source is in; empty for this server's own."""
    api = source.get("external", {}).get("api", "")
    return api.removeprefix("$JS.").removesuffix(".API") if api else ""


_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def _duration_s(text: str) -> float:
    """Of a duration as Go writes it, for example 1m0.5s, 612.3ms or 404µs."""
    parts = re.findall(r"([0-9.]+)(h|ms|m|s|µs|ns)", text)
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _unix_s(timestamp: str) -> float:
    """Of RFC 3339 with nanoseconds, of which microseconds are read."""
    return datetime.fromisoformat(timestamp).timestamp()
