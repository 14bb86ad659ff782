"""What a photomultiplier makes of the photons that reach it.

Source: IceCube, NIM A618 (2010) 139 (photomultiplier) and JINST 15 (2020) P06032 (single photo-electrons).
"""

import math

from icestream.physics.compiled import inlined
from icestream.physics.randomness import RandomState, exponential, normal, poisson, uniform, uniform_between

Hit = tuple[int, float, float]
"""Sensor, time in ns, charge in p.e."""

TRANSIT_SPREAD_NS = 2.0
"""Standard deviation of the transit time. Source: NIM A618 (2010) 139."""
PRE_PULSE_SHARE = 0.003
PRE_PULSE_NS = -31.8
"""The photon misses the photocathode and frees an electron at the first dynode."""
LATE_PULSE_SHARE = 0.035
LATE_PULSE_NS = (25.0, 160.0)
"""The electron bounces off the first dynode and returns."""
AFTER_PULSES_PER_PE = 0.059
AFTER_PULSE_NS = (300.0, 11_000.0)
"""Ions of the residual gas drift back; drawn evenly in the logarithm of time."""

PEAK_SIGMA_PE = 0.3
EXPONENTIAL_SHARE = 0.25
"""Of photo-electrons that are badly amplified. Source: the size of this part in JINST 15 (2020) P06032."""
EXPONENTIAL_MEAN_PE = 0.5
MEAN_PE = 1 - EXPONENTIAL_SHARE * (1 - EXPONENTIAL_MEAN_PE)
SIGMA_PE = 0.42
"""Standard deviation of one photo-electron's charge, exponential part included."""


@inlined
def detect(rng: RandomState, hits: list[Hit], sensor: int, arrival_ns: float, weight: float) -> None:
    """Add the hits of photons that arrive together, with the after-pulses they cause.

    Args:
        rng: Source of randomness.
        hits: Grows.
        sensor: Which module.
        arrival_ns: When the light arrives.
        weight: How many photons this one stands for.
    """
    hits.append((sensor, arrival_ns + _transit_ns(rng), _charge_pe(rng, weight)))
    for _ in range(poisson(rng, AFTER_PULSES_PER_PE * weight)):
        first, last = AFTER_PULSE_NS
        delay = first * math.exp(uniform(rng) * math.log(last / first))
        hits.append((sensor, arrival_ns + delay, _charge_pe(rng, 1.0)))


@inlined
def draw_spe_charge_pe(rng: RandomState) -> float:
    """Charge of one photo-electron: a Gaussian peak at 1 p.e. and an exponential below it."""
    if uniform(rng) < EXPONENTIAL_SHARE:
        return EXPONENTIAL_MEAN_PE * exponential(rng)
    return max(0.0, 1.0 + PEAK_SIGMA_PE * normal(rng))


@inlined
def _transit_ns(rng: RandomState) -> float:
    """Deviation from the mean transit time, pre-pulses and late pulses included."""
    kind = uniform(rng)
    jitter = TRANSIT_SPREAD_NS * normal(rng)
    if kind < PRE_PULSE_SHARE:
        return jitter + PRE_PULSE_NS
    if kind < PRE_PULSE_SHARE + LATE_PULSE_SHARE:
        return jitter + uniform_between(rng, LATE_PULSE_NS[0], LATE_PULSE_NS[1])
    return jitter


@inlined
def _charge_pe(rng: RandomState, weight: float) -> float:
    """Charge of `weight` photo-electrons together."""
    if weight <= 1.0:
        return draw_spe_charge_pe(rng)
    return max(0.0, MEAN_PE * weight + SIGMA_PE * math.sqrt(weight) * normal(rng))
