import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from icestream.physics.convoluted_pandel import blurred_log_pdf, blurred_log_sf, log_pdf, log_sf, tabulate
from icestream.physics.pandel import LAMBDA_M, delay_rate_per_ns, pandel_log_pdf

RHO_PER_NS = delay_rate_per_ns(98.0)
shapes = st.floats(math.log(0.01), math.log(60)).map(math.exp)
rhos = st.floats(0.0025, 0.02)
sigmas = st.floats(5, 100)
near_s = st.floats(-10, 40)
"""Delay over the blur."""


def integrated_log_pdf(delay: float, shape: float, rho: float, sigma: float) -> float:
    """The convolution by adaptive quadrature; the singularity at 0 is a weight of its own."""
    s, r = delay / sigma, rho * sigma
    peak = (s - r + math.hypot(s - r, 2 * math.sqrt(shape))) / 2

    def log_smooth(u: float) -> float:
        return -r * u - (s - u) ** 2 / 2

    edge, at_peak = min(1.0, peak), log_smooth(peak) + (shape - 1) * math.log(peak)
    head, _ = integrate.quad(
        lambda u: math.exp(log_smooth(u) - at_peak), 0, edge, weight="alg", wvar=(shape - 1, 0)
    )
    body, _ = integrate.quad(
        lambda u: math.exp(log_smooth(u) + (shape - 1) * math.log(u) - at_peak),
        edge,
        peak + 14,
        points=sorted({max(edge, peak - 1), peak, peak + 1}),
        limit=200,
    )
    log_norm = shape * math.log(r) - math.lgamma(shape) - math.log(sigma * math.sqrt(2 * math.pi))
    return log_norm + at_peak + math.log(head + body)


@given(near_s, shapes, rhos, sigmas)
def test_density_is_the_convolution(s: float, shape: float, rho: float, sigma: float) -> None:
    expected = integrated_log_pdf(s * sigma, shape, rho, sigma)

    assert log_pdf(s * sigma, shape, rho, sigma) == pytest.approx(expected, abs=1e-5)


@given(st.floats(-10, 300), rhos, sigmas)
def test_shape_one_is_the_exponentially_modified_gaussian(s: float, rho: float, sigma: float) -> None:
    law = stats.exponnorm(1 / (rho * sigma), scale=sigma)

    assert log_pdf(s * sigma, 1.0, rho, sigma) == pytest.approx(law.logpdf(s * sigma), abs=1e-5)
    assert log_sf(s * sigma, 1.0, rho, sigma) == pytest.approx(law.logsf(s * sigma), abs=1e-5)


@given(st.floats(-10, 10_000 / 5), st.floats(0.1, 20), shapes, rhos, sigmas)
def test_survival_falls_by_the_integrated_density(
    s: float, width: float, shape: float, rho: float, sigma: float
) -> None:
    delay = min(s * sigma, 10_000)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    later = delay + width * sigma
    within = np.exp(log_pdf((delay + later) / 2 + width * sigma / 2 * nodes, shape, rho, sigma))
    log_start = log_sf(delay, shape, rho, sigma)

    survived = np.exp(log_sf(later, shape, rho, sigma) - log_start)
    lost = np.exp(np.log(within @ weights * width * sigma / 2) - log_start)

    assert survived + lost == pytest.approx(1, abs=1e-5)


@given(shapes, rhos, sigmas)
def test_all_light_arrives_some_time(shape: float, rho: float, sigma: float) -> None:
    assert log_sf(-40 * sigma, shape, rho, sigma) == 0
    assert log_sf(10 * sigma + (shape + 100) / rho, shape, rho, sigma) < -30


@pytest.mark.parametrize(("delay", "shape"), [(2000.0, 5.0), (9000.0, 0.3), (10_000.0, 40.0)])
def test_rare_late_light_is_counted_like_the_law_seen_from_each_blur(delay: float, shape: float) -> None:
    sigma = 15.0
    z, dz = np.linspace(-10, 10, 2001, retstep=True)

    law = stats.gamma(shape, scale=1 / 0.015)
    expected = np.log(np.sum(stats.norm.pdf(z) * law.sf(delay - sigma * z)) * dz)

    assert log_sf(delay, shape, 0.015, sigma) == pytest.approx(expected, abs=1e-6)


@given(st.floats(1, 5000), shapes)
def test_without_blur_it_is_the_law_itself(delay: float, shape: float) -> None:
    sharp = log_pdf(delay, shape, RHO_PER_NS, delay * 1e-4)

    assert sharp == pytest.approx(pandel_log_pdf(delay, shape * LAMBDA_M), abs=1e-4)


@given(shapes, st.floats(5, 20))
def test_late_light_follows_the_law_delayed_by_the_blur(shape: float, sigma: float) -> None:
    # Completing the square moves the law by rho sigma^2 and scales it.
    moved = pandel_log_pdf(1e5 - RHO_PER_NS * sigma**2, shape * LAMBDA_M)
    scale = -((RHO_PER_NS * sigma) ** 2) / 2

    assert log_pdf(1e5, shape, RHO_PER_NS, sigma) == pytest.approx(moved + scale, abs=1e-3)


@given(st.floats(-30, 9), sigmas)
def test_no_distance_leaves_the_gaussian(s: float, sigma: float) -> None:
    law = stats.norm(scale=sigma)

    assert log_pdf(s * sigma, 0.0, RHO_PER_NS, sigma) == pytest.approx(law.logpdf(s * sigma), abs=1e-5)
    assert log_sf(s * sigma, 0.0, RHO_PER_NS, sigma) == pytest.approx(law.logsf(s * sigma), abs=1e-5)


@given(shapes, rhos, sigmas)
def test_survival_never_grows(shape: float, rho: float, sigma: float) -> None:
    delays = 10 * np.sinh(np.linspace(np.arcsinh(-10 * sigma / 10), np.arcsinh(1000), 2000))
    log_survival = log_sf(delays, shape, rho, sigma)

    assert (log_survival <= 0).all()
    assert np.diff(log_survival).max() < 1e-6


@given(st.floats(-1e6, 1e6), st.floats(0, 300), rhos, st.floats(0.5, 300))
def test_it_is_finite_far_beyond_what_happens(delay: float, shape: float, rho: float, sigma: float) -> None:
    assert np.isfinite(log_pdf(delay, shape, rho, sigma))
    assert np.isfinite(log_sf(delay, shape, rho, sigma))


def test_table_holds_the_values_of_its_grid() -> None:
    delays, grid = np.array([-50.0, 0.0, 30.0, 4000.0]), np.array([0.1, 2.0, 30.0])

    log_pdfs, log_sfs = tabulate(delays, grid, 0.004, 15.0)

    assert log_pdfs.shape == log_sfs.shape == (4, 3)
    assert log_pdfs[2, 1] == blurred_log_pdf(30.0, 2.0, 0.004, 15.0)
    assert log_sfs[3, 0] == blurred_log_sf(4000.0, 0.1, 0.004, 15.0)


def test_arguments_broadcast() -> None:
    assert log_pdf(np.ones((3, 1)), np.ones(4), 0.01, 10.0).shape == (3, 4)
    assert log_sf(np.ones((3, 1)), np.ones(4), 0.01, 10.0).shape == (3, 4)
