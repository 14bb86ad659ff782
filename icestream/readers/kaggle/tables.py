"""Streams parquet tables in bounded memory and says what is wrong with their columns."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icestream.errors import InvalidDataset

ROWS_PER_CHUNK = 1 << 16
_READ_BUFFER_BYTES = 1 << 20

NULL = np.iinfo(np.int64).min
"""Stands for a missing integer."""

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]
AnyArray: TypeAlias = "pa.Array[Any]"


class ColumnKind(Enum):
    """What a column must hold; the value says so to a person."""

    INTEGER = "integers"
    NUMBER = "integers or floats"
    FLAG = "bools, or integers 0 and 1"

    def accepts(self, data_type: pa.DataType) -> bool:
        """Whether columns of this type can be read as such."""
        if pa.types.is_integer(data_type):
            return True
        if self is ColumnKind.NUMBER:
            return pa.types.is_floating(data_type)
        return self is ColumnKind.FLAG and pa.types.is_boolean(data_type)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of a table."""

    first_row: int
    columns: pa.RecordBatch

    @property
    def end_row(self) -> int:
        """The row after the last."""
        return self.first_row + self.columns.num_rows


class Table:
    """An open parquet file."""

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        self.path = path
        self._file = file
        self._schema = file.schema_arrow
        group_rows = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._group_ends = np.cumsum(group_rows, dtype=np.int64)

    @property
    def n_rows(self) -> int:
        """Rows of the whole table."""
        return int(self._file.metadata.num_rows)

    def has(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return name in self._schema.names

    def require(self, name: str, kind: ColumnKind) -> str:
        """Check a column and return its name in the file, which differs for an unnamed pandas index.

        Raises:
            InvalidDataset: The column is missing, there twice, or of another type.
        """
        stored = self._stored_name(name)
        count = self._schema.names.count(stored)
        if count != 1:
            there = ", ".join(self._schema.names)
            problem = "is missing" if count == 0 else "is there more than once"
            raise InvalidDataset(
                self.path, f"column {name} {problem}; expected one column of {kind.value}, found {there}"
            )
        if not kind.accepts(found := self._schema.field(stored).type):
            raise InvalidDataset(self.path, f"column {name} is of type {found}; expected {kind.value}")
        return stored

    def stream(
        self,
        columns: Sequence[str],
        starts: Int64Array,
        ends: Int64Array,
        rows_per_chunk: int = ROWS_PER_CHUNK,
    ) -> Iterator[Chunk]:
        """Read what covers the given row ranges, in the order of the file.

        Row groups that no range touches are neither read nor decoded.

        Args:
            columns: Names in the file, see `require`.
            starts: First row of each range; shape (n,).
            ends: Row after the last of each range, above its start; shape (n,).
            rows_per_chunk: At most so many rows come at once.

        Raises:
            InvalidDataset: The file is damaged.
        """
        for groups in _neighbours(self._touched_groups(starts, ends)):
            row = int(self._group_ends[groups[0] - 1]) if groups[0] else 0
            batches = self._file.iter_batches(rows_per_chunk, groups, list(columns), use_threads=False)
            for batch in _translated(self.path, batches):
                yield Chunk(row, batch)
                row += batch.num_rows

    def _stored_name(self, name: str) -> str:
        """The column that holds `name`: of that name, or else the pandas index."""
        if self.has(name) or name != "event_id":
            return name
        index = [column for column in _pandas_index(self._schema) if self.has(column)]
        return index[0] if len(index) == 1 else name

    def _touched_groups(self, starts: Int64Array, ends: Int64Array) -> list[int]:
        first = np.searchsorted(self._group_ends, starts, side="right")
        last = np.searchsorted(self._group_ends, ends - 1, side="right")
        # +1 where a range enters and -1 after it has left: the running sum counts the ranges in a group.
        changes = np.zeros(len(self._group_ends) + 1, np.int64)
        np.add.at(changes, first, 1)
        np.add.at(changes, last + 1, -1)
        touched: list[int] = np.flatnonzero(np.cumsum(changes)).tolist()
        return touched


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a parquet file for streaming.

    Raises:
        InvalidDataset: The file is missing or not parquet.
    """
    if not path.is_file():
        raise InvalidDataset(path, "no such file; expected a parquet file")
    try:
        # Without pre-buffering and with a small buffer, pages are read as they are decoded. With pyarrow's
        # defaults a whole row group is held in memory, and a file may well be a single row group. (Only a
        # writer that makes a single page of it, as old fastparquet did, still forces us to hold that page.)
        file = pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InvalidDataset(path, f"not a readable parquet file: {error}") from error
    with file:
        yield Table(path, file)


def integers(column: AnyArray) -> Int64Array:
    """A column of integers, with `NULL` where one is missing.

    Unsigned numbers above 2^63 wrap round to negative ones; no valid row number or sensor id is negative.
    """
    if column.null_count:
        column = column.cast(pa.int64(), safe=False).fill_null(NULL)
    return column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def numbers(column: AnyArray) -> Float64Array:
    """A column of numbers, with NaN where one is missing."""
    # pyarrow itself turns missing numbers into NaN.
    return column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def _pandas_index(schema: pa.Schema) -> list[str]:
    """Columns that pandas wrote as the table's index."""
    metadata = schema.metadata or {}
    try:
        index = json.loads(metadata.get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError):
        index = []
    # A dictionary describes a counting index, which is not stored.
    stored = [column for column in index if isinstance(column, str)]
    return stored or ["__index_level_0__"]


def _neighbours(groups: list[int]) -> Iterator[list[int]]:
    """Split ascending numbers into runs without gaps."""
    run: list[int] = []
    for group in groups:
        if run and group != run[-1] + 1:
            yield run
            run = []
        run.append(group)
    if run:
        yield run


def _translated(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise InvalidDataset(path, f"the file is damaged: {error}") from error
