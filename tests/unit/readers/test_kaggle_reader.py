import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icestream.errors import InvalidDataset, InvalidEvent
from icestream.physics.events import Event, EventId, EventKind, Truth, check_event
from icestream.readers.kaggle import KaggleDataset
from icestream.readers.unreadable import UnreadableEvent
from tests.support.kaggle_files import (
    Edit,
    cast,
    change,
    drop,
    events_only,
    ids_of,
    meta_table,
    replace,
    unchanged,
    write_batch,
    write_batches,
    write_folder,
)


def read(folder: Path) -> list[Event | UnreadableEvent]:
    return list(KaggleDataset.open(folder))


def read_events(folder: Path) -> list[Event]:
    return events_only(read(folder))


def assert_is_default_batch(events: list[Event]) -> None:
    assert [str(event.id) for event in events] == ["1.24.0", "1.41.0", "1.59.0"]
    assert [event.pulses.sensor_id.tolist() for event in events] == [[0, 1, 2], [3], [4, 5, 6, 7]]
    assert [event.pulses.time_ns.tolist() for event in events] == [
        [1000, 1001, 1002],
        [1003],
        [1004, 1005, 1006, 1007],
    ]
    assert events[1].pulses.charge_pe.tolist() == [0.75]
    assert events[0].pulses.is_hlc.tolist() == [False, True, False]


# What a well-formed data set says.


def test_events_carry_their_pulses_and_truth(tmp_path: Path) -> None:
    events = read_events(write_folder(tmp_path))

    assert_is_default_batch(events)
    assert events[0].truth == Truth(0.5, 0.25)
    assert {(event.detector, event.start_unix_ns) for event in events} == {("icecube86", 0)}
    pulses = events[0].pulses
    columns = (pulses.sensor_id, pulses.time_ns, pulses.charge_pe, pulses.flags)
    assert [column.dtype.name for column in columns] == ["uint16", "float64", "float32", "uint8"]


def test_the_caller_names_the_detector(tmp_path: Path) -> None:
    dataset = KaggleDataset.open(write_folder(tmp_path), detector="gvd")
    assert {event.detector for event in events_only(list(dataset))} == {"gvd"}


def test_own_meta_columns_are_read(tmp_path: Path) -> None:
    def add_ours(meta: pa.Table) -> pa.Table:
        ours: list[tuple[str, pa.Array[Any]]] = [
            ("energy_gev", pa.array([1e5, None, np.nan])),
            ("kind", pa.array([3, None, 77])),
            ("start_unix_ns", pa.array([17, None, 0])),
        ]
        for name, values in ours:
            meta = meta.append_column(name, pa.chunked_array([values]))
        return meta

    events = read_events(write_folder(tmp_path, edit_meta=add_ours))

    assert [e.truth.energy_gev for e in events if e.truth] == [1e5, None, None]
    assert [e.truth.kind for e in events if e.truth] == [
        EventKind.CASCADE,
        EventKind.UNKNOWN,
        EventKind.UNKNOWN,
    ]
    assert [e.start_unix_ns for e in events] == [17, 0, 0]


def test_an_event_without_angles_has_no_truth(tmp_path: Path) -> None:
    events = read_events(write_folder(tmp_path, edit_meta=change("azimuth", 1, None)))
    assert [event.truth is None for event in events] == [False, True, False]


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 8])
def test_row_groups_may_cut_events_anywhere(tmp_path: Path, row_group_size: int) -> None:
    assert_is_default_batch(read_events(write_folder(tmp_path, row_group_size=row_group_size)))


def test_events_may_span_many_chunks(tmp_path: Path) -> None:
    n_pulses = (100, 300_000, 1, 65_536, 65_535, 7)
    folder = write_folder(tmp_path, event_ids=range(6), n_pulses=n_pulses, row_group_size=100_000)

    events = read_events(folder)

    assert [len(event.pulses) for event in events] == list(n_pulses)
    times = np.concatenate([event.pulses.time_ns for event in events])
    assert np.array_equal(times, np.arange(sum(n_pulses)) + 1000)


def test_kept_events_share_no_memory_with_others(tmp_path: Path) -> None:
    for event in read_events(write_folder(tmp_path)):
        assert event.pulses.time_ns.base is None


# What anyone may write.


def with_index(stored: str, index_columns: list[object]) -> Edit:
    """Name the event_id column as pandas stores an index."""

    def edit(table: pa.Table) -> pa.Table:
        names = [stored if name == "event_id" else name for name in table.column_names]
        metadata = {"pandas": json.dumps({"index_columns": index_columns, "columns": []})}
        return table.rename_columns(names).replace_schema_metadata(metadata)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(with_index("event_id", ["event_id"]), id="named index"),
        pytest.param(with_index("__index_level_0__", ["__index_level_0__"]), id="unnamed index"),
        pytest.param(with_index("event", ["event"]), id="index of another name"),
        pytest.param(with_index("__index_level_0__", [{"kind": "range"}]), id="index without metadata"),
        pytest.param(with_index("event_id", [{"kind": "range", "name": None}]), id="counting index"),
        *[
            pytest.param(cast(name, data_type), id=f"{name} {data_type}")
            for name, types in {
                "event_id": (pa.int16(), pa.int32(), pa.uint32(), pa.uint64()),
                "sensor_id": (pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()),
                "time": (pa.int16(), pa.int32(), pa.uint32(), pa.float32(), pa.float64()),
                "charge": (pa.float32(), pa.float64()),
                "auxiliary": (pa.int8(), pa.uint8(), pa.int64()),
            }.items()
            for data_type in types
        ],
        pytest.param(lambda table: table.append_column("note", [["x"] * len(table)]), id="more columns"),
        pytest.param(lambda table: table.select(sorted(table.column_names)), id="other order"),
    ],
)
def test_pulse_tables_of_other_types_are_read(tmp_path: Path, edit: Edit) -> None:
    assert_is_default_batch(read_events(write_folder(tmp_path, edit_pulses=edit)))


@pytest.mark.parametrize(
    "edit",
    [
        *[
            pytest.param(cast(name, data_type), id=f"{name} {data_type}")
            for name in ("batch_id", "event_id", "first_pulse_index", "last_pulse_index")
            for data_type in (pa.int16(), pa.int32(), pa.uint64())
        ],
        pytest.param(cast("first_pulse_index", pa.float64()), id="float rows"),
        pytest.param(cast("azimuth", pa.float32()), id="azimuth float32"),
        pytest.param(with_index("__index_level_0__", ["__index_level_0__"]), id="event_id as index"),
        pytest.param(lambda table: table.append_column("note", [["x"] * len(table)]), id="more columns"),
        pytest.param(lambda table: table.take([2, 0, 1]), id="other order of events"),
    ],
)
def test_meta_tables_of_other_types_are_read(tmp_path: Path, edit: Edit) -> None:
    events = read_events(write_folder(tmp_path, edit_meta=edit))

    assert_is_default_batch(events)
    assert [event.truth.zenith_rad for event in events if event.truth] == [0.25, 1.625, 3]


def test_test_meta_has_no_angles(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, edit_meta=drop("azimuth", "zenith"))
    (folder / "train").rename(folder / "test")
    (folder / "train_meta.parquet").rename(folder / "test_meta.parquet")

    dataset = KaggleDataset.open(folder)

    assert dataset.split == "test"
    assert not dataset.describe().has_truth
    assert_is_default_batch(events_only(list(dataset)))
    assert all(event.truth is None for event in events_only(list(dataset)))


# What is wrong with a file.


@pytest.mark.parametrize("name", ["event_id", "sensor_id", "time", "charge", "auxiliary"])
def test_a_missing_pulse_column_is_named(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path, edit_pulses=drop(name))
    with pytest.raises(
        InvalidDataset, match=rf"train/batch_1\.parquet: column {name} is missing; expected one"
    ):
        read(folder)


@pytest.mark.parametrize(
    "name", ["batch_id", "event_id", "first_pulse_index", "last_pulse_index", "azimuth", "zenith"]
)
def test_a_missing_meta_column_is_named(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path, edit_meta=drop(name))
    with pytest.raises(InvalidDataset, match=rf"train_meta\.parquet: column {name} is missing; expected one"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "data_type", "right"),
    [
        ("event_id", pa.string(), "integers"),
        ("sensor_id", pa.float32(), "integers"),
        ("time", pa.timestamp("ns"), "integers or floats"),
        ("charge", pa.string(), "integers or floats"),
        ("auxiliary", pa.float64(), "bools, or integers 0 and 1"),
    ],
)
def test_a_pulse_column_of_a_wrong_type_is_named(
    tmp_path: Path, name: str, data_type: pa.DataType, right: str
) -> None:
    def edit(table: pa.Table) -> pa.Table:
        return cast(name, data_type)(cast(name, pa.int64())(table) if name != "charge" else table)

    folder = write_folder(tmp_path, edit_pulses=edit)
    with pytest.raises(InvalidDataset, match=rf"column {name} is of type \S+; expected {right}"):
        read(folder)


def test_a_meta_column_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, edit_meta=cast("batch_id", pa.string()))
    with pytest.raises(InvalidDataset, match="column batch_id is of type string; expected integers"):
        read(folder)


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, edit_pulses=lambda t: t.append_column("time", t.column("time")))
    with pytest.raises(InvalidDataset, match="column time is there more than once"):
        read(folder)


def test_a_batch_id_that_is_null_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, edit_meta=change("batch_id", 1, None))
    with pytest.raises(InvalidDataset, match="column batch_id, row 1 is null"):
        read(folder)


def test_a_missing_batch_file_is_named_together_with_those_that_are_there(tmp_path: Path) -> None:
    folder = write_batches(tmp_path, n_batches=3, n_events=2)
    (folder / "train" / "batch_2.parquet").unlink()

    with pytest.raises(InvalidDataset, match=r"batch_2\.parquet: no such file.*present batch_ids are 1, 3"):
        KaggleDataset.open(folder)
    assert ids_of(list(KaggleDataset.open(folder, batch_ids=[1, 3]))) == [0, 1, 4, 5]


def test_a_folder_without_meta_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"expected train_meta\.parquet or test_meta\.parquet"):
        KaggleDataset.open(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="not a folder"):
        KaggleDataset.open(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["train_meta.parquet", "train/batch_1.parquet"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path)
    (folder / name).write_text("sensor_id,time\n")
    with pytest.raises(InvalidDataset, match=f"{name}: not a readable parquet file"):
        read(folder)


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, event_ids=range(100), n_pulses=[100] * 100)
    path = folder / "train" / "batch_1.parquet"
    content = bytearray(path.read_bytes())
    content[4:4000] = bytes(3996)
    path.write_bytes(content)
    with pytest.raises(InvalidDataset, match="damaged"):
        read(folder)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    path = folder / "train" / "batch_1.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidDataset, match="not a readable parquet file"):
        read(folder)


# What is wrong with an event only.


def only_unreadable(folder: Path) -> tuple[UnreadableEvent, list[int]]:
    """The one event that cannot be read, and the ids of the others."""
    items = read(folder)
    (unreadable,) = [item for item in items if isinstance(item, UnreadableEvent)]
    return unreadable, [item.id.event_id for item in items if isinstance(item, Event)]


@pytest.mark.parametrize(
    ("edits", "problem"),
    [
        pytest.param(
            [("last_pulse_index", 8)], "first_pulse_index 4, last_pulse_index 8", id="beyond the file"
        ),
        pytest.param([("first_pulse_index", -1)], "expected whole numbers with 0 <= first", id="negative"),
        pytest.param(
            [("first_pulse_index", 7), ("last_pulse_index", 4)], "first <= last < 8", id="backwards"
        ),
        pytest.param(
            [("first_pulse_index", 9), ("last_pulse_index", 8)], "first <= last < 8", id="empty beyond"
        ),
        pytest.param([("first_pulse_index", None)], "first_pulse_index nan", id="half null"),
        pytest.param([("first_pulse_index", 4.5)], "first_pulse_index 4.5", id="fraction"),
        pytest.param([("last_pulse_index", np.inf)], "last_pulse_index inf", id="infinite"),
        pytest.param([("last_pulse_index", 2**62)], "last_pulse_index 4.61", id="huge"),
        pytest.param([("first_pulse_index", 3)], "event_id 41 in row 3", id="overlap before"),
        pytest.param(
            [("first_pulse_index", 0), ("last_pulse_index", 2)], "event_id 24 in row 0", id="foreign"
        ),
        pytest.param([("event_id", 60)], "event_id 59 in row 4", id="other id"),
        pytest.param([("event_id", 41)], "41 is in batch 1 more than once", id="repeated id"),
        pytest.param([("event_id", -3)], "-3 in the meta table", id="negative id"),
        pytest.param([("event_id", None)], "null in the meta table", id="null id"),
    ],
)
def test_a_wrong_meta_row_spoils_its_event_only(
    tmp_path: Path, edits: list[tuple[str, object]], problem: str
) -> None:
    def edit(meta: pa.Table) -> pa.Table:
        for name, value in edits:
            meta = change(name, 2, value)(meta)
        return meta

    unreadable, others = only_unreadable(write_folder(tmp_path, edit_meta=edit))

    assert others == [24, 41]
    assert isinstance(unreadable.error, InvalidEvent)
    assert unreadable.error.event_id == str(unreadable.id)
    assert problem in str(unreadable.error)


def test_of_overlapping_events_the_one_that_owns_the_pulses_is_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, edit_meta=change("last_pulse_index", 0, 3))

    unreadable, others = only_unreadable(folder)

    assert unreadable.id == EventId(1, 24)
    assert "event_id 41 in row 3 of the batch file, which the meta table counts to event 24" in str(
        unreadable.error
    )
    assert others == [41, 59]


def test_a_range_over_the_whole_file_is_not_gathered(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path,
        event_ids=[1, 2],
        n_pulses=[3, 1_000_001],
        edit_meta=change("first_pulse_index", 0, 0),
    )
    unreadable, others = only_unreadable(folder)
    assert "1000001 pulses; at most 1000000 are read" in str(unreadable.error)
    assert others == [1]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("sensor_id", -1, "pulses.sensor_id: -1 in row 3 of the batch file; expected 0..65535"),
        ("sensor_id", 65_536, "pulses.sensor_id: 65536 in row 3"),
        ("sensor_id", 70_000, "pulses.sensor_id: 70000 in row 3"),
        ("sensor_id", None, "pulses.sensor_id: null in row 3"),
        ("auxiliary", None, "pulses.flags: auxiliary null in row 3"),
        ("event_id", None, "event_id null in row 3"),
        ("event_id", 24, "event_id 24 in row 3"),
    ],
)
def test_a_pulse_that_no_event_can_hold_spoils_its_event_only(
    tmp_path: Path, name: str, value: object, problem: str
) -> None:
    unreadable, others = only_unreadable(write_folder(tmp_path, edit_pulses=change(name, 3, value)))

    assert unreadable.id == EventId(1, 41)
    assert problem in str(unreadable.error)
    assert others == [24, 59]


def test_an_auxiliary_of_two_is_refused(tmp_path: Path) -> None:
    def edit(pulses: pa.Table) -> pa.Table:
        return change("auxiliary", 5, 2)(cast("auxiliary", pa.int64())(pulses))

    unreadable, others = only_unreadable(write_folder(tmp_path, edit_pulses=edit))
    assert "auxiliary 2 in row 5" in str(unreadable.error)
    assert others == [24, 41]


def test_a_sensor_id_above_int64_does_not_wrap_round(tmp_path: Path) -> None:
    def edit(pulses: pa.Table) -> pa.Table:
        ids = pulses.column("sensor_id").to_pylist()
        ids[3] = 2**64 - 1
        return replace(pulses, "sensor_id", pa.chunked_array([pa.array(ids, pa.uint64())]))

    _, others = only_unreadable(write_folder(tmp_path, edit_pulses=edit))
    assert others == [24, 59]


# Values that reach the consumer, who refuses them.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sensor_id", 6000),
        ("time", np.nan),
        ("time", None),
        ("time", np.inf),
        ("charge", -1.0),
        ("charge", np.nan),
        ("charge", None),
        ("charge", 1e300),
    ],
)
def test_unusable_values_reach_the_consumer(tmp_path: Path, name: str, value: object) -> None:
    events = read_events(write_folder(tmp_path, edit_pulses=change(name, 3, value)))

    check_event(events[0], 5160)
    check_event(events[2], 5160)
    with pytest.raises(InvalidEvent):
        check_event(events[1], 5160)


@pytest.mark.parametrize("position", [0, 1, 3])
def test_an_event_without_pulses_reaches_the_consumer_in_its_place(tmp_path: Path, position: int) -> None:
    event_ids, n_pulses = [24, 41, 59], [3, 1, 4]
    event_ids.insert(position, 50)
    n_pulses.insert(position, 0)

    events = read_events(write_folder(tmp_path, event_ids=event_ids, n_pulses=n_pulses))

    assert ids_of(events) == event_ids
    assert [len(event.pulses) for event in events] == n_pulses


def test_an_event_without_rows_comes_last(tmp_path: Path) -> None:
    def edit(meta: pa.Table) -> pa.Table:
        return change("first_pulse_index", 1, None)(change("last_pulse_index", 1, None)(meta))

    events = read_events(write_folder(tmp_path, edit_meta=edit))
    assert [(event.id.event_id, len(event.pulses)) for event in events] == [(24, 3), (59, 4), (41, 0)]


def test_a_batch_without_any_pulse_is_read(tmp_path: Path) -> None:
    events = read_events(write_folder(tmp_path, n_pulses=[0, 0, 0]))
    assert [len(event.pulses) for event in events] == [0, 0, 0]


# Choosing and resuming.


@pytest.fixture(scope="module")
def ten_batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ten_batches")
    return write_batches(folder, n_batches=10, n_events=20, meta_row_group_size=33)


def test_batches_follow_each_other(ten_batches: Path) -> None:
    dataset = KaggleDataset.open(ten_batches)
    events = events_only(list(dataset))

    assert ids_of(events) == list(range(200))
    assert [event.id.run_id for event in events] == [1 + i // 20 for i in range(200)]
    assert [len(event.pulses) for event in events] == [1 + i % 5 for i in range(200)]
    assert dataset.n_events == 200


def test_batches_can_be_chosen(ten_batches: Path) -> None:
    dataset = KaggleDataset.open(ten_batches, batch_ids=[9, 3])
    assert ids_of(list(dataset)) == [*range(40, 60), *range(160, 180)]
    assert dataset.n_events == 40


def test_an_unknown_batch_is_refused_with_those_that_are_there(ten_batches: Path) -> None:
    with pytest.raises(InvalidDataset, match="column batch_id has no 11; choose batch_ids among 1, 2, 3"):
        KaggleDataset.open(ten_batches, batch_ids=[11])


def test_events_can_be_chosen(ten_batches: Path) -> None:
    dataset = KaggleDataset.open(ten_batches, event_ids=[199, 45, 44])
    assert ids_of(list(dataset)) == [44, 45, 199]
    assert dataset.n_events == 3
    assert dataset.batch_ids == (3, 10)


def test_an_unknown_event_is_refused(ten_batches: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"column event_id has no 200 \(1 of the chosen are missing\)"):
        KaggleDataset.open(ten_batches, event_ids=[200, 3])


@pytest.mark.parametrize("skip", [0, 1, 19, 20, 21, 105, 199, 200, 500])
def test_reading_can_skip_and_stop(ten_batches: Path, skip: int) -> None:
    dataset = KaggleDataset.open(ten_batches)
    assert ids_of(list(dataset.events(skip=skip, limit=30))) == list(range(200))[skip : skip + 30]


@pytest.mark.parametrize("last", [0, 7, 19, 20, 111, 199])
def test_reading_resumes_after_an_event(ten_batches: Path, last: int) -> None:
    dataset = KaggleDataset.open(ten_batches)
    after = EventId(1 + last // 20, last)
    assert ids_of(list(dataset.events(after=after))) == list(range(last + 1, 200))
    assert ids_of(list(dataset.events(after=after, skip=25))) == list(range(last + 26, 200))


def test_reading_of_chosen_events_resumes(ten_batches: Path) -> None:
    dataset = KaggleDataset.open(ten_batches, event_ids=[44, 45, 50, 199])
    assert ids_of(list(dataset.events(after=EventId(3, 45)))) == [50, 199]
    assert ids_of(list(dataset.events(skip=3))) == [199]


@pytest.mark.parametrize("after", [EventId(1, 20), EventId(77, 3), EventId(1, 3, 1)])
def test_resuming_after_an_unknown_event_is_refused(ten_batches: Path, after: EventId) -> None:
    with pytest.raises(InvalidDataset, match="to start after"):
        list(KaggleDataset.open(ten_batches).events(after=after))


def test_a_repeated_event_stays_one_when_reading_resumes_behind_the_first(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, edit_meta=lambda meta: meta.take([0, 0, 1, 2]))
    items = list(KaggleDataset.open(folder).events(skip=1))
    assert [isinstance(item, UnreadableEvent) for item in items] == [True, False, False]


def test_a_negative_number_of_events_cannot_be_skipped(ten_batches: Path) -> None:
    with pytest.raises(ValueError, match="skip is -1"):
        KaggleDataset.open(ten_batches).events(skip=-1)


def test_skipped_batches_are_not_opened(tmp_path: Path) -> None:
    folder = write_batches(tmp_path, n_batches=3, n_events=5)
    (folder / "train" / "batch_1.parquet").write_text("damaged")
    dataset = KaggleDataset.open(folder)
    assert ids_of(list(dataset.events(skip=5))) == list(range(5, 15))
    assert ids_of(list(dataset.events(after=EventId(2, 9)))) == list(range(10, 15))


def test_skipped_row_groups_are_not_decoded(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, event_ids=range(100), n_pulses=[100] * 100, row_group_size=5000)
    path = folder / "train" / "batch_1.parquet"
    content = bytearray(path.read_bytes())
    content[4:4000] = bytes(3996)
    path.write_bytes(content)
    assert ids_of(list(KaggleDataset.open(folder).events(skip=50))) == list(range(50, 100))


def test_rows_of_batches_may_be_mixed_in_the_meta_table(tmp_path: Path) -> None:
    folder = write_batches(tmp_path, n_batches=3, n_events=5)
    meta = pq.read_table(folder / "train_meta.parquet")
    shuffled = meta.take(np.random.default_rng(1).permutation(len(meta)))
    pq.write_table(shuffled, folder / "train_meta.parquet", row_group_size=4)

    dataset = KaggleDataset.open(folder)
    events = events_only(list(dataset))

    assert sorted(ids_of(events)) == list(range(15))
    assert all(event.id.run_id == 1 + event.id.event_id // 5 for event in events)
    assert dataset.n_events == 15
    assert ids_of(list(KaggleDataset.open(folder, batch_ids=[2]))) == [5, 6, 7, 8, 9]


def test_other_batches_events_do_not_reach_a_batch(tmp_path: Path) -> None:
    """Kaggle's row numbers start again in each batch."""
    write_batch(tmp_path, batch_id=1)
    write_batch(tmp_path, batch_id=2, event_ids=(70, 71, 72))
    meta = pa.concat_tables([meta_table(), meta_table(batch_id=2, event_ids=(70, 71, 72))])
    pq.write_table(meta, tmp_path / "train_meta.parquet")
    assert [str(event.id) for event in read_events(tmp_path)][2:4] == ["1.59.0", "2.70.0"]


# Facts.


def test_facts_say_which_split_was_chosen_and_how_to_choose_the_other(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, edit_meta=unchanged)
    (folder / "test_meta.parquet").write_bytes((folder / "train_meta.parquet").read_bytes())
    (folder / "sensor_geometry.csv").write_text("sensor_id,x,y,z\n0,0,0,0\n")

    dataset = KaggleDataset.open(folder)
    facts = dataset.describe()

    assert (facts.split, facts.other_splits) == ("train", ("test",))
    assert (facts.n_events, facts.n_pulses, facts.n_batches) == (3, 8, 1)
    assert facts.has_truth
    assert not facts.has_energy
    assert facts.has_geometry
    assert dataset.geometry_path == folder / "sensor_geometry.csv"
    assert "test is there as well: choose split='test'" in str(facts)


def test_a_split_that_is_not_there_is_refused_with_the_one_that_is(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    with pytest.raises(
        InvalidDataset, match=r"test_meta\.parquet: no such file; this data set has split='train'"
    ):
        KaggleDataset.open(folder, split="test")


# Memory.

READ_AND_REPORT_PEAK = """
import sys
from icestream.readers.kaggle import KaggleDataset

def peak_kib():
    # ru_maxrss would tell the parent's peak: it survives fork and exec.
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])

small, large = sys.argv[1:]
list(KaggleDataset.open(small))  # what pyarrow loads at first use (pandas, where it is installed) is not the reader's
before = peak_kib()
n_pulses = sum(len(event.pulses) for event in KaggleDataset.open(large))
print(n_pulses, (peak_kib() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_single_large_row_group_is_read_in_bounded_memory(tmp_path: Path) -> None:
    n_events, n_pulses = 10_000, 500
    rng = np.random.default_rng(1)

    def incompressible(table: pa.Table) -> pa.Table:
        charges = pa.chunked_array([rng.random(len(table))])
        return replace(table, "charge", charges)

    small = write_folder(tmp_path / "small")
    folder = write_folder(
        tmp_path / "large",
        event_ids=range(n_events),
        n_pulses=[n_pulses] * n_events,
        edit_pulses=incompressible,
        row_group_size=n_events * n_pulses,
    )
    assert pq.read_metadata(folder / "train" / "batch_1.parquet").num_row_groups == 1

    command = [sys.executable, "-W", "error", "-c", READ_AND_REPORT_PEAK, str(small), str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    read_pulses, peak_growth_mib = map(int, output.split())

    assert read_pulses == n_events * n_pulses
    # 35 MiB when it was written; 95 with pyarrow's defaults.
    assert peak_growth_mib < 65
