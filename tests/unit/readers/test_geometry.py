from pathlib import Path

import numpy as np
import pytest

from icestream.errors import InvalidDetector
from icestream.physics.detector import Detector
from icestream.readers.geometry import read_sensor_geometry, write_sensor_geometry


def write(folder: Path, text: str) -> Path:
    path = folder / "my_telescope.csv"
    path.write_bytes(text.encode())
    return path


def test_rows_may_come_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path, "sensor_id,x,y,z\n1,4,5,6\n0,1,2,3.5\n")

    detector = read_sensor_geometry(path)

    assert detector.name == "my_telescope"
    assert detector.positions_m.tolist() == [[1, 2, 3.5], [4, 5, 6]]
    assert detector.efficiency.tolist() == [1, 1]


def test_the_caller_may_name_the_detector(tmp_path: Path) -> None:
    assert read_sensor_geometry(write(tmp_path, "sensor_id,x,y,z\n0,1,2,3\n"), "gvd").name == "gvd"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffsensor_id,x,y,z\r\n0,1,2,3\r\n",
        "z,y,x,sensor_id\n3,2,1,0\n",
        "string,sensor_id,x,y,z,note\n1,0,1,2,3,dead\n",
        '\n"sensor_id", x, y, z\n\n 0 , 1e0 ,2.0, 3\n\n',
    ],
    ids=["spreadsheet", "other-order", "more-columns", "blanks-and-quotes"],
)
def test_what_people_write_is_accepted(tmp_path: Path, text: str) -> None:
    assert read_sensor_geometry(write(tmp_path, text)).positions_m.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no sensors"),
        ("sensor_id,x,y,z\n", "no sensors"),
        ("sensor_id,x,y\n0,1,2\n", "line 1: column z is missing; expected the header sensor_id,x,y,z"),
        ("sensor_id,x,x,y,z\n0,1,1,2,3\n", "line 1: column x is twice"),
        ("0,1,2,3\n", "line 1: column sensor_id is missing"),
        ("sensor_id,x,y,z\n0,1,2,3\n\n1,1,north,3\n", "line 4, column y: 'north' is not a position"),
        ("sensor_id,x,y,z\n0,1,2\n", "line 2, column z: None is not a position; expected finite metres"),
        ("sensor_id,x,y,z\n0,nan,2,3\n", "line 2, column x: 'nan' is not a position"),
        ("sensor_id,x,y,z\n0,1,-inf,3\n", "line 2, column y: '-inf' is not a position"),
        ("sensor_id,x,y,z\n-1,1,2,3\n", "line 2, column sensor_id: '-1' is not a sensor id"),
        ("sensor_id,x,y,z\n0.5,1,2,3\n", "line 2, column sensor_id: '0.5' is not a sensor id"),
        ("sensor_id,x,y,z\n65536,1,2,3\n", "expected an integer of 0..65535"),
        ("sensor_id,x,y,z\n0,1,2,3\n0,1,2,4\n", "line 3, column sensor_id: sensor 0 is on line 2 already"),
        (
            "sensor_id,x,y,z\n0,1,2,3\n2,1,2,3\n",
            "line 3, column sensor_id: sensor 2 is there but sensor 1 is not",
        ),
        ('sensor_id,x,y,z\n0,1,2,"3\n', "not a readable csv file"),
    ],
)
def test_a_refusal_names_the_place_and_what_would_be_right(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(InvalidDetector) as refused:
        read_sensor_geometry(path)

    assert str(path) in str(refused.value)
    assert problem in str(refused.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "geometry.csv"
    path.write_bytes(b"\xff\xfe\x00PAR1")
    with pytest.raises(InvalidDetector, match="not a readable csv file"):
        read_sensor_geometry(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDetector, match="no such file"):
        read_sensor_geometry(tmp_path / "geometry.csv")


def test_positions_survive_writing_to_the_last_bit(tmp_path: Path) -> None:
    positions_m = np.random.default_rng(1).normal(scale=300, size=(500, 3))
    detector = Detector("array", positions_m, np.full(500, 1.35))

    write_sensor_geometry(detector, tmp_path / "array.csv")

    assert np.array_equal(read_sensor_geometry(tmp_path / "array.csv").positions_m, positions_m)
    assert [path.name for path in tmp_path.iterdir()] == ["array.csv"]
