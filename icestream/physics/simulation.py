"""Simulates neutrino events as a detector records them.

Event `index` of `seed` depends on nothing else but the detector and the settings: any number of workers, in
any order, makes the same events.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from icestream.errors import InvalidDetector
from icestream.physics.compiled import compiled
from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId, EventKind, Truth
from icestream.physics.ice import ice_table
from icestream.physics.interactions import (
    CASCADE,
    STARTING,
    THROUGH_GOING,
    Interaction,
    Spectrum,
    draw_interaction,
)
from icestream.physics.layout import Layout, layout_of
from icestream.physics.light import Ice, shine_shower, shine_track
from icestream.physics.light_bounds import light_bounds
from icestream.physics.muons import EM_LIGHT_M_PER_GEV, HADRONIC_LIGHT_M_PER_GEV, MIN_ENERGY_GEV, propagate
from icestream.physics.noise import add_noise
from icestream.physics.pmt import Hit
from icestream.physics.randomness import RandomState, random_stream, uniform
from icestream.physics.rays import moved
from icestream.physics.readout import TRIGGER_MULTIPLICITY, Record, nothing_recorded, read_out, record

MAX_TRIALS = 100_000
"""A detector that sees none of so many neutrinos will see none at all."""
MIN_SHOWER_GEV = 1.0
"""Smaller losses of a muon are too dark to be worth a source of their own."""
NOISE_BEFORE_NS = 5_000.0
"""Noise is added from this long before the first photon,"""
NOISE_AFTER_NS = 13_000.0
"""to this long after it: wider than any readout."""


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """What is simulated; the defaults resemble the Kaggle data set."""

    spectral_index: float = 1.7
    """Neutrino energies follow E^-index before the trigger."""
    min_energy_gev: float = 1e2
    max_energy_gev: float = 1e8
    through_going_share: float = 0.73
    """Of the neutrinos that are tried, not of the events that trigger."""
    starting_share: float = 0.065
    """As above; the rest are cascades."""
    epoch_unix_ns: int = 1_767_225_600_000_000_000
    """When event 0 happens: 2026-01-01 UTC."""
    spacing_ns: int = 370_370
    """Between events: IceCube's trigger rate of 2.7 kHz. Source: JINST 12 (2017) P03012."""
    ice_clarity: float = 1.0
    """Stretches the ice's scattering and absorption lengths, to see what a wrong ice model does."""


DEFAULT_SETTINGS = SimulationSettings()


def simulate(
    detector: Detector,
    *,
    seed: int,
    first: int = 0,
    n_events: int | None = None,
    settings: SimulationSettings = DEFAULT_SETTINGS,
) -> Iterator[Event]:
    """Simulate the events first, first + 1, ... of a seed.

    Args:
        detector: Whose modules see the light.
        seed: Names the sample; becomes the events' run id.
        first: Index of the first event.
        n_events: How many; endless where it is None.
        settings: What is simulated.
    """
    indices = itertools.count(first) if n_events is None else range(first, first + n_events)
    for index in indices:
        yield simulate_event(detector, seed=seed, index=index, settings=settings)


def simulate_event(
    detector: Detector, *, seed: int, index: int, settings: SimulationSettings = DEFAULT_SETTINGS
) -> Event:
    """Simulate one event: neutrinos interact until one of them triggers the detector.

    Raises:
        InvalidDetector: No neutrino triggers this detector.
    """
    rng = random_stream(seed, index)
    spectrum = Spectrum(settings.spectral_index, settings.min_energy_gev, settings.max_energy_gev)
    shares = (settings.through_going_share, settings.starting_share)
    ice = Ice(ice_table(clarity=settings.ice_clarity), light_bounds(settings.ice_clarity))
    recorded, truth = draw_event(rng, layout_of(detector), ice, spectrum, shares)
    if math.isnan(recorded.trigger_ns[0]):
        raise InvalidDetector(f"detector {detector.name!r} saw none of {MAX_TRIALS} simulated neutrinos")
    return Event(
        id=EventId(run_id=seed, event_id=index),
        detector=detector.name,
        start_unix_ns=settings.epoch_unix_ns + index * settings.spacing_ns,
        pulses=read_out(recorded),
        truth=Truth(truth.azimuth_rad, truth.zenith_rad, truth.energy_gev, EventKind(truth.kind)),
    )


@compiled
def draw_event(
    rng: RandomState, layout: Layout, ice: Ice, spectrum: Spectrum, shares: tuple[float, float]
) -> tuple[Record, Interaction]:
    """Try neutrinos until one triggers; no trigger is recorded where none of `MAX_TRIALS` does."""
    recorded = nothing_recorded()
    for _ in range(MAX_TRIALS):
        interaction = draw_interaction(rng, layout, spectrum, _draw_kind(rng, shares))
        hits = _light_up(rng, layout, ice, interaction)
        # Noise alone cannot make up for so little light; this saves most of the time.
        if len(hits) < TRIGGER_MULTIPLICITY:
            continue
        first_ns = _first_ns(hits)
        add_noise(rng, hits, len(layout.x_m), first_ns - NOISE_BEFORE_NS, first_ns + NOISE_AFTER_NS)
        recorded = record(hits, layout)
        if not math.isnan(recorded.trigger_ns[0]):
            break
    return recorded, interaction


@compiled
def _first_ns(hits: list[Hit]) -> float:
    """Time of the earliest hit."""
    first = hits[0][1]
    for hit in hits:
        first = min(first, hit[1])
    return first


@compiled
def _draw_kind(rng: RandomState, shares: tuple[float, float]) -> int:
    """Draw which kind of interaction to try."""
    u = uniform(rng)
    if u < shares[0]:
        return THROUGH_GOING
    return STARTING if u < shares[0] + shares[1] else CASCADE


@compiled
def _light_up(rng: RandomState, layout: Layout, ice: Ice, interaction: Interaction) -> list[Hit]:
    """Hits of all light that an interaction sets free."""
    # numba infers a list's type from what is put in.
    hits = [(0, 0.0, 0.0)]
    hits.clear()
    light_m = EM_LIGHT_M_PER_GEV * interaction.electromagnetic_gev
    light_m += HADRONIC_LIGHT_M_PER_GEV * interaction.hadronic_gev
    if light_m > 0:
        shine_shower(rng, hits, layout, ice, interaction.place, light_m)
    if interaction.muon_gev > MIN_ENERGY_GEV and interaction.path_m > 0:
        muon = propagate(rng, interaction.muon_gev, interaction.path_m)
        shine_track(rng, hits, layout, ice, interaction.place, muon)
        for i in range(len(muon.losses)):
            if muon.losses[i, 1] < MIN_SHOWER_GEV:
                continue
            spot = moved(interaction.place, muon.losses[i, 0])
            shine_shower(rng, hits, layout, ice, spot, EM_LIGHT_M_PER_GEV * muon.losses[i, 1])
    return hits
