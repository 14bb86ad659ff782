import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.directions import angles, opening_angles_rad, unit_vectors

azimuths = st.floats(0, 2 * np.pi, exclude_max=True)
zeniths = st.floats(0, np.pi)


@given(azimuths, zeniths)
def test_unit_vectors_have_unit_length(azimuth: float, zenith: float) -> None:
    assert np.linalg.norm(unit_vectors(azimuth, zenith)) == pytest.approx(1)


@given(azimuths, st.floats(1e-3, np.pi - 1e-3))
def test_angles_return_what_unit_vectors_were_made_of(azimuth: float, zenith: float) -> None:
    again_azimuth, again_zenith = angles(unit_vectors(azimuth, zenith))

    turn = (again_azimuth - azimuth + np.pi) % (2 * np.pi) - np.pi
    assert turn == pytest.approx(0, abs=1e-9)
    assert again_zenith == pytest.approx(zenith, abs=1e-9)


@given(st.tuples(*[st.floats(-1e6, 1e6)] * 3), st.floats(1e-3, 1e3))
def test_angles_stay_in_range_and_ignore_length(vector: tuple[float, float, float], scale: float) -> None:
    azimuth, zenith = angles(vector)

    assert 0 <= azimuth < 2 * np.pi
    assert 0 <= zenith <= np.pi


def test_azimuth_of_a_tiny_negative_angle_is_below_two_pi() -> None:
    azimuth, _ = angles([1.0, -1e-20, 0.0])

    assert azimuth == 0.0


def test_axes_point_where_the_data_format_says() -> None:
    np.testing.assert_allclose(unit_vectors(0.0, np.pi / 2), [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(unit_vectors(np.pi / 2, np.pi / 2), [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(unit_vectors(1.0, 0.0), [0, 0, 1], atol=1e-15)


@given(azimuths, zeniths, st.floats(1e-12, np.pi))
def test_opening_angle_is_exact_at_any_size(azimuth: float, zenith: float, angle: float) -> None:
    first = unit_vectors(azimuth, zenith)
    sideways = unit_vectors(azimuth, zenith + np.pi / 2)
    second = np.cos(angle) * first + np.sin(angle) * sideways

    # What float64 vectors can hold at all is 1e-16.
    assert opening_angles_rad(first, second) == pytest.approx(angle, rel=1e-9, abs=5e-16)


def test_functions_keep_leading_dimensions() -> None:
    vectors = unit_vectors(np.zeros((2, 3)), np.ones((2, 3)))

    assert vectors.shape == (2, 3, 3)
    assert angles(vectors)[0].shape == (2, 3)
    assert opening_angles_rad(vectors, vectors).shape == (2, 3)


def test_a_vector_at_the_end_of_the_range_of_numbers_has_angles() -> None:
    azimuth, zenith = angles([1.7e308, 1.7e308, 0.0])
    np.testing.assert_allclose([azimuth, zenith], [np.pi / 4, np.pi / 2])
