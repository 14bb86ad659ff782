"""Writes events as a data set of the Kaggle format.

What the format cannot hold is lost knowingly: times are rounded to whole ns, run and sub-event numbers are
dropped (a batch's number becomes the run of its events when they are read), and of the flags only HLC stays.
"""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from icestream.errors import InvalidDataset, InvalidEvent, Violation
from icestream.physics.detector import Detector
from icestream.physics.events import Event, Pulses
from icestream.readers.geometry import read_sensor_geometry, write_sensor_geometry
from icestream.readers.kaggle.layout import GEOMETRY_FILE, Split, batch_path, meta_path
from icestream.readers.kaggle.partial import PartialBatch, PartialParquet, partial_meta

if TYPE_CHECKING:
    from icestream.readers.kaggle.tables import Int64Array

EVENTS_PER_BATCH = 200_000
"""As Kaggle's."""
_MAX_SENSOR_ID = np.iinfo(np.int16).max
_MAX_INT64 = np.iinfo(np.int64).max
_MAX_TIME_NS = float(1 << 62)


class KaggleWriter:
    """Writes a data set folder; use it as a context manager.

    A file appears under its name only when it is whole, and the meta file, without which nothing reads the
    others, when all of them are: a killed writer leaves nothing that could be taken for a data set.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: Split = "train",
        detector: Detector | None = None,
        events_per_batch: int = EVENTS_PER_BATCH,
        first_batch_id: int = 1,
    ) -> None:
        """Choose what to write.

        Args:
            folder: It is made where it is missing; another split may be in it already.
            split: Train has the truth in its meta table, test has not.
            detector: Written beside the events as `sensor_geometry.csv`.
            events_per_batch: A new batch file begins after so many.
            first_batch_id: Number of the first batch; the next ones follow.

        Raises:
            ValueError: Batches of less than one event.
        """
        if events_per_batch < 1:
            raise ValueError(f"events_per_batch is {events_per_batch}; expected at least 1")
        self._folder = Path(folder)
        self._split = split
        self._detector = detector
        self._events_per_batch = events_per_batch
        self._next_batch_id = first_batch_id
        self._seen = _SeenIds()
        self._meta: PartialParquet | None = None
        self._batch: PartialBatch | None = None

    def __enter__(self) -> Self:
        """Make the folder.

        Raises:
            InvalidDataset: It holds this split already, or another detector.
        """
        path = meta_path(self._folder, self._split)
        if path.exists():
            raise InvalidDataset(path, "exists already; choose another folder or remove the old data set")
        (self._folder / self._split).mkdir(parents=True, exist_ok=True)
        if self._detector is not None:
            _write_geometry(self._detector, self._folder / GEOMETRY_FILE)
        self._meta = partial_meta(path, self._split)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Publish the data set, or drop what is not whole where writing failed."""
        try:
            if kind is None:
                self._finish_batch()
                self._opened_meta().publish()
        finally:
            # Nothing is left to discard after success.
            if self._batch is not None:
                self._batch.discard()
            self._opened_meta().discard()
            self._batch = self._meta = None

    @property
    def n_events(self) -> int:
        """Events written so far."""
        return len(self._seen)

    def write(self, event: Event) -> None:
        """Add an event.

        Raises:
            InvalidEvent: The format cannot hold it, or its event_id was written before. The writer goes on.
        """
        self._opened_meta()
        self._check(event)
        if self._batch is None:
            path = batch_path(self._folder, self._split, self._next_batch_id)
            self._batch = PartialBatch(path, self._next_batch_id)
            self._next_batch_id += 1
        self._seen.add(event.id.event_id)
        self._batch.add(event)
        if self._batch.n_events == self._events_per_batch:
            self._finish_batch()

    def _check(self, event: Event) -> None:
        violations = _violations(event.pulses)
        if not 0 <= event.start_unix_ns <= _MAX_INT64:
            violations.append(Violation("start_unix_ns", f"{event.start_unix_ns}; expected 0..{_MAX_INT64}"))
        if not 0 <= event.id.event_id <= _MAX_INT64:
            violations.append(Violation("id.event_id", f"{event.id.event_id}; expected 0..{_MAX_INT64}"))
        elif event.id.event_id in self._seen:
            problem = (
                f"{event.id.event_id} was written before; the format drops run numbers, so ids are unique"
            )
            violations.append(Violation("id.event_id", problem))
        if violations:
            raise InvalidEvent(str(event.id), violations)

    def _finish_batch(self) -> None:
        if self._batch is not None:
            rows = self._batch.publish()
            meta = self._opened_meta()
            meta.write(pa.table({f.name: pa.array(rows[f.name], f.type) for f in meta.schema}))
            self._seen.seal()
            self._batch = None

    def _opened_meta(self) -> PartialParquet:
        if self._meta is None:
            raise RuntimeError("KaggleWriter is a context manager: write inside `with`")
        return self._meta


def _write_geometry(detector: Detector, path: Path) -> None:
    """Write the detector, but never put another one under events that are there already."""
    if path.exists():
        if not np.array_equal(read_sensor_geometry(path).positions_m, detector.positions_m):
            raise InvalidDataset(
                path, f"holds another detector than {detector.name!r}; choose another folder"
            )
        return
    write_sensor_geometry(detector, path)


def _violations(pulses: Pulses) -> list[Violation]:
    """What the format cannot hold."""
    violations = []
    if len(pulses) and (highest := int(pulses.sensor_id.max())) > _MAX_SENSOR_ID:
        violations.append(Violation("pulses.sensor_id", f"{highest}; the format holds 0..{_MAX_SENSOR_ID}"))
    # Written so that NaN fails as well.
    if not (np.abs(pulses.time_ns) < _MAX_TIME_NS).all():
        violations.append(
            Violation("pulses.time_ns", "NaN, infinite or beyond 2^62; the format holds whole ns")
        )
    return violations


class _SeenIds:
    """Which event ids were written, at 8 bytes each: a complete data set has 132 million."""

    def __init__(self) -> None:
        self._sealed: list[Int64Array] = []
        self._n_sealed = 0
        self._current: set[int] = set()

    def __len__(self) -> int:
        return self._n_sealed + len(self._current)

    def __contains__(self, event_id: int) -> bool:
        # Ids mostly ascend, so that hardly a sealed batch's range holds a new one.
        return event_id in self._current or any(
            ids[0] <= event_id <= ids[-1] and ids[np.searchsorted(ids, event_id)] == event_id
            for ids in self._sealed
        )

    def add(self, event_id: int) -> None:
        self._current.add(event_id)

    def seal(self) -> None:
        """Pack the ids of a batch."""
        self._sealed.append(np.array(sorted(self._current), np.int64))
        self._n_sealed += len(self._current)
        self._current = set()
