"""Builds data set folders the way other people's programs might write them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icestream.physics.events import Event
from icestream.readers.unreadable import UnreadableEvent

Edit = Callable[[pa.Table], pa.Table]


def unchanged(table: pa.Table) -> pa.Table:
    return table


def write_batch(
    folder: Path,
    *,
    event_ids: Sequence[int] = (24, 41, 59),
    n_pulses: Sequence[int] = (3, 1, 4),
    batch_id: int = 1,
    edit: Edit = unchanged,
    row_group_size: int = 1_000_000,
) -> None:
    """Write train/batch_N.parquet; pulse k of the file is at sensor k, time 1000 + k, charge k / 4."""
    n = sum(n_pulses)
    rows = np.arange(n)
    table = pa.table(
        {
            "sensor_id": pa.array((rows % 5160).astype(np.int16)),
            "time": pa.array(rows + 1000),
            "charge": pa.array(rows / 4),
            "auxiliary": pa.array(rows % 2 == 0),
            "event_id": pa.array(np.repeat(np.array(event_ids, np.int64), n_pulses)),
        }
    )
    path = folder / "train" / f"batch_{batch_id}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(edit(table), path, row_group_size=row_group_size)


def meta_table(
    *, event_ids: Sequence[int] = (24, 41, 59), n_pulses: Sequence[int] = (3, 1, 4), batch_id: int = 1
) -> pa.Table:
    """The meta rows that belong to `write_batch`."""
    ends = np.cumsum(np.array(n_pulses, np.int64))
    return pa.table(
        {
            "batch_id": pa.array(np.full(len(ends), batch_id)),
            "event_id": pa.array(np.array(event_ids, np.int64)),
            "first_pulse_index": pa.array(ends - n_pulses),
            "last_pulse_index": pa.array(ends - 1),
            "azimuth": pa.array(np.linspace(0.5, 6, len(ends))),
            "zenith": pa.array(np.linspace(0.25, 3, len(ends))),
        }
    )


def write_folder(
    folder: Path,
    *,
    event_ids: Sequence[int] = (24, 41, 59),
    n_pulses: Sequence[int] = (3, 1, 4),
    edit_pulses: Edit = unchanged,
    edit_meta: Edit = unchanged,
    row_group_size: int = 1_000_000,
) -> Path:
    """A data set of one batch."""
    write_batch(
        folder, event_ids=event_ids, n_pulses=n_pulses, edit=edit_pulses, row_group_size=row_group_size
    )
    meta = edit_meta(meta_table(event_ids=event_ids, n_pulses=n_pulses))
    pq.write_table(meta, folder / "train_meta.parquet")
    return folder


def write_batches(
    folder: Path, *, n_batches: int, n_events: int, meta_row_group_size: int = 1_000_000
) -> Path:
    """Batches 1..n of equally many events; ids count on through the data set; event i has 1 + i % 5 pulses."""
    metas = []
    for batch_id in range(1, n_batches + 1):
        ids = range((batch_id - 1) * n_events, batch_id * n_events)
        n_pulses = [1 + i % 5 for i in ids]
        write_batch(folder, event_ids=ids, n_pulses=n_pulses, batch_id=batch_id, row_group_size=7)
        metas.append(meta_table(event_ids=ids, n_pulses=n_pulses, batch_id=batch_id))
    table = pa.concat_tables(metas)
    pq.write_table(table, folder / "train_meta.parquet", row_group_size=meta_row_group_size)
    return folder


def cast(name: str, data_type: pa.DataType) -> Edit:
    return lambda table: replace(table, name, table.column(name).cast(data_type))


def drop(*names: str) -> Edit:
    return lambda table: table.drop_columns(list(names))


def change(name: str, row: int, value: object) -> Edit:
    """Set one cell; None and a value of another type are as good as any."""

    def edit(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[row] = value
        return replace(table, name, pa.chunked_array([pa.array(values)]))

    return edit


def replace(table: pa.Table, name: str, column: "pa.ChunkedArray[pa.Scalar[pa.DataType]]") -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def events_only(items: Sequence[Event | UnreadableEvent]) -> list[Event]:
    """The events, where every one of them must be readable."""
    assert not [item for item in items if isinstance(item, UnreadableEvent)]
    return [item for item in items if isinstance(item, Event)]


def ids_of(items: Sequence[Event | UnreadableEvent]) -> list[int]:
    return [item.id.event_id for item in items]
