"""From a line fit to a track, a shower and one estimate of the direction: a chain of learned steps.

Every step starts from the answer of the one before, which it takes as given: it is trained on its own improvement
alone, and no gradient travels along the chain.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from export.network.guess import guess_line, prompt
from export.network.pulses import ScaledPulses, hlc_or_all
from export.network.scorer import (
    N_KNOWN,
    Known,
    KnownFeatures,
    Measures,
    PulseScorer,
    counts_in_means,
    mean,
    shares,
)
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
    """How much each pulse counts in means, summing to 1; shape (1, B, L)."""
    is_prompt: Tensor
    """1 for pulses whose light came without much scattering; shape (1, B, L)."""
    flights: list[Tensor]
    """Of the track after each step, for training; each of shape (3, B, 1)."""
    origins: list[Tensor]
    """Of the shower after each step, for training; each of shape (3, B, 1)."""


class Refinement(nn.Module):
    """The chain."""

    def __init__(self, n_track_steps: int, n_shower_steps: int, hidden: int) -> None:
        super().__init__()
        self.known_features = KnownFeatures()
        self.measures = Measures()
        # Of all steps in one layer each: what is known of a pulse does not change along the chain.
        self.known_of_track = nn.Linear(N_KNOWN, n_track_steps * hidden)
        self.known_of_shower = nn.Linear(N_KNOWN + N_TRACK_FEATURES, 2 * n_shower_steps * hidden)
        self.track_steps = nn.ModuleList(TrackStep(hidden) for _ in range(n_track_steps))
        self.shower_steps = nn.ModuleList(ShowerStep(hidden) for _ in range(n_shower_steps))

    @property
    def dtype(self) -> torch.dtype:
        """In which it fits."""
        return self.measures.scales.dtype

    def exact(self) -> Self:
        """Let the fits compute in float64 from now on, and what scores pulses for them in float32."""
        self.double()
        for part in self.modules():
            if isinstance(part, PulseScorer):
                part.float()
        self.known_of_track.float()
        self.known_of_shower.float()
        return self

    def forward(self, pulses: ScaledPulses, log_n: Tensor) -> Refined:
        """Refine the line fit to events; `log_n` of shape (1, B, 1) is log10 of the pulses before selection."""
        of_use = hlc_or_all(pulses)
        is_prompt = prompt(pulses, of_use)
        of_use = of_use * is_prompt
        counts = counts_in_means(pulses, is_prompt)
        share = shares(counts)
        known = self.known_features(pulses, is_prompt, log_n)
        line = guess_line(pulses.position, pulses.time, of_use)
        aside = tie_breaker(pulses.position, of_use, line.centre)
        track = Track(unit(line.velocity), line.centre + aside, line.time)
        flights, origins = [], []
        of_steps = Known.of_steps(self.known_of_track, known, len(self.track_steps))
        for step, of_step in zip(self.track_steps, of_steps, strict=True):
            track = step(pulses, of_step, counts, share, track.detached())
            flights.append(track.flight)
        track = track.detached()
        of_track = track_features(self.measures, see_track(pulses, track))
        known = torch.cat((known[:-1], of_track, known[-1:]))
        of_steps = Known.of_steps(self.known_of_shower, known, 2 * len(self.shower_steps))
        shower = first_shower(pulses, of_use, aside, -track.flight)
        for i, step in enumerate(self.shower_steps):
            shower = step(pulses, of_steps[2 * i : 2 * i + 2], counts, share, shower.detached())
            origins.append(shower.origin)
        return Refined(track, shower.detached(), share, is_prompt, flights, origins)


def tie_breaker(position: Tensor, counts: Tensor, centre: Tensor) -> Tensor:
    """A step off the strings, for events whose light lies on a line of them: all sides of it fit alike.

    Fits that start on the line leave it to the side that rounding chooses. The step's direction turns with the
    event: it is a fixed angle off the outward direction, so that it seldom lies along the line.

    Args:
        position: Shape (3, B, L).
        counts: 1 for pulses of use, 0 for others; shape (1, B, L).
        centre: Mean of these pulses; shape (3, B, 1).

    Returns:
        Horizontal, `ASIDE` long for a line and next to nothing for light on three strings; shape (3, B, 1).
    """
    x, y = (position - centre)[:2].chunk(2)
    across2, along2, both = mean(torch.cat((x * x, y * y, x * y)), shares(counts)).chunk(3)
    # The smaller of the two variances; that it is one of a tiny difference only matters where it is 0.
    middle, half = (across2 + along2) / 2, (across2 - along2) / 2
    smallest = middle - (half * half + both * both + TINY).sqrt()
    cosine, sine = azimuth_frame(centre)
    aside = ASIDE / (1 + (smallest.clamp_min(0.0) / NARROW2))
    turned = (ASIDE_COS * cosine - ASIDE_SIN * sine, ASIDE_SIN * cosine + ASIDE_COS * sine, 0 * cosine)
    return aside * torch.cat(turned)
