"""Events for the fit of tracks: simulated ones as the service prepares them, and ones drawn from the likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pixel_fit.tables import STANDARD_RATE_PER_NS
from export.pixel_fit.track import STAGES
from icestream.errors import InvalidEvent
from icestream.physics.cherenkov import track_delay_ns
from icestream.physics.detector import icecube86
from icestream.physics.directions import unit_vectors
from icestream.physics.events import EventKind
from icestream.physics.simulation import SimulationSettings, simulate
from icestream.physics.track_likelihood import TrackPoint, first_light
from icestream.scans.recos.track import MAX_PHOTONS, RECOS

FloatArray = NDArray[np.float64]
Question = dict[str, NDArray[Any]]

MPE = next(reco for reco in RECOS if reco.max_photons == MAX_PHOTONS)
PHOTONS = (1, 1, MAX_PHOTONS, MAX_PHOTONS)
"""By level."""
DARK = np.array([[150.0, 80.0, 20.0, 1.0, 4.0], [-60.0, 220.0, -310.0, 1.35, 1.0]], np.float32)
"""Two modules without light, of which the first stands for four."""
MUONS_ONLY = SimulationSettings(through_going_share=1.0, starting_share=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An event and what is true of it."""

    direction: FloatArray
    """Unit vector to where the neutrino came from; shape (3,)."""
    hits: NDArray[np.float32]
    """Shape (H, 5)."""
    seed: FloatArray
    """x, y, z (m), t (ns); shape (4,)."""


def sigma_ns(level: int) -> float:
    """Blur of the last steps on a level, whose likelihood is answered."""
    return STAGES[level][-1][0]


@cache
def simulated_cases(n_events: int = 12, seed: int = 31) -> Sequence[Case]:
    """Through-going muons; the same for all tests."""
    detector, cases = icecube86(), []
    for event in simulate(detector, seed=seed, settings=MUONS_ONLY):
        if event.truth is None or event.truth.kind is not EventKind.THROUGH_GOING_TRACK:
            continue
        try:
            prepared = MPE.prepare(event, detector)
        except InvalidEvent:
            continue
        direction = unit_vectors(event.truth.azimuth_rad, event.truth.zenith_rad)
        seed_row = np.array((*prepared.seed.position_m, 0.0))
        cases.append(Case(direction, prepared.tensors["hits"], seed_row))
        if len(cases) == n_events:
            break
    return tuple(cases)


def drawn_hits(rng: np.random.Generator, direction: FloatArray, n_hits: int = 30) -> NDArray[np.float32]:
    """One photon each in modules around a track through the origin at time 0, by the law on the finest level."""
    modules = icecube86().positions_m
    offset = modules - (modules @ direction)[:, None] * direction
    near = np.flatnonzero(np.linalg.norm(offset, axis=1) < 80)
    places = modules[rng.choice(near, n_hits, replace=False)]
    dark = np.column_stack((places, np.zeros(n_hits), np.ones(n_hits)))
    law = first_light(direction, TrackPoint((0.0, 0.0, 0.0), 0.0), dark)
    delay = rng.gamma(law.shape) / law.rate_per_ns
    delay += rng.normal(size=n_hits) * sigma_ns(2) * STANDARD_RATE_PER_NS / law.rate_per_ns
    return np.column_stack((places, delay - law.delay_ns, np.ones(n_hits))).astype(np.float32)


def unscattered_hits(direction: FloatArray, places: FloatArray) -> NDArray[np.float32]:
    """At the times of unscattered light of a track through the origin at time 0."""
    travel = -direction
    along = places @ travel
    distance = np.linalg.norm(places - along[:, None] * travel, axis=1)
    times = [track_delay_ns(*row) for row in zip(along.tolist(), distance.tolist(), strict=True)]
    return np.column_stack((places, times, np.ones(len(places)))).astype(np.float32)


def around(direction: FloatArray, n_pixels: int, spread_rad: float, seed: int = 0) -> FloatArray:
    """Unit vectors (n, 3): the direction itself, and others near it."""
    rng = np.random.default_rng(seed)
    found = direction + spread_rad * rng.normal(size=(n_pixels, 3))
    found[0] = direction
    unit: FloatArray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def question(
    directions: FloatArray, seeds: FloatArray, hits: NDArray[np.float32], level: int, max_photons: float
) -> Question:
    """The model's inputs, in order; seeds of shape (k, 4) are tried for every pixel, (P, k, 4) are as they are."""
    seeds = np.broadcast_to(seeds, (len(directions), *seeds.shape[-2:]))
    return {
        "direction": directions.astype(np.float32),
        "seeds": np.ascontiguousarray(seeds, np.float32),
        "hits": hits,
        "dark": DARK,
        "level": np.array([level], np.int32),
        "max_photons": np.array([max_photons], np.float32),
    }
