"""What the pages of NATS' monitoring say, as far as it becomes metrics; docs/telemetry.md says what each number means.

Every function here raises KeyError, TypeError, ValueError or AttributeError of a page that is not as NATS makes it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

Page = Mapping[str, Any]
"""A page, or a part of one, as JSON says it."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server."""

    name: str
    connections: int
    slow_consumers: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LeafLinks:
    """A server's links to others as leaf nodes."""

    server: str
    n_links: int
    rtt_s: Mapping[str, float]
    """By the name of the server at the other end."""


@dataclass(frozen=True, slots=True)
class Source:
    """Another stream that a stream takes from."""

    name: str
    domain: str
    """Empty for the server's own."""
    lag: int
    silence_s: float
    """Since it was last heard of; infinite where that is not since the broker last tried to begin."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """A stream, as the server that leads it sees it."""

    name: str
    led_since_s: float
    """Unix time; 0 where nobody else could lead it."""
    messages: int
    bytes: int
    limit_bytes: int | None
    discard: str
    limit_age_s: float | None
    stored: int
    first_s: float | None
    last_s: float | None
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class ConsumerFacts:
    """A durable consumer, as the server that leads it sees it."""

    stream: str
    name: str
    led_since_s: float
    """Unix time; 0 where nobody else could lead it."""
    pending: int
    ack_pending: int
    redelivered: int
    first_unacknowledged: int
    """Sequence in the stream: its oldest message without an answer is the first one from here on that it is for."""
    subjects: tuple[str, ...]
    """What it is for; everything in the stream where it is empty."""


_Led = TypeVar("_Led", StreamFacts, ConsumerFacts)


def server_name(varz: Page) -> str:
    """What the server calls itself, no two of a cluster alike."""
    return str(varz["server_name"])


def server_facts(varz: Page) -> ServerFacts:
    """Of /varz."""
    return ServerFacts(
        server_name(varz), int(varz["connections"]), int(varz["slow_consumers"]), int(varz["mem"])
    )


def has_leaf_nodes(varz: Page) -> bool:
    """Whether the server is told to listen for leaf nodes, or to be one."""
    leaf = varz.get("leaf", {})
    return bool(leaf.get("port") or leaf.get("remotes"))


def leaf_links(server: str, leafz: Page) -> LeafLinks:
    """Of /leafz."""
    links = leafz.get("leafs") or ()
    # A server that comes again is there twice until its old link is given up.
    rtt_s = {link["name"]: _duration_s(link["rtt"]) for link in links if "rtt" in link}
    return LeafLinks(server, len(links), rtt_s)


def streams_led_by(server: str, jsz: Page) -> list[StreamFacts]:
    """Of /jsz with streams and their configuration: followers know a stream's numbers late, or never."""
    return [_stream_facts(stream) for stream in _streams(jsz) if _is_led_by(server, stream)]


def consumers_led_by(server: str, jsz: Page) -> list[ConsumerFacts]:
    """The same of durable consumers, whose leader may be another than their stream's.

    Those without a name of ours come and go with each reader.
    """
    return [
        _consumer_facts(stream["name"], consumer)
        for stream in _streams(jsz)
        for consumer in stream.get("consumer_detail") or ()
        if consumer["config"].get("durable_name") and _is_led_by(server, consumer)
    ]


def latest_leaders(facts: Iterable[_Led]) -> list[_Led]:
    """One of each stream or consumer: a server that was cut off believes for a while that it still leads."""
    by_name = {_name(each): each for each in sorted(facts, key=lambda each: each.led_since_s)}
    return list(by_name.values())


def unix_s(timestamp: str) -> float:
    """Of RFC 3339 with nanoseconds, of which microseconds are read."""
    return datetime.fromisoformat(timestamp).timestamp()


def _streams(jsz: Page) -> Iterator[Page]:
    for account in jsz.get("account_details") or ():
        yield from account.get("stream_detail") or ()


def _is_led_by(server: str, detail: Page) -> bool:
    cluster = detail.get("cluster")
    return cluster is None or cluster.get("leader") == server


def _led_since_s(detail: Page) -> float:
    since = detail.get("cluster", {}).get("leader_since")
    return unix_s(since) if since else 0.0


def _name(facts: StreamFacts | ConsumerFacts) -> tuple[str, ...]:
    return (facts.stream, facts.name) if isinstance(facts, ConsumerFacts) else (facts.name,)


def _stream_facts(stream: Page) -> StreamFacts:
    config, state = stream["config"], stream["state"]
    return StreamFacts(
        name=stream["name"],
        led_since_s=_led_since_s(stream),
        messages=int(state["messages"]),
        bytes=int(state["bytes"]),
        limit_bytes=config["max_bytes"] if config["max_bytes"] > 0 else None,
        discard=config["discard"],
        limit_age_s=config["max_age"] / 1e9 if config["max_age"] > 0 else None,
        stored=int(state["last_seq"]),
        first_s=unix_s(state["first_ts"]) if state["messages"] else None,
        last_s=unix_s(state["last_ts"]) if state["last_seq"] else None,
        sources=tuple(_source(source) for source in stream.get("sources") or ()),
    )


def _source(source: Page) -> Source:
    api = source.get("external", {}).get("api", "")
    domain = api.removeprefix("$JS.").removesuffix(".API")
    silence_s = source["active"] / 1e9 if source["active"] >= 0 else float("inf")
    return Source(source["name"], domain, int(source["lag"]), silence_s)


def _consumer_facts(stream: str, consumer: Page) -> ConsumerFacts:
    config = consumer["config"]
    subjects = config.get("filter_subjects") or [config.get("filter_subject")]
    return ConsumerFacts(
        stream=stream,
        name=consumer["name"],
        led_since_s=_led_since_s(consumer),
        pending=int(consumer["num_pending"]),
        ack_pending=int(consumer["num_ack_pending"]),
        redelivered=int(consumer["num_redelivered"]),
        first_unacknowledged=consumer["ack_floor"]["stream_seq"] + 1,
        subjects=tuple(subject for subject in subjects if subject),
    )


_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def _duration_s(text: str) -> float:
    """Of a duration as Go writes it, for example 1m0.5s, 612.3ms or 404µs."""
    parts = re.findall(r"([0-9.]+)(h|ms|m|s|µs|ns)", text)
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)
