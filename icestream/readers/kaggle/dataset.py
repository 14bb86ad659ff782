"""A data set of the Kaggle format, as a stream of events."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np

from icestream.errors import InvalidDataset
from icestream.physics.events import Event, EventId
from icestream.readers.kaggle.events import read_batch_events
from icestream.readers.kaggle.layout import (
    GEOMETRY_FILE,
    Split,
    available_splits,
    batch_path,
    choose_split,
    meta_path,
    present_batches,
)
from icestream.readers.kaggle.meta import BatchMeta, MetaIndex, index_meta, stream_batches
from icestream.readers.kaggle.tables import Int64Array, open_table
from icestream.readers.unreadable import UnreadableEvent


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What a data set is, for people and logs."""

    folder: str
    split: Split
    other_splits: tuple[Split, ...]
    """Splits that are there as well and were not chosen."""
    n_batches: int
    n_events: int
    n_pulses: int
    """In all events of the chosen batches."""
    has_truth: bool
    has_energy: bool
    has_geometry: bool

    def __str__(self) -> str:
        others = "".join(
            f" ({other} is there as well: choose split='{other}')" for other in self.other_splits
        )
        truth = "with true directions" if self.has_truth else "without true directions"
        return (
            f"{self.folder}, split '{self.split}'{others}: {self.n_events} events {truth}, "
            f"{self.n_pulses} pulses in {self.n_batches} batches"
        )


@dataclass(frozen=True, slots=True)
class KaggleDataset:
    """Events of a data set folder, read as they are asked for; see `open`."""

    folder: Path
    split: Split
    detector: str
    """Name of the detector that the sensor ids belong to."""
    batch_ids: tuple[int, ...]
    """The chosen batches, in the order in which they are read: that of the meta table."""
    event_ids: frozenset[int] | None
    """The chosen events; None for all."""
    _index: MetaIndex = field(repr=False)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        split: Split | None = None,
        detector: str = "icecube86",
        batch_ids: Collection[int] | None = None,
        event_ids: Collection[int] | None = None,
    ) -> Self:
        """Find the chosen events, without reading pulses.

        Args:
            folder: It holds `train_meta.parquet`, `test_meta.parquet` or both.
            split: By default train, or test where that is all there is.
            detector: Name of the detector that the sensor ids belong to.
            batch_ids: Read these batches only.
            event_ids: Read these events only.

        Raises:
            InvalidDataset: It names the file and what would be right.
        """
        folder = Path(folder)
        split = choose_split(folder, split)
        path = meta_path(folder, split)
        index = index_meta(path, event_ids)
        chosen = _choose_batches(path, index, batch_ids)
        _require_batch_files(folder, split, chosen)
        events = None if event_ids is None else frozenset(event_ids)
        return cls(folder, split, detector, tuple(chosen), events, index)

    @property
    def n_events(self) -> int:
        """How many events the chosen batches and ids make, readable or not; known without reading pulses."""
        return sum(self._index.batches[batch_id].n_chosen for batch_id in self.batch_ids)

    @property
    def geometry_path(self) -> Path | None:
        """The data set's own `sensor_geometry.csv`, where it has one."""
        path = self.folder / GEOMETRY_FILE
        return path if path.is_file() else None

    def describe(self) -> DatasetFacts:
        """Gather the facts; pulses are counted from the files' footers.

        Raises:
            InvalidDataset: A batch file is not parquet.
        """
        columns = self._index.columns
        return DatasetFacts(
            folder=str(self.folder),
            split=self.split,
            other_splits=tuple(s for s in available_splits(self.folder) if s != self.split),
            n_batches=len(self.batch_ids),
            n_events=self.n_events,
            n_pulses=sum(self._n_pulses(batch_id) for batch_id in self.batch_ids),
            has_truth=bool(columns.azimuth),
            has_energy=bool(columns.energy_gev),
            has_geometry=self.geometry_path is not None,
        )

    def __iter__(self) -> Iterator[Event | UnreadableEvent]:
        return self.events()

    def events(
        self, *, after: EventId | None = None, skip: int = 0, limit: int | None = None
    ) -> Iterator[Event | UnreadableEvent]:
        """Read the chosen events: batches in the order of the meta table, events in that of their pulses.

        Batches and row groups that hold nothing of interest are not read. Within a row group pyarrow decodes
        from its beginning, so resuming in the middle of one costs up to a second for Kaggle's largest.

        Args:
            after: Start behind this event, which need not be among the chosen ones, though its batch must.
            skip: Then leave out so many of the chosen events.
            limit: Then read at most so many; by default all.

        Raises:
            InvalidDataset: A file is damaged, or `after` is not in the data set.
            ValueError: `skip` or `limit` is negative.
        """
        if skip < 0:
            raise ValueError(f"skip is {skip}; expected 0 or more events")
        return islice(self._events(after, skip), limit)

    def _events(self, after: EventId | None, skip: int) -> Iterator[Event | UnreadableEvent]:
        batch_ids = list(self.batch_ids)
        if after is not None:
            batch_ids = batch_ids[self._position_of_batch(after) :]
        elif skip:
            batch_ids, skip = self._without_skipped(batch_ids, skip)

        for meta in stream_batches(meta_path(self.folder, self.split), self._index, batch_ids):
            chosen = self._chosen(meta, after)
            rest = chosen.take(slice(skip, None))
            skip -= min(skip, len(chosen))
            if len(rest):
                yield from read_batch_events(
                    batch_path(self.folder, self.split, meta.batch_id), rest, self.detector
                )

    def _position_of_batch(self, after: EventId) -> int:
        if after.run_id not in self.batch_ids:
            raise InvalidDataset(
                meta_path(self.folder, self.split), f"event {after} to start after: its batch is not chosen"
            )
        return self.batch_ids.index(after.run_id)

    def _without_skipped(self, batch_ids: list[int], skip: int) -> tuple[list[int], int]:
        """Leave out whole batches; the rest of the skipped events is in the first that remains."""
        n_events = [self._index.batches[batch_id].n_chosen for batch_id in batch_ids]
        ends = np.cumsum(n_events, dtype=np.int64)
        n_whole = int(np.searchsorted(ends, skip, side="right"))
        return batch_ids[n_whole:], skip - int(ends[n_whole - 1] if n_whole else 0)

    def _chosen(self, meta: BatchMeta, after: EventId | None) -> BatchMeta:
        if after is not None and after.run_id == meta.batch_id:
            found = np.flatnonzero(meta.event_id == after.event_id)
            if not len(found) or after.sub_event:
                raise InvalidDataset(
                    meta_path(self.folder, self.split), f"event {after} to start after: there is none"
                )
            meta = meta.take(slice(int(found[0]) + 1, None))
        if self.event_ids is None:
            return meta
        return meta.take(np.isin(meta.event_id, _as_array(self.event_ids)))

    def _n_pulses(self, batch_id: int) -> int:
        with open_table(batch_path(self.folder, self.split, batch_id)) as table:
            return table.n_rows


def _as_array(event_ids: Collection[int]) -> Int64Array:
    return np.array(list(event_ids), np.int64)


def _choose_batches(path: Path, index: MetaIndex, batch_ids: Collection[int] | None) -> list[int]:
    """Batches with chosen events, in the order of the meta table."""
    for batch_id in batch_ids or ():
        if batch_id not in index.batches:
            known = _shown(list(index.batches))
            raise InvalidDataset(path, f"column batch_id has no {batch_id}; choose batch_ids among {known}")
    wanted = index.batches.keys() if batch_ids is None else set(batch_ids)
    return [i for i, entry in index.batches.items() if i in wanted and entry.n_chosen]


def _require_batch_files(folder: Path, split: Split, batch_ids: Sequence[int]) -> None:
    for batch_id in batch_ids:
        path = batch_path(folder, split, batch_id)
        if not path.is_file():
            present = _shown(present_batches(folder, split))
            problem = f"no such file, though the meta table lists its events; present batch_ids are {present}"
            raise InvalidDataset(path, problem)


def _shown(batch_ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, batch_ids[:10]))
    return f"{shown}, ... ({len(batch_ids)})" if len(batch_ids) > 10 else shown or "none"
