"""Fits a point-like shower and finds its direction, with weights that are learned.

Each step first moves the vertex by weighted least squares, then adds up the directions from it to the modules,
each with a learned weight: light that comes early and bright lies ahead. A track's direction, where the event has
one, comes in as the first estimate, and a step may keep it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.network.least_squares import diagonal, normal_equations, solve
from export.network.pulses import ScaledPulses
from export.network.scorer import (
    MAX_SCORE,
    MIN_DISTANCE2,
    N_MEASURED,
    Known,
    Measures,
    PulseScorer,
    growing,
    mapped,
    mean,
    product,
    robust_counts,
    shares,
)
from export.network.units import NANOSECOND, single
from export.network.vectors import dot, length, rotate, unit
from icestream.physics.cherenkov import N_GROUP

INDEX = single(N_GROUP)
"""Time that light needs per distance, in units of 1/c."""
N_SHOWER_FEATURES = N_MEASURED + 1
PER_TIME_ERROR2 = single((60.0 * NANOSECOND) ** -2)
DELAY_SCALE = single(100.0 * NANOSECOND)
DELAY_BY_ITSELF = single(0.1)
MAX_WAIT, MAX_SHIFT = 0.5, single(0.4)
"""Of one step."""
FLOOR = 1.0
DAMPING = single(0.05)
LEVEL = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.5, 0.5, 0.0), (0.0, 0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 1.0))
"""Takes the mean over x and y of what time, x, y and z are damped by."""
MAX_LOG_GROWTH = 4.0
MIN_KAPPA = single(1e-3)
LENIENCE = single(0.6)
"""Towards late light, before anything is learned."""
VECTOR_SCALE = 10.0
MAX_CHARGE_AT_FIRST_PE = 50.0
FIRST_ERRORS = (single(200.0 * NANOSECOND), single(100.0 * NANOSECOND))
"""How far off light may be before it counts less, in the steps that need no learning."""


@dataclass(frozen=True, slots=True)
class Shower:
    """Points in the detector from which light spreads; one per event."""

    place: Tensor
    """Shape (3, B, 1)."""
    time: Tensor
    """Shape (1, B, 1)."""
    origin: Tensor
    """Where the particle comes from: a vector whose length is kappa; shape (3, B, 1)."""

    def detached(self) -> "Shower":
        """The same without a gradient."""
        return Shower(self.place.detach(), self.time.detach(), self.origin.detach())

    def turned(self, cosine: Tensor, sine: Tensor) -> "Shower":
        """The same about the vertical by an angle's cosine and sine."""
        return Shower(rotate(self.place, cosine, sine), self.time, rotate(self.origin, cosine, sine))


@dataclass(frozen=True, slots=True)
class ShowerView:
    """How pulses lie to a shower."""

    towards: Tensor
    """Unit vector from the shower to the module; shape (3, B, L)."""
    distance: Tensor
    """Shape (1, B, L)."""
    residual: Tensor
    """How late the pulse is behind light that was not scattered; shape (1, B, L)."""


class ShowerStep(nn.Module):
    """One step of the fit."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.measures = Measures()
        self.vertex_scorer = PulseScorer(N_SHOWER_FEATURES, 2, hidden, 2)
        self.direction_scorer = PulseScorer(N_SHOWER_FEATURES, 2, hidden, 2)
        self.gates = nn.Linear(hidden, 3)
        with torch.no_grad():
            self.gates.weight.mul_(0.1)
            self.gates.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))

    def forward(
        self,
        pulses: ScaledPulses,
        known: Sequence[Known],
        counts: Tensor,
        share: Tensor,
        shower: Shower,
    ) -> Shower:
        """Improve a shower.

        Args:
            pulses: Of the events.
            known: Of the pulses, for both scorers of this step.
            counts: See `counts_in_means`; shape (1, B, L).
            share: The same, summing to 1; shape (1, B, L).
            shower: To start from.
        """
        origin = unit(shower.origin)
        event = torch.cat(((length(shower.origin) + MIN_KAPPA).log(), origin[2:]))
        view = see_shower(pulses, shower)
        features = shower_features(self.measures, view, origin)
        scores, _ = self.vertex_scorer(features, event, known[0], share)
        shower = _vertex_step(view, shower, counts, scores.clamp(-MAX_SCORE, MAX_SCORE))
        view = see_shower(pulses, shower)
        features = shower_features(self.measures, view, origin)
        scores, context = self.direction_scorer(features, event, known[1], share)
        score = scores[:1] + scores[1:] * view.distance
        vector = VECTOR_SCALE * mean(score * view.towards, share)
        keep, upward, growth = mapped(self.gates, context).chunk(3)
        vertical = torch.cat((0 * upward, 0 * upward, upward))
        growth = growth.clamp(-MAX_LOG_GROWTH, MAX_LOG_GROWTH).exp()
        return Shower(shower.place, shower.time, (keep * shower.origin + vector + vertical) * growth)


def first_shower(pulses: ScaledPulses, counts: Tensor, aside: Tensor, origin: Tensor) -> Shower:
    """Find a vertex without learning: the centre of charge, then robust steps.

    Args:
        pulses: Of the events.
        counts: 1 for pulses of use, 0 for others; shape (1, B, L).
        aside: A step off the centre of charge; shape (3, B, 1).
        origin: Where the particle seems to come from; shape (3, B, 1).
    """
    charge = counts * pulses.charge.clamp_max(MAX_CHARGE_AT_FIRST_PE)
    place = mean(pulses.position, shares(charge)) + aside
    distance = length(pulses.position - place)
    shower = Shower(place, mean(pulses.time - INDEX * distance, shares(counts)), origin)
    for error in FIRST_ERRORS:
        view = see_shower(pulses, shower)
        # Light may be late for many reasons and early for few.
        off = view.residual * single(1 / error)
        weight = counts / (1 + off * off * (1 - LENIENCE * torch.sigmoid(4 * off)))
        shower = _fitted(view, shower, weight * single(error**-2), view.residual)
    return shower


def see_shower(pulses: ScaledPulses, shower: Shower) -> ShowerView:
    """Compare pulses with what a shower predicts."""
    offset = pulses.position - shower.place
    distance = (dot(offset, offset) + MIN_DISTANCE2).sqrt()
    return ShowerView(offset / distance, distance, pulses.time - shower.time - INDEX * distance)


def shower_features(measures: Measures, view: ShowerView, origin: Tensor) -> Tensor:
    """What a shower that comes from `origin` makes of pulses, of order 1; shape (N_SHOWER_FEATURES, B, L)."""
    behind = dot(view.towards, origin)
    return torch.cat((measures(torch.cat((view.residual, view.distance, behind))), view.towards[2:]))


def _vertex_step(view: ShowerView, shower: Shower, counts: Tensor, scores: Tensor) -> Shower:
    """Move the vertex with learned weights and expected delays."""
    weight, delay = scores.chunk(2)
    counts = robust_counts(counts, view.residual)
    expected = (DELAY_BY_ITSELF + delay) * DELAY_SCALE * growing(view.distance)
    return _fitted(view, shower, counts * weight.exp() * PER_TIME_ERROR2, view.residual - expected)


def _fitted(view: ShowerView, shower: Shower, weight: Tensor, late: Tensor) -> Shower:
    """Take a Gauss-Newton step in time and place; weight and late have shape (1, B, L)."""
    equations = normal_equations(torch.cat((0 * late + 1, -INDEX * view.towards, late)), weight)
    identity = diagonal(torch.ones(4, dtype=late.dtype, device=late.device))
    # The same along x and y, so that the answer turns with the event.
    level = torch.tensor(LEVEL, dtype=late.dtype, device=late.device)
    sizes = product(level, (equations * identity).sum(1))
    equations = equations + identity * (FLOOR + DAMPING * sizes[:, None])
    wait, shift = solve(equations).split_with_sizes((1, 3))
    far = length(shift) / MAX_SHIFT
    place = shower.place + shift * (torch.tanh(far) / far)
    return Shower(place, shower.time + MAX_WAIT * torch.tanh(wait / MAX_WAIT), shower.origin)
