"""From a line fit to a track, a shower and one estimate of the direction: a chain of learned steps.

Every step starts from the answer of the one before, which it takes as given: it is trained on its own improvement
alone, and no gradient travels along the chain.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.network.guess import guess_line, prompt
from export.network.pulses import Pairs, ScaledPulses, hlc_or_all
from export.network.scorer import N_KNOWN, KnownFeatures, Measures, counts_in_means
from export.network.showers import Shower, ShowerStep, first_shower
from export.network.tracks import N_TRACK_FEATURES, Track, TrackStep, see_track, track_features
from export.network.units import METRE, single
from export.network.vectors import azimuth_frame, unit

ASIDE = single(0.5e-3 * METRE)
"""Far above rounding, and far below what any pulse off the line says of the side."""
NARROW2 = single((2.0 * METRE) ** 2)
"""Variance of places, across the line that they lie on, that halves the step."""
TINY = single(1e-12)
ASIDE_COS, ASIDE_SIN = single(math.cos(0.7)), single(math.sin(0.7))


@dataclass(frozen=True, slots=True)
class Refined:
    """What the chain makes of events."""

    track: Track
    shower: Shower
    """Its origin is the chain's answer, for events of every kind."""
    share: Tensor
    """How much each pulse counts in means, summing to 1; shape (B, 1, L)."""
    is_prompt: Tensor
    """1 for pulses whose light came without much scattering; shape (B, L, 1)."""
    flights: list[Tensor]
    """Of the track after each step, for training; each of shape (B, 1, 3)."""
    origins: list[Tensor]
    """Of the shower after each step, for training; each of shape (B, 1, 3)."""


class Refinement(nn.Module):
    """The chain."""

    def __init__(self, n_track_steps: int, n_shower_steps: int, hidden: int) -> None:
        super().__init__()
        self.known_features = KnownFeatures()
        self.measures = Measures()
        # One product for all steps: what is known of a pulse does not change along the chain.
        self.known_of_track = nn.Linear(N_KNOWN, n_track_steps * hidden)
        self.known_of_shower = nn.Linear(N_KNOWN + N_TRACK_FEATURES, 2 * n_shower_steps * hidden)
        self.track_steps = nn.ModuleList(TrackStep(hidden) for _ in range(n_track_steps))
        self.shower_steps = nn.ModuleList(ShowerStep(hidden) for _ in range(n_shower_steps))

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return self.known_of_track.weight.dtype

    def forward(self, pulses: ScaledPulses, pairs: Pairs, log_n: Tensor) -> Refined:
        """Refine the line fit to events; `log_n` of shape (B, 1, 1) is log10 of the pulses before selection."""
        of_use = hlc_or_all(pulses)
        is_prompt = prompt(pairs.distance, pairs.delay, of_use.float()).to(of_use.dtype)
        of_use = of_use * is_prompt
        counts = counts_in_means(pulses, is_prompt)
        share = (counts / counts.sum(1, keepdim=True).clamp_min(1e-6)).transpose(1, 2)
        known = self.known_features(pulses, is_prompt, log_n)
        line = guess_line(pulses.position, pulses.time, of_use)
        aside = tie_breaker(pulses.position, of_use, line.centre)
        track = Track(unit(line.velocity), line.centre + aside, line.time)
        flights, origins = [], []
        projected = self.known_of_track(known).chunk(len(self.track_steps), -1)
        for step, of_step in zip(self.track_steps, projected, strict=True):
            track = step(pulses, of_step, counts, share, track.detached())
            flights.append(track.flight)
        track = track.detached()
        of_track = track_features(self.measures, see_track(pulses, track))
        projected = self.known_of_shower(torch.cat((known, of_track), -1)).chunk(
            2 * len(self.shower_steps), -1
        )
        shower = first_shower(pulses, of_use, aside, -track.flight)
        for i, step in enumerate(self.shower_steps):
            shower = step(pulses, projected[2 * i : 2 * i + 2], counts, share, shower.detached())
            origins.append(shower.origin)
        return Refined(track, shower.detached(), share, is_prompt, flights, origins)


def tie_breaker(position: Tensor, counts: Tensor, centre: Tensor) -> Tensor:
    """A step off the strings, for events whose light lies on a line of them: all sides of it fit alike.

    Fits that start on the line leave it to the side that rounding chooses. The step's direction turns with the
    event: it is a fixed angle off the outward direction, so that it seldom lies along the line.

    Args:
        position: Shape (B, L, 3).
        counts: 1 for pulses of use, 0 for others; shape (B, L, 1).
        centre: Mean of these pulses; shape (B, 1, 3).

    Returns:
        Horizontal, `ASIDE` long for a line and next to nothing for light on three strings; shape (B, 1, 3).
    """
    share = counts / counts.sum(1, keepdim=True).clamp_min(1e-6)
    offset = (position - centre)[..., :2]
    spread = (share * offset).transpose(1, 2) @ offset
    across2, along2 = spread[:, :1, :1], spread[:, 1:, 1:]
    # The smaller of the two variances; that it is one of a tiny difference only matters where it is 0.
    middle, half = (across2 + along2) / 2, (across2 - along2) / 2
    smallest = middle - (half * half + spread[:, :1, 1:].square() + TINY).sqrt()
    cosine, sine = azimuth_frame(centre)
    aside = ASIDE / (1 + (smallest.clamp_min(0.0) / NARROW2))
    turned = (ASIDE_COS * cosine - ASIDE_SIN * sine, ASIDE_SIN * cosine + ASIDE_COS * sine, 0 * cosine)
    return aside * torch.cat(turned, -1)
