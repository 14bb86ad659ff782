"""Records as a Parquet file, written as they come."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icestream.cli.records_tables import kind_name
from icestream.errors import InvalidInput
from icestream.v1 import record_pb2

_ROWS_IN_GROUP = 100_000

_Record = record_pb2.RecordedReconstruction


def _if(record: _Record, field: str, value: float) -> float | None:
    return value if record.HasField(field) else None


def _truth(record: _Record, field: str) -> float | None:
    reconstruction = record.reconstruction
    return float(getattr(reconstruction.truth, field)) if reconstruction.HasField("truth") else None


def _energy(record: _Record) -> float | None:
    truth = record.reconstruction.truth
    return truth.energy_gev if truth.HasField("energy_gev") else None


_COLUMNS: dict[str, tuple[pa.DataType, Callable[[_Record], Any]]] = {
    "detector": (pa.string(), lambda record: record.reconstruction.detector),
    "run_id": (pa.int64(), lambda record: record.reconstruction.run_id),
    "event_id": (pa.int64(), lambda record: record.reconstruction.event_id),
    "sub_event": (pa.int32(), lambda record: record.reconstruction.sub_event),
    "start_unix_ns": (pa.int64(), lambda record: record.reconstruction.start_unix_ns or None),
    "model": (pa.string(), lambda record: record.reconstruction.model),
    "model_version": (pa.string(), lambda record: record.reconstruction.model_version),
    "azimuth_rad": (pa.float64(), lambda record: record.reconstruction.direction.azimuth_rad),
    "zenith_rad": (pa.float64(), lambda record: record.reconstruction.direction.zenith_rad),
    "ra_rad": (pa.float64(), lambda record: _if(record, "equatorial", record.equatorial.ra_rad)),
    "dec_rad": (pa.float64(), lambda record: _if(record, "equatorial", record.equatorial.dec_rad)),
    "kappa": (pa.float32(), lambda record: record.reconstruction.kappa),
    "radius50_rad": (pa.float32(), lambda record: record.reconstruction.radius50_rad),
    "radius90_rad": (pa.float32(), lambda record: record.reconstruction.radius90_rad),
    "n_pulses": (pa.int32(), lambda record: record.reconstruction.n_pulses),
    "n_pulses_used": (pa.int32(), lambda record: record.reconstruction.n_pulses_used),
    "kind": (pa.string(), lambda record: kind_name(record.reconstruction.truth.kind)),
    "truth_azimuth_rad": (pa.float64(), lambda record: _truth(record, "azimuth_rad")),
    "truth_zenith_rad": (pa.float64(), lambda record: _truth(record, "zenith_rad")),
    "truth_energy_gev": (pa.float64(), _energy),
    "opening_angle_rad": (
        pa.float64(),
        lambda record: _if(record, "opening_angle_rad", record.opening_angle_rad),
    ),
    "published_unix_ns": (pa.int64(), lambda record: record.reconstruction.timings.published_unix_ns),
    "received_unix_ns": (pa.int64(), lambda record: record.reconstruction.timings.received_unix_ns),
    "inferred_unix_ns": (pa.int64(), lambda record: record.reconstruction.timings.inferred_unix_ns),
    "recorded_unix_ns": (pa.int64(), lambda record: record.recorded_unix_ns),
    "trace_id": (pa.string(), lambda record: record.reconstruction.trace_id),
}
SCHEMA = pa.schema([(name, data_type) for name, (data_type, _) in _COLUMNS.items()])


async def export(pages: AsyncIterator[Sequence[_Record]], path: Path) -> int:
    """Write pages as they come; the file gets its name when it is whole.

    Returns:
        How many rows it has.

    Raises:
        InvalidInput: The file cannot be written.
    """
    partial, n_rows = path.with_name(f".{path.name}.partial"), 0
    try:
        with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as file:
            async for group in _row_groups(pages):
                file.write_table(group)
                n_rows += len(group)
        os.replace(partial, path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return n_rows


async def _row_groups(pages: AsyncIterator[Sequence[_Record]]) -> AsyncIterator[pa.Table]:
    """Pages put together: a file of small row groups is larger, and slow to read."""
    gathered, n_rows = list[pa.Table](), 0
    async for page in pages:
        gathered.append(_table(page))
        n_rows += len(page)
        if n_rows >= _ROWS_IN_GROUP:
            yield pa.concat_tables(gathered)
            gathered, n_rows = [], 0
    if gathered:
        yield pa.concat_tables(gathered)


def _table(page: Sequence[_Record]) -> pa.Table:
    columns = {
        name: pa.array([value(record) for record in page], data_type)
        for name, (data_type, value) in _COLUMNS.items()
    }
    return pa.table(columns, schema=SCHEMA)
