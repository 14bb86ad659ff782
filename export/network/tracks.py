"""Fits an infinite muon track with weights that are learned.

Each Gauss-Newton step asks a small network how much each pulse counts, how late its light is expected and how far
from the track its module should be. A likelihood fit takes these from tables of the ice, and ends in the minimum
that is next to its first guess; here each step learns them for the hypotheses that it meets: broad ones first,
sharp ones at the end. The geometry, which needs no learning, is exact: arrival times of Cherenkov light
(icestream.physics.cherenkov) and their derivatives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.network.least_squares import diagonal, limited, normal_equations, solve
from export.network.pulses import ScaledPulses
from export.network.scorer import (
    MAX_SCORE,
    MIN_DISTANCE2,
    N_MEASURED,
    Known,
    Measures,
    PulseScorer,
    growing,
    robust_counts,
)
from export.network.units import METRE, NANOSECOND, single
from export.network.vectors import azimuth_frame, dot, rotate, unit
from icestream.physics.cherenkov import COS_CHERENKOV, N_GROUP, SIN_CHERENKOV, TAN_CHERENKOV

DELAY_PER_DISTANCE = single(N_GROUP / SIN_CHERENKOV - 1 / TAN_CHERENKOV)
"""Arrival time behind the track's own passage, per distance from it, in units of 1/c."""
COS, SIN = single(COS_CHERENKOV), single(SIN_CHERENKOV)
N_TRACK_FEATURES = N_MEASURED + 2
PRECISIONS = ((60.0 * NANOSECOND) ** -2, (180.0 * METRE) ** -2)
"""Inverse squared errors of times and of distances, before anything is learned."""
EXPECTATIONS = (100.0 * NANOSECOND, 50.0 * METRE)
"""Scales of the expected delay and of the expected distance."""
LIMITS = (1.0, 1.0, 0.5, 0.5, 0.7)
"""Of one step: two turns (rad), two shifts and a wait."""
LOG_DAMPING = -3.0
FLOOR = single(0.3)
"""Added to the normal equations, so that an event of few pulses has a solution."""


@dataclass(frozen=True, slots=True)
class Track:
    """Straight lines through the detector at the speed of light; one per event."""

    flight: Tensor
    """Unit vector; shape (3, B, 1)."""
    place: Tensor
    """Shape (3, B, 1)."""
    time: Tensor
    """When it is there; shape (1, B, 1)."""

    def detached(self) -> "Track":
        """The same without a gradient."""
        return Track(self.flight.detach(), self.place.detach(), self.time.detach())

    def turned(self, cosine: Tensor, sine: Tensor) -> "Track":
        """The same about the vertical by an angle's cosine and sine."""
        return Track(rotate(self.flight, cosine, sine), rotate(self.place, cosine, sine), self.time)


@dataclass(frozen=True, slots=True)
class TrackView:
    """How pulses lie to a track."""

    axes: Tensor
    """Two unit vectors across the track; shape (2, 3, B, 1)."""
    across: Tensor
    """Distance from the track along both; shape (2, B, L)."""
    outward: Tensor
    """The same for each distance from the track: nearly a unit vector; shape (2, B, L)."""
    measures: Tensor
    """How late the pulse is behind light that was not scattered, how far from the track and along it its module
    is; shape (3, B, L)."""
    outward_z: Tensor
    """Vertical component of the unit vector from the track to the module; shape (1, B, L)."""
    cos_up: Tensor
    """Between the flight of unscattered light and the upward vertical; shape (1, B, L)."""


class TrackStep(nn.Module):
    """One step of the fit."""

    precisions: Tensor
    expectations: Tensor
    limits: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.measures = Measures()
        self.scorer = PulseScorer(N_TRACK_FEATURES, 1, hidden, 4)
        self.log_damping = nn.Parameter(torch.full((len(LIMITS),), LOG_DAMPING))
        with torch.no_grad():
            self.scorer.last.bias.copy_(torch.tensor([0.0, -1.6, 0.1, 0.0]))
        for name, values in {
            "precisions": PRECISIONS,
            "expectations": EXPECTATIONS,
            "limits": LIMITS,
        }.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(
        self, pulses: ScaledPulses, known: Known, counts: Tensor, share: Tensor, track: Track
    ) -> Track:
        """Improve a track.

        Args:
            pulses: Of the events.
            known: Of the pulses.
            counts: See `counts_in_means`; shape (1, B, L).
            share: The same, summing to 1; shape (1, B, L).
            track: To start from.
        """
        view = see_track(pulses, track)
        features = track_features(self.measures, view)
        scores, _ = self.scorer(features, track.flight[2:], known, share)
        weights, expected = scores.clamp(-MAX_SCORE, MAX_SCORE).chunk(2)
        left = view.measures[:2] - expected * self.expectations * growing(view.measures[1:2])
        counts = robust_counts(counts, view.measures[:1])
        weights = counts * weights.exp() * self.precisions
        # Times and distances one behind the other, as if they were pulses of their own.
        rows = torch.cat((_slopes(view), torch.cat(left.chunk(2), -1)))
        equations = normal_equations(rows, torch.cat(weights.chunk(2), -1))
        equations = equations * (1 + diagonal(self.log_damping.exp())) + FLOOR * diagonal(
            torch.ones_like(self.log_damping)
        )
        step = solve(equations)
        return _moved(track, view, limited(step, self.limits))


def see_track(pulses: ScaledPulses, track: Track) -> TrackView:
    """Compare pulses with what a track predicts."""
    axes = _axes(track.flight)
    frame = torch.cat((track.flight[None], axes))
    along, across = (frame * (pulses.position - track.place)).sum(1).split_with_sizes((1, 2))
    distance = (dot(across, across) + MIN_DISTANCE2).sqrt()
    residual = pulses.time - track.time - along - DELAY_PER_DISTANCE * distance
    outward = across / distance
    # The first axis is horizontal.
    outward_z = outward[1:] * axes[1, 2:]
    cos_up = COS * track.flight[2:] + SIN * outward_z
    return TrackView(axes, across, outward, torch.cat((residual, distance, along)), outward_z, cos_up)


def track_features(measures: Measures, view: TrackView) -> Tensor:
    """What a track makes of pulses, all of order 1; shape (N_TRACK_FEATURES, B, L)."""
    return torch.cat((measures(view.measures), view.outward_z, view.cos_up))


def _slopes(view: TrackView) -> Tensor:
    """Derivatives by turn (2), shift (2) and time: of predicted times, then of distances; shape (5, B, 2 L)."""
    turned = view.measures[2:] * view.outward
    zero = 0 * view.outward_z
    of_time = (view.across - DELAY_PER_DISTANCE * turned, -DELAY_PER_DISTANCE * view.outward, zero + 1)
    return torch.cat((torch.cat(of_time), torch.cat((-turned, -view.outward, zero))), -1)


def _moved(track: Track, view: TrackView, step: Tensor) -> Track:
    """Apply a step of shape (5, B, 1)."""
    turn, shift, wait = step[:, None].split_with_sizes((2, 2, 1))
    flight = unit(track.flight + (turn * view.axes).sum(0))
    return Track(flight, track.place + (shift * view.axes).sum(0), track.time + wait[0])


def _axes(flight: Tensor) -> Tensor:
    """A horizontal unit vector across a flight (3, B, 1), and one across both; shape (2, 3, B, 1)."""
    cosine, sine = azimuth_frame(flight)
    x, y, z = flight.chunk(3)
    level = torch.cat((-sine, cosine, torch.zeros_like(z)))
    return torch.stack((level, torch.cat((-z * cosine, -z * sine, x * cosine + y * sine))))
