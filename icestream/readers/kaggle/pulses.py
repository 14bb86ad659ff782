"""Streams a batch file's pulses as columns, forwards only."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icestream.physics.events import HLC
from icestream.readers.kaggle.tables import (
    AnyArray,
    ColumnKind,
    Float64Array,
    Int64Array,
    Table,
    integers,
    numbers,
)

_COLUMN_KINDS = {
    "event_id": ColumnKind.INTEGER,
    "sensor_id": ColumnKind.INTEGER,
    "time": ColumnKind.NUMBER,
    "charge": ColumnKind.NUMBER,
    "auxiliary": ColumnKind.FLAG,
}


@dataclass(frozen=True, slots=True, eq=False)
class PulseRows:
    """Consecutive rows of a batch file, as columns of equal length (n,)."""

    first_row: int
    event_id: Int64Array
    """`NULL` where missing."""
    sensor_id: Int64Array
    """As the file has it, so that what does not fit an event's uint16 can be told; `NULL` where missing."""
    auxiliary: Int64Array
    """0, 1, or what else the file has; `NULL` where missing."""
    time_ns: Float64Array
    charge_pe: NDArray[np.float32]
    flags: NDArray[np.uint8]

    @property
    def end_row(self) -> int:
        """The row after the last."""
        return self.first_row + len(self.event_id)

    def from_row(self, row: int) -> Self:
        """What follows from a row on; nothing where that row is still to come."""
        start = max(row - self.first_row, 0)
        columns = (getattr(self, f.name)[start:] for f in fields(self)[1:])
        return type(self)(min(self.first_row + start, self.end_row), *columns)

    def followed_by(self, later: Self) -> Self:
        """These rows and the later ones; only the later ones where nothing is left of these."""
        if self.first_row == self.end_row:
            return later
        names = [f.name for f in fields(self)[1:]]
        columns = (np.concatenate([getattr(self, name), getattr(later, name)]) for name in names)
        return type(self)(self.first_row, *columns)


NO_ROWS = PulseRows(
    first_row=0,
    event_id=np.empty(0, np.int64),
    sensor_id=np.empty(0, np.int64),
    auxiliary=np.empty(0, np.int64),
    time_ns=np.empty(0, np.float64),
    charge_pe=np.empty(0, np.float32),
    flags=np.empty(0, np.uint8),
)


def pulse_columns(table: Table) -> dict[str, str]:
    """Names in the file of the columns that are read.

    Raises:
        InvalidDataset: A column is missing or of another type.
    """
    return {name: table.require(name, kind) for name, kind in _COLUMN_KINDS.items()}


def pulse_rows(first_row: int, chunk: pa.RecordBatch, names: dict[str, str]) -> PulseRows:
    """Turn a chunk of the file into columns of the types that events have."""
    auxiliary = _flags(chunk.column(names["auxiliary"]))
    # A charge too large for float32 becomes infinite, which whoever checks the event refuses.
    with np.errstate(over="ignore"):
        charge_pe = numbers(chunk.column(names["charge"])).astype(np.float32)
    return PulseRows(
        first_row=first_row,
        event_id=integers(chunk.column(names["event_id"])),
        sensor_id=integers(chunk.column(names["sensor_id"])),
        auxiliary=auxiliary,
        time_ns=numbers(chunk.column(names["time"])),
        charge_pe=charge_pe,
        flags=np.where(auxiliary == 0, np.uint8(HLC), np.uint8(0)),
    )


def _flags(column: AnyArray) -> Int64Array:
    return integers(column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column)
