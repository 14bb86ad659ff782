import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from icestream.errors import InvalidDataset, InvalidEvent
from icestream.physics.detector import Detector
from icestream.physics.events import HLC, Event, EventId, EventKind, Pulses, Truth
from icestream.readers.geometry import read_sensor_geometry
from icestream.readers.kaggle import KaggleDataset, KaggleWriter, partial
from tests.support.kaggle_files import events_only, ids_of


def event(
    event_id: int = 7,
    *,
    run_id: int = 3,
    n_pulses: int = 2,
    sensor_id: ArrayLike | None = None,
    time_ns: ArrayLike | None = None,
    charge_pe: ArrayLike | None = None,
    flags: ArrayLike | None = None,
    truth: Truth | None = None,
    start_unix_ns: int = 0,
) -> Event:
    def column(values: ArrayLike | None) -> ArrayLike:
        return np.arange(n_pulses) if values is None else values

    pulses = Pulses(
        np.asarray(column(sensor_id), np.uint16),
        np.asarray(column(time_ns), np.float64),
        np.asarray(column(charge_pe), np.float32),
        np.asarray(np.zeros(n_pulses) if flags is None else flags, np.uint8),
    )
    return Event(EventId(run_id, event_id), "icecube86", start_unix_ns, pulses, truth)


def written_and_read(
    folder: Path, events: Sequence[Event], *, events_per_batch: int = 200_000
) -> list[Event]:
    with KaggleWriter(folder, events_per_batch=events_per_batch) as writer:
        for each in events:
            writer.write(each)
    return events_only(list(KaggleDataset.open(folder)))


def assert_same(read: Event, written: Event) -> None:
    assert (read.id.event_id, read.start_unix_ns) == (written.id.event_id, written.start_unix_ns)
    assert read.truth == written.truth
    assert np.array_equal(read.pulses.sensor_id, written.pulses.sensor_id)
    assert np.array_equal(read.pulses.time_ns, written.pulses.time_ns)
    assert np.array_equal(read.pulses.charge_pe, written.pulses.charge_pe, equal_nan=True)
    assert np.array_equal(read.pulses.is_hlc, written.pulses.is_hlc)


@st.composite
def events_with_id(draw: st.DrawFn, event_id: int) -> Event:
    n = draw(st.integers(0, 12))

    def column(values: "st.SearchStrategy[int] | st.SearchStrategy[float]") -> ArrayLike:
        return draw(st.lists(values, min_size=n, max_size=n))

    energies = st.none() | st.floats(1, 1e9)
    truths = st.builds(Truth, st.floats(0, 6.28), st.floats(0, 3.14), energies, st.sampled_from(EventKind))
    return event(
        event_id,
        n_pulses=n,
        sensor_id=column(st.integers(0, 2**15 - 1)),
        time_ns=column(st.integers(-(2**53), 2**53)),
        charge_pe=column(st.floats(width=32)),
        flags=column(st.sampled_from([0, HLC])),
        truth=draw(st.none() | truths),
        start_unix_ns=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event]:
    event_ids = draw(st.lists(st.integers(0, 2**63 - 1), max_size=12, unique=True))
    return [draw(events_with_id(event_id)) for event_id in event_ids]


@settings(max_examples=30, deadline=None)
@given(events=event_lists(), events_per_batch=st.integers(1, 5))
def test_what_is_written_is_read_back(events: list[Event], events_per_batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read = written_and_read(Path(folder), events, events_per_batch=events_per_batch)

    assert ids_of(read) == [each.id.event_id for each in events]
    assert [each.id.run_id for each in read] == [1 + i // events_per_batch for i in range(len(events))]
    for one, other in zip(read, events, strict=True):
        assert_same(one, other)


def test_times_are_rounded_to_whole_ns(tmp_path: Path) -> None:
    (read,) = written_and_read(tmp_path, [event(time_ns=[10.4, 11.6])])
    assert read.pulses.time_ns.tolist() == [10, 12]


def test_only_the_hlc_flag_is_kept(tmp_path: Path) -> None:
    (read,) = written_and_read(tmp_path, [event(flags=[HLC | 4, 4])])
    assert read.pulses.flags.tolist() == [HLC, 0]


def test_pulse_files_look_like_kaggles(tmp_path: Path) -> None:
    written_and_read(tmp_path, [event(1), event(2)])

    schema = pq.read_schema(tmp_path / "train" / "batch_1.parquet")

    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "sensor_id": pa.int16(),
        "time": pa.int64(),
        "charge": pa.float32(),
        "auxiliary": pa.bool_(),
        "event_id": pa.int64(),
    }
    pandas = json.loads((schema.metadata or {})[b"pandas"])
    assert pandas["index_columns"] == ["event_id"]
    assert {c["name"]: c["numpy_type"] for c in pandas["columns"]}["charge"] == "float32"


def test_meta_files_look_like_kaggles(tmp_path: Path) -> None:
    truth = Truth(1.5, 0.5, 1e4, EventKind.STARTING_TRACK)
    written_and_read(tmp_path, [event(24, n_pulses=3, truth=truth), event(41, n_pulses=1)])

    rows = pq.read_table(tmp_path / "train_meta.parquet").to_pylist()

    assert rows[0] == {
        "batch_id": 1,
        "event_id": 24,
        "first_pulse_index": 0,
        "last_pulse_index": 2,
        "azimuth": 1.5,
        "zenith": 0.5,
        "energy_gev": 1e4,
        "kind": 2,
        "start_unix_ns": 0,
    }
    assert (rows[1]["first_pulse_index"], rows[1]["last_pulse_index"], rows[1]["azimuth"]) == (3, 3, None)


def test_a_test_set_gives_no_truth_away(tmp_path: Path) -> None:
    with KaggleWriter(tmp_path, split="test", first_batch_id=661) as writer:
        writer.write(event(truth=Truth(1, 1, 1e3)))

    names = pq.read_schema(tmp_path / "test_meta.parquet").names
    assert names == ["batch_id", "event_id", "first_pulse_index", "last_pulse_index", "start_unix_ns"]
    (read,) = events_only(list(KaggleDataset.open(tmp_path)))
    assert (read.id, read.truth) == (EventId(661, 7), None)


def test_train_and_test_share_a_folder(tmp_path: Path) -> None:
    detector = Detector("two", np.array([[0.0, 0, 0], [1.0, 2, 3]]), np.ones(2))
    for split in ("train", "test"):
        with KaggleWriter(tmp_path, split=split, detector=detector) as writer:
            writer.write(event())

    dataset = KaggleDataset.open(tmp_path)
    assert dataset.describe().other_splits == ("test",)
    assert dataset.geometry_path is not None
    assert np.array_equal(read_sensor_geometry(dataset.geometry_path).positions_m, detector.positions_m)


def test_another_detector_is_never_put_under_events(tmp_path: Path) -> None:
    with KaggleWriter(tmp_path, detector=Detector("one", np.zeros((2, 3)), np.ones(2))):
        pass
    other = Detector("other", np.ones((2, 3)), np.ones(2))
    with (
        pytest.raises(InvalidDataset, match="another detector"),
        KaggleWriter(tmp_path, split="test", detector=other),
    ):
        pass


def test_row_groups_are_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "PULSES_PER_ROW_GROUP", 100)
    events = [event(i, n_pulses=30 + i % 3) for i in range(50)]

    read = written_and_read(tmp_path, [*events, event(50, n_pulses=450)])

    metadata = pq.read_metadata(tmp_path / "train" / "batch_1.parquet")
    assert max(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)) <= 100
    assert [len(each.pulses) for each in read] == [*(30 + i % 3 for i in range(50)), 450]


def test_an_empty_data_set_is_one(tmp_path: Path) -> None:
    assert written_and_read(tmp_path, []) == []
    assert KaggleDataset.open(tmp_path).describe().n_events == 0


@pytest.mark.parametrize("between", [0, 5])
def test_an_id_is_refused_the_second_time_whatever_its_run(tmp_path: Path, between: int) -> None:
    with KaggleWriter(tmp_path, events_per_batch=2) as writer:
        writer.write(event(7, run_id=1))
        for i in range(between):
            writer.write(event(100 - i))
        with pytest.raises(InvalidEvent, match="7 was written before"):
            writer.write(event(7, run_id=2))
        writer.write(event(6))
        assert writer.n_events == between + 2

    assert len(events_only(list(KaggleDataset.open(tmp_path)))) == between + 2


@pytest.mark.parametrize(
    ("unfit", "problem"),
    [
        (event(sensor_id=[0, 40_000]), r"pulses\.sensor_id: 40000; the format holds 0\.\.32767"),
        (event(time_ns=[0, np.nan]), r"pulses\.time_ns: NaN"),
        (event(time_ns=[0, -np.inf]), r"pulses\.time_ns: NaN, infinite"),
        (event(time_ns=[0, 1e19]), r"pulses\.time_ns: .* the format holds whole ns"),
        (event(-1), r"id\.event_id: -1; expected 0\.\."),
        (event(2**63), r"id\.event_id: 9223372036854775808"),
        (event(start_unix_ns=-1), "start_unix_ns: -1; expected"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_the_writer_goes_on(
    tmp_path: Path, unfit: Event, problem: str
) -> None:
    with KaggleWriter(tmp_path) as writer:
        with pytest.raises(InvalidEvent, match=problem):
            writer.write(unfit)
        writer.write(event(12))
    assert ids_of(list(KaggleDataset.open(tmp_path))) == [12]


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_nothing_has_its_name_before_it_is_whole(tmp_path: Path) -> None:
    with KaggleWriter(tmp_path, events_per_batch=2) as writer:
        for i in range(3):
            writer.write(event(i))
        assert names_in(tmp_path) == [
            ".train_meta.parquet.partial",
            "train/.batch_2.parquet.partial",
            "train/batch_1.parquet",
        ]
        with pytest.raises(InvalidDataset):
            KaggleDataset.open(tmp_path)
    assert names_in(tmp_path) == ["train/batch_1.parquet", "train/batch_2.parquet", "train_meta.parquet"]


class Stopped(Exception):
    pass


def write_and_stop(folder: Path) -> None:
    with KaggleWriter(folder) as writer:
        writer.write(event())
        raise Stopped


def test_a_failed_writer_leaves_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        write_and_stop(tmp_path)
    assert names_in(tmp_path) == []


def test_what_a_killed_writer_left_does_not_disturb_the_next(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / ".batch_1.parquet.partial").write_text("PAR1")
    (tmp_path / ".train_meta.parquet.partial").write_text("PAR1")
    assert len(written_and_read(tmp_path, [event()])) == 1
    assert names_in(tmp_path) == ["train/batch_1.parquet", "train_meta.parquet"]


def test_a_data_set_is_never_overwritten(tmp_path: Path) -> None:
    written_and_read(tmp_path, [event()])
    with pytest.raises(InvalidDataset, match="exists already"), KaggleWriter(tmp_path):
        pass
    assert len(list(KaggleDataset.open(tmp_path))) == 1


def test_a_writer_outside_with_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside `with`"):
        KaggleWriter(tmp_path).write(event())
    with KaggleWriter(tmp_path) as writer:
        pass
    with pytest.raises(RuntimeError, match="inside `with`"):
        writer.write(event())


def test_batches_hold_at_least_one_event(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        KaggleWriter(tmp_path, events_per_batch=0)
