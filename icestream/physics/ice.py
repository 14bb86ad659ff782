"""How clear the ice is at each depth, and on average along a path between two depths.

A smooth profile that holds the published figures: effective scattering lengths of 5 to 89 m and absorption
lengths of 18 to 276 m between 1400 and 2490 m depth (IceCube, NIM A711 (2013) 73, arXiv:1301.5361), with
geometric means of 29 and 100 m inside the array and a dust layer at 2000 to 2100 m. The shape between those
figures is ours, the tilt of the layers is left out.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icestream.physics.compiled import compiled

FloatArray = NDArray[np.float64]

CENTRE_DEPTH_M = 1948.07
"""Depth of z = 0 below the surface. Source: IceCube's coordinate system."""
TOP_DEPTH_M = 1400.0
BOTTOM_DEPTH_M = 2490.0

LOG_SCATTERING_AT_CENTRE = 3.81
"""ln of the effective scattering length in m where no dust adds; chosen to meet the figures above."""
LOG_SCATTERING_PER_M = 0.82 / 500
"""Older and deeper ice is clearer."""
DUST_LAYERS = (
    (1500.0, 50.0, 0.45),
    (1650.0, 50.0, 0.45),
    (1770.0, 30.0, 0.35),
    (1900.0, 40.0, 0.45),
    (1985.0, 30.0, 0.5),
    (2050.0, 38.0, 2.33),
    (2460.0, 50.0, 0.40),
)
"""Depth (m), width (m) and drop of ln(scattering length): the dust layer and the bands around it."""

MEAN_SCATTERING_M = 29.0
"""Geometric mean of the effective scattering length inside the array. Source: arXiv:1301.5361."""
MEAN_ABSORPTION_M = 98.0
"""Absorption length where scattering is average. Source: AMANDA, NIM A524 (2004) 169."""
ABSORPTION_EXPONENT = 0.948
"""Absorption follows scattering to this power: takes the range 5 to 89 m to 18 to 276 m."""


class IceTable(NamedTuple):
    """Depth integrals of the ice's scattering and absorption, for fast averages along a path."""

    bottom_z_m: float
    step_m: float
    scattering: FloatArray
    """Integral of 1 / (effective scattering length) from the bottom up to each step; shape (n,)."""
    absorption: FloatArray
    """Integral of 1 / (absorption length); shape (n,)."""
    clearest_scattering_m: float
    """The longest effective scattering length of all."""
    clearest_absorption_m: float


def scattering_length_m(z_m: FloatArray) -> FloatArray:
    """Effective scattering length at a height z; constant above and below the described range."""
    depth = np.clip(CENTRE_DEPTH_M - z_m, TOP_DEPTH_M, BOTTOM_DEPTH_M)
    log_length = LOG_SCATTERING_AT_CENTRE + LOG_SCATTERING_PER_M * (depth - CENTRE_DEPTH_M)
    for centre, width, drop in DUST_LAYERS:
        log_length = log_length - drop * np.exp(-0.5 * ((depth - centre) / width) ** 2)
    return np.exp(log_length)


def absorption_length_m(z_m: FloatArray) -> FloatArray:
    """Absorption length at a height z; constant above and below the described range."""
    return MEAN_ABSORPTION_M * (scattering_length_m(z_m) / MEAN_SCATTERING_M) ** ABSORPTION_EXPONENT


@cache
def ice_table(step_m: float = 2.0, clarity: float = 1.0) -> IceTable:
    """Integrate the profile over depth once, so that a mean along a path costs two look-ups.

    Args:
        step_m: Between the tabulated depths.
        clarity: Stretches all lengths, for ice that is clearer or dustier than we think.
    """
    z = np.arange(CENTRE_DEPTH_M - BOTTOM_DEPTH_M, CENTRE_DEPTH_M - TOP_DEPTH_M + step_m, step_m)
    scattering, absorption = clarity * scattering_length_m(z), clarity * absorption_length_m(z)
    return IceTable(
        bottom_z_m=float(z[0]),
        step_m=step_m,
        scattering=_integral(1 / scattering, step_m),
        absorption=_integral(1 / absorption, step_m),
        clearest_scattering_m=float(scattering.max()),
        clearest_absorption_m=float(absorption.max()),
    )


def _integral(values: FloatArray, step: float) -> FloatArray:
    """Trapezoidal integral from the first value to each; shape (n,)."""
    steps = 0.5 * step * (values[1:] + values[:-1])
    return np.concatenate((np.zeros(1), np.cumsum(steps)))


@compiled
def mean_lengths_m(ice: IceTable, z_from_m: float, z_to_m: float) -> tuple[float, float]:
    """Harmonic mean of scattering and absorption length along a straight path between two heights."""
    # A horizontal path is given some height, so that the difference quotient stays exact enough.
    half = 0.5 * max(abs(z_to_m - z_from_m), ice.step_m)
    middle = 0.5 * (z_from_m + z_to_m)
    below, above = (
        (middle - half - ice.bottom_z_m) / ice.step_m,
        (middle + half - ice.bottom_z_m) / ice.step_m,
    )
    dz = 2 * half
    scattering = dz / (_at(ice.scattering, above) - _at(ice.scattering, below))
    absorption = dz / (_at(ice.absorption, above) - _at(ice.absorption, below))
    return scattering, absorption


@compiled
def _at(integral: FloatArray, index: float) -> float:
    """Linear interpolation, and continuation beyond either end."""
    i = min(max(int(index), 0), len(integral) - 2)
    return float(integral[i] + (index - i) * (integral[i + 1] - integral[i]))
