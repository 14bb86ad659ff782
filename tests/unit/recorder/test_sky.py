import numpy as np
import pytest

from icestream.physics import celestial
from icestream.physics.directions import opening_angles_rad
from services.recorder.sky import sky_vectors

ARC_SECOND_RAD = np.pi / 180 / 3600


def directions(n: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    vectors = np.random.default_rng(5).normal(size=(n, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("first_unix_ns", [1_300_000_000 * 10**9, 1_790_000_000 * 10**9, -(10**18)])
def test_each_direction_is_where_the_exact_computation_has_it(first_unix_ns: int) -> None:
    vectors, unix_ns = directions(60), first_unix_ns + np.arange(60) * 601_000_000_007
    exact = np.vstack(
        [
            celestial.to_equatorial(vector, moment)
            for vector, moment in zip(vectors, unix_ns.tolist(), strict=True)
        ]
    )
    assert opening_angles_rad(sky_vectors(vectors, unix_ns), exact).max() < 0.1 * ARC_SECOND_RAD


def test_the_vectors_stay_unit_vectors() -> None:
    found = sky_vectors(directions(10), np.full(10, 1_790_000_000_123_456_789))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-12)


def test_without_a_time_there_is_no_place_in_the_sky() -> None:
    found = sky_vectors(directions(2), np.array([0, 1_790_000_000 * 10**9]))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_nothing_is_nowhere() -> None:
    assert sky_vectors(np.empty((0, 3)), np.empty(0, np.int64)).shape == (0, 3)
