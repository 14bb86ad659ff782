"""Events with known directions, as the batches that training, calibration and evaluation read.

A stream is a sequence of chunks. One chunk feeds one optimiser step: it holds a fixed number of events in the
mix in which they came, cut into batches of similar length, so that padding costs little and yet no step sees
short events only. Chunk i is a function of the seed and i alone: a run resumes at any chunk, and neither the
number of workers nor an interruption changes what it sees.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.labelled_dataset import HELD_OUT_PERIOD, LabelledDataset, Part
from export.workers import worker_pool
from icestream.errors import InvalidDataset
from icestream.physics.detector import Detector, icecube86
from icestream.physics.directions import unit_vectors
from icestream.physics.events import Event, Truth
from icestream.physics.features import MAX_MODEL_PULSES, FeatureArray, pad_batch, pulse_features
from icestream.physics.simulation import simulate

TRAINING_SEED = 900_000
VALIDATION_SEED = 900_001
CALIBRATION_SEED = 900_002
TEST_SEED = 900_003
RESERVED_SEEDS = frozenset((VALIDATION_SEED, CALIBRATION_SEED, TEST_SEED))
"""Never trained on."""
BUCKET = 16
"""Lengths are padded to a multiple of it."""
MIN_HELD_OUT = 20
"""A calibration fits 90 % radii to each half of its events: fewer than 9 hold no such radius."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledEvents:
    """What the model reads of some events, and what it should answer."""

    tables: list[FeatureArray]
    n_pulses: NDArray[np.int32]
    """Before selection; shape (n,)."""
    directions: NDArray[np.float32]
    """Unit vectors to where the neutrinos came from; shape (n, 3)."""
    kinds: NDArray[np.int64]
    """Numbers of `EventKind`; shape (n,)."""
    energies_gev: NDArray[np.float64]
    """NaN where it is not known; shape (n,)."""

    def __len__(self) -> int:
        return len(self.tables)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Events padded to one length."""

    rows: NDArray[np.intp]
    """Where these events stand among those that were batched; shape (B,)."""
    pulses: FeatureArray
    """Shape (B, L, 6)."""
    lengths: NDArray[np.int32]
    """Shape (B, 1)."""
    directions: NDArray[np.float32]
    """Shape (B, 3)."""


Chunk = tuple[Batch, ...]


class ChunkSource(Protocol):
    """An endless stream of chunks that can start anywhere."""

    def chunks(self, first: int) -> Generator[Chunk, None, None]:
        """Yield chunk `first`, `first + 1`, ..."""
        ...


@dataclass(frozen=True, slots=True)
class ChunkShape:
    """What a chunk looks like."""

    n_events: int
    max_batch: int
    """Most events of a batch."""
    cuts: tuple[int, ...] = (MAX_MODEL_PULSES,)
    """Most pulses of an event; chunk i takes the i-th, in turn."""

    def cut(self, index: int) -> int:
        """Most pulses of an event in a chunk."""
        return self.cuts[index % len(self.cuts)]


@dataclass(frozen=True, slots=True)
class SimulatedChunks:
    """Fresh simulated events from worker processes; no event is ever seen twice."""

    shape: ChunkShape
    seed: int = TRAINING_SEED
    n_workers: int = 1

    def chunks(self, first: int) -> Generator[Chunk, None, None]:
        """Yield chunks in order, made ahead of time by the workers."""
        pool = worker_pool(self.n_workers)
        try:
            make = partial(simulated_chunk, self.seed, self.shape)
            yield from _in_order(lambda index: pool.submit(make, index), first, 2 * self.n_workers)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class KaggleChunks:
    """The training part of a data set in the Kaggle format, in file order, again and again.

    A chunk is made of as many consecutive events as its shape says, less those that are not for training: a
    tenth. Nothing is shuffled: a file's neighbours are as independent as any of its events.
    """

    shape: ChunkShape
    path: Path

    def chunks(self, first: int) -> Generator[Chunk, None, None]:
        """Yield chunks in order; the files before `first` are not read."""
        data = LabelledDataset.open(self.path)
        for index, events in enumerate(data.training_blocks(first, self.shape.n_events), first):
            labelled = label(events, data.detector, self.shape.cut(index))
            yield tuple(batches(labelled, self.shape.max_batch))


def simulated_chunk(seed: int, shape: ChunkShape, index: int) -> Chunk:
    """Make one chunk of simulated events; runs in a worker process."""
    events = simulated_events(seed, index * shape.n_events, shape.n_events, shape.cut(index))
    return tuple(batches(events, shape.max_batch))


def simulated_events(
    seed: int, first: int, n_events: int, max_pulses: int = MAX_MODEL_PULSES
) -> LabelledEvents:
    """Simulate the events `first` to `first + n_events - 1` of a seed and tabulate them."""
    detector = icecube86()
    return label(simulate(detector, seed=seed, first=first, n_events=n_events), detector, max_pulses)


def held_out_events(path: Path, n_events: int) -> LabelledEvents:
    """Tabulate the first events of a data set in the Kaggle format that are for validation and calibration.

    Raises:
        InvalidDataset: It is none, or holds too few of them.
    """
    data = LabelledDataset.open(path)
    events = label(islice(data.events((Part.CALIBRATION,)), n_events), data.detector)
    if len(events) < MIN_HELD_OUT:
        raise InvalidDataset(
            path,
            f"{len(events)} events for validation and calibration, which take one of {HELD_OUT_PERIOD} events; "
            f"expected at least {MIN_HELD_OUT}",
        )
    return events


def label(events: Iterable[Event], detector: Detector, max_pulses: int = MAX_MODEL_PULSES) -> LabelledEvents:
    """Tabulate events whose truth is known."""
    tables, n_pulses, truths = [], [], []
    for event in events:
        assert event.truth is not None
        tables.append(pulse_features(event.pulses, detector, max_pulses))
        n_pulses.append(len(event.pulses))
        truths.append(event.truth)
    return LabelledEvents(
        tables,
        np.array(n_pulses, np.int32),
        truth_vectors(truths),
        np.array([truth.kind for truth in truths], np.int64),
        np.array([truth.energy_gev or np.nan for truth in truths], np.float64),
    )


def truth_vectors(truths: list[Truth]) -> NDArray[np.float32]:
    """Unit vectors to where neutrinos came from; shape (n, 3)."""
    azimuth, zenith = [t.azimuth_rad for t in truths], [t.zenith_rad for t in truths]
    return unit_vectors(azimuth, zenith).astype(np.float32)


def batches(events: LabelledEvents, max_batch: int) -> Iterator[Batch]:
    """Cut events into batches of one padded length each, in order of length."""
    if not len(events):
        return
    padded = np.array([-(-len(table) // BUCKET) * BUCKET for table in events.tables], np.int32)
    order = np.argsort(padded, kind="stable")
    starts = np.flatnonzero(np.diff(padded[order])) + 1
    for bucket in np.split(order, starts):
        # Halves of a bucket that is a little too long, rather than a full batch and a remnant.
        for rows in np.array_split(bucket, -(-len(bucket) // max_batch) or 1):
            yield _batch(events, rows, int(padded[rows[0]]))


def _batch(events: LabelledEvents, rows: NDArray[np.intp], length: int) -> Batch:
    tables = [events.tables[row] for row in rows]
    pulses, lengths = pad_batch(tables, events.n_pulses[rows].tolist(), length)
    return Batch(rows, pulses, lengths, events.directions[rows])


def _in_order(submit: Callable[[int], Future[Chunk]], first: int, n_ahead: int) -> Iterator[Chunk]:
    """Keep `n_ahead` chunks in the making and yield them in order."""
    futures = deque(submit(first + i) for i in range(n_ahead))
    following = first + n_ahead
    while True:
        futures.append(submit(following))
        following += 1
        yield futures.popleft().result()
