"""How late scattered light seems to arrive when its times are blurred: Pandel's law convolved with a Gaussian.

Source of the problem: van Eijndhoven et al., Astropart. Phys. 28 (2007) 456, arXiv:0704.1706. Their patches of
approximations are replaced by sums that converge exponentially and hold everywhere: the density and the
survival function each to 1e-6 of itself. Below, times are in units of the blur: s = t / sigma, r = rho sigma.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.physics.compiled import compiled

FloatArray = NDArray[np.float64]

MIN_SHAPE = 1e-30
"""Smaller ones, 0 among them, are all the Gaussian alone."""
LOG_SQRT_2PI = math.log(2 * math.pi) / 2
MAX_LOG_STEP = 0.18
"""Of the sums over the logarithm of the unblurred delay; the error falls as exp(-pi^2 / 2 / step)"""
STEP_PER_WIDTH = 0.8
"""or, where the summed terms are a narrow peak, with the square of its width over the step."""
NEGLIGIBLE = 1e-17
"""Terms smaller than this part of the sum end it."""
HEAD = 1e-3
"""Below this delay, in units of the integrand's scale, the sums are geometric series to a relative 1e-6."""
EDGE = 8.0
"""The blur reaches this far: 1e-15 of a Gaussian lies beyond."""
FAR = EDGE + 2.0
"""Later than this, the blurred edge of a survival function is far enough from the law's singularity at 0."""
MAX_TERMS = 1000
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)

_DENSITY, _BEFORE, _AFTER = 0, 1, 2
"""What `_log_blurred` weighs the unblurred delays with: a Gaussian or one of its two tails."""


def log_pdf(delay_ns: ArrayLike, shape: ArrayLike, rho_per_ns: ArrayLike, sigma_ns: ArrayLike) -> FloatArray:
    """Log density of a blurred delay.

    Args:
        delay_ns: Time after the unscattered photon; shape (...,), may be negative.
        shape: Effective distance over the scattering scale, the law's xi; at least 0; broadcasts.
        rho_per_ns: The law's rate, see `delay_rate_per_ns`; broadcasts.
        sigma_ns: Standard deviation of the blur; above 0; broadcasts.

    Returns:
        log(1/ns).
    """
    columns = np.broadcast_arrays(delay_ns, shape, rho_per_ns, sigma_ns)
    return _log_pdfs(*map(_flat, columns)).reshape(columns[0].shape)


def log_sf(delay_ns: ArrayLike, shape: ArrayLike, rho_per_ns: ArrayLike, sigma_ns: ArrayLike) -> FloatArray:
    """Log probability that a blurred delay is longer than the given one; arguments as of `log_pdf`."""
    columns = np.broadcast_arrays(delay_ns, shape, rho_per_ns, sigma_ns)
    return _log_sfs(*map(_flat, columns)).reshape(columns[0].shape)


def tabulate(
    delays_ns: ArrayLike, shapes: ArrayLike, rho_per_ns: float, sigma_ns: float
) -> tuple[FloatArray, FloatArray]:
    """`log_pdf` and `log_sf` on a grid of n delays and m shapes; each of shape (n, m)."""
    delays = np.asarray(delays_ns, np.float64)[:, None]
    return log_pdf(delays, shapes, rho_per_ns, sigma_ns), log_sf(delays, shapes, rho_per_ns, sigma_ns)


def _flat(column: NDArray[np.generic]) -> FloatArray:
    """As contiguous numbers; shape (n,)."""
    return np.ascontiguousarray(column, np.float64).reshape(-1)


@compiled
def blurred_log_pdf(delay_ns: float, shape: float, rho_per_ns: float, sigma_ns: float) -> float:
    """See `log_pdf`; for kernels."""
    log_density = _log_blurred(_DENSITY, delay_ns / sigma_ns, max(shape, MIN_SHAPE), rho_per_ns * sigma_ns)
    return log_density - LOG_SQRT_2PI - math.log(sigma_ns)


@compiled
def blurred_log_sf(delay_ns: float, shape: float, rho_per_ns: float, sigma_ns: float) -> float:
    """See `log_sf`; for kernels."""
    s, xi, r = delay_ns / sigma_ns, max(shape, MIN_SHAPE), rho_per_ns * sigma_ns
    is_late = r * s > xi
    # Each side of the mean sums up its own tail: the other one would be lost in a difference from 1.
    weighting = _AFTER if is_late else _BEFORE
    far = s > FAR + r
    log_tail = _log_far_tail(weighting, s, xi, r) if far else _log_blurred(weighting, s, xi, r)
    if is_late:
        return min(log_tail, 0.0)
    return math.log1p(-min(math.exp(log_tail), 1.0))


@compiled
def _log_pdfs(delay: FloatArray, shape: FloatArray, rho: FloatArray, sigma: FloatArray) -> FloatArray:
    """See `log_pdf`; all of shape (n,)."""
    log_pdfs = np.empty(len(delay))
    for i in range(len(delay)):
        log_pdfs[i] = blurred_log_pdf(delay[i], shape[i], rho[i], sigma[i])
    return log_pdfs


@compiled
def _log_sfs(delay: FloatArray, shape: FloatArray, rho: FloatArray, sigma: FloatArray) -> FloatArray:
    """See `log_sf`; all of shape (n,)."""
    log_sfs = np.empty(len(delay))
    for i in range(len(delay)):
        log_sfs[i] = blurred_log_sf(delay[i], shape[i], rho[i], sigma[i])
    return log_sfs


@compiled
def _log_blurred(weighting: int, s: float, xi: float, r: float) -> float:
    """Log integral over u > 0 of r^xi u^(xi-1) exp(-r u) / Gamma(xi) times a weight of s - u.

    By the trapezoidal rule in y = log(u), to which the singularity at u = 0 is a slow exponential: it
    converges exponentially with the step. The sum starts at the density's highest term and walks both ways;
    for small xi it does not end on the left, where it is finished as a geometric series.
    """
    m = s - r
    root = math.hypot(m, 2 * math.sqrt(xi))
    u0 = (root + m) / 2 if m > 0 else 2 * xi / (root - m)
    y0, step = math.log(u0), min(MAX_LOG_STEP, STEP_PER_WIDTH / math.sqrt(u0 * u0 + xi))
    total = _term(weighting, 0.0, u0, s, xi, r)
    for k in range(1, MAX_TERMS):
        term = _term(weighting, k * step, u0, s, xi, r)
        total += term
        if term <= NEGLIGIBLE * total:
            break
    # What is left out goes on like a geometric series, whose sum is this much more than its first term.
    negligible = NEGLIGIBLE * min(1.0, xi * step)
    for k in range(1, MAX_TERMS):
        if u0 * math.exp(-k * step) * (abs(s) + r + 1) < HEAD:
            total += _head(weighting, -k * step, step, u0, s, xi, r)
            break
        term = _term(weighting, -k * step, u0, s, xi, r)
        total += term
        if term <= negligible * total:
            break
    log_peak = xi * math.log(r) + xi * y0 - r * u0 - math.lgamma(xi)
    if weighting == _DENSITY:
        log_peak -= (s - u0) ** 2 / 2
    return log_peak + math.log(step * total)


@compiled
def _term(weighting: int, dy: float, u0: float, s: float, xi: float, r: float) -> float:
    """The integrand at u = u0 exp(dy), relative to the law (and, if that weighs, the Gaussian) at u0."""
    du = u0 * math.expm1(dy)
    x = s - u0 - du
    if weighting == _DENSITY:
        return math.exp(xi * dy - r * du + du * (x + du / 2))
    weight = _tail(weighting, x)
    # In the Gaussian's empty tail the law may be infinite beside its value at u0.
    return math.exp(xi * dy - r * du) * weight if weight > 0 else 0.0


@compiled
def _head(weighting: int, dy: float, step: float, u0: float, s: float, xi: float, r: float) -> float:
    """Sum of all terms from dy downwards, of an integrand u^xi (a + b u)."""
    u = u0 * math.exp(dy)
    a, b = 1.0, s - r
    law = math.exp(xi * dy + r * u0)
    if weighting == _DENSITY:
        law *= math.exp(-u0 * (s - u0 / 2))
    else:
        gauss = math.exp(-s * s / 2 - LOG_SQRT_2PI)
        a = _tail(weighting, s)
        b = (gauss if weighting == _AFTER else -gauss) - r * a
    return law * (a / -math.expm1(-xi * step) + b * u / -math.expm1(-(xi + 1) * step))


@compiled
def _tail(weighting: int, x: float) -> float:
    """Part of a standard Gaussian below or above x."""
    return math.erfc(x / math.sqrt(2.0) if weighting == _AFTER else -x / math.sqrt(2.0)) / 2


@compiled
def _log_far_tail(weighting: int, s: float, xi: float, r: float) -> float:
    """Log probability of later or of earlier delays, for an s far above 0.

    Beyond the reach of the blur this is the law's own tail; across its edge, a Gauss-Legendre sum.
    """
    # The law may fall by exp(-r) per unit, which moves the peak of its product with a Gaussian by r.
    first, last = s - EDGE - r, s + EDGE
    half, centre = (last - first) / 2, (first + last) / 2
    edge = 0.0
    for i in range(len(NODES)):
        u = centre + half * NODES[i]
        edge += WEIGHTS[i] * math.exp((xi - 1) * math.log(u / s) - r * (u - s)) * _tail(weighting, s - u)
    log_edge = math.log(edge * half * r) + (xi - 1) * math.log(r * s) - r * s - math.lgamma(xi)
    log_beyond = _log_gamma_sf(xi, r * last) if weighting == _AFTER else _log_gamma_cdf(xi, r * first)
    high, low = max(log_edge, log_beyond), min(log_edge, log_beyond)
    return high + math.log1p(math.exp(low - high))


@compiled
def _log_gamma_cdf(xi: float, x: float) -> float:
    """Log of the regularised lower incomplete gamma function by its series; for x < xi + 1."""
    term = total = 1.0
    for k in range(1, MAX_TERMS):
        term *= x / (xi + k)
        total += term
        if term <= NEGLIGIBLE * total:
            break
    return xi * math.log(x) - x - math.lgamma(xi + 1) + math.log(total)


@compiled
def _log_gamma_sf(xi: float, x: float) -> float:
    """Log of the regularised upper incomplete gamma function; continued fraction by Lentz's method."""
    if x < xi + 1:
        return math.log1p(-math.exp(_log_gamma_cdf(xi, x)))
    b = x + 1 - xi
    c, d = math.inf, 1 / b
    fraction = d
    for k in range(1, MAX_TERMS):
        a = k * (xi - k)
        b += 2
        d, c = 1 / (a * d + b), b + a / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return xi * math.log(x) - x - math.lgamma(xi) + math.log(fraction)
