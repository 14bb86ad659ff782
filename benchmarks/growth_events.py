"""Events of any size, and a stream that is full of events that were worked off long ago."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from benchmarks.load import repeated
from icestream.codec import encode_event
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, Pulses
from icestream.runtime.jetstream.connection import Connection, connect
from icestream.runtime.jetstream.topology import ROUTER_CONSUMER, Names

REPEATED_AFTER_NS = 10.0
STORED_BEYOND_PAYLOAD_BYTES = 200
"""A stored event's subject, headers and what the stream adds take less."""

_NAMES = Names()
_SOURCE = "worked-off"
_CHUNK = 5000
"""The broker drops what comes without a reply subject where more than 10 000 messages wait for the disk."""
_CHUNK_PATIENCE_S = 60.0
_POLL_S = 0.005
_LONG_S = 3600.0


def resized(event: Event, n_pulses: int) -> Event:
    """The event with exactly so many pulses, in order of time.

    Of a longer event evenly chosen ones stay; those of a shorter one come again and again, `REPEATED_AFTER_NS` after
    each other.
    """
    pulses = event.pulses
    rows = np.arange(n_pulses) * len(pulses) // n_pulses
    n_before = np.arange(n_pulses) - np.searchsorted(rows, rows)
    times_ns = pulses.time_ns[rows] + REPEATED_AFTER_NS * n_before
    order = np.argsort(times_ns, kind="stable")
    chosen = rows[order]
    columns = (pulses.sensor_id[chosen], times_ns[order], pulses.charge_pe[chosen], pulses.flags[chosen])
    return replace(event, pulses=Pulses(*columns))


def mean_bytes(sample: Sequence[Event]) -> float:
    """Size of an event as it is sent, wherever its pulses travel."""
    return sum(len(encode_event(event)) for event in sample) / len(sample)


def stored_bytes(sample: Sequence[Event], n_events: int) -> float:
    """What so many events take in the stream, at most."""
    return n_events * (mean_bytes(sample) + STORED_BEYOND_PAYLOAD_BYTES)


@dataclass(frozen=True, slots=True)
class Room:
    """What may be stored."""

    stream_bytes: int
    """That the stream takes before it refuses events."""
    disk_bytes: int

    @classmethod
    def of(cls, directory: Path, stream_bytes: int) -> Self:
        """As it is now."""
        return cls(stream_bytes, shutil.disk_usage(directory).free)

    def check(self, needed_bytes: float) -> None:
        """Refuse to begin with what would end in a publisher that waits for room.

        Raises:
            RuntimeError: It says how much is needed, and what there is.
        """
        for there_is, where in ((self.stream_bytes, "the stream takes"), (self.disk_bytes, "the disk has")):
            if needed_bytes > there_is:
                raise RuntimeError(
                    f"the events need {needed_bytes / 1e9:.1f} GB; {where} {there_is / 1e9:.1f}: ask for fewer"
                )


async def store_worked_off(nats_url: str, sample: Sequence[Event], run_id: int, n_events: int) -> None:
    """Store events behind which the router's consumer begins, as if it had acknowledged them.

    Its start is the one thing in which the consumer differs afterwards. Working a million events off, or even pulling
    and acknowledging them, would take longer than everything that is to be measured. They have no message ids: the
    broker forgets those after some minutes.

    Args:
        nats_url: Where the broker is.
        sample: What is repeated under new ids.
        run_id: Of the new ids.
        n_events: How many.
    """
    async with connect(nats_url, name="benchmark") as connection:
        js = connection.client.jetstream()
        config = (await js.consumer_info(_NAMES.events_stream, ROUTER_CONSUMER)).config
        until = datetime.fromtimestamp(time.time() + _LONG_S, UTC).isoformat()
        await connection.client.jsm().pause_consumer(_NAMES.events_stream, ROUTER_CONSUMER, until)
        last_sequence = await _store(connection, js, sample, run_id, n_events)
        await js.delete_consumer(_NAMES.events_stream, ROUTER_CONSUMER)
        await js.add_consumer(
            _NAMES.events_stream,
            config.evolve(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=last_sequence + 1,
                pause_until=None,
            ),
        )


async def n_stored(nats_url: str) -> int:
    """Events in the stream."""
    async with connect(nats_url, name="benchmark") as connection:
        return (await connection.client.jetstream().stream_info(_NAMES.events_stream)).state.messages


async def _store(
    connection: Connection, js: JetStreamContext, sample: Sequence[Event], run_id: int, n_events: int
) -> int:
    """Store events as fast as the broker writes; returns the last one's sequence number."""
    last_before = (await js.stream_info(_NAMES.events_stream)).state.last_seq
    subject = _NAMES.events(icecube86().name, _SOURCE)
    for number, event in enumerate(repeated(sample, run_id, n_events), 1):
        await connection.client.publish(subject, encode_event(event))
        if number % _CHUNK == 0 or number == n_events:
            await _until_stored(js, last_before + number)
    return last_before + n_events


async def _until_stored(js: JetStreamContext, sequence: int) -> None:
    async with asyncio.timeout(_CHUNK_PATIENCE_S):
        while True:
            if (await js.stream_info(_NAMES.events_stream)).state.last_seq >= sequence:
                return
            await asyncio.sleep(_POLL_S)
