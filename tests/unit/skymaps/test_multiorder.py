import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icestream.errors import InvalidSkymap
from icestream.physics import healpix
from icestream.scans.skymap import Level
from icestream.skymaps.multiorder import COARSER_OFFSET, Cover, comparable_levels, cover, deciding_level
from icestream.skymaps.neighbours import neighbours
from tests.unit.skymaps.skymap_cases import (
    direction,
    gaussian,
    incomparable_levels,
    level_of,
    skymap_of,
    three_levels,
    whole_sky,
    without_fits,
)

CENTRE = direction(40.0, 20.0)


def assert_tiles_the_sphere(tiles: Cover) -> None:
    """Each pixel begins where the one before ends, from the first of the sphere to its last."""
    ends = tiles.starts + (1 << 2 * (tiles.max_order - tiles.order))
    np.testing.assert_array_equal(tiles.starts[1:], ends[:-1])
    assert tiles.starts[0] == 0
    assert ends[-1] == healpix.n_pixels(1 << tiles.max_order)


@st.composite
def any_levels(draw: st.DrawFn) -> list[Level]:
    nsides = draw(st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=1, max_size=3, unique=True))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    levels = []
    for nside in sorted(nsides):
        n = healpix.n_pixels(nside)
        pixel = np.sort(rng.choice(n, rng.integers(0, min(n, 60) + 1), replace=False))
        levels.append(level_of(nside, pixel, rng.normal(size=len(pixel))))
    return levels


@settings(deadline=None)
@given(any_levels())
def test_any_levels_tile_the_sphere_with_the_finest_pixel_there_is(levels: list[Level]) -> None:
    tiles = cover(levels)

    assert_tiles_the_sphere(tiles)
    assert tiles.area_sr.sum() == pytest.approx(4 * np.pi)
    vectors = np.random.default_rng(0).normal(size=(200, 3))
    rows = tiles.rows_at(vectors)
    for i, vector in enumerate(vectors):
        expected, source = np.nan, 0
        for level in levels:
            found = np.flatnonzero(level.pixel == healpix.pixels_at(level.nside, vector))
            if len(found):
                expected, source = level.llh[found[0]], level.nside
        np.testing.assert_equal(tiles.llh[rows[i]], expected)
        assert tiles.source_nside[rows[i]] == source


def test_part_of_a_coarse_pixel_keeps_its_value_where_children_are_missing() -> None:
    coarse = whole_sky(1, lambda vectors: np.arange(len(vectors), dtype=float))
    child = healpix.children(1, np.array([4]), 4)[0, 5]

    tiles = cover([coarse, level_of(4, [child], np.array([-7.0]))])

    assert_tiles_the_sphere(tiles)
    # One of 16 children: three siblings of its own size, three of its parent's.
    in_pixel = (tiles.llh == 4) | (tiles.llh == -7)
    assert np.bincount(tiles.order[in_pixel]).tolist() == [0, 3, 4]
    assert len(tiles) == 11 + 7
    np.testing.assert_array_equal(tiles.source_nside[tiles.llh == -7], [4])


def test_sky_that_was_not_looked_at_is_there_without_value() -> None:
    tiles = cover([level_of(64, healpix.pixels_within(64, CENTRE, 0.05), gaussian(CENTRE, 1.0))])

    assert_tiles_the_sphere(tiles)
    np.testing.assert_array_equal(np.isfinite(tiles.llh), tiles.is_scanned)
    assert 0 < tiles.is_scanned.sum() < len(tiles)


def test_failed_pixels_are_there_without_value() -> None:
    level = whole_sky(2, gaussian(CENTRE, 10.0))
    tiles = cover([without_fits(level, level.pixel < 5)])

    assert np.isnan(tiles.llh).sum() == 5
    assert tiles.is_scanned.all()


def test_default_scan_is_a_small_cover() -> None:
    tiles = cover(three_levels(CENTRE, 0.5).levels)

    assert_tiles_the_sphere(tiles)
    assert set(np.unique(tiles.order)) == {3, 6, 9}
    assert len(tiles) < 5000


def test_neighbours_of_a_fine_pixel_are_fine_pixels_and_parts_of_coarse_ones() -> None:
    coarse = whole_sky(1, gaussian(CENTRE, 50.0))
    fine = level_of(4, np.sort(healpix.children(1, np.array([4]), 4).ravel()), gaussian(CENTRE, 50.0))
    tiles = cover([coarse, fine])
    corner = int(np.flatnonzero(tiles.order == 2)[0])

    around = neighbours(tiles, np.array([corner]))

    assert set(tiles.order[around.rows]) == {2}
    assert set(tiles.order[around.part_of]) == {0}
    assert set(around.part_order) == {2}
    assert len(around.all_rows) < len(around.rows) + len(around.part_of)


def test_finest_level_with_a_result_decides() -> None:
    skymap = three_levels(CENTRE, 1.0)
    finest = skymap.levels[-1]
    failed = without_fits(finest, np.ones(len(finest), np.bool_))

    assert deciding_level(skymap) is finest
    assert deciding_level(skymap_of(*skymap.levels[:2], failed)) is skymap.levels[1]
    with pytest.raises(InvalidSkymap, match="no pixel with a successful fit"):
        deciding_level(skymap_of(failed))


def test_levels_that_do_not_compare_are_shifted_to_just_above_the_deciding_one() -> None:
    skymap = incomparable_levels(CENTRE, 1.0)

    *coarse, finest = comparable_levels(skymap)

    assert finest is skymap.levels[-1]
    for before, after in zip(skymap.levels, coarse, strict=False):
        assert after.llh.min() == finest.llh.min() + COARSER_OFFSET
        np.testing.assert_allclose(np.diff(after.llh), np.diff(before.llh), atol=1e-9)


def test_levels_that_compare_stay_as_they_are() -> None:
    skymap = three_levels(CENTRE, 1.0)

    assert comparable_levels(skymap) is skymap.levels
