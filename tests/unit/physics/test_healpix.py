import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.healpix import (
    MAX_NSIDE,
    centres,
    children,
    n_pixels,
    parents,
    pixel_area_sr,
    pixels_at,
    pixels_within,
    to_nested,
)

nsides = st.integers(0, 20).map(lambda order: 1 << order)
coarse_nsides = st.sampled_from((1, 2, 4, 8, 16))
directions = st.builds(unit_vectors, st.floats(0, 2 * np.pi), st.floats(0, np.pi))
shares = st.floats(0, 1, exclude_max=True)
"""Where a pixel is in the order of all."""


def all_pixels(nside: int) -> np.ndarray:
    return np.arange(n_pixels(nside))


@given(nsides)
def test_pixels_of_equal_area_fill_the_sphere(nside: int) -> None:
    assert n_pixels(nside) * pixel_area_sr(nside) == pytest.approx(4 * math.pi)


def test_finest_pixels_are_a_fifth_of_an_arc_second() -> None:
    assert math.degrees(math.sqrt(pixel_area_sr(MAX_NSIDE))) * 3600 == pytest.approx(0.2, rel=0.05)


def test_coarsest_pixels_are_where_the_standard_says() -> None:
    # Source: K. M. Gorski et al., ApJ 622 (2005) 759, figure 4: three rings of four.
    found = centres(1, all_pixels(1))

    np.testing.assert_allclose(found[:, 2], np.repeat([2 / 3, 0, -2 / 3], 4), atol=1e-12)
    np.testing.assert_allclose(found[4:8, :2], [[1, 0], [0, 1], [-1, 0], [0, -1]], atol=1e-12)


@given(nsides, shares)
def test_centre_of_a_pixel_is_in_it(nside: int, share: float) -> None:
    pixel = int(share * n_pixels(nside))

    centre = centres(nside, pixel)

    assert np.linalg.norm(centre) == pytest.approx(1)
    assert pixels_at(nside, centre) == pixel


@given(nsides, directions)
def test_every_direction_is_in_a_pixel_beside_it(nside: int, direction: np.ndarray) -> None:
    pixel = pixels_at(nside, direction)

    assert 0 <= pixel < n_pixels(nside)
    # The farthest corner of any pixel is less than 1.4 times its side away.
    assert opening_angles_rad(centres(nside, pixel), direction) < 1.4 * math.sqrt(pixel_area_sr(nside))


@given(coarse_nsides)
def test_ring_order_goes_from_north_to_south_and_eastwards(nside: int) -> None:
    found = centres(nside, all_pixels(nside))
    longitude = np.arctan2(found[:, 1], found[:, 0]) % (2 * np.pi)

    assert (np.diff(found[:, 2]) < 1e-12).all()
    is_same_ring = np.abs(np.diff(found[:, 2])) < 1e-9
    assert (np.diff(longitude)[is_same_ring] > 0).all()


@given(coarse_nsides, st.sampled_from((1, 2, 4, 8)))
def test_children_share_the_sphere_and_know_their_parents(nside: int, factor: int) -> None:
    inside = children(nside, all_pixels(nside), nside * factor)

    assert inside.shape == (n_pixels(nside), factor**2)
    np.testing.assert_array_equal(np.sort(inside, axis=None), all_pixels(nside * factor))
    np.testing.assert_array_equal(
        parents(nside * factor, inside, nside), np.repeat(all_pixels(nside)[:, None], factor**2, 1)
    )


@given(nsides.filter(lambda nside: nside > 1), shares)
def test_a_centre_is_in_the_parent_of_its_pixel(nside: int, share: float) -> None:
    pixel = np.array([int(share * n_pixels(nside))])

    np.testing.assert_array_equal(
        parents(nside, pixel, nside // 2), pixels_at(nside // 2, centres(nside, pixel))
    )


@given(coarse_nsides)
def test_a_pixel_is_its_own_child_and_parent_at_its_own_resolution(nside: int) -> None:
    pixel = all_pixels(nside)

    np.testing.assert_array_equal(children(nside, pixel, nside), pixel[:, None])
    np.testing.assert_array_equal(parents(nside, pixel, nside), pixel)


@given(coarse_nsides)
def test_nested_indices_keep_children_together(nside: int) -> None:
    pixel = all_pixels(nside)

    assert sorted(to_nested(nside, pixel).tolist()) == pixel.tolist()
    np.testing.assert_array_equal(
        to_nested(2 * nside, children(nside, pixel, 2 * nside)),
        4 * to_nested(nside, pixel)[:, None] + np.arange(4),
    )


@given(coarse_nsides, directions, st.floats(0, 3.2))
def test_pixels_within_a_radius_are_those_whose_centre_is(
    nside: int, centre: np.ndarray, radius: float
) -> None:
    away = opening_angles_rad(centres(nside, all_pixels(nside)), centre)
    is_clear = np.abs(away - radius) > 1e-9

    is_found = np.isin(all_pixels(nside), pixels_within(nside, centre, radius))

    np.testing.assert_array_equal(is_found[is_clear], (away < radius)[is_clear])


@given(coarse_nsides, directions, st.floats(0, 3.2))
def test_pixels_within_a_radius_come_once_and_in_order(nside: int, centre: np.ndarray, radius: float) -> None:
    assert (np.diff(pixels_within(nside, centre, radius)) > 0).all()


@given(coarse_nsides, shares)
def test_nothing_is_within_no_radius(nside: int, share: float) -> None:
    centre = centres(nside, int(share * n_pixels(nside)))

    assert len(pixels_within(nside, centre, 0.0)) == 0
    assert len(pixels_within(nside, centre, -1.0)) == 0


@pytest.mark.parametrize("radius", [math.pi, 4.0, math.inf])
@pytest.mark.parametrize("pole", [1.0, -1.0])
def test_everything_is_within_half_a_turn(radius: float, pole: float) -> None:
    np.testing.assert_array_equal(pixels_within(1, [0.0, 0.0, pole], radius), all_pixels(1))
