"""When and how much Cherenkov light reaches an optical module.

Geometry: arXiv:1311.4767 and, for light that travels with the group velocity, Price & Woschnagg,
Astropart. Phys. 15 (2001) 97. Expected charge: arXiv:1311.4767.
"""

import math

from icestream.physics.compiled import compiled

C_M_PER_NS = 0.299792458
N_PHASE = 1.3195
"""Phase index of ice at 400 nm. Source: Astropart. Phys. 15 (2001) 97."""
N_GROUP = 1.35634
"""Group index of ice at 400 nm. Source: Astropart. Phys. 15 (2001) 97."""
COS_CHERENKOV = 1 / N_PHASE
SIN_CHERENKOV = math.sqrt(1 - COS_CHERENKOV**2)
TAN_CHERENKOV = SIN_CHERENKOV / COS_CHERENKOV

PE_PER_M = 2450 * math.pi * 0.1651**2
"""Photo-electrons per metre of bare track that a module facing the light would see if it caught all photons
over its cross-section: 2450 photons/m times the area of a sphere of 0.1651 m. Source: arXiv:1311.4767."""

MEAN_ACCEPTANCE = 0.338
"""Mean of `angular_acceptance` over the sphere."""
CASCADE_NORM = 6.487
"""Makes the mean of `cascade_emission` over the sphere 1."""
MEAN_EMISSION_COS = 0.413
"""Mean of the cosine between a shower's light and its axis, by `cascade_emission`."""
MIN_DISTANCE_M = 0.5
"""Closer sources are taken to be this far: the formulas diverge inside a module."""


@compiled
def track_delay_ns(along_m: float, distance_m: float) -> float:
    """Time of a track's unscattered light at a module, after the track passed its reference point.

    Args:
        along_m: From the reference point to the module, along the track.
        distance_m: Of the module from the track.
    """
    detour = distance_m * (N_GROUP / SIN_CHERENKOV - 1 / TAN_CHERENKOV)
    return (along_m + detour) / C_M_PER_NS


@compiled
def point_delay_ns(distance_m: float) -> float:
    """Time of a flash's unscattered light at a module, after the flash."""
    return distance_m * N_GROUP / C_M_PER_NS


@compiled
def track_charge_pe(distance_m: float, scattering_m: float, absorption_m: float) -> float:
    """Charge expected in an isotropic module from a bare, infinite track, per unit of its acceptance.

    Args:
        distance_m: Of the module from the track.
        scattering_m: Effective scattering length between the two.
        absorption_m: Absorption length between the two.

    Source: arXiv:1311.4767: point-like light near by, diffusing light far away.
    """
    propagation, critical = _diffusion_lengths_m(scattering_m, absorption_m)
    mixing = critical / SIN_CHERENKOV * math.sqrt(2 / (math.pi * propagation))
    attenuation = math.exp(-distance_m / propagation)
    spread = mixing * math.sqrt(distance_m) * math.tanh(math.sqrt(distance_m) / mixing)
    return PE_PER_M / (2 * math.pi * SIN_CHERENKOV) * attenuation / spread


@compiled
def point_charge_pe(distance_m: float, scattering_m: float, absorption_m: float) -> float:
    """Charge expected in an isotropic module from a flash as bright as one metre of bare track.

    Args:
        distance_m: Of the module from the flash.
        scattering_m: Effective scattering length between the two.
        absorption_m: Absorption length between the two.

    Source: arXiv:1311.4767.
    """
    propagation, critical = _diffusion_lengths_m(scattering_m, absorption_m)
    spread = critical * distance_m * math.tanh(distance_m / critical)
    return PE_PER_M / (4 * math.pi) * math.exp(-distance_m / propagation) / spread


@compiled
def _diffusion_lengths_m(scattering_m: float, absorption_m: float) -> tuple[float, float]:
    """Propagation length and the distance at which diffusion takes over. Source: arXiv:1311.4767."""
    propagation = math.sqrt(absorption_m * scattering_m / 3)
    critical = scattering_m / 3 * math.exp(scattering_m / absorption_m)
    return propagation, critical


@compiled
def muon_light_factor(energy_gev: float) -> float:
    """Light of a muon with its small secondaries, relative to a bare track.

    Source: L. Raedel and C. Wiebusch, Astropart. Phys. 38 (2012) 53, as 1 + max(0, 0.188 + 0.0206 ln E).
    """
    return 1 + max(0.0, 0.188 + 0.0206 * math.log(energy_gev))


@compiled
def angular_acceptance(cos_up: float) -> float:
    """Sensitivity of a module to light of one direction, 1 for the standard of calibration.

    Modules look down, and refrozen drill holes blur their view.

    Args:
        cos_up: Cosine between the photon's flight and the upward vertical.

    Source: IceCube's "hole ice" model h2-50cm, the polynomial of degree 10 in the cosine.
    """
    c = cos_up
    odd = 0.63899 + c * c * (-1.2250 + c * c * (4.1695 + c * c * (-5.8690 + c * c * 2.3834)))
    even = 0.20049 + c * c * (-0.14470 + c * c * (0.76898 + c * c * (-2.0939 + c * c * 1.0435)))
    return max(0.0, 0.32813 + c * odd + c * c * even)


@compiled
def blurred_acceptance(cos_up: float, distance_m: float, scattering_m: float) -> float:
    """Acceptance of light that has forgotten its direction the more, the farther it has come."""
    direct = math.exp(-distance_m / scattering_m)
    return direct * angular_acceptance(cos_up) + (1 - direct) * MEAN_ACCEPTANCE


@compiled
def cascade_emission(cos_axis: float) -> float:
    """Light of a shower per solid angle, relative to its mean over the sphere.

    Args:
        cos_axis: Cosine between the photon's flight and the shower's axis.

    Source: the fit to simulated showers in ppc, IceCube's photon propagation code: exp(-2.61 |cos - cos theta_c|^0.39).
    """
    return CASCADE_NORM * math.exp(-2.61 * abs(cos_axis - COS_CHERENKOV) ** 0.39)
