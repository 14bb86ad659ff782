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

from export.network.least_squares import damping, limited, normal_equations, solve
from export.network.pulses import ScaledPulses
from export.network.scorer import (
    MAX_SCORE,
    MIN_DISTANCE2,
    N_MEASURED,
    Measures,
    PulseScorer,
    growing,
    robust_counts,
)
from export.network.units import METRE, NANOSECOND, single
from export.network.vectors import azimuth_frame, rotate, unit
from icestream.physics.cherenkov import COS_CHERENKOV, N_GROUP, SIN_CHERENKOV, TAN_CHERENKOV

DELAY_PER_DISTANCE = single(N_GROUP / SIN_CHERENKOV - 1 / TAN_CHERENKOV)
"""Arrival time behind the track's own passage, per distance from it, in units of 1/c."""
COS, SIN = single(COS_CHERENKOV), single(SIN_CHERENKOV)
N_TRACK_FEATURES = N_MEASURED + 2
ERRORS = (60.0 * NANOSECOND, 180.0 * METRE)
"""Of times and of distances, before anything is learned."""
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
    """Unit vector; shape (B, 1, 3)."""
    place: Tensor
    """Shape (B, 1, 3)."""
    time: Tensor
    """When it is there; shape (B, 1, 1)."""

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
    """Two unit vectors across the track; shape (B, 2, 3)."""
    across: Tensor
    """Distance from the track along both; shape (B, L, 2)."""
    measures: Tensor
    """How late the pulse is behind light that was not scattered, how far from the track and along it its module
    is; shape (B, L, 3)."""
    outward_z: Tensor
    """Vertical component of the unit vector from the track to the module; shape (B, L, 1)."""
    cos_up: Tensor
    """Between the flight of unscattered light and the upward vertical; shape (B, L, 1)."""


class TrackStep(nn.Module):
    """One step of the fit."""

    errors: Tensor
    expectations: Tensor
    limits: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.measures = Measures()
        self.scorer = PulseScorer(N_TRACK_FEATURES, 1, hidden, 4)
        self.log_damping = nn.Parameter(torch.full((len(LIMITS),), LOG_DAMPING))
        with torch.no_grad():
            self.scorer.last.bias.copy_(torch.tensor([0.0, -1.6, 0.1, 0.0]))
        self.register_buffer("errors", torch.tensor(ERRORS), persistent=False)
        self.register_buffer("expectations", torch.tensor(EXPECTATIONS), persistent=False)
        self.register_buffer("limits", torch.tensor(LIMITS), persistent=False)

    def forward(
        self, pulses: ScaledPulses, known: Tensor, counts: Tensor, share: Tensor, track: Track
    ) -> Track:
        """Improve a track.

        Args:
            pulses: Of the events.
            known: Of the pulses, projected for this step; shape (B, L, hidden).
            counts: See `counts_in_means`; shape (B, L, 1).
            share: The same, summing to 1; shape (B, 1, L).
            track: To start from.
        """
        view = see_track(pulses, track)
        features = track_features(self.measures, view)
        scores, _ = self.scorer(features, track.flight[..., 2:], known, share)
        weights, expected = scores.clamp(-MAX_SCORE, MAX_SCORE).chunk(2, -1)
        distance = view.measures[..., 1:2]
        left = view.measures[..., :2] - expected * self.expectations * growing(distance)
        counts = robust_counts(counts, view.measures[..., :1])
        weights = counts * weights.exp() / self.errors.square()
        late, far = (
            normal_equations(torch.cat((slopes, left[..., i : i + 1]), -1), weights[..., i : i + 1])
            for i, slopes in enumerate(_slopes(view))
        )
        floor = FLOOR * torch.eye(len(LIMITS), len(LIMITS) + 1, dtype=left.dtype, device=left.device)
        step = solve((late + far) * damping(self.log_damping.exp()) + floor)
        return _moved(track, view, limited(step, self.limits))


def see_track(pulses: ScaledPulses, track: Track) -> TrackView:
    """Compare pulses with what a track predicts."""
    axes = _axes(track.flight)
    offset = pulses.position - track.place
    along, across = offset @ track.flight.transpose(1, 2), offset @ axes.transpose(1, 2)
    distance = (across.square().sum(-1, keepdim=True) + MIN_DISTANCE2).sqrt()
    residual = pulses.time - (track.time + along + DELAY_PER_DISTANCE * distance)
    outward_z = across @ axes[..., 2:] / distance
    cos_up = COS * track.flight[..., 2:] + SIN * outward_z
    return TrackView(axes, across, torch.cat((residual, distance, along), -1), outward_z, cos_up)


def track_features(measures: Measures, view: TrackView) -> Tensor:
    """What a track makes of pulses, all of order 1; shape (B, L, N_TRACK_FEATURES)."""
    return torch.cat((measures(view.measures), view.outward_z, view.cos_up), -1)


def _slopes(view: TrackView) -> tuple[Tensor, Tensor]:
    """Derivatives of predicted time and of distance by turn (2), shift (2) and time; shapes (B, L, 5)."""
    outward = view.across / view.measures[..., 1:2]
    turned = view.measures[..., 2:] * outward
    one = torch.ones_like(turned[..., :1])
    of_time = (view.across - DELAY_PER_DISTANCE * turned, -DELAY_PER_DISTANCE * outward, one)
    return torch.cat(of_time, -1), -torch.cat((turned, outward, 0 * one), -1)


def _moved(track: Track, view: TrackView, step: Tensor) -> Track:
    """Apply a step of shape (B, 1, 5)."""
    flight = unit(track.flight + step[..., :2] @ view.axes)
    return Track(flight, track.place + step[..., 2:4] @ view.axes, track.time + step[..., 4:])


def _axes(flight: Tensor) -> Tensor:
    """A horizontal unit vector across a flight (B, 1, 3), and one across both; shape (B, 2, 3)."""
    cosine, sine = azimuth_frame(flight)
    z, horizontal = flight[..., 2:], (flight[..., :1] * cosine + flight[..., 1:2] * sine)
    zero = torch.zeros_like(z)
    return torch.cat(
        (torch.cat((-sine, cosine, zero), -1), torch.cat((-z * cosine, -z * sine, horizontal), -1)), 1
    )
