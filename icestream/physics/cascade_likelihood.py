"""How well a shower explains an event: the likelihood of arrival times and of charges, plainly written.

The service fits with a tensor program that holds the same formulas (`export/pixel_fit/cascade.py`); this is what
that program is tested against. The model of light is the simulation's, `icestream.physics.light`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.physics.cherenkov import (
    CASCADE_NORM,
    COS_CHERENKOV,
    MEAN_ACCEPTANCE,
    MEAN_EMISSION_COS,
    SIN_CHERENKOV,
    blurred_acceptance,
    point_charge_pe,
    point_delay_ns,
)
from icestream.physics.convoluted_pandel import log_pdf, log_sf
from icestream.physics.ice import ice_table, mean_lengths_m
from icestream.physics.muons import EM_LIGHT_M_PER_GEV
from icestream.physics.pandel import delay_rate_per_ns, effective_distance_m, scattering_scale_m
from icestream.physics.pmt import MEAN_PE

FloatArray = NDArray[np.float64]

SOFTENING_M2 = 0.25
"""Added to squared distances: a module's own size, and finite slopes."""
EMISSION_ROUNDING = 0.01
"""Rounds the tip of `cascade_emission` at the Cherenkov angle, in its cosine, for finite slopes."""
NOISE = 0.1
"""Share of first photons that are not the shower's."""
NOISE_NS = 10_000.0
"""Those come at any time of the readout."""
NOISE_PE = 0.005
"""Photons that a module sees of noise while the charges are counted: 500 to 700 Hz for some microseconds."""
CHARGE_PER_PHOTON_PE = MEAN_PE
PHOTONS_UNTIL_MODEL_FAILS = 25.0
"""An expectation is uncertain by the inverse root of this, 20 %, whatever it is: ice and modules are not known
better. So no bright module outvotes all others."""
ICE_STEP_M = 5.0


@dataclass(frozen=True, slots=True)
class Shower:
    """A hypothesis."""

    position_m: tuple[float, float, float]
    time_ns: float
    energy_gev: float
    """Of an electromagnetic shower that is as bright."""


@dataclass(frozen=True, slots=True)
class CascadeLlh:
    """-ln L by what it is made of."""

    timing: float
    charge: float
    """Relative to expectations that are equal to the charges."""


@dataclass(frozen=True, slots=True)
class _Light:
    """At one module, of the direct part and of the part that was scattered early."""

    pe_per_m: tuple[float, float]
    arrival_ns: tuple[float, float]
    shape: tuple[float, float]
    rate_per_ns: float


def cascade_llh(
    direction: ArrayLike,
    shower: Shower,
    hits: FloatArray,
    modules: FloatArray,
    *,
    sigma_ns: float,
    max_photons: float,
) -> CascadeLlh:
    """Evaluate the likelihood of one shower.

    Args:
        direction: Unit vector to where the neutrino came from; shape (3,).
        shower: Where, when and how bright.
        hits: x, y, z (m), t (ns), q (p.e.) of modules whose times count; shape (H, 5).
        modules: x, y, z (m), q (p.e.), relative efficiency of modules whose charges count; shape (M, 5).
        sigma_ns: Blur of the arrival times.
        max_photons: For the times, charge counts as so many photons at most.
    """
    flight = -np.asarray(direction, np.float64)
    timing = sum(
        _timing_llh(
            _light_at(hit[:3], flight, shower),
            float(hit[3]),
            float(np.clip(np.round(hit[4]), 1, max_photons)),
            sigma_ns,
        )
        for hit in hits
    )
    light_m = EM_LIGHT_M_PER_GEV * shower.energy_gev
    charge = sum(
        _charge_llh(
            float(module[3]),
            NOISE_PE + light_m * module[4] * sum(_light_at(module[:3], flight, shower).pe_per_m),
        )
        for module in modules
    )
    return CascadeLlh(float(timing), float(charge))


def _timing_llh(light: _Light, time_ns: float, n_photons: float, sigma_ns: float) -> float:
    """-ln of the density of the first of n photons, above a floor for noise."""
    shares = np.array(light.pe_per_m) / sum(light.pe_per_m)
    delays = time_ns - np.array(light.arrival_ns)
    density = float(shares @ np.exp(log_pdf(delays, light.shape, light.rate_per_ns, sigma_ns)))
    later = float(shares @ np.exp(log_sf(delays, light.shape, light.rate_per_ns, sigma_ns)))
    return -math.log((1 - NOISE) * n_photons * density * later ** (n_photons - 1) + NOISE / NOISE_NS)


def _charge_llh(charge_pe: float, expected_pe: float) -> float:
    """-ln of the negative binomial law, relative to its value where the charge is expected."""
    n, k = charge_pe / CHARGE_PER_PHOTON_PE, PHOTONS_UNTIL_MODEL_FAILS
    unexpected = n * math.log(n / expected_pe) if n > 0 else 0.0
    return unexpected - (n + k) * math.log((n + k) / (expected_pe + k))


def _light_at(place_m: FloatArray, flight: FloatArray, shower: Shower) -> _Light:
    """See `icestream.physics.light._shower_light`."""
    offset = place_m - np.array(shower.position_m)
    distance = math.sqrt(float(offset @ offset) + SOFTENING_M2)
    scattering, absorption = mean_lengths_m(ice_table(ICE_STEP_M), shower.position_m[2], float(place_m[2]))
    cos_axis, cos_up = float(offset @ flight) / distance, float(offset[2]) / distance
    direct_share = math.exp(-distance / scattering)
    direct = direct_share * _emission(cos_axis) * blurred_acceptance(cos_up, distance, scattering)
    direct *= point_charge_pe(distance, scattering, absorption)

    ahead = MEAN_EMISSION_COS * scattering
    shifted = math.sqrt(distance * distance - 2 * ahead * distance * cos_axis + ahead * ahead)
    shifted = max(shifted, 0.5 * distance)
    scattered = (1 - direct_share) * MEAN_ACCEPTANCE * point_charge_pe(shifted, scattering, absorption)
    cos_up_shifted = min(max((float(offset[2]) - ahead * float(flight[2])) / shifted, -1.0), 1.0)
    scale = scattering_scale_m(scattering)
    return _Light(
        pe_per_m=(direct, scattered),
        arrival_ns=(
            shower.time_ns + point_delay_ns(distance),
            shower.time_ns + point_delay_ns(max(distance, ahead + shifted)),
        ),
        shape=(
            effective_distance_m(distance * SIN_CHERENKOV, cos_up) / scale,
            effective_distance_m(shifted * SIN_CHERENKOV, cos_up_shifted) / scale,
        ),
        rate_per_ns=delay_rate_per_ns(absorption),
    )


def _emission(cos_axis: float) -> float:
    """`cascade_emission` with a rounded tip."""
    off = math.hypot(cos_axis - COS_CHERENKOV, EMISSION_ROUNDING)
    return CASCADE_NORM * math.exp(-2.61 * off**0.39)
