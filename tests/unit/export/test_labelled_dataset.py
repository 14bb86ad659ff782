from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from export.dataset import Chunk, ChunkShape, KaggleChunks, held_out_events, label
from export.labelled_dataset import LabelledDataset, Part
from icestream.errors import InvalidDataset, InvalidDetector
from icestream.physics.detector import Detector, icecube86
from icestream.physics.features import FeatureArray
from icestream.readers.geometry import write_sensor_geometry
from tests.support.kaggle_files import change, drop, write_batches, write_folder

N_BATCHES, N_EVENTS = 3, 40
SHAPE = ChunkShape(n_events=25, max_batch=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Event ids 0..119; event i has 1 + i % 5 pulses."""
    return write_batches(tmp_path, n_batches=N_BATCHES, n_events=N_EVENTS)


def ids(folder: Path, part: Part) -> list[int]:
    return [event.id.event_id for event in LabelledDataset.open(folder).events((part,))]


def chunks(folder: Path, first: int, n: int) -> list[Chunk]:
    return list(islice(KaggleChunks(SHAPE, folder).chunks(first), n))


def test_every_event_is_for_one_thing_only(folder: Path) -> None:
    calibration, test = ids(folder, Part.CALIBRATION), ids(folder, Part.TEST)
    assert (calibration, test) == ([0, 20, 40, 60, 80, 100], [1, 21, 41, 61, 81, 101])
    assert sorted(calibration + test + ids(folder, Part.TRAINING)) == list(range(N_BATCHES * N_EVENTS))


def test_training_sees_each_of_its_events_once_a_pass(folder: Path) -> None:
    blocks = LabelledDataset.open(folder).training_blocks(0, size=30)
    one_pass = [event.id.event_id for block in islice(blocks, 4) for event in block]
    assert one_pass == ids(folder, Part.TRAINING)
    assert [event.id.event_id for event in next(blocks)] == one_pass[: len(range(2, 20)) + len(range(22, 30))]


def test_chunks_start_anywhere_also_in_later_passes(folder: Path) -> None:
    undisturbed = chunks(folder, 0, 12)
    for first in (1, 4, 5, 9):
        for actual, expected in zip(chunks(folder, first, 3), undisturbed[first:], strict=False):
            for one, other in zip(actual, expected, strict=True):
                np.testing.assert_array_equal(one.pulses, other.pulses)
                np.testing.assert_array_equal(one.directions, other.directions)


def test_a_start_in_the_second_file_does_not_read_the_first(folder: Path) -> None:
    path = folder / "train/batch_1.parquet"
    with path.open("r+b") as file:
        # The footer stays whole; the pages do not.
        file.seek(4)
        file.write(b"\xff" * (path.stat().st_size // 4))
    with pytest.raises(InvalidDataset, match="batch_1"):
        chunks(folder, 0, 1)
    assert chunks(folder, 2, 1)


def test_own_geometry_says_where_the_pulses_are(folder: Path) -> None:
    detector = Detector("own", icecube86().positions_m + 7.0, np.ones(5160))
    write_sensor_geometry(detector, folder / "sensor_geometry.csv")
    np.testing.assert_allclose(first_table(folder)[0, :3], detector.positions_m[0], rtol=1e-6)


def test_icecube_is_taken_where_there_is_no_geometry(folder: Path) -> None:
    np.testing.assert_allclose(first_table(folder)[0, :3], icecube86().positions_m[0], rtol=1e-6)


def first_table(folder: Path) -> FeatureArray:
    """What the model reads of event 0, whose only pulse is at sensor 0."""
    data = LabelledDataset.open(folder)
    return label(islice(data.events(tuple(Part)), 1), data.detector).tables[0]


def test_a_damaged_geometry_is_an_error_not_icecube(folder: Path) -> None:
    (folder / "sensor_geometry.csv").write_text("sensor_id,x,y\n0,1,2\n")
    with pytest.raises(InvalidDetector, match="column z is missing"):
        LabelledDataset.open(folder)


def test_useless_events_are_passed_over(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path,
        event_ids=(2, 3, 4),
        edit_pulses=change("sensor_id", 3, 6000),
        edit_meta=change("azimuth", 2, None),
    )
    assert ids(folder, Part.TRAINING) == [2]
    (block,) = islice(LabelledDataset.open(folder).training_blocks(0, size=3), 1)
    assert [event.id.event_id for event in block] == [2]


def test_a_data_set_of_useless_events_says_what_is_wrong_with_the_first(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, event_ids=(2, 3, 4))
    write_sensor_geometry(Detector("one", np.zeros((1, 3)), np.ones(1)), folder / "sensor_geometry.csv")
    with pytest.raises(InvalidDataset, match=r"no events for training.*event 1\.2.*sensor 2"):
        ids(folder, Part.TRAINING)


def test_a_data_set_without_directions_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, edit_meta=drop("azimuth", "zenith"))
    with pytest.raises(InvalidDataset, match="no true directions"):
        LabelledDataset.open(folder)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"expected train_meta\.parquet"):
        LabelledDataset.open(tmp_path)
    with pytest.raises(InvalidDataset, match="not a folder"):
        LabelledDataset.open(tmp_path / "missing")


def test_a_data_set_without_events_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    meta = pq.read_table(folder / "train_meta.parquet")
    pq.write_table(meta.slice(0, 0), folder / "train_meta.parquet")
    with pytest.raises(InvalidDataset, match="no events"):
        LabelledDataset.open(folder)


def test_too_few_events_for_a_calibration_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"6 events .* one of 20 .* at least 20"):
        held_out_events(folder, 1000)
