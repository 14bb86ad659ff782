"""Where neutrinos interact, and which showers and muons come of it."""

import math
from typing import NamedTuple

from icestream.physics.compiled import compiled
from icestream.physics.events import EventKind
from icestream.physics.layout import Layout
from icestream.physics.muons import RADIATION_PER_M, energy_after_gev, range_m
from icestream.physics.randomness import RandomState, uniform, uniform_between
from icestream.physics.rays import Ray, moved

THROUGH_GOING = int(EventKind.THROUGH_GOING_TRACK)
STARTING = int(EventKind.STARTING_TRACK)
CASCADE = int(EventKind.CASCADE)

CHARGED_CURRENT_SHARE = 0.75
"""Of the interactions that make a cascade. Source: Gandhi et al., Phys. Rev. D58 (1998) 093009."""
REACH_PER_DECADE_M = 50.0
"""How much farther from the detector an event of ten times the energy can still be seen."""
REACH_FROM_GEV = 10.0
KINK_RAD = math.radians(0.7)
"""Median angle between neutrino and muon at 1 TeV; it falls with energy to the power of -0.7.
Source: J. Learned and K. Mannheim, Annu. Rev. Nucl. Part. Sci. 50 (2000) 679."""


class Spectrum(NamedTuple):
    """Neutrino energies follow E^-spectral_index between two bounds."""

    spectral_index: float
    min_gev: float
    max_gev: float


class Interaction(NamedTuple):
    """One neutrino and what it sets free."""

    kind: int
    """An `EventKind`."""
    energy_gev: float
    """Of the neutrino."""
    azimuth_rad: float
    """Where the neutrino came from."""
    zenith_rad: float
    place: Ray
    """Vertex and the neutrino's flight; for a through-going muon where it comes near and its own flight."""
    muon_gev: float
    """Of the muon at that place, 0 without one."""
    path_m: float
    """How far a muon is followed from there."""
    electromagnetic_gev: float
    """Of the shower at the vertex."""
    hadronic_gev: float


@compiled
def draw_energy_gev(rng: RandomState, spectrum: Spectrum) -> float:
    """Draw a neutrino's energy from the spectrum."""
    u, power = uniform(rng), 1 - spectrum.spectral_index
    if abs(power) < 1e-6:
        return float(spectrum.min_gev * (spectrum.max_gev / spectrum.min_gev) ** u)
    low, high = spectrum.min_gev**power, spectrum.max_gev**power
    return float((low + u * (high - low)) ** (1 / power))


@compiled
def draw_interaction(rng: RandomState, layout: Layout, spectrum: Spectrum, kind: int) -> Interaction:
    """Draw a neutrino from the whole sky that interacts where it may be seen."""
    energy = draw_energy_gev(rng, spectrum)
    azimuth, zenith = uniform_between(rng, 0.0, 2 * math.pi), math.acos(uniform_between(rng, -1.0, 1.0))
    flight = (-math.cos(azimuth) * math.sin(zenith), -math.sin(azimuth) * math.sin(zenith), -math.cos(zenith))
    inelasticity = _draw_inelasticity(rng)
    reach = REACH_PER_DECADE_M * math.log10(energy / REACH_FROM_GEV)
    path = 2 * (math.hypot(layout.radius_m, layout.half_height_m) + reach)
    if kind == CASCADE:
        place = _draw_vertex(rng, layout, reach, flight)
        is_charged = uniform(rng) < CHARGED_CURRENT_SHARE
        electromagnetic = (1 - inelasticity) * energy if is_charged else 0.0
        hadronic = inelasticity * energy
        return Interaction(kind, energy, azimuth, zenith, place, 0.0, 0.0, electromagnetic, hadronic)

    muon_gev = (1 - inelasticity) * energy
    muon_flight = _kinked(rng, flight, energy)
    if kind == STARTING:
        place = _draw_vertex(rng, layout, 0.0, muon_flight)
        hadronic = inelasticity * energy
        return Interaction(kind, energy, azimuth, zenith, place, muon_gev, path, 0.0, hadronic)
    place, chord = _draw_entry(rng, layout, reach, muon_flight)
    # The interaction lies anywhere within the muon's range before the entry.
    muon_gev = energy_after_gev(muon_gev, uniform(rng) * range_m(muon_gev), RADIATION_PER_M)
    return Interaction(kind, energy, azimuth, zenith, place, muon_gev, chord, 0.0, 0.0)


@compiled
def _draw_inelasticity(rng: RandomState) -> float:
    """Share of the energy that goes to the hadrons: mean 1/3, as between 1 TeV (0.45) and 1 PeV (0.25)."""
    return min(uniform(rng) ** 2, 0.99)


@compiled
def _draw_vertex(
    rng: RandomState, layout: Layout, margin_m: float, flight: tuple[float, float, float]
) -> Ray:
    """Draw a point of the detector's cylinder, widened by a margin."""
    r = (layout.radius_m + margin_m) * math.sqrt(uniform(rng))
    phi = uniform_between(rng, 0.0, 2 * math.pi)
    z = (layout.half_height_m + margin_m) * uniform_between(rng, -1.0, 1.0)
    return Ray(r * math.cos(phi), r * math.sin(phi), z, 0.0, flight[0], flight[1], flight[2])


@compiled
def _draw_entry(
    rng: RandomState, layout: Layout, margin_m: float, flight: tuple[float, float, float]
) -> tuple[Ray, float]:
    """Draw where a line of a uniform parallel beam enters the widened cylinder, and its length inside.

    The length is 0 for a line that misses it.
    """
    radius, half_height = layout.radius_m + margin_m, layout.half_height_m + margin_m
    a, b = _perpendicular(flight)
    r, phi = math.hypot(radius, half_height) * math.sqrt(uniform(rng)), uniform_between(rng, 0.0, 2 * math.pi)
    u, v = r * math.cos(phi), r * math.sin(phi)
    x, y, z = u * a[0] + v * b[0], u * a[1] + v * b[1], u * a[2] + v * b[2]
    enters, leaves = _cylinder_chord(x, y, z, flight, radius, half_height)
    entry = moved(Ray(x, y, z, 0.0, flight[0], flight[1], flight[2]), enters)
    return entry, max(0.0, leaves - enters)


@compiled
def _cylinder_chord(
    x: float, y: float, z: float, p: tuple[float, float, float], radius: float, half_height: float
) -> tuple[float, float]:
    """Where the line (x, y, z) + s p enters and leaves an upright cylinder; it misses where s is not growing."""
    # Directions of exactly 0 would divide by 0; no physical direction is that exact.
    across2, pz = max(p[0] * p[0] + p[1] * p[1], 1e-18), p[2] if abs(p[2]) > 1e-9 else 1e-9
    middle = -(x * p[0] + y * p[1]) / across2
    half2 = middle * middle - (x * x + y * y - radius * radius) / across2
    if half2 <= 0:
        return 0.0, 0.0
    half = math.sqrt(half2)
    first, second = (-half_height - z) / pz, (half_height - z) / pz
    return max(middle - half, min(first, second)), min(middle + half, max(first, second))


@compiled
def _kinked(
    rng: RandomState, flight: tuple[float, float, float], energy_gev: float
) -> tuple[float, float, float]:
    """The muon's flight: the neutrino's, bent by a Rayleigh-distributed angle."""
    median = KINK_RAD * (energy_gev / 1e3) ** -0.7
    bend = median * math.sqrt(-math.log(1 - uniform(rng)) / math.log(2.0))
    phi = uniform_between(rng, 0.0, 2 * math.pi)
    a, b = _perpendicular(flight)
    u, v, w = math.sin(bend) * math.cos(phi), math.sin(bend) * math.sin(phi), math.cos(bend)
    return (
        u * a[0] + v * b[0] + w * flight[0],
        u * a[1] + v * b[1] + w * flight[1],
        u * a[2] + v * b[2] + w * flight[2],
    )


@compiled
def _perpendicular(
    p: tuple[float, float, float],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Two unit vectors that complete a unit vector to a right-handed frame.

    Source: Duff et al., "Building an Orthonormal Basis, Revisited", JCGT 6 (2017) 1.
    """
    sign = math.copysign(1.0, p[2])
    a = -1.0 / (sign + p[2])
    b = p[0] * p[1] * a
    return (1.0 + sign * p[0] * p[0] * a, sign * b, -sign * p[0]), (b, sign + p[1] * p[1] * a, -p[1])
