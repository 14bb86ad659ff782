"""Light of tracks and showers on its way to the photomultipliers."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icestream.physics.cherenkov import (
    COS_CHERENKOV,
    MEAN_ACCEPTANCE,
    MEAN_EMISSION_COS,
    MIN_DISTANCE_M,
    SIN_CHERENKOV,
    TAN_CHERENKOV,
    blurred_acceptance,
    cascade_emission,
    point_charge_pe,
    point_delay_ns,
    track_charge_pe,
    track_delay_ns,
)
from icestream.physics.compiled import compiled, inlined
from icestream.physics.ice import IceTable, mean_lengths_m
from icestream.physics.layout import Cells, Layout
from icestream.physics.light_bounds import STEP_M, LightBounds, reaches_m
from icestream.physics.muons import Muon, light_per_m
from icestream.physics.pandel import draw_delay_ns, effective_distance_m, scattering_scale_m
from icestream.physics.pmt import Hit, detect
from icestream.physics.randomness import RandomState, exponential, poisson, uniform
from icestream.physics.rays import Ray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

THIN_BELOW_PE = 0.2
"""Modules that can expect at most so much are thinned out before anything is computed for them."""
MAX_PHOTONS = 32
"""Drawn per module and source; more light is shared among so many heavier photons."""


class Ice(NamedTuple):
    """What the light meets on its way."""

    table: IceTable
    bounds: LightBounds


class Illumination(NamedTuple):
    """The light of one source at one module: a direct part and one that was scattered early."""

    expected_pe: float
    scattering_m: float
    absorption_m: float
    arrival_ns: float
    """Of unscattered light."""
    effective_m: float
    """Distance for the Pandel law."""
    early_scattered_share: float
    early_scattered_arrival_ns: float
    early_scattered_effective_m: float


@compiled
def shine_track(rng: RandomState, hits: list[Hit], layout: Layout, ice: Ice, ray: Ray, muon: Muon) -> None:
    """Add the hits of a muon that starts at the ray's place and time; its large losses shine separately."""
    # Looked up once: numba counts references at every look-up of a column.
    x_m, y_m, z_m, efficiency = layout.x_m, layout.y_m, layout.z_m, layout.efficiency
    bounds_pe, table = ice.bounds.track_pe, ice.table
    first_sensor, zones = layout.cells.first_sensor, layout.cells.zone
    brightest = light_per_m(muon, 0.0)
    reaches = reaches_m(bounds_pe, brightest)
    budget = exponential(rng)
    for cell in _cells_near_track(layout.cells, reaches, ray, muon.length_m):
        zone = zones[cell]
        for sensor in range(first_sensor[cell], first_sensor[cell + 1]):
            along, distance = _from_track(ray, x_m[sensor], y_m[sensor], z_m[sensor])
            emission = along - distance / TAN_CHERENKOV
            if distance > reaches[zone] or emission < 0 or emission > muon.length_m:
                continue
            bound = brightest * efficiency[sensor] * bounds_pe[zone, int(distance / STEP_M)]
            budget, n = _candidates(rng, budget, bound)
            if n > 0 or bound > THIN_BELOW_PE:
                light = _track_light(table, ray, z_m[sensor], along, distance)
                brightness = light_per_m(muon, emission) * efficiency[sensor]
                _deliver(rng, hits, sensor, light, brightness, bound, n)


@compiled
def shine_shower(
    rng: RandomState, hits: list[Hit], layout: Layout, ice: Ice, ray: Ray, light_m: float
) -> None:
    """Add the hits of a shower at the ray's place and time, as bright as `light_m` of bare track."""
    # Looked up once: numba counts references at every look-up of a column.
    x_m, y_m, z_m, efficiency = layout.x_m, layout.y_m, layout.z_m, layout.efficiency
    bounds_pe, table = ice.bounds.point_pe, ice.table
    first_sensor, zones = layout.cells.first_sensor, layout.cells.zone
    reaches = reaches_m(bounds_pe, light_m)
    budget = exponential(rng)
    for cell in _cells_near_point(layout.cells, reaches, ray):
        zone = zones[cell]
        for sensor in range(first_sensor[cell], first_sensor[cell + 1]):
            distance = _from_point(ray, x_m[sensor], y_m[sensor], z_m[sensor])
            if distance > reaches[zone]:
                continue
            bound = light_m * efficiency[sensor] * bounds_pe[zone, int(distance / STEP_M)]
            budget, n = _candidates(rng, budget, bound)
            if n > 0 or bound > THIN_BELOW_PE:
                light = _shower_light(table, ray, x_m[sensor], y_m[sensor], z_m[sensor])
                _deliver(rng, hits, sensor, light, light_m * efficiency[sensor], bound, n)


@compiled
def _cells_near_track(cells: Cells, reaches: FloatArray, ray: Ray, length_m: float) -> IntArray:
    """Cells that may hold a module that a track reaches, in order."""
    x_m, y_m, z_m, radius_m, zone = cells.x_m, cells.y_m, cells.z_m, cells.radius_m, cells.zone
    n, near = 0, np.empty(len(x_m), np.int64)
    for cell in range(len(x_m)):
        along, distance2 = _from_line(ray, x_m[cell], y_m[cell], z_m[cell])
        if distance2 > (reaches[zone[cell]] + radius_m[cell]) ** 2:
            continue
        # Nowhere does the point of emission change faster with the place than along the light.
        emission = along - math.sqrt(max(distance2, MIN_DISTANCE_M**2)) / TAN_CHERENKOV
        slack = radius_m[cell] / SIN_CHERENKOV
        if -slack <= emission <= length_m + slack:
            near[n] = cell
            n += 1
    return near[:n]


@compiled
def _cells_near_point(cells: Cells, reaches: FloatArray, ray: Ray) -> IntArray:
    """Cells that may hold a module that a shower reaches, in order."""
    x_m, y_m, z_m, radius_m, zone = cells.x_m, cells.y_m, cells.z_m, cells.radius_m, cells.zone
    n, near = 0, np.empty(len(x_m), np.int64)
    for cell in range(len(x_m)):
        dx, dy, dz = x_m[cell] - ray.x_m, y_m[cell] - ray.y_m, z_m[cell] - ray.z_m
        if dx * dx + dy * dy + dz * dz <= (reaches[zone[cell]] + radius_m[cell]) ** 2:
            near[n] = cell
            n += 1
    return near[:n]


@compiled
def _from_point(ray: Ray, x_m: float, y_m: float, z_m: float) -> float:
    """Distance of a place from a ray's start."""
    dx, dy, dz = x_m - ray.x_m, y_m - ray.y_m, z_m - ray.z_m
    return math.sqrt(max(dx * dx + dy * dy + dz * dz, MIN_DISTANCE_M**2))


@compiled
def _from_track(ray: Ray, x_m: float, y_m: float, z_m: float) -> tuple[float, float]:
    """Distance of a place along a ray and from it."""
    along, distance2 = _from_line(ray, x_m, y_m, z_m)
    return along, math.sqrt(max(distance2, MIN_DISTANCE_M**2))


@compiled
def _from_line(ray: Ray, x_m: float, y_m: float, z_m: float) -> tuple[float, float]:
    """Distance of a place along a ray, and its squared distance from the ray's line."""
    dx, dy, dz = x_m - ray.x_m, y_m - ray.y_m, z_m - ray.z_m
    along = dx * ray.px + dy * ray.py + dz * ray.pz
    return along, dx * dx + dy * dy + dz * dz - along * along


@inlined
def _candidates(rng: RandomState, budget: float, bound_pe: float) -> tuple[float, int]:
    """How many photons the next faint module may see at most.

    The gaps of a Poisson process are exponential: instead of drawing a number for each of thousands of
    faint modules, walk on until the sum of their bounds uses up one gap.

    Args:
        rng: Source of randomness.
        budget: What is left of the gap.
        bound_pe: Upper bound of the module's expectation.

    Returns:
        What is left now, and the number of candidates, each to be kept with probability expected / bound.
    """
    if bound_pe > THIN_BELOW_PE:
        return budget, 0
    budget -= bound_pe
    n = 0
    while budget < 0:
        n += 1
        budget += exponential(rng)
    return budget, n


@inlined
def _track_light(ice: IceTable, ray: Ray, z_m: float, along_m: float, distance_m: float) -> Illumination:
    """The light of a bare track at a standard module at height z."""
    emission = along_m - distance_m / TAN_CHERENKOV
    scattering, absorption = mean_lengths_m(ice, ray.z_m + emission * ray.pz, z_m)
    outward_z = (z_m - ray.z_m - along_m * ray.pz) / distance_m
    cos_up = COS_CHERENKOV * ray.pz + SIN_CHERENKOV * outward_z
    acceptance = blurred_acceptance(cos_up, distance_m, scattering)
    expected = acceptance * track_charge_pe(distance_m, scattering, absorption)
    arrival = ray.t_ns + track_delay_ns(along_m, distance_m)
    effective = effective_distance_m(distance_m, cos_up)
    return Illumination(expected, scattering, absorption, arrival, effective, 0.0, arrival, effective)


@inlined
def _shower_light(ice: IceTable, ray: Ray, x_m: float, y_m: float, z_m: float) -> Illumination:
    """The light of a shower as bright as 1 m of bare track at a standard module.

    Light that was scattered early seems to come from where it lost its direction, one scattering length
    ahead of the shower: so does a distant module tell the shower's front from its back.
    """
    dx, dy, dz = x_m - ray.x_m, y_m - ray.y_m, z_m - ray.z_m
    distance = max(math.sqrt(dx * dx + dy * dy + dz * dz), MIN_DISTANCE_M)
    scattering, absorption = mean_lengths_m(ice, ray.z_m, z_m)
    cos_axis = (dx * ray.px + dy * ray.py + dz * ray.pz) / distance
    direct_share = math.exp(-distance / scattering)
    acceptance = blurred_acceptance(dz / distance, distance, scattering)
    direct = direct_share * cascade_emission(cos_axis) * acceptance
    direct *= point_charge_pe(distance, scattering, absorption)

    ahead = MEAN_EMISSION_COS * scattering
    # |r - ahead p|, and not closer than half-way: near by, the light has not been scattered yet.
    shifted2 = distance * distance - 2 * ahead * distance * cos_axis + ahead * ahead
    shifted = max(math.sqrt(max(shifted2, 0.0)), 0.5 * distance)
    scattered = (1 - direct_share) * MEAN_ACCEPTANCE * point_charge_pe(shifted, scattering, absorption)

    cos_up, cos_up_shifted = dz / distance, min(max((dz - ahead * ray.pz) / shifted, -1.0), 1.0)
    arrival = ray.t_ns + point_delay_ns(distance)
    return Illumination(
        expected_pe=direct + scattered,
        scattering_m=scattering,
        absorption_m=absorption,
        arrival_ns=arrival,
        # The Pandel law was measured for tracks: their light travels distance / sin(theta_c).
        effective_m=effective_distance_m(distance * SIN_CHERENKOV, cos_up),
        early_scattered_share=scattered / (direct + scattered),
        early_scattered_arrival_ns=max(arrival, ray.t_ns + point_delay_ns(ahead + shifted)),
        early_scattered_effective_m=effective_distance_m(shifted * SIN_CHERENKOV, cos_up_shifted),
    )


@inlined
def _deliver(
    rng: RandomState,
    hits: list[Hit],
    sensor: int,
    light: Illumination,
    brightness: float,
    bound_pe: float,
    n_candidates: int,
) -> None:
    """Draw the photons that one source sends to one module, from candidates where it was thinned.

    Args:
        rng: Source of randomness.
        hits: Grows.
        sensor: Which module.
        light: What a standard module gets of a source of unit brightness.
        brightness: Of this source, times the module's efficiency.
        bound_pe: Upper bound of the expectation.
        n_candidates: Photons left by thinning; 0 where the module was not thinned.
    """
    expected, n = brightness * light.expected_pe, 0
    if n_candidates == 0:
        n = poisson(rng, expected)
    for _ in range(n_candidates):
        n += 1 if uniform(rng) * bound_pe < expected else 0
    n_drawn = min(n, MAX_PHOTONS)
    scale = scattering_scale_m(light.scattering_m)
    for _ in range(n_drawn):
        arrival, effective = light.arrival_ns, light.effective_m
        if uniform(rng) < light.early_scattered_share:
            arrival, effective = light.early_scattered_arrival_ns, light.early_scattered_effective_m
        delay = draw_delay_ns(rng, effective, scale, light.absorption_m)
        detect(rng, hits, sensor, arrival + delay, n / n_drawn)
