from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from icestream.errors import InvalidSkymap
from icestream.physics.directions import opening_angles_rad
from icestream.scans.request import Frame
from icestream.skymaps.levels import ContourLevels
from icestream.skymaps.partial import partial_file
from icestream.skymaps.regions import regions_of
from icestream.skymaps.results import write_contours, write_results
from icestream.skymaps.summary import summarise
from tests.unit.skymaps.skymap_cases import (
    direction,
    gaussian,
    incomparable_levels,
    skymap_of,
    three_levels,
    whole_sky,
    without_fits,
)

CENTRE = direction(224.1, 41.3)
STEM = "run00136766.evt000007637140.neutrino_8_64_512"
ENDINGS = [
    "json",
    "npz",
    "multiorder.fits",
    "flat.fits.gz",
    "contours.ecsv",
    "sky.png",
    "sky.pdf",
    "zoom.png",
    "zoom.pdf",
]


def test_everything_is_written_and_nothing_else(tmp_path: Path) -> None:
    skymap = incomparable_levels(CENTRE, 0.5)

    paths = write_results(skymap, tmp_path / "new" / "place", truth=CENTRE)

    assert [path.name for path in paths] == [f"{STEM}.{ending}" for ending in ENDINGS]
    assert sorted(paths) == sorted((tmp_path / "new" / "place").iterdir())


def test_detectors_frame_has_all_but_skyreaders_files(tmp_path: Path) -> None:
    skymap = three_levels(CENTRE, 0.5, frame=Frame.DETECTOR, start_unix_ns=0)

    paths = write_results(skymap, tmp_path)

    assert [path.name for path in paths] == [f"{STEM}.{ending}" for ending in ENDINGS[2:]]
    assert Table.read(paths[2]).colnames == ["percent", "piece", "azimuth_deg", "zenith_deg"]


def test_map_without_any_fit_writes_nothing(tmp_path: Path) -> None:
    level = whole_sky(1, gaussian(CENTRE, 5.0))
    skymap = skymap_of(without_fits(level, np.ones(12, np.bool_)))

    with pytest.raises(InvalidSkymap, match="successful fit"):
        write_results(skymap, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_contours_hold_every_piece_closed(tmp_path: Path) -> None:
    def llh(vectors: np.ndarray) -> np.ndarray:
        return np.minimum(
            gaussian(direction(359.5, 10.0), 3.0)(vectors),
            gaussian(direction(100.0, -40.0), 5.0, 1001.0)(vectors),
        )

    skymap = skymap_of(whole_sky(32, llh))
    regions = regions_of(skymap, ContourLevels("simulation", 1.5, 5.0))
    table = Table.read(write_contours(skymap, regions, tmp_path / "contours.ecsv"))

    assert {(row["percent"], row["piece"]) for row in table} == {(50, 0), (90, 0), (90, 1)}
    for piece in (0, 1):
        rows = table[(table["percent"] == 90) & (table["piece"] == piece)]
        assert (rows["ra_deg"][0], rows["dec_deg"][0]) == (rows["ra_deg"][-1], rows["dec_deg"][-1])
        line = direction(np.asarray(rows["ra_deg"]), np.asarray(rows["dec_deg"]))
        np.testing.assert_allclose(line, regions.outer.outlines[piece], atol=1e-7)
    assert table.meta["method"] == "simulation"
    assert table.meta["area_deg2"][90] == regions.outer.area_deg2


def test_contours_of_a_flat_map_are_an_empty_table(tmp_path: Path) -> None:
    skymap = skymap_of(whole_sky(1, lambda vectors: np.zeros(len(vectors))))

    assert len(Table.read(write_contours(skymap, regions_of(skymap), tmp_path / "contours.ecsv"))) == 0


def test_summary_states_the_result_in_both_frames() -> None:
    skymap = three_levels(CENTRE, 0.5)
    summary = summarise(skymap, regions_of(skymap))

    assert summary.right_ascension_deg == pytest.approx(224.1, abs=0.1)
    assert summary.declination_deg == pytest.approx(41.3, abs=0.1)
    # GOLD's stored zenith angle at nearly this direction is 130.60.
    assert summary.zenith_deg == pytest.approx(131.2, abs=0.1)
    assert summary.azimuth_deg is not None
    assert summary.mjd == 59754.67588432013
    assert (summary.nside, summary.hypothesis) == (512, ("track", "cascade")[regions_of(skymap).best.row % 2])
    assert summary.evidence == pytest.approx(3.0)
    assert (summary.inner.share, summary.outer.share) == (0.5, 0.9)
    assert (summary.outer.n_outlines, summary.outer.is_open, summary.method) == (1, False, "Wilks")
    assert [level.n_pixels for level in summary.levels] == [len(level) for level in skymap.levels]


def test_summary_without_time_knows_one_frame() -> None:
    skymap = three_levels(CENTRE, 0.5, start_unix_ns=0)
    sky = summarise(skymap, regions_of(skymap))
    detector_map = replace(skymap, frame=Frame.DETECTOR)
    detector = summarise(detector_map, regions_of(detector_map))

    assert (sky.azimuth_deg, sky.zenith_deg, sky.mjd) == (None, None, None)
    assert sky.right_ascension_deg == pytest.approx(224.1, abs=0.1)
    assert (detector.right_ascension_deg, detector.declination_deg) == (None, None)
    assert detector.zenith_deg == pytest.approx(90 - 41.3, abs=0.1)


def test_summary_counts_what_is_missing() -> None:
    level = without_fits(whole_sky(8, gaussian(CENTRE, 5.0)), np.arange(768) < 3)
    level = replace(level, missing=np.array([5, 9]), is_complete=False, rival_llh=np.full(768, np.nan))
    skymap = skymap_of(level, is_complete=False, hypotheses=())
    summary = summarise(skymap, regions_of(skymap))

    assert (summary.levels[0].n_failed, summary.levels[0].n_missing, summary.is_complete) == (3, 2, False)
    assert (summary.evidence, summary.hypothesis) == (None, "")


def test_detector_map_of_known_time_has_a_sky_direction() -> None:
    skymap = three_levels(CENTRE, 0.5)
    sky = summarise(skymap, regions_of(skymap))
    assert sky.azimuth_deg is not None
    assert sky.zenith_deg is not None
    there = three_levels(direction(sky.azimuth_deg, 90 - sky.zenith_deg), 0.5, frame=Frame.DETECTOR)

    back = summarise(there, regions_of(there))

    assert back.right_ascension_deg is not None
    assert back.declination_deg is not None
    found = direction(back.right_ascension_deg, back.declination_deg)
    assert np.degrees(opening_angles_rad(found, CENTRE)) < 0.2


def test_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with partial_file(path) as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
