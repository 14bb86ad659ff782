import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from icestream.physics.detector import icecube86

SURVEY = Path(__file__).parents[4] / "shared/data/detector/icecube86.csv"

# Modules of these strings hang off the regular spacing by up to so many metres.
IRREGULAR_STRINGS_M = {1: 4.0, 8: 2.0, 21: 2.0, 29: 2.0, 43: 2.0, 48: 2.0, 70: 2.0, 79: 2.0, 83: 2.0}


@pytest.fixture(scope="module")
def survey() -> list[dict[str, str]]:
    if not SURVEY.exists():
        pytest.skip(f"the surveyed table {SURVEY} is not part of the repository")
    with SURVEY.open(newline="") as file:
        return list(csv.DictReader(file))


def nearest_string_distances_m() -> NDArray[np.float64]:
    tops = icecube86().positions_m.reshape(86, 60, 3)[:78, 0, :2]
    distances = np.linalg.norm(tops[:, None] - tops[None], axis=-1)
    return np.sort(distances, axis=1)[:, 1]


def test_modules_hang_where_the_survey_found_them(survey: list[dict[str, str]]) -> None:
    surveyed = np.array([[float(row[axis]) for axis in "xyz"] for row in survey])
    deviations = np.linalg.norm(surveyed - icecube86().positions_m, axis=1)

    by_string = deviations.reshape(86, 60).max(axis=1)
    for string, deviation in enumerate(by_string, start=1):
        assert deviation < IRREGULAR_STRINGS_M.get(string, 1.0), f"string {string}"
    assert np.count_nonzero(deviations > 1.0) <= 13


def test_new_photomultipliers_are_where_the_survey_found_them(survey: list[dict[str, str]]) -> None:
    # Two modules of the table have no efficiency.
    known = [i for i, row in enumerate(survey) if row["relative_efficiency"]]
    surveyed = np.array([float(survey[i]["relative_efficiency"]) for i in known])

    assert len(known) == 5158
    np.testing.assert_array_equal(icecube86().efficiency[known], surveyed)


def test_detector_has_the_published_size() -> None:
    detector = icecube86()
    z = detector.positions_m[:, 2]

    assert detector.n_sensors == 5160
    assert -513 <= z.min() < -500
    assert 520 < z.max() <= 525


def test_strings_stand_on_the_published_grid() -> None:
    nearest = nearest_string_distances_m()

    assert np.median(nearest) == pytest.approx(124.3, abs=0.2)
    assert nearest.min() == pytest.approx(97, abs=0.5)
    assert nearest.max() == pytest.approx(125.3, abs=0.2)


def test_deepcore_spares_the_dust_layer() -> None:
    z = icecube86().positions_m.reshape(86, 60, 3)[78:, :, 2]
    gaps = -np.diff(z, axis=1)

    np.testing.assert_allclose(gaps[:, :9], 10.0)
    np.testing.assert_allclose(gaps[:, 9], 257.3)
    np.testing.assert_allclose(gaps[:, 10:], 7.0)


def test_shared_arrays_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        icecube86().positions_m[0, 0] = 0.0
