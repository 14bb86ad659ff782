import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.pandel import (
    LAMBDA_M,
    delay_rate_per_ns,
    draw_delay_ns,
    effective_distance_m,
    pandel_log_pdf,
    scattering_scale_m,
)
from icestream.physics.randomness import random_stream

distances_m = st.floats(5, 150)


@given(distances_m, st.floats(10, 80), st.floats(18, 276))
def test_density_integrates_to_one(distance: float, scale: float, absorption: float) -> None:
    # In log(t), because the density diverges at 0 for short distances.
    log_delay = np.linspace(-200, np.log(1e6), 100_001)
    log_pdf = pandel_log_pdf(np.exp(log_delay), distance, scale, absorption)

    assert np.trapezoid(np.exp(log_pdf + log_delay), log_delay) == pytest.approx(1, abs=1e-3)


def test_light_never_arrives_before_it_can() -> None:
    assert (pandel_log_pdf([-1e3, -1e-9, 0.0], 50.0) == -np.inf).all()


@given(distances_m)
def test_drawn_delays_follow_the_density(distance: float) -> None:
    rng = random_stream(1, round(distance * 1e6))
    delays = [draw_delay_ns(rng, distance, LAMBDA_M, 98.0) for _ in range(4000)]

    shape, rate = distance / LAMBDA_M, delay_rate_per_ns(98.0)
    five_sigma = 5 * np.sqrt(shape) / rate / np.sqrt(len(delays))
    assert np.mean(delays) == pytest.approx(shape / rate, abs=five_sigma)


@given(st.floats(0, 150), st.floats(0, 1))
def test_module_that_looks_away_sees_later_light(distance: float, cosine: float) -> None:
    assert effective_distance_m(distance, -cosine) >= effective_distance_m(distance, cosine) > 0


def test_average_ice_has_the_published_scale() -> None:
    assert scattering_scale_m(29.0) == LAMBDA_M


def test_arguments_broadcast() -> None:
    assert pandel_log_pdf(np.ones((3, 1)), np.ones(4)).shape == (3, 4)
