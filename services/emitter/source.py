"""Where events come from: a data set, realtime messages or the simulator, all from any position on."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from icestream.physics.detector import Detector
from icestream.physics.events import Event
from icestream.physics.simulation import simulate
from icestream.readers.datasets import Dataset
from icestream.readers.kaggle import KaggleDataset
from icestream.readers.kaggle.layout import meta_path
from icestream.readers.realtime import RealtimeDataset
from icestream.readers.unreadable import UnreadableEvent

T = TypeVar("T")

_EVENTS_PER_THREAD_CALL = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A numbered sequence of events that is the same whenever it is read."""

    name: str
    """Token of the subject."""
    fingerprint: str
    """Differs where the sequence differs, so that one source's checkpoint is not taken for another's."""
    n_events: int | None
    """None where it never ends."""
    events_from: Callable[[int], Iterator[Event | UnreadableEvent]]
    """The events from a position on."""


def dataset_source(dataset: Dataset, name: str | None, limit: int | None) -> Source:
    """The chosen events of a data set, the first `limit` of them."""
    n_events = dataset.n_events if limit is None else min(limit, dataset.n_events)
    if isinstance(dataset, RealtimeDataset):
        path = dataset.path.resolve()
        own_name, facts = path.stem if path.is_file() else path.name, _messages_facts(dataset)
    else:
        own_name, facts = dataset.folder.resolve().name, _dataset_facts(dataset)
    return Source(
        name=name or own_name,
        fingerprint=_fingerprint(*facts),
        n_events=n_events,
        events_from=lambda position: dataset.events(skip=position, limit=max(n_events - position, 0)),
    )


def simulated_source(detector: Detector, *, seed: int, name: str | None, limit: int | None) -> Source:
    """Simulated events of one seed, the first `limit` of them."""
    return Source(
        name=name or "simulation",
        fingerprint=_fingerprint("simulation", detector.name, seed),
        n_events=limit,
        events_from=lambda position: simulate(
            detector, seed=seed, first=position, n_events=None if limit is None else limit - position
        ),
    )


async def in_thread(items: Iterator[T]) -> AsyncIterator[T]:
    """Take items in a thread, some at a time: reading a row group must not hold up acknowledgements."""
    while chunk := await asyncio.to_thread(lambda: list(islice(items, _EVENTS_PER_THREAD_CALL))):
        for item in chunk:
            yield item


def _dataset_facts(dataset: KaggleDataset) -> tuple[object, ...]:
    return (
        "dataset",
        dataset.split,
        dataset.batch_ids,
        sorted(dataset.event_ids or ()),
        _footer_digest(meta_path(dataset.folder, dataset.split)),
    )


def _messages_facts(dataset: RealtimeDataset) -> tuple[object, ...]:
    """Names and sizes of the files: reading all of a large folder would take minutes."""
    return ("messages", [(file.name, file.stat().st_size) for file in dataset.files])


def _footer_digest(path: Path) -> str:
    """Differs where a parquet file's rows do: its footer has their number, and least and greatest values."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        n_bytes = int.from_bytes(file.read(4), "little")
        file.seek(-8 - n_bytes, os.SEEK_END)
        return hashlib.sha256(file.read(n_bytes)).hexdigest()


def _fingerprint(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
