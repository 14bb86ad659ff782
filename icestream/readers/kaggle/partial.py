"""Files of a data set in the making: each gets its name only when it is whole."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icestream.physics.events import Event, Pulses
from icestream.readers.kaggle.layout import Split

PULSES_PER_ROW_GROUP = 1 << 20

_PULSE_TYPES: dict[str, pa.DataType] = {
    "sensor_id": pa.int16(),
    "time": pa.int64(),
    "charge": pa.float32(),
    "auxiliary": pa.bool_(),
    "event_id": pa.int64(),
}
_TEST_META_TYPES: dict[str, pa.DataType] = {
    "batch_id": pa.int64(),
    "event_id": pa.int64(),
    "first_pulse_index": pa.int64(),
    "last_pulse_index": pa.int64(),
    "start_unix_ns": pa.int64(),
}
_TRAIN_META_TYPES: dict[str, pa.DataType] = {
    **_TEST_META_TYPES,
    "azimuth": pa.float64(),
    "zenith": pa.float64(),
    "energy_gev": pa.float64(),
    "kind": pa.int8(),
}
# What pandas needs to make event_id the index again.
_PANDAS_METADATA = {
    "index_columns": ["event_id"],
    "column_indexes": [],
    "columns": [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": kind, "metadata": None}
        for name, data_type in _PULSE_TYPES.items()
        for kind in [np.dtype(data_type.to_pandas_dtype()).name]
    ],
    "creator": {"library": "pyarrow", "version": pa.__version__},
    "pandas_version": "2.0.0",
}
_PULSE_SCHEMA = pa.schema(_PULSE_TYPES, metadata={"pandas": json.dumps(_PANDAS_METADATA)})

MetaColumnLists = dict[str, list[int | float | None]]


class PartialParquet:
    """A parquet file that gets its name when it is whole."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._file = pq.ParquetWriter(self._partial, schema)

    def write(self, rows: pa.Table) -> None:
        """Append rows of the schema."""
        self._file.write_table(rows, row_group_size=PULSES_PER_ROW_GROUP)

    def publish(self) -> None:
        """Finish the file and give it its name."""
        self._file.close()
        os.replace(self._partial, self._path)

    def discard(self) -> None:
        """Remove the file, unless it was published."""
        # On a full disk closing fails for the same reason that brought us here.
        with contextlib.suppress(OSError, pa.ArrowException):
            self._file.close()
        self._partial.unlink(missing_ok=True)


def partial_meta(path: Path, split: Split) -> PartialParquet:
    """The meta table of a split."""
    return PartialParquet(path, pa.schema(_TRAIN_META_TYPES if split == "train" else _TEST_META_TYPES))


class PartialBatch:
    """The batch that is being written: its meta rows, and the pulses that wait for a full row group."""

    def __init__(self, path: Path, batch_id: int) -> None:
        self._batch_id = batch_id
        self._file = PartialParquet(path, _PULSE_SCHEMA)
        self._meta: MetaColumnLists = {name: [] for name in _TRAIN_META_TYPES}
        self._waiting: list[tuple[int, Pulses]] = []
        self._n_waiting = 0
        self._n_pulses = 0

    @property
    def n_events(self) -> int:
        """Events added so far."""
        return len(self._meta["event_id"])

    def add(self, event: Event) -> None:
        """Append an event that the format can hold."""
        self._add_meta(event)
        self._waiting.append((event.id.event_id, event.pulses))
        self._n_waiting += len(event.pulses)
        self._n_pulses += len(event.pulses)
        if self._n_waiting >= PULSES_PER_ROW_GROUP:
            self._write_waiting()

    def publish(self) -> MetaColumnLists:
        """Finish the file and return its events' meta rows, column by column."""
        self._write_waiting()
        self._file.publish()
        return self._meta

    def discard(self) -> None:
        """Remove the file, unless it was published."""
        self._file.discard()

    def _add_meta(self, event: Event) -> None:
        truth = event.truth
        row = {
            "batch_id": self._batch_id,
            "event_id": event.id.event_id,
            "first_pulse_index": self._n_pulses,
            # Of an event without pulses the last row is the one before the first.
            "last_pulse_index": self._n_pulses + len(event.pulses) - 1,
            "start_unix_ns": event.start_unix_ns,
            "azimuth": truth.azimuth_rad if truth else None,
            "zenith": truth.zenith_rad if truth else None,
            "energy_gev": truth.energy_gev if truth else None,
            "kind": int(truth.kind) if truth else 0,
        }
        for name, value in row.items():
            self._meta[name].append(value)

    def _write_waiting(self) -> None:
        if self._waiting:
            event_ids, pulses = zip(*self._waiting, strict=True)
            columns = {
                "sensor_id": np.concatenate([p.sensor_id for p in pulses]).astype(np.int16),
                "time": np.rint(np.concatenate([p.time_ns for p in pulses])).astype(np.int64),
                "charge": np.concatenate([p.charge_pe for p in pulses]),
                "auxiliary": ~np.concatenate([p.is_hlc for p in pulses]),
                "event_id": np.repeat(np.array(event_ids, np.int64), [len(p) for p in pulses]),
            }
            self._file.write(pa.table(columns, schema=_PULSE_SCHEMA))
            self._waiting, self._n_waiting = [], 0
