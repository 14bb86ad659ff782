from dataclasses import replace

import numpy as np
import pytest

from icestream.scans.skymap import Level, Skymap
from icestream.skymaps.levels import CALIBRATED, WILKS, ContourLevels, levels_for
from tests.unit.skymaps.skymap_cases import level_of, skymap_of

TRACK, CASCADE = 0, 1


def a_level(nside: int, winner: int) -> Level:
    """Three pixels, of which the best has another hypothesis than the others."""
    level = level_of(nside, [1, 2, 3], np.array([7.0, np.nan, 5.0]))
    return replace(level, hypothesis=np.array([1 - winner, 1 - winner, winner]))


def a_map(reco: str, winner: int = TRACK, finest_nside: int = 512) -> Skymap:
    return skymap_of(a_level(8, winner), a_level(finest_nside, winner), reco=reco)


def test_fits_that_were_calibrated_have_levels_of_their_own() -> None:
    assert levels_for(a_map("track_mpe")) is CALIBRATED["track_mpe"]


def test_the_track_of_best_is_the_same_fit() -> None:
    assert levels_for(a_map("best", TRACK)) is CALIBRATED["track_mpe"]


@pytest.mark.parametrize("reco", ["best", "cascade"])
def test_cascades_have_the_levels_of_wilks(reco: str) -> None:
    assert levels_for(a_map(reco, CASCADE)) is WILKS


def test_coarser_maps_than_the_calibrated_ones_have_the_levels_of_wilks() -> None:
    assert levels_for(a_map("track_mpe", finest_nside=256)) is WILKS


def test_a_map_without_results_has_the_levels_of_wilks() -> None:
    assert levels_for(skymap_of(reco="track_mpe")) is WILKS
    failed = replace(a_level(512, TRACK), llh=np.full(3, np.nan))
    assert levels_for(skymap_of(failed, reco="track_mpe")) is WILKS


@pytest.mark.parametrize("pair", [(0.0, 1.0), (2.0, 1.0), (1.0, np.inf), (np.nan, 2.0)])
def test_levels_that_do_not_ascend_are_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        ContourLevels("made up", *pair)
