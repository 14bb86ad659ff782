from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from icestream.physics.randomness import (
    RandomState,
    exponential,
    gamma,
    normal,
    poisson,
    random_stream,
    uniform,
)

N = 20_000


def draws(draw: Callable[[RandomState], float], index: int = 0) -> NDArray[np.float64]:
    rng = random_stream(12, index)
    return np.array([draw(rng) for _ in range(N)])


def assert_moments(values: NDArray[np.float64], mean: float, variance: float) -> None:
    assert values.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / N))
    assert values.var() == pytest.approx(variance, rel=0.15)


def test_uniform_draws_fill_the_unit_interval() -> None:
    values = draws(uniform)

    assert_moments(values, 1 / 2, 1 / 12)
    assert 0 <= values.min() < 1e-3
    assert 1 - 1e-3 < values.max() < 1


def test_exponential_draws_have_mean_one() -> None:
    assert_moments(draws(exponential), 1, 1)


def test_normal_draws_have_unit_width_and_no_skew() -> None:
    values = draws(normal)

    assert_moments(values, 0, 1)
    assert (values**3).mean() == pytest.approx(0, abs=0.15)
    assert (values**4).mean() == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 9.99, 10.01, 40.0, 1e5])
def test_poisson_draws_have_equal_mean_and_variance(mean: float) -> None:
    assert_moments(draws(lambda rng: poisson(rng, mean)), mean, mean)


@pytest.mark.parametrize("shape", [0.05, 0.5, 1.0, 2.5, 30.0])
def test_gamma_draws_have_the_moments_of_their_shape(shape: float) -> None:
    values = draws(lambda rng: gamma(rng, shape))

    assert values.mean() == pytest.approx(shape, abs=5 * np.sqrt(shape / N))
    assert values.var() == pytest.approx(shape, rel=0.25)


def test_poisson_of_nothing_is_nothing() -> None:
    assert poisson(random_stream(1, 1), 0.0) == 0


def test_streams_are_reproducible() -> None:
    np.testing.assert_array_equal(draws(uniform, 7), draws(uniform, 7))


def test_neighbouring_streams_share_nothing() -> None:
    first = np.array([[uniform(random_stream(seed, index)) for index in range(200)] for seed in range(20)])

    assert len(np.unique(first)) == first.size
    assert abs(np.corrcoef(first)[0, 1:]).max() < 0.35


def test_named_streams_never_change() -> None:
    # Frozen, because a change would silently turn every named sample into another one.
    rng = random_stream(1, 2)

    first = [uniform(rng) for _ in range(3)]
    assert first == [0.26017786757353356, 0.23749954186932332, 0.40041197472909085]
