from pathlib import Path

import pytest

from icestream.errors import InvalidDataset, InvalidRealtimeMessage
from icestream.physics.events import Event, EventId
from icestream.readers.realtime import (
    RealtimeDataset,
    RealtimeEvent,
    holds_realtime_files,
    is_realtime_file,
    read_realtime_event,
    realtime_files,
)
from icestream.readers.unreadable import UnreadableEvent
from tests.support.kaggle_files import write_folder
from tests.unit.readers.realtime.realtime_messages import REAL_EVENTS, Message, header


def message(run_id: int, event_id: int) -> Message:
    return Message().with_objects("P", I3EventHeader=("I3EventHeader", header(run_id, event_id)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three messages, one of which is damaged, and what else may lie in a folder."""
    (tmp_path / "b.json").write_bytes(message(1, 20).as_json())
    (tmp_path / "a.pkl").write_bytes(message(1, 10).as_pickle())
    (tmp_path / "c.json").write_bytes(message(2, 30).as_json()[:-500])
    (tmp_path / "d.json").write_bytes(message(2, 40).as_json())
    (tmp_path / ".hidden.json").write_bytes(b"{}")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "inner.json").mkdir()
    return tmp_path


def ids(items: list[Event | UnreadableEvent]) -> list[int | None]:
    """The numbers of the events; None for those that cannot be read."""
    return [item.id.event_id if isinstance(item, Event) else None for item in items]


def test_messages_of_a_folder_are_read_in_the_order_of_their_names(folder: Path) -> None:
    dataset = RealtimeDataset.open(folder)
    assert ids(list(dataset)) == [10, 20, None, 40]
    assert dataset.n_events == 4
    assert dataset.detector == "icecube86"
    assert dataset.geometry_path is None
    assert dataset.folder == folder
    assert dataset.describe() == f"{folder}: 4 realtime messages"


def test_a_file_is_a_data_set_of_one_event(folder: Path) -> None:
    dataset = RealtimeDataset.open(folder / "b.json")
    assert ids(list(dataset)) == [20]
    assert dataset.folder == folder
    assert dataset.describe() == f"{folder}/b.json: 1 realtime message"


@pytest.mark.parametrize("skip", [0, 1, 3, 4, 9])
def test_reading_can_skip_and_stop(folder: Path, skip: int) -> None:
    items = list(RealtimeDataset.open(folder).events(skip=skip, limit=2))
    assert ids(items) == [10, 20, None, 40][skip : skip + 2]


@pytest.mark.parametrize(("skip", "limit"), [(-1, None), (0, -1)])
def test_a_negative_number_of_events_is_refused(folder: Path, skip: int, limit: int | None) -> None:
    with pytest.raises(ValueError, match=r"-1|non-negative|None or an integer"):
        RealtimeDataset.open(folder).events(skip=skip, limit=limit)


def test_whole_messages_can_be_had(folder: Path) -> None:
    dataset = RealtimeDataset.open(folder)
    first, *rest = dataset.messages(limit=3)
    assert isinstance(first, RealtimeEvent)
    assert first.event.id == EventId(1, 10)
    assert [isinstance(each, UnreadableEvent) for each in rest] == [False, True]
    assert dataset.read(3).event.id == EventId(2, 40)
    with pytest.raises(InvalidRealtimeMessage, match=r"c\.json.*no JSON document"):
        dataset.read(2)


def test_skipped_messages_are_not_opened(folder: Path) -> None:
    dataset = RealtimeDataset.open(folder)
    (folder / "a.pkl").unlink()
    assert ids(list(dataset.events(skip=1))) == [20, None, 40]


def test_what_cannot_be_read_says_why_and_has_a_name_of_its_own(folder: Path) -> None:
    (folder / "e.json").write_bytes(b"")
    first, second = (item for item in RealtimeDataset.open(folder) if isinstance(item, UnreadableEvent))
    assert f"{folder}/c.json" in str(first.error)
    assert "this is no JSON document" in str(first.error)
    assert first.error.event_id == str(first.id)
    assert first.id.run_id == second.id.run_id == 0
    assert first.id != second.id
    assert 0 <= first.id.event_id < 2**63
    again = next(RealtimeDataset.open(folder).events(skip=2))
    assert again.id == first.id


def test_a_file_that_disappears_spoils_its_event_only(folder: Path) -> None:
    dataset = RealtimeDataset.open(folder)
    (folder / "b.json").unlink()
    items = list(dataset)
    assert ids(items) == [10, None, None, 40]
    assert isinstance(items[1], UnreadableEvent)
    assert "no such file" in str(items[1].error)


@pytest.mark.parametrize(
    ("run_ids", "event_ids", "expected"),
    [
        ([1], None, [10, 20]),
        (None, [40, 10], [10, 40]),
        ([2], [40, 10], [40]),
    ],
)
def test_events_can_be_chosen(
    folder: Path, run_ids: list[int] | None, event_ids: list[int] | None, expected: list[int]
) -> None:
    dataset = RealtimeDataset.open(folder, run_ids=run_ids, event_ids=event_ids)
    assert ids(list(dataset)) == expected
    assert dataset.n_events == len(expected)


def test_a_choice_of_nothing_is_refused_with_what_is_there(folder: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"readable are 1\.10\.0, 1\.20\.0, 2\.40\.0, and 1 are not"):
        RealtimeDataset.open(folder, event_ids=[30])


def test_the_files_of_a_folder_are_sorted_whether_they_are_messages_or_not(folder: Path) -> None:
    assert [path.name for path in realtime_files(folder)] == ["a.pkl", "b.json", "c.json", "d.json"]
    assert realtime_files(folder / "notes.txt") == [folder / "notes.txt"]


def test_a_place_without_messages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"no realtime messages; expected files that end in \.json"):
        realtime_files(tmp_path)
    with pytest.raises(InvalidDataset, match="no such file or folder"):
        realtime_files(tmp_path / "nowhere")


def test_messages_are_told_from_other_files(folder: Path) -> None:
    (folder / "skymap.json").write_text('{"nside-8": {"columns": ["index"], "data": [[0]]}}')
    names = [path.name for path in sorted(folder.iterdir()) if is_realtime_file(path)]
    assert names == ["a.pkl", "b.json", "c.json", "d.json"]
    assert not is_realtime_file(folder / "nowhere.json")


def test_places_with_messages_are_told_from_others(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kaggle = write_folder(tmp_path_factory.mktemp("kaggle"))
    assert holds_realtime_files(folder)
    assert holds_realtime_files(folder / "a.pkl")
    assert not holds_realtime_files(kaggle)
    assert not holds_realtime_files(kaggle / "train_meta.parquet")
    assert not holds_realtime_files(folder / "notes.txt")
    assert not holds_realtime_files(folder / "nowhere")


@pytest.mark.skipif(not REAL_EVENTS.exists(), reason=f"the real events in {REAL_EVENTS} are not there")
def test_real_events_are_a_data_set() -> None:
    assert all(map(is_realtime_file, realtime_files(REAL_EVENTS)))
    events = list(RealtimeDataset.open(REAL_EVENTS))
    assert [str(event.id) for event in events] == [
        "138632.31747601.0",
        "127907.16605651.0",
        "127908.38887237.0",
        "127909.75816173.0",
        "136766.7637140.0",
    ]
    assert all(isinstance(event, Event) for event in events)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRealtimeMessage, match="no such file; expected a realtime message"):
        read_realtime_event(tmp_path)
    with pytest.raises(InvalidRealtimeMessage, match="no such file"):
        read_realtime_event(tmp_path / "nowhere.json")


def test_an_event_is_the_same_alone_and_in_a_data_set(folder: Path) -> None:
    alone = read_realtime_event(folder / "a.pkl")
    (event,) = RealtimeDataset.open(folder / "a.pkl")
    assert isinstance(event, Event)
    assert alone.event.id == event.id == EventId(1, 10)
    assert alone.source == str(folder / "a.pkl")
    assert alone.event.pulses.time_ns.tolist() == event.pulses.time_ns.tolist()
