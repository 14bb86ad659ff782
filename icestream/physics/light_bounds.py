"""How much light a module at some depth and distance can see at most, whatever the angles.

Almost all modules are far from almost all sources; these bounds spare them the exact formulas.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icestream.physics.cherenkov import (
    CASCADE_NORM,
    MEAN_ACCEPTANCE,
    MEAN_EMISSION_COS,
    MIN_DISTANCE_M,
    SIN_CHERENKOV,
    angular_acceptance,
    point_charge_pe,
    track_charge_pe,
)
from icestream.physics.compiled import compiled
from icestream.physics.ice import IceTable, ice_table, mean_lengths_m

FloatArray = NDArray[np.float64]

ZONE_M = 50.0
"""Thickness of a depth zone."""
LOWEST_ZONE_M = -600.0
N_ZONES = 24
"""From -600 to 600 m; modules beyond belong to the outermost zones, where the ice no longer changes."""
STEP_M = 4.0
MAX_REACH_M = 900.0
SOURCE_STEP_M = 20.0
MIN_EXPECTED_PE = 1e-3
"""Modules that can expect no more are left out."""
MARGIN = 1.1
"""Covers the steps between the depths that are tried."""


class LightBounds(NamedTuple):
    """Upper bounds of the expected charge; entry i holds from i * STEP_M on; shape (N_ZONES, n)."""

    track_pe: FloatArray
    """From a track as bright as a bare one."""
    point_pe: FloatArray
    """From a shower as bright as 1 m of bare track."""


@cache
def light_bounds(clarity: float = 1.0) -> LightBounds:
    """Find the largest expectation over all depths of the source and all angles, for each zone and distance.

    Args:
        clarity: Of the ice, see `ice_table`.
    """
    ice = ice_table(clarity=clarity)
    distances = np.maximum(np.arange(0.0, MAX_REACH_M, STEP_M), MIN_DISTANCE_M)
    best_acceptance = max(angular_acceptance(cos_up) for cos_up in np.linspace(-1, 1, 401))
    track, point = np.zeros((N_ZONES, len(distances))), np.zeros((N_ZONES, len(distances)))
    for zone in range(N_ZONES):
        for z in (LOWEST_ZONE_M + ZONE_M * zone, LOWEST_ZONE_M + ZONE_M * (zone + 1)):
            _raise_bounds(track[zone], point[zone], ice, z, distances, best_acceptance)
    return LightBounds(MARGIN * _falling(track), MARGIN * _falling(point))


def _falling(bounds: FloatArray) -> FloatArray:
    """Raise entries to the largest that follows, so that each bounds all farther modules as well."""
    return np.ascontiguousarray(np.maximum.accumulate(bounds[:, ::-1], axis=1)[:, ::-1])


@compiled
def _raise_bounds(
    track_pe: FloatArray,
    point_pe: FloatArray,
    ice: IceTable,
    z_m: float,
    distances_m: FloatArray,
    best_acceptance: float,
) -> None:
    """Raise one zone's bounds to what a module at height z can see; shape (n_distances,)."""
    for i, distance in enumerate(distances_m):
        # A track's light covers more than the track's distance.
        span = distance / SIN_CHERENKOV
        for z_source in np.arange(z_m - span, z_m + span + SOURCE_STEP_M, SOURCE_STEP_M):
            scattering, absorption = mean_lengths_m(ice, z_source, z_m)
            direct = np.exp(-distance / scattering)
            acceptance = direct * best_acceptance + (1 - direct) * MEAN_ACCEPTANCE
            track_pe[i] = max(track_pe[i], acceptance * track_charge_pe(distance, scattering, absorption))
            # As in `light._shower_light`, whose scattered part comes from nearer by.
            shifted = max(0.5 * distance, distance - MEAN_EMISSION_COS * scattering)
            beam = direct * CASCADE_NORM * acceptance * point_charge_pe(distance, scattering, absorption)
            glow = (1 - direct) * MEAN_ACCEPTANCE * point_charge_pe(shifted, scattering, absorption)
            point_pe[i] = max(point_pe[i], beam + glow)


@compiled
def zone_of(z_m: float) -> int:
    """The depth zone of a height."""
    return min(max(int((z_m - LOWEST_ZONE_M) / ZONE_M), 0), N_ZONES - 1)


@compiled
def reaches_m(bounds_pe: FloatArray, light: float) -> FloatArray:
    """Distances beyond which modules see less than `MIN_EXPECTED_PE` of a source; shape (N_ZONES,)."""
    reaches = np.empty(N_ZONES)
    for zone in range(N_ZONES):
        low, high = 0, bounds_pe.shape[1] - 1
        while low < high:
            middle = (low + high) // 2
            if bounds_pe[zone, middle] * light > MIN_EXPECTED_PE:
                low = middle + 1
            else:
                high = middle
        reaches[zone] = low * STEP_M
    return reaches
