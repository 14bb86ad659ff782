"""Random numbers for compiled kernels: a named stream is the same on every machine and in every version.

numpy's generators cost several times more inside numba, which counts references to them at every call.
"""

import math

import numpy as np
from numpy.typing import NDArray

from icestream.physics.compiled import compiled, inlined

RandomState = NDArray[np.uint64]
"""State of one stream; shape (4,), changed by every draw."""

SMALL_POISSON_MEAN = 10.0
"""Above it, rejection is faster than counting."""


@compiled
def random_stream(seed: int, index: int) -> RandomState:
    """Start stream `index` of a seed.

    Source: G. Steele et al., SplitMix64 (OOPSLA 2014), which D. Blackman and S. Vigna recommend for seeding.
    """
    state = np.empty(4, np.uint64)
    # Mixed once in between, so that (1, 2) and (2, 1) are far apart.
    word = _mixed(np.uint64(seed)) ^ np.uint64(index)
    for i in range(4):
        word += np.uint64(0x9E3779B97F4A7C15)
        state[i] = _mixed(word)
    return state


@compiled
def _mixed(word: np.uint64) -> np.uint64:
    """SplitMix64's output function: a bijection that spreads every bit."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(word ^ (word >> np.uint64(31)))


@inlined
def _next(state: RandomState) -> np.uint64:
    """64 random bits. Source: xoshiro256+, D. Blackman and S. Vigna, ACM TOMS 47 (2021) 36."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    bits: np.uint64 = s0 + s3
    shifted = s1 << np.uint64(17)
    s2 ^= s0
    s3 ^= s1
    state[0] = s0 ^ s3
    state[1] = s1 ^ s2
    state[2] = s2 ^ shifted
    state[3] = (s3 << np.uint64(45)) | (s3 >> np.uint64(19))
    return bits


@inlined
def uniform(state: RandomState) -> float:
    """Evenly distributed in [0, 1)."""
    return float(np.float64(_next(state) >> np.uint64(11)) * 2.0**-53)


@inlined
def uniform_between(state: RandomState, low: float, high: float) -> float:
    """Evenly distributed in [low, high)."""
    return low + (high - low) * uniform(state)


@inlined
def exponential(state: RandomState) -> float:
    """Exponentially distributed with mean 1."""
    return -math.log(1.0 - uniform(state))


@inlined
def normal(state: RandomState) -> float:
    """Normally distributed with mean 0 and sigma 1. Source: Marsaglia's polar method, SIAM Rev. 6 (1964) 260."""
    while True:
        x, y = uniform_between(state, -1.0, 1.0), uniform_between(state, -1.0, 1.0)
        r2 = x * x + y * y
        if 0 < r2 < 1:
            return x * math.sqrt(-2 * math.log(r2) / r2)


@inlined
def poisson(state: RandomState, mean: float) -> int:
    """Poisson-distributed number."""
    if mean > SMALL_POISSON_MEAN:
        return _large_poisson(state, mean)
    left = math.exp(-mean)
    product, n = uniform(state), 0
    while product > left:
        product *= uniform(state)
        n += 1
    return n


@inlined
def _large_poisson(state: RandomState, mean: float) -> int:
    """Poisson-distributed number of a large mean. Source: W. Hoermann, PTRS, Insur. Math. Econ. 12 (1993) 39."""
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    scale = 1.1239 + 1.1328 / (b - 3.4)
    while True:
        u, v = uniform(state) - 0.5, 1.0 - uniform(state)
        us = 0.5 - abs(u)
        k = math.floor((2 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= 0.9277 - 3.6224 / (b - 2):
            return int(k)
        if k < 0 or (us < 0.013 and v > us):
            continue
        log_ratio = math.log(v) + math.log(scale) - math.log(a / (us * us) + b)
        if log_ratio <= k * math.log(mean) - mean - math.lgamma(k + 1):
            return int(k)


@inlined
def gamma(state: RandomState, shape: float) -> float:
    """Gamma-distributed with the given shape and scale 1.

    Source: G. Marsaglia and W. W. Tsang, ACM TOMS 26 (2000) 363, with its boost for shapes below 1.
    """
    boost = 1.0
    if shape < 1:
        boost = (1.0 - uniform(state)) ** (1 / shape)
        shape += 1
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        x = normal(state)
        v = (1 + c * x) ** 3
        if v > 0 and math.log(1.0 - uniform(state)) < 0.5 * x * x + d - d * v + d * math.log(v):
            return boost * d * v
