from pathlib import Path

import pytest

from icestream.errors import InvalidDataset, InvalidInput
from icestream.readers.datasets import open_dataset
from icestream.readers.kaggle import KaggleDataset
from icestream.readers.realtime import RealtimeDataset
from tests.support.kaggle_files import write_folder
from tests.unit.readers.realtime.realtime_messages import Message


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "kaggle")


@pytest.fixture
def message(tmp_path: Path) -> Path:
    folder = tmp_path / "alerts"
    folder.mkdir()
    path = folder / "alert.json"
    path.write_bytes(Message().as_json())
    return path


def test_each_kind_is_opened_as_what_it_is(kaggle: Path, message: Path) -> None:
    assert isinstance(open_dataset(kaggle), KaggleDataset)
    for path in (message, message.parent):
        dataset = open_dataset(path)
        assert isinstance(dataset, RealtimeDataset)
        assert dataset.files == (message,)


def test_a_message_within_a_kaggle_data_set_changes_nothing(kaggle: Path, message: Path) -> None:
    message.rename(kaggle / message.name)
    assert isinstance(open_dataset(kaggle), KaggleDataset)


def test_choices_reach_either_kind(kaggle: Path, message: Path) -> None:
    chosen = open_dataset(
        kaggle, detector="water", run_ids=[1], event_ids=[next(iter(KaggleDataset.open(kaggle))).id.event_id]
    )
    assert (chosen.detector, chosen.n_events) == ("water", 1)
    assert open_dataset(message, run_ids=[123456], event_ids=[789]).n_events == 1
    with pytest.raises(InvalidDataset, match=r"no event of the chosen run and number"):
        open_dataset(message, run_ids=[1])


def test_a_damaged_message_is_left_to_the_reader_of_messages(message: Path) -> None:
    message.write_bytes(b"\x00")
    assert isinstance(open_dataset(message), RealtimeDataset)
    assert isinstance(open_dataset(message.parent), RealtimeDataset)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            "nowhere",
            "no such file or folder; expected the folder of a Kaggle data set, with train_meta.parquet",
        ),
        (".", "no events in this folder; expected .* files that end in .json, .pkl, .pickle"),
        ("kaggle/train_meta.parquet", "a single file of a Kaggle data set; name its folder"),
    ],
)
def test_what_holds_no_events_is_refused_with_what_would_be_right(
    kaggle: Path, place: str, words: str
) -> None:
    with pytest.raises(InvalidDataset, match=words):
        open_dataset(kaggle.parent / place)


def test_choices_that_mean_nothing_for_messages_are_refused(message: Path) -> None:
    with pytest.raises(InvalidInput, match="have no split 'train'; leave it out"):
        open_dataset(message, split="train")
    with pytest.raises(InvalidInput, match="are of icecube86, not of 'water'"):
        open_dataset(message, detector="water")
