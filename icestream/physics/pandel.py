"""How late light arrives that was scattered on its way: the Pandel law.

Source: AMANDA, NIM A524 (2004) 169, astro-ph/0407044; valid to about 150 m.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.physics.cherenkov import C_M_PER_NS, N_GROUP
from icestream.physics.compiled import compiled, inlined
from icestream.physics.ice import MEAN_SCATTERING_M
from icestream.physics.randomness import RandomState, gamma

FloatArray = NDArray[np.float64]

LAMBDA_M = 33.29
"""Scattering scale in ice of average clarity. Source: astro-ph/0407044."""
TAU_NS = 556.7
"""Time scale of scattering. Source: as above."""
ABSORPTION_M = 98.0
"""Absorption length of average ice. Source: as above."""


def pandel_log_pdf(
    delay_ns: ArrayLike,
    effective_distance_m: ArrayLike,
    lambda_m: ArrayLike = LAMBDA_M,
    absorption_m: ArrayLike = ABSORPTION_M,
) -> FloatArray:
    """Log density of a Cherenkov photon's delay after scattering in ice.

    Args:
        delay_ns: Time after the unscattered photon; shape (...,), may be negative.
        effective_distance_m: Distance scaled for the module's orientation; broadcasts.
        lambda_m: Scattering scale, see `scattering_scale_m`; broadcasts.
        absorption_m: Absorption length; broadcasts.

    Returns:
        log(1/ns); -inf where the delay is not positive.

    Source: astro-ph/0407044.
    """
    delay, distance, scale, absorption = np.broadcast_arrays(
        np.asarray(delay_ns, np.float64), effective_distance_m, lambda_m, absorption_m
    )
    columns = [
        np.ascontiguousarray(column, np.float64).reshape(-1)
        for column in (delay, distance, scale, absorption)
    ]
    return _log_pdfs(*columns).reshape(delay.shape)


@compiled
def effective_distance_m(distance_m: float, cos_up: float) -> float:
    """Distance from a track that gives a module the mean delay of one that faces the light.

    Args:
        distance_m: Of the module from the track.
        cos_up: Cosine between the photon's flight and the upward vertical: +1 meets the downward-looking
            photocathode head-on.

    Source: astro-ph/0407044.
    """
    return 0.8395 * distance_m + 3.094 - 3.946 * cos_up + 4.636 * cos_up * cos_up


@compiled
def scattering_scale_m(scattering_m: float) -> float:
    """The law's lambda in ice of the given effective scattering length."""
    return LAMBDA_M * scattering_m / MEAN_SCATTERING_M


@compiled
def delay_rate_per_ns(absorption_m: float) -> float:
    """The law's rate rho: late photons have scattered much and are absorbed more."""
    return 1 / TAU_NS + C_M_PER_NS / N_GROUP / absorption_m


@inlined
def draw_delay_ns(rng: RandomState, effective_m: float, lambda_m: float, absorption_m: float) -> float:
    """Draw one photon's delay from the law."""
    return gamma(rng, effective_m / lambda_m) / delay_rate_per_ns(absorption_m)


@compiled
def _log_pdfs(
    delay: FloatArray, distance: FloatArray, scale: FloatArray, absorption: FloatArray
) -> FloatArray:
    """See `pandel_log_pdf`; all of shape (n,)."""
    log_pdfs = np.full(len(delay), -np.inf)
    for i in range(len(delay)):
        if delay[i] > 0:
            xi, rho = distance[i] / scale[i], delay_rate_per_ns(absorption[i])
            log_shape = xi * math.log(rho) + (xi - 1) * math.log(delay[i])
            log_pdfs[i] = log_shape - rho * delay[i] - math.lgamma(xi)
    return log_pdfs
