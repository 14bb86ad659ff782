"""The events that a pipeline is loaded with, when each is due, and what is made of what came out."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np

from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventId
from icestream.physics.simulation import simulate

SEED = 940_001
MAX_PULSES = 60_000
"""Longer events, one in some thousands, do not fit into a message; here they travel by the object store."""
SUSTAINED_BACKLOG_S = 1.0
"""A pipeline whose last result comes later than this after the last event cannot sustain the rate."""
QUANTILES = (0.5, 0.99, 0.999)
_SHORTEST_SLEEP_S = 0.0005
_HEAD_START_S = 0.2
"""From the making of a schedule to its first event, so that nobody starts late."""


@dataclass(frozen=True, slots=True)
class Published:
    """What an emitter did."""

    due_unix_ns: list[int]
    """When each event was due, in the order of their numbers."""
    cpu_s: float
    """Of the emitter, for these events alone."""


def sample_events(n_events: int) -> list[Event]:
    """A fixed sample of simulated events, without their truth: what a detector would send."""
    fitting = (event for event in simulate(icecube86(), seed=SEED) if len(event.pulses) <= MAX_PULSES)
    return [replace(event, truth=None) for event in islice(fitting, n_events)]


def repeated(sample: Sequence[Event], run_id: int, n_events: int) -> Iterator[Event]:
    """The sample over and over, each time under new ids: numbers 0 to `n_events` - 1 of a run."""
    for number, event in enumerate(islice(cycle(sample), n_events)):
        yield replace(event, id=EventId(run_id, number))


class Schedule:
    """When each event of a load is due: at once, or as a Poisson process.

    Latencies count from here and not from when an emitter got round to it, or a pipeline that holds its emitter up
    would look fast.
    """

    def __init__(self, n_events: int, rate: float | None, seed: int) -> None:
        """Draw the times.

        Args:
            n_events: How many.
            rate: Mean of events/s; None makes all due now.
            seed: Of the draw.
        """
        if rate is None:
            self.due_unix_ns = [time.time_ns()] * n_events
            return
        gaps_s = np.random.default_rng(seed).exponential(1 / rate, n_events)
        start_s = time.time() + _HEAD_START_S
        self.due_unix_ns = ((start_s + np.cumsum(gaps_s)) * 1e9).astype(np.int64).tolist()

    def early_s(self, number: int) -> float:
        """How long to sleep until an event is due; 0 where it is not worth it."""
        early_s = (self.due_unix_ns[number] - time.time_ns()) / 1e9
        return early_s if early_s > _SHORTEST_SLEEP_S else 0.0


@dataclass(frozen=True, slots=True)
class Drained:
    """A prefilled queue, worked off."""

    n_events: int
    seconds: float
    cpu_s: dict[str, float]
    """By part of the pipeline, the emitter included, which filled the queue before."""
    bytes_per_event: float
    """In the broker."""
    rest_s: float = 0.0
    """From the last answer until nothing was left to do, such as spans to export; 0 where nobody waited for that."""

    @property
    def events_per_s(self) -> float:
        """Rate of the whole run."""
        return self.n_events / self.seconds


@dataclass(frozen=True, slots=True)
class Latencies:
    """Events at a mean rate, from when each was due to when its result could be had."""

    rate: float
    p50_s: float
    p99_s: float
    p999_s: float
    backlog_s: float
    """From the last event's due time to the last result: large where the pipeline cannot sustain the rate."""

    @property
    def is_sustained(self) -> bool:
        """Whether the pipeline keeps up with the rate."""
        return self.backlog_s <= SUSTAINED_BACKLOG_S


@dataclass(frozen=True, slots=True)
class Accounted:
    """What became of events whose consumers were killed."""

    n_events: int
    n_kills: int
    n_lost: int
    n_duplicates: int


def latencies(rate: float, due_unix_ns: Sequence[int], available_unix_ns: dict[int, int]) -> Latencies:
    """Compare when events were due with when their results could be had.

    Raises:
        RuntimeError: An event has no result.
    """
    missing = len(due_unix_ns) - len(available_unix_ns)
    if missing:
        raise RuntimeError(f"{missing} of {len(due_unix_ns)} events have no result")
    due = np.array(due_unix_ns)
    available = np.array([available_unix_ns[number] for number in range(len(due))])
    waits_s = (available - due) / 1e9
    p50_s, p99_s, p999_s = np.quantile(waits_s, QUANTILES).tolist()
    return Latencies(rate, p50_s, p99_s, p999_s, float(available.max() - due.max()) / 1e9)
