from dataclasses import replace

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from icestream.errors import InvalidSkymap
from icestream.physics import healpix
from icestream.physics.directions import angles, opening_angles_rad
from icestream.skymaps.levels import IC160427A, WILKS, ContourLevels
from icestream.skymaps.regions import (
    Region,
    best_of,
    probabilities,
    regions_of,
)
from tests.unit.skymaps.skymap_cases import (
    direction,
    disc_area_deg2,
    gaussian,
    incomparable_levels,
    level_of,
    refined,
    skymap_of,
    three_levels,
    whole_sky,
    without_fits,
)

FloatArray = NDArray[np.float64]

CENTRE = direction(40.0, 20.0)
PLACES = pytest.mark.parametrize(
    "centre",
    [CENTRE, direction(0.1, -3.0), direction(120.0, 89.8), direction(300.0, -89.4), direction(200.0, 41.8)],
    ids=["anywhere", "meridian", "north pole", "south pole", "cap's edge"],
)


def assert_closed(region: Region) -> None:
    for line in region.outlines:
        assert len(line) > 3
        np.testing.assert_array_equal(line[0], line[-1])
        np.testing.assert_allclose(np.linalg.norm(line, axis=1), 1)


def is_enclosed(region: Region, vectors: FloatArray, middle: FloatArray) -> NDArray[np.bool_]:
    """Whether directions lie inside an odd number of lines, seen on a plane that touches at `middle`."""
    east = np.cross((0.3, 0.5, 0.8), middle)
    east /= np.linalg.norm(east)

    def plane(v: FloatArray) -> FloatArray:
        scale = 1 / (1 + v @ middle)
        return np.column_stack((scale * (v @ east), scale * (v @ np.cross(middle, east))))

    inside = [Polygon(plane(line), closed=True).contains_points(plane(vectors)) for line in region.outlines]
    return np.asarray(np.sum(inside, axis=0) % 2 == 1)


@PLACES
@pytest.mark.parametrize(("nside", "sigma_deg"), [(512, 0.6), (256, 2.0), (128, 6.0)])
def test_areas_of_a_round_minimum_are_right_within_5_percent(
    centre: FloatArray, nside: int, sigma_deg: float
) -> None:
    llh = gaussian(centre, sigma_deg)
    fine = refined(nside, 8, centre, 3 * sigma_deg + 8, llh)
    regions = regions_of(skymap_of(whole_sky(8, llh), fine))

    for region in (regions.inner, regions.outer):
        wanted = disc_area_deg2(sigma_deg, region.two_delta_llh)
        assert region.area_deg2 == pytest.approx(wanted, rel=0.05)
        assert not region.is_open


@PLACES
def test_outline_of_a_round_minimum_is_a_circle(centre: FloatArray) -> None:
    regions = regions_of(three_levels(centre, 0.8))

    for region in (regions.inner, regions.outer):
        assert_closed(region)
        (line,) = region.outlines
        radii_deg = np.degrees(opening_angles_rad(line, centre))
        np.testing.assert_allclose(radii_deg, 0.8 * np.sqrt(region.two_delta_llh), atol=0.06)


@PLACES
def test_outlines_enclose_the_centres_inside_and_no_others(centre: FloatArray) -> None:
    regions = regions_of(three_levels(centre, 3.0))
    tiles, region = regions.cover, regions.outer

    near = np.flatnonzero(np.degrees(opening_angles_rad(tiles.centres, centre)) < 20)
    np.testing.assert_array_equal(is_enclosed(region, tiles.centres[near], centre), region.is_inside[near])


def test_region_of_two_pieces_has_two_outlines() -> None:
    def llh(vectors: FloatArray) -> FloatArray:
        return np.minimum(
            gaussian(direction(359.0, 10.0), 3.0)(vectors),
            gaussian(direction(100.0, -40.0), 5.0, 1001.0)(vectors),
        )

    regions = regions_of(skymap_of(whole_sky(64, llh)))

    assert len(regions.inner.outlines) == 1
    assert len(regions.outer.outlines) == 2
    assert_closed(regions.outer)
    means = [line.mean(axis=0) for line in regions.outer.outlines]
    apart_deg = sorted(
        float(np.degrees(opening_angles_rad(mean / np.linalg.norm(mean), direction(100.0, -40.0))))
        for mean in means
    )
    assert apart_deg[0] < 0.5
    assert apart_deg[1] > 80
    assert regions.outer.area_deg2 == pytest.approx(
        disc_area_deg2(3, 4.61) + disc_area_deg2(5, 2.61), rel=0.05
    )


def test_region_with_a_hole_has_an_outline_around_it() -> None:
    def llh(vectors: FloatArray) -> FloatArray:
        return 0.5 * (np.degrees(opening_angles_rad(vectors, CENTRE)) - 20) ** 2

    region = regions_of(skymap_of(whole_sky(32, llh))).outer

    assert len(region.outlines) == 2
    radii_deg = sorted(float(np.degrees(opening_angles_rad(line, CENTRE).mean())) for line in region.outlines)
    assert radii_deg == pytest.approx([20 - 4.61**0.5, 20 + 4.61**0.5], abs=0.3)


def test_rectangle_reaches_across_the_meridian() -> None:
    regions = regions_of(three_levels(direction(0.1, 60.0), 0.5))
    reach = regions.outer.rectangle
    radius_deg = 0.5 * np.sqrt(4.61)

    assert reach.latitude_plus_deg == pytest.approx(radius_deg, abs=0.1)
    assert reach.latitude_minus_deg == pytest.approx(radius_deg, abs=0.1)
    assert reach.longitude_plus_deg == pytest.approx(radius_deg / np.cos(np.radians(60)), abs=0.2)
    assert reach.longitude_minus_deg == pytest.approx(radius_deg / np.cos(np.radians(60)), abs=0.2)


def test_rectangle_around_a_pole_reaches_all_around() -> None:
    reach = regions_of(three_levels(direction(0.0, -89.7), 0.5)).outer.rectangle

    assert (reach.longitude_plus_deg, reach.longitude_minus_deg) == (180, 180)
    assert reach.latitude_minus_deg < 0.5
    assert reach.latitude_plus_deg > 0.7


def test_rectangle_holds_all_pieces() -> None:
    def llh(vectors: FloatArray) -> FloatArray:
        return np.minimum(
            gaussian(direction(350.0, 0.0), 3.0)(vectors),
            gaussian(direction(30.0, -40.0), 3.0, 1000.5)(vectors),
        )

    reach = regions_of(skymap_of(whole_sky(64, llh))).outer.rectangle

    assert 40 < reach.longitude_plus_deg < 50
    assert 5 < reach.longitude_minus_deg < 8
    assert reach.latitude_minus_deg == pytest.approx(40 + 3 * 3.61**0.5, abs=1)


def test_flat_map_is_inside_everywhere() -> None:
    regions = regions_of(skymap_of(whole_sky(4, lambda vectors: np.full(len(vectors), 7.0))))

    assert regions.inner.outlines == ()
    assert regions.outer.area_deg2 == pytest.approx(41252.96)
    assert regions.outer.rectangle.longitude_plus_deg == 180
    assert (
        regions.outer.rectangle.latitude_plus_deg + regions.outer.rectangle.latitude_minus_deg
        == pytest.approx(180)
    )
    assert not regions.outer.is_open


def test_single_pixel_of_the_coarsest_sky_has_an_outline() -> None:
    regions = regions_of(skymap_of(whole_sky(1, gaussian(healpix.centres(1, 4), 3.0))))

    assert regions.outer.n_pixels == 1
    assert_closed(regions.outer)
    (line,) = regions.outer.outlines
    assert np.degrees(opening_angles_rad(line, healpix.centres(1, 4))).max() < 10


@pytest.mark.parametrize("n_pixels", [1, 2])
def test_map_of_hardly_any_pixel_is_open(n_pixels: int) -> None:
    regions = regions_of(skymap_of(level_of(512, np.arange(n_pixels) + 1_000_000, gaussian(CENTRE, 50.0))))

    assert regions.outer.n_pixels == n_pixels
    assert regions.outer.is_open
    assert_closed(regions.outer)


def test_region_at_the_border_of_a_pointed_map_is_open() -> None:
    pixel = healpix.pixels_within(64, CENTRE, np.radians(5))
    narrow, wide = (regions_of(skymap_of(level_of(64, pixel, gaussian(CENTRE, s)))) for s in (1.0, 3.0))

    assert not narrow.outer.is_open
    assert not wide.inner.is_open
    assert wide.outer.is_open


def test_finest_level_alone_decides_where_levels_do_not_compare() -> None:
    skymap = incomparable_levels(CENTRE, 0.5)
    alone = regions_of(skymap_of(skymap.levels[-1]))

    regions = regions_of(skymap)

    assert (regions.best.nside, regions.best.pixel) == (512, alone.best.pixel)
    assert regions.outer.area_deg2 == alone.outer.area_deg2
    assert regions.outer.rectangle == alone.outer.rectangle
    assert not regions.outer.is_open


def test_region_larger_than_the_finest_levels_footprint_is_open_where_levels_do_not_compare() -> None:
    skymap = three_levels(CENTRE, 3.0)

    assert not regions_of(skymap).outer.is_open
    alone = regions_of(replace(skymap, levels_compare=False))
    assert alone.outer.is_open
    assert alone.outer.area_deg2 == pytest.approx(len(skymap.levels[-1]) * 41252.96 / healpix.n_pixels(512))


def test_coarse_pixel_that_is_best_of_all_leaves_the_regions_around_finer_ones() -> None:
    skymap = three_levels(CENTRE, 0.5)
    coarse = skymap.levels[0]
    best = int(healpix.pixels_at(8, CENTRE))
    lucky = replace(coarse, llh=np.where(coarse.pixel == best, 900.0, coarse.llh))

    regions = regions_of(replace(skymap, levels=(lucky, *skymap.levels[1:])))

    assert (regions.best.nside, regions.best.pixel) == (8, best)
    assert regions.outer.area_deg2 == pytest.approx(disc_area_deg2(0.5, 4.61), rel=0.05)


def test_failed_pixels_are_never_best_and_never_inside() -> None:
    level = whole_sky(32, gaussian(CENTRE, 5.0))
    is_failed = np.degrees(opening_angles_rad(healpix.centres(32, level.pixel), CENTRE)) < 4
    regions = regions_of(skymap_of(without_fits(level, is_failed)))

    assert not is_failed[regions.best.row]
    inside = healpix.pixels_at(32, regions.cover.centres[regions.outer.is_inside])
    assert not np.isin(inside, np.flatnonzero(is_failed)).any()
    # What failed was looked at: the region does not reach unknown sky.
    assert not regions.outer.is_open
    assert len(regions.outer.outlines) == 2
    assert np.isfinite(probabilities(regions)).all()


def test_map_without_any_fit_is_refused() -> None:
    level = whole_sky(2, lambda vectors: np.full(len(vectors), np.nan))

    with pytest.raises(InvalidSkymap, match="successful fit"):
        best_of(skymap_of(level))
    with pytest.raises(InvalidSkymap, match="successful fit"):
        best_of(skymap_of())


def test_best_direction_is_the_pixels_centre() -> None:
    best = best_of(three_levels(CENTRE, 0.5))

    assert np.degrees(opening_angles_rad(best.centre, CENTRE)) < 0.08
    np.testing.assert_allclose(best.centre, healpix.centres(512, best.pixel))
    assert best.llh == pytest.approx(1000, abs=0.02)


@pytest.mark.parametrize("levels", [WILKS, IC160427A])
def test_probabilities_put_nine_tenths_into_the_outer_region(levels: ContourLevels) -> None:
    sigma_deg = 0.8 / np.sqrt(levels.two_delta_llh_90 / 4.61)
    regions = regions_of(three_levels(CENTRE, sigma_deg), levels)
    values = probabilities(regions)

    assert values.sum() == pytest.approx(1)
    assert values[regions.outer.is_inside].sum() == pytest.approx(0.9, abs=0.02)


def test_probabilities_are_zero_where_nothing_was_looked_at() -> None:
    pixel = healpix.pixels_within(64, CENTRE, np.radians(4))
    regions = regions_of(skymap_of(level_of(64, pixel, gaussian(CENTRE, 1.0))))
    values = probabilities(regions)

    assert values.sum() == pytest.approx(1)
    np.testing.assert_array_equal(values[~regions.cover.is_scanned], 0)


def test_deep_maps_lose_nothing_to_underflow() -> None:
    regions = regions_of(three_levels(CENTRE, 0.001))

    assert probabilities(regions).sum() == pytest.approx(1)


def test_calibrated_levels_are_wider() -> None:
    skymap = three_levels(CENTRE, 0.2)
    calibrated = regions_of(skymap, ContourLevels("simulation", 5.0, 20.0))

    assert calibrated.outer.area_deg2 == pytest.approx(disc_area_deg2(0.2, 20.0), rel=0.05)
    assert calibrated.levels.method == "simulation"


@pytest.mark.parametrize(("inner", "outer"), [(0.0, 1.0), (4.61, 1.39), (1.0, np.inf), (np.nan, 2.0)])
def test_levels_that_do_not_ascend_are_refused(inner: float, outer: float) -> None:
    with pytest.raises(ValueError, match="ascend"):
        ContourLevels("wrong", inner, outer)


def test_longitudes_of_outlines_stay_in_range() -> None:
    for line in regions_of(three_levels(direction(0.0, 0.0), 0.5)).outer.outlines:
        longitude, _ = angles(line)
        assert longitude.min() < 0.1
        assert longitude.max() > 6.1
