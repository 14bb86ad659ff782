"""Reads the meta table: which events a data set has, and which rows of which batch file are theirs.

A complete data set's meta file has 132 million rows and may be a single row group: it is only ever streamed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icestream.errors import InvalidDataset
from icestream.readers.kaggle.tables import (
    NULL,
    AnyArray,
    ColumnKind,
    Float64Array,
    Int64Array,
    Table,
    integers,
    numbers,
    open_table,
)

_ROWS_PER_INDEX_CHUNK = 1 << 20
"""Two columns of integers are all that the index reads."""


@dataclass(frozen=True, slots=True)
class MetaColumns:
    """Names in the file of the columns that are read; empty where an optional one is absent."""

    batch_id: str
    event_id: str
    first: str
    last: str
    azimuth: str
    zenith: str
    energy_gev: str
    kind: str
    start_unix_ns: str

    @property
    def present(self) -> list[str]:
        """All names but the empty ones."""
        return [name for f in fields(self) if (name := getattr(self, f.name))]


@dataclass(slots=True)
class BatchEntry:
    """Where a batch's events are in the meta table."""

    start_row: int
    end_row: int = 0
    """Row after the batch's last."""
    n_rows: int = 0
    n_chosen: int = 0
    """How many of the rows are of a chosen event."""

    @property
    def is_together(self) -> bool:
        """Whether no row of another batch is in between."""
        return self.end_row - self.start_row == self.n_rows


@dataclass(frozen=True, slots=True)
class MetaIndex:
    """What one pass over the ids of the meta table tells."""

    columns: MetaColumns
    batches: dict[int, BatchEntry] = field(default_factory=dict)
    """By batch_id, in the order of the table."""


@dataclass(frozen=True, slots=True, eq=False)
class BatchMeta:
    """A batch's events in the order of their pulses, as columns of equal length (n,)."""

    batch_id: int
    event_id: Int64Array
    """`NULL` where missing."""
    first_row: Float64Array
    """First row of an event's pulses; NaN where missing. float64 holds every row number exactly."""
    last_row: Float64Array
    """Last row of an event's pulses, inclusive; NaN where missing."""
    azimuth_rad: Float64Array
    """NaN where not known, as all that follows in float64."""
    zenith_rad: Float64Array
    energy_gev: Float64Array
    kind: Int64Array
    """0 where not known."""
    start_unix_ns: Int64Array
    """0 where not known."""
    is_repeated: NDArray[np.bool_]
    """An event before has the same id."""

    def __len__(self) -> int:
        return len(self.event_id)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        """Some of the events."""
        return type(self)(self.batch_id, *(getattr(self, f.name)[rows] for f in fields(self)[1:]))


def index_meta(path: Path, event_ids: Collection[int] | None = None) -> MetaIndex:
    """Find each batch's rows, reading no column but the ids.

    Args:
        path: The meta table.
        event_ids: The chosen events; by default all.

    Raises:
        InvalidDataset: The table breaks the format or lacks a chosen event.
    """
    with open_table(path) as table:
        index = MetaIndex(_meta_columns(table))
        wanted = None if event_ids is None else np.array(sorted(set(event_ids)), np.int64)
        if wanted is None:
            _add_batches(index, table)
        else:
            found = _add_batches_with(wanted, index, table)
            _require_all_found(path, wanted, found)
    return index


def stream_batches(path: Path, index: MetaIndex, batch_ids: Sequence[int]) -> Iterator[BatchMeta]:
    """Read the events of some batches, a batch at a time.

    Args:
        path: The meta table.
        index: Of that table.
        batch_ids: In the order of the index.
    """
    with open_table(path) as table:
        if all(entry.is_together for entry in index.batches.values()):
            batches = _together(table, index, batch_ids)
        else:
            batches = _scattered(table, index, batch_ids)
        for batch_id, pieces in batches:
            yield _batch_meta(index.columns, batch_id, pa.Table.from_batches(pieces))


def _meta_columns(table: Table) -> MetaColumns:
    def optional(name: str, kind: ColumnKind) -> str:
        return table.require(name, kind) if table.has(name) else ""

    number, integer = ColumnKind.NUMBER, ColumnKind.INTEGER
    has_angles = table.has("azimuth") or table.has("zenith")
    return MetaColumns(
        batch_id=table.require("batch_id", integer),
        event_id=table.require("event_id", integer),
        # pandas turns integers into floats as soon as one is missing.
        first=table.require("first_pulse_index", number),
        last=table.require("last_pulse_index", number),
        azimuth=table.require("azimuth", number) if has_angles else "",
        zenith=table.require("zenith", number) if has_angles else "",
        energy_gev=optional("energy_gev", number),
        kind=optional("kind", integer),
        start_unix_ns=optional("start_unix_ns", integer),
    )


def _add_batches(index: MetaIndex, table: Table) -> None:
    for first_row, batch_id, _ in _ids(table, [index.columns.batch_id]):
        _add_rows(index.batches, first_row, batch_id, np.ones(len(batch_id), np.bool_))


def _add_batches_with(event_ids: Int64Array, index: MetaIndex, table: Table) -> Int64Array:
    """Index the batches and return which of the events were found."""
    found: list[Int64Array] = [event_ids[:0]]
    columns = [index.columns.batch_id, index.columns.event_id]
    for first_row, batch_id, event_id in _ids(table, columns):
        is_chosen = np.isin(event_id, event_ids)
        found.append(event_id[is_chosen])
        _add_rows(index.batches, first_row, batch_id, is_chosen)
    return np.unique(np.concatenate(found))


def _ids(table: Table, columns: list[str]) -> Iterator[tuple[int, Int64Array, Int64Array]]:
    """First row, batch_id and the last of the columns, chunk by chunk."""
    for chunk in table.stream(columns, *_all_rows(table), rows_per_chunk=_ROWS_PER_INDEX_CHUNK):
        arrays = [integers(chunk.columns.column(name)) for name in columns]
        for name, array in zip(columns, arrays, strict=True):
            if (array == NULL).any():
                row = chunk.first_row + int(np.argmax(array == NULL))
                raise InvalidDataset(table.path, f"column {name}, row {row} is null; expected an integer")
        yield chunk.first_row, arrays[0], arrays[-1]


def _add_rows(
    batches: dict[int, BatchEntry], first_row: int, batch_id: Int64Array, is_chosen: NDArray[np.bool_]
) -> None:
    """Count a chunk's rows, run of equal ids by run."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(batch_id)) + 1])
    n_chosen = np.add.reduceat(is_chosen, starts, dtype=np.int64).tolist()
    bounds = [*starts.tolist(), len(batch_id)]
    for i, batch in enumerate(batch_id[starts].tolist()):
        entry = batches.setdefault(batch, BatchEntry(first_row + bounds[i]))
        entry.end_row = first_row + bounds[i + 1]
        entry.n_rows += bounds[i + 1] - bounds[i]
        entry.n_chosen += n_chosen[i]


def _require_all_found(path: Path, wanted: Int64Array, found: Int64Array) -> None:
    missing = np.setdiff1d(wanted, found)
    if len(missing):
        shown = ", ".join(map(str, missing[:5].tolist()))
        raise InvalidDataset(
            path, f"column event_id has no {shown} ({len(missing)} of the chosen are missing)"
        )


def _together(
    table: Table, index: MetaIndex, batch_ids: Sequence[int]
) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
    """Batches whose rows are next to each other, in one pass over the row groups that hold them."""
    waiting = iter(batch_ids)
    batch_id = next(waiting, None)
    pieces: list[pa.RecordBatch] = []
    starts = np.array([index.batches[i].start_row for i in batch_ids], np.int64)
    ends = np.array([index.batches[i].end_row for i in batch_ids], np.int64)
    for chunk in table.stream(index.columns.present, starts, ends):
        while batch_id is not None and (entry := index.batches[batch_id]).start_row < chunk.end_row:
            start = max(entry.start_row - chunk.first_row, 0)
            end = min(entry.end_row, chunk.end_row) - chunk.first_row
            pieces.append(chunk.columns.slice(start, end - start))
            if entry.end_row > chunk.end_row:
                break
            yield batch_id, pieces
            pieces = []
            batch_id = next(waiting, None)
        if batch_id is None:
            return


def _scattered(
    table: Table, index: MetaIndex, batch_ids: Sequence[int]
) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
    """Batches with other batches' rows in between: a pass over the table for each, to bound the memory."""
    columns = index.columns
    for batch_id in batch_ids:
        chunks = (chunk.columns for chunk in table.stream(columns.present, *_all_rows(table)))
        pieces = [c.filter(pa.array(integers(c.column(columns.batch_id)) == batch_id)) for c in chunks]
        yield batch_id, pieces


def _all_rows(table: Table) -> tuple[Int64Array, Int64Array]:
    """The range of all rows; none where the table is empty."""
    ends = np.array([table.n_rows] if table.n_rows else [], np.int64)
    return np.zeros_like(ends), ends


def _batch_meta(columns: MetaColumns, batch_id: int, rows: pa.Table) -> BatchMeta:
    def column(name: str) -> AnyArray:
        return rows.column(name).combine_chunks()

    def numbers_or_nan(name: str) -> Float64Array:
        return numbers(column(name)) if name else np.full(len(rows), np.nan)

    def integers_or_0(name: str) -> Int64Array:
        values = integers(column(name)) if name else np.zeros(len(rows), np.int64)
        return np.where(values == NULL, 0, values)

    meta = BatchMeta(
        batch_id=batch_id,
        event_id=integers(column(columns.event_id)),
        first_row=numbers_or_nan(columns.first),
        last_row=numbers_or_nan(columns.last),
        azimuth_rad=numbers_or_nan(columns.azimuth),
        zenith_rad=numbers_or_nan(columns.zenith),
        energy_gev=numbers_or_nan(columns.energy_gev),
        kind=integers_or_0(columns.kind),
        start_unix_ns=integers_or_0(columns.start_unix_ns),
        is_repeated=np.zeros(len(rows), np.bool_),
    )
    # The batch file is read forwards only. Events without rows sort last, as NaN does.
    meta = meta.take(np.lexsort((meta.last_row, meta.first_row)))
    _, first_of_id = np.unique(meta.event_id, return_index=True)
    is_repeated = np.ones(len(meta), np.bool_)
    is_repeated[first_of_id] = False
    return replace(meta, is_repeated=is_repeated)
