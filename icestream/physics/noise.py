"""Hits without a particle: warm photocathodes and radioactive glass.

Source: the decomposition of IceCube's module noise into a thermal and a correlated part, M. Larson,
"Simulation and identification of non-Poissonian noise triggers in the IceCube neutrino detector", 2013.
"""

import math

from icestream.physics.compiled import compiled, inlined
from icestream.physics.pmt import Hit, draw_spe_charge_pe
from icestream.physics.randomness import RandomState, normal, poisson, uniform, uniform_between

THERMAL_HZ = 173.5
"""Per module."""
DECAY_HZ = 56.9
"""Radioactive decays in a module's glass that let it glow."""
HITS_PER_DECAY = 8.07
"""Mean of a Poisson law."""
LOG10_DELAY_MEAN = 4.395
LOG10_DELAY_SIGMA = 1.777
"""log10 of the delay in ns of a hit after its decay is normal."""
LOOK_BACK_NS = 30_000.0
"""Decays this long before the window are followed hit by hit; older ones leave single hits only."""


@compiled
def add_noise(rng: RandomState, hits: list[Hit], n_sensors: int, start_ns: float, end_ns: float) -> None:
    """Add the noise of all modules between two times."""
    _add_single_hits(rng, hits, n_sensors, start_ns, end_ns)
    look_from = start_ns - LOOK_BACK_NS
    for _ in range(poisson(rng, DECAY_HZ * 1e-9 * n_sensors * (end_ns - look_from))):
        sensor, decay = int(n_sensors * uniform(rng)), uniform_between(rng, look_from, end_ns)
        for _ in range(poisson(rng, HITS_PER_DECAY)):
            time = decay + 10.0 ** (LOG10_DELAY_MEAN + LOG10_DELAY_SIGMA * normal(rng))
            if start_ns <= time < end_ns:
                hits.append((sensor, time, draw_spe_charge_pe(rng)))


@compiled
def _add_single_hits(
    rng: RandomState, hits: list[Hit], n_sensors: int, start_ns: float, end_ns: float
) -> None:
    """Thermal noise and the late hits of long past decays: both without memory."""
    window = end_ns - start_ns
    age = (math.log10(LOOK_BACK_NS + window / 2) - LOG10_DELAY_MEAN) / LOG10_DELAY_SIGMA
    share_of_old = 0.5 * math.erfc(age / math.sqrt(2.0))
    rate_hz = THERMAL_HZ + DECAY_HZ * HITS_PER_DECAY * share_of_old
    n = poisson(rng, rate_hz * 1e-9 * n_sensors * window)
    hits.extend([_single_hit(rng, n_sensors, start_ns, end_ns) for _ in range(n)])


@inlined
def _single_hit(rng: RandomState, n_sensors: int, start_ns: float, end_ns: float) -> Hit:
    """A hit of any module at any time between the two."""
    return int(n_sensors * uniform(rng)), uniform_between(rng, start_ns, end_ns), draw_spe_charge_pe(rng)
