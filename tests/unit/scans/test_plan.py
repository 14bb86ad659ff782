import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.errors import InvalidScan
from icestream.physics import healpix
from icestream.physics.directions import angles, opening_angles_rad, unit_vectors
from icestream.scans.plan import (
    MAX_PIXELS,
    check_size,
    displacements,
    expected_pixels,
    first_pixels,
    pixels_to_refine,
    spread,
)
from icestream.scans.progression import DEFAULT_PROGRESSION, Progression
from icestream.scans.request import Pointing

NARROW = Pointing(1.0, 2.0, math.radians(3.5))
longitudes = st.floats(0, 2 * math.pi)
colatitudes = st.floats(0, math.pi)


def test_the_default_progression_is_expected_to_plan_as_many_pixels_as_documented() -> None:
    assert expected_pixels(DEFAULT_PROGRESSION, None) == (768, 768, 1536)
    assert expected_pixels(DEFAULT_PROGRESSION, NARROW) == (1, 768, 1536)


def test_an_extension_beyond_the_sky_counts_as_all_of_it() -> None:
    assert expected_pixels(Progression.parse("1:0,2:100"), None) == (12, 48)


@pytest.mark.parametrize("text", ["8:0,64:12,512:24", "512:0", "1:0,2:12,4:12", "512:0,1024:24"])
def test_sensible_progressions_are_accepted(text: str) -> None:
    check_size(Progression.parse(text), None)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("1024:0", "a coarser first level or a pointing"),
        ("8:0,1048576:12", "a smaller extension or a level between"),
        ("256:0,512:999999,1024:1000001", "a smaller extension"),
    ],
)
def test_a_scan_that_nobody_would_wait_for_is_refused_and_the_cure_is_said(text: str, cure: str) -> None:
    with pytest.raises(InvalidScan, match=f"at most {MAX_PIXELS} are possible, so choose {cure}"):
        check_size(Progression.parse(text), None)


def test_a_pointed_scan_may_begin_finely() -> None:
    check_size(Progression.parse("1024:0"), NARROW)
    with pytest.raises(InvalidScan, match="a pointing"):
        check_size(Progression.parse("1024:0"), Pointing(0.0, 1.0, 3.0))


@pytest.mark.parametrize(
    ("pointing", "reason"),
    [
        (Pointing(math.nan, 1.0, 0.1), "longitude"),
        (Pointing(math.inf, 1.0, 0.1), "longitude"),
        (Pointing(1.0, -0.1, 0.1), "colatitude"),
        (Pointing(1.0, math.nan, 0.1), "colatitude"),
        (Pointing(1.0, 1.0, -0.1), "radius"),
        (Pointing(1.0, 1.0, 3.2), "radius"),
        (Pointing(1.0, 1.0, math.nan), "radius"),
    ],
)
def test_a_pointing_that_is_no_part_of_the_sky_is_refused(pointing: Pointing, reason: str) -> None:
    with pytest.raises(InvalidScan, match=reason):
        check_size(DEFAULT_PROGRESSION, pointing)


@pytest.mark.parametrize("nside", [1, 2, 8, 64])
def test_the_whole_sky_has_twelve_nside_squared_pixels(nside: int) -> None:
    np.testing.assert_array_equal(first_pixels(nside, None), np.arange(12 * nside**2))


@given(longitudes, colatitudes, st.floats(0.0, 1.0), st.sampled_from([1, 4, 16]))
def test_a_pointed_scan_begins_with_the_disc_and_the_pixel_at_its_centre(
    longitude: float, colatitude: float, radius: float, nside: int
) -> None:
    pixel = first_pixels(nside, Pointing(longitude, colatitude, radius))

    centre = unit_vectors(longitude, colatitude)
    holder = int(healpix.pixels_at(nside, centre))
    distance = opening_angles_rad(healpix.centres(nside, np.arange(12 * nside**2)), centre)
    assert holder in pixel
    assert set(np.flatnonzero(distance < radius - 1e-9)) <= set(pixel.tolist())
    assert set(pixel.tolist()) <= set(np.flatnonzero(distance < radius + 1e-9)) | {holder}


def test_around_a_coarse_pixels_own_centre_ten_are_refined_on_average() -> None:
    centres = healpix.centres(8, np.arange(768))
    counts = [len(pixels_to_refine(8, 64, 12, centre)) / 64 for centre in centres]
    assert (min(counts), max(counts)) == (9, 13)
    assert np.mean(counts) == pytest.approx(10.1, abs=0.1)


@pytest.mark.parametrize(("nside", "extension", "fewest", "most"), [(8, 12, 9, 15), (64, 24, 21, 27)])
def test_around_any_direction_about_as_many_are_refined_as_skymap_scanner_does(
    nside: int, extension: int, fewest: int, most: int
) -> None:
    vectors = np.random.default_rng(1).normal(size=(3000, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counts = np.array([len(pixels_to_refine(nside, 2 * nside, extension, vector)) / 4 for vector in vectors])
    assert np.mean(counts) == pytest.approx(extension, abs=0.1)
    # Three in a thousand directions have one pixel more or less.
    assert np.mean((counts >= fewest) & (counts <= most)) > 0.99
    assert (counts.min() >= fewest - 1) & (counts.max() <= most + 1)


@given(longitudes, colatitudes, st.integers(1, 30))
def test_the_pixel_that_holds_the_best_direction_is_always_refined(
    longitude: float, colatitude: float, extension: int
) -> None:
    centre = unit_vectors(longitude, colatitude)
    pixel = pixels_to_refine(4, 16, extension, centre)
    assert int(healpix.pixels_at(16, centre)) in pixel
    assert len(set(pixel.tolist())) == len(pixel)


@given(st.integers(0, 3000))
def test_spreading_keeps_every_pixel(n: int) -> None:
    np.testing.assert_array_equal(np.sort(spread(np.arange(n))), np.arange(n))


def test_half_a_level_samples_all_of_the_sky() -> None:
    half = spread(np.arange(768))[:384]
    gaps = np.diff(np.sort(half), prepend=-1, append=768)
    assert gaps.max() <= 5


def test_offsets_stay_as_they_are_unless_a_reco_turns_them() -> None:
    offset = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(displacements(unit_vectors([1.0], [1.0]), offset, rotates=False), offset)


@given(longitudes, colatitudes)
def test_turned_offsets_are_rotated_about_y_and_then_about_z(longitude: float, colatitude: float) -> None:
    direction = unit_vectors([longitude], [colatitude])
    azimuth, zenith = (float(angle[0]) for angle in angles(direction))
    c, s = math.cos(zenith), math.sin(zenith)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = math.cos(azimuth), math.sin(azimuth)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    offset = np.array([3.0, -4.0, 12.0])
    turned = displacements(direction, offset[None], rotates=True)[0]
    np.testing.assert_allclose(turned, about_z @ about_y @ offset, atol=1e-12)
    assert np.linalg.norm(turned) == pytest.approx(13.0)
    assert turned @ direction[0] == pytest.approx(12.0)


def test_turning_does_not_add_up_over_pixels() -> None:
    direction = np.repeat(unit_vectors([0.7], [1.3]), 5, axis=0)
    turned = displacements(direction, np.tile([20.0, 0.0, 0.0], (5, 1)), rotates=True)
    assert np.ptp(turned, axis=0).max() == 0.0
