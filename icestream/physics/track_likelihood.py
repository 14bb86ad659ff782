"""How well a muon track explains the times of an event's first photons, plainly written.

The service fits with a tensor program that holds the same formulas (`export/pixel_fit/track.py`); this is what
that program is tested against. Here the blurred law is exact, there it is read from a table.
Sources: AMANDA, NIM A524 (2004) 169, astro-ph/0407044, for the likelihoods of the first of n photons.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.physics.cherenkov import (
    COS_CHERENKOV,
    MEAN_ACCEPTANCE,
    SIN_CHERENKOV,
    track_charge_pe,
    track_delay_ns,
)
from icestream.physics.convoluted_pandel import log_pdf, log_sf
from icestream.physics.ice import MEAN_ABSORPTION_M, MEAN_SCATTERING_M, ice_table, mean_lengths_m
from icestream.physics.pandel import (
    ABSORPTION_M,
    delay_rate_per_ns,
    effective_distance_m,
    scattering_scale_m,
)

FloatArray = NDArray[np.float64]

NOISE = 0.1
"""Share of hits that the hypothesis does not explain: noise, and light of showers along the track."""
NOISE_NS = 10_000.0
"""Such hits come at any time of the readout. Source: ../shared/physics.md, section 5."""
MAX_DARK_PE = 1.0
"""A module that should have seen more, and did not, counts as if it were for this: it may be dead, the ice dusty, or
the muon at its end."""
MAX_DARKNESS = 8.0
"""All dark modules together say so much at most: muons begin and end in the detector, too."""
SOFTENING_M2 = 1.0
"""Added to squared distances: keeps slopes finite for a track through a module."""
ICE_STEP_M = 5.0
"""Of the table of the ice; level paths are given so much height, below the module."""


@dataclass(frozen=True, slots=True)
class TrackPoint:
    """Any point of a track, and when the muon was there."""

    position_m: tuple[float, float, float]
    time_ns: float


class FirstLight(NamedTuple):
    """The blurred law of each module's photons; each of shape (H,)."""

    delay_ns: FloatArray
    """Of the hit, after unscattered light."""
    shape: FloatArray
    """Effective distance over the scattering scale, the law's xi."""
    rate_per_ns: FloatArray
    """The law's rho."""


def track_llh(
    direction: ArrayLike, point: TrackPoint, hits: FloatArray, *, sigma_ns: float, max_photons: float
) -> float:
    """-ln L of one track.

    Args:
        direction: Unit vector to where the neutrino came from; shape (3,).
        point: Where and when the muon passed.
        hits: x, y, z (m), t (ns), q (p.e.) of the hit modules; shape (H, 5).
        sigma_ns: Blur of the arrival times in ice of average absorption, see `log_likelihoods`.
        max_photons: Charge counts as so many photons at most; 1 is SPE.
    """
    light = first_light(direction, point, hits)
    terms = log_likelihoods(light, photons(hits[:, 4], max_photons), sigma_ns=sigma_ns)
    return -float(terms.sum())


def darkness(direction: ArrayLike, point: TrackPoint, dark: FloatArray) -> float:
    """-ln of the chance that modules stay dark beside a bare muon in average ice; at most `MAX_DARKNESS`.

    Args:
        direction: As of `track_llh`.
        point: As of `track_llh`.
        dark: x, y, z (m) and relative efficiency of the modules, and how many others each stands for; shape (M, 5).
    """
    travel = -np.asarray(direction, np.float64)
    offset = dark[:, :3] - np.array(point.position_m)
    along = offset @ travel
    distance = np.sqrt(np.maximum((offset**2).sum(axis=1) - along**2, 0.0) + SOFTENING_M2)
    light = [track_charge_pe(d, MEAN_SCATTERING_M, MEAN_ABSORPTION_M) for d in distance.tolist()]
    expected = np.minimum(MEAN_ACCEPTANCE * dark[:, 3] * np.array(light), MAX_DARK_PE)
    return MAX_DARKNESS * float(np.tanh((expected * dark[:, 4]).sum() / MAX_DARKNESS))


def first_light(direction: ArrayLike, point: TrackPoint, hits: FloatArray) -> FirstLight:
    """When each module can expect light, and how much that is scattered; arguments as of `track_llh`."""
    travel = -np.asarray(direction, np.float64)
    offset = hits[:, :3] - np.array(point.position_m)
    along = offset @ travel
    across = offset - along[:, None] * travel
    distance = np.sqrt((across**2).sum(axis=1) + SOFTENING_M2)
    # Cosine of the unscattered photon's flight with the vertical.
    cos_up = COS_CHERENKOV * travel[2] + SIN_CHERENKOV * across[:, 2] / distance
    modules = np.column_stack((hits[:, 2], along, distance, cos_up)).tolist()
    arrival, shape, rate = np.array([_light_at(*module) for module in modules]).reshape(-1, 3).T
    return FirstLight(hits[:, 3] - point.time_ns - arrival, shape, rate)


def photons(charge_pe: ArrayLike, max_photons: float) -> FloatArray:
    """How many photons charges count as, at least one; of the shape of the charges."""
    return np.clip(np.round(np.asarray(charge_pe, np.float64)), 1.0, max_photons)


def log_likelihoods(light: FirstLight, n_photons: FloatArray, *, sigma_ns: float) -> FloatArray:
    """Ln of each hit's density (1/ns), as the first of n photons or as noise; shape (H,).

    Args:
        light: See `first_light`.
        n_photons: See `photons`; shape (H,).
        sigma_ns: Blur of the arrival times in ice of average absorption. It is less where late light dies
            sooner, so that the law depends on delays times their rate alone and one table serves all ice.
    """
    blur = sigma_ns * delay_rate_per_ns(ABSORPTION_M) / light.rate_per_ns
    of_any = log_pdf(*light, blur)
    of_first = np.log(n_photons) + of_any + (n_photons - 1) * log_sf(*light, blur)
    log_likelihood: FloatArray = np.logaddexp(np.log(1 - NOISE) + of_first, np.log(NOISE / NOISE_NS))
    return log_likelihood


def _light_at(z_m: float, along_m: float, distance_m: float, cos_up: float) -> tuple[float, float, float]:
    """Arrival of unscattered light after the muon passed its point (ns), the law's xi and its rho (1/ns)."""
    climb_m = cos_up * distance_m / SIN_CHERENKOV
    if abs(climb_m) < ICE_STEP_M:
        climb_m = ICE_STEP_M
    scattering, absorption = mean_lengths_m(ice_table(ICE_STEP_M), z_m - climb_m, z_m)
    shape = effective_distance_m(distance_m, cos_up) / scattering_scale_m(scattering)
    return track_delay_ns(along_m, distance_m), shape, delay_rate_per_ns(absorption)
