"""How muons lose energy in ice, and how bright that makes them.

Source: dE/dx = a + b E with a = 0.26 GeV/m and b = 3.6e-4 /m, D. Chirkin and W. Rhode, hep-ph/0407075.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icestream.physics.cherenkov import muon_light_factor
from icestream.physics.compiled import compiled
from icestream.physics.randomness import RandomState, exponential, uniform

FloatArray = NDArray[np.float64]

IONISATION_GEV_PER_M = 0.26
RADIATION_PER_M = 3.6e-4
STOCHASTIC_SHARE = 0.5
"""Of the radiated energy that goes in few large losses rather than many small ones."""
SMOOTH_RADIATION_PER_M = RADIATION_PER_M * (1 - STOCHASTIC_SHARE)
MIN_LOSS_SHARE = 1e-3
"""Smallest loss that counts as large, as a share of the muon's energy."""
LOSS_RATE_PER_M = RADIATION_PER_M * STOCHASTIC_SHARE * math.log(1 / MIN_LOSS_SHARE) / (1 - MIN_LOSS_SHARE)
"""Large losses per metre: their shares v follow dN/dv ~ 1/v, and their mean makes up the stochastic half."""
MIN_ENERGY_GEV = 1.0
"""The last metres of a stopping muon are dark."""
EM_LIGHT_M_PER_GEV = 5.25
"""Bare track as bright as 1 GeV of electromagnetic shower. Source: Astropart. Phys. 44 (2013) 102."""
HADRONIC_LIGHT_M_PER_GEV = 4.5
"""The same of a hadronic shower, whose neutral and nuclear part is dark. Source: as above."""


class Muon(NamedTuple):
    """One muon on its way."""

    energy_gev: float
    """At its start."""
    length_m: float
    """Until it stops or leaves."""
    losses: FloatArray
    """The large ones, in order: distance from the start (m), energy lost there and energy left (GeV);
    shape (n, 3)."""


@compiled
def range_m(energy_gev: float) -> float:
    """Mean range of a muon."""
    return math.log(1 + energy_gev * RADIATION_PER_M / IONISATION_GEV_PER_M) / RADIATION_PER_M


@compiled
def energy_after_gev(energy_gev: float, distance_m: float, radiation_per_m: float) -> float:
    """Energy that the mean losses leave; 0 where the muon has stopped."""
    offset = IONISATION_GEV_PER_M / radiation_per_m
    return max(0.0, (energy_gev + offset) * math.exp(-radiation_per_m * distance_m) - offset)


@compiled
def propagate(rng: RandomState, energy_gev: float, max_length_m: float) -> Muon:
    """Send a muon through the ice until it stops or has gone `max_length_m`."""
    losses = [(0.0, 0.0, energy_gev)]
    losses.clear()
    energy, gone = energy_gev, 0.0
    while True:
        step, to_stop = exponential(rng) / LOSS_RATE_PER_M, _smooth_range_m(energy)
        if step > min(to_stop, max_length_m - gone):
            break
        gone += step
        energy = energy_after_gev(energy, step, SMOOTH_RADIATION_PER_M)
        lost = energy * MIN_LOSS_SHARE ** uniform(rng)
        energy = max(energy - lost, MIN_ENERGY_GEV)
        losses.append((gone, lost, energy))
    table = np.empty((len(losses), 3))
    for i, loss in enumerate(losses):
        table[i, 0], table[i, 1], table[i, 2] = loss
    return Muon(energy_gev, min(gone + to_stop, max_length_m), table)


@compiled
def light_per_m(muon: Muon, at_m: float) -> float:
    """Brightness of a muon and its small losses at a place of its way, relative to a bare track."""
    start, energy = 0.0, muon.energy_gev
    for i in range(len(muon.losses)):
        if muon.losses[i, 0] > at_m:
            break
        start, energy = muon.losses[i, 0], muon.losses[i, 2]
    energy = max(energy_after_gev(energy, at_m - start, SMOOTH_RADIATION_PER_M), MIN_ENERGY_GEV)
    return muon_light_factor(energy) + EM_LIGHT_M_PER_GEV * SMOOTH_RADIATION_PER_M * energy


@compiled
def _smooth_range_m(energy_gev: float) -> float:
    """Distance after which the small losses alone leave `MIN_ENERGY_GEV`."""
    offset = IONISATION_GEV_PER_M / SMOOTH_RADIATION_PER_M
    return math.log((energy_gev + offset) / (MIN_ENERGY_GEV + offset)) / SMOOTH_RADIATION_PER_M
