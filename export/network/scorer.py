"""What each pulse says of a hypothesis, seen in the light of all others: a small network over pulses."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.network.pulses import ScaledPulses
from export.network.units import METRE, NANOSECOND, single

TIME_SCALES = tuple(ns * NANOSECOND for ns in (20.0, 100.0, 500.0))
DISTANCE_SCALES = tuple(m * METRE for m in (30.0, 100.0, 500.0))
N_MEASURES = 3
"""Residual, distance and a third number, of a pulse to a hypothesis."""
N_MEASURED = 16
DEPTH_WAVES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Half waves per 1100 m of depth: the ice's clarity changes within tens of metres."""
DEPTH_SPAN = 1100.0 * METRE
N_KNOWN = 2 * len(DEPTH_WAVES) + 4
COUNT_OF_LATE_HLC = single(0.3)
COUNT_OF_PROMPT_HLC = single(0.7)
"""More than of a late one."""
COUNT_OF_SLC = single(0.05)
MAX_MEASURE = 3.0
MAX_SCORE = 6.0
MIN_DISTANCE2 = single((5.0 * METRE) ** 2)
"""Softens the distance of a pulse from what it is compared with."""
RESIDUAL_SCALE = single(150.0 * NANOSECOND)
"""Residuals beyond it count less, before anything is learned."""
DELAY_AT_ONCE = single(0.3)
"""Of what is expected, the part that does not grow with distance."""


class Measures(nn.Module):
    """Spreads residual, distance and a third measure of order 1 over several scales, and multiplies some."""

    spread: Tensor
    scales: Tensor
    left: Tensor
    right: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Columns: residual at three scales, distance at three, the third measure as it is.
        spread = torch.zeros(N_MEASURES, 7)
        spread[0, :3] = spread[1, 3:6] = spread[2, 6] = 1
        scales = torch.tensor((*TIME_SCALES, *DISTANCE_SCALES, 1.0))
        pairs = ((0, 3), (1, 3), (1, 4), (2, 4), (1, 6), (4, 6))
        left, right = torch.zeros(7, len(pairs)), torch.zeros(7, len(pairs))
        for column, (i, j) in enumerate(pairs):
            left[i, column] = right[j, column] = 1
        for name, value in {"spread": spread, "scales": scales, "left": left, "right": right}.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, measures: Tensor) -> Tensor:
        """Map (B, L, N_MEASURES) to numbers of order 1; shape (B, L, N_MEASURED)."""
        # Products with 0 and 1 instead of slices and copies: one operation for all columns.
        wide = measures @ self.spread
        bounded = wide / (wide.abs() + self.scales)
        products = (bounded @ self.left) * (bounded @ self.right)
        return torch.cat((bounded, products, measures.clamp(-MAX_MEASURE, MAX_MEASURE)), -1)


class PulseScorer(nn.Module):
    """Two layers over each pulse; the second one also sees the mean of the first over the event."""

    def __init__(self, n_features: int, n_event_features: int, hidden: int, n_scores: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_features, hidden, bias=False)
        self.event = nn.Linear(n_event_features, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden)
        self.context = nn.Linear(hidden, hidden, bias=False)
        self.last = nn.Linear(hidden, n_scores)
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()

    def forward(self, features: Tensor, event: Tensor, known: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Score pulses.

        Args:
            features: What the hypothesis makes of each pulse; shape (B, L, n_features).
            event: What it is itself; shape (B, 1, n_event_features).
            known: What is known of each pulse without it, projected already; shape (B, L, hidden).
            share: How much each pulse counts in means, summing to 1; shape (B, 1, L).

        Returns:
            Scores (B, L, n_scores), and the event's mean of what they come from (B, 1, hidden).
        """
        hidden = functional.relu(self.first(features) + (known + self.event(event)))
        hidden = functional.relu(self.second(hidden) + self.context(share @ hidden))
        return self.last(hidden), share @ hidden


class KnownFeatures(nn.Module):
    """Stacks what is known of a pulse before any fit.

    Neither x nor y is among it: what is learned holds in every direction of the sky.
    """

    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", math.pi / DEPTH_SPAN * torch.tensor([DEPTH_WAVES]), persistent=False)

    def forward(self, pulses: ScaledPulses, is_prompt: Tensor, log_n: Tensor) -> Tensor:
        """Return shape (B, L, N_KNOWN), for log10 of the pulses before selection (B, 1, 1)."""
        depth = pulses.position[..., 2:]
        waves = depth @ self.waves
        log_n = (log_n - 2) * pulses.is_real
        others = (pulses.log_charge, pulses.is_hlc, is_prompt, log_n)
        return torch.cat((torch.sin(waves), torch.cos(waves), *others), -1)


def counts_in_means(pulses: ScaledPulses, is_prompt: Tensor) -> Tensor:
    """How much a pulse counts at first: prompt HLC, late HLC, others; shape (B, L, 1)."""
    of_hlc = COUNT_OF_LATE_HLC + COUNT_OF_PROMPT_HLC * is_prompt
    return pulses.is_real * (COUNT_OF_SLC + pulses.is_hlc * of_hlc)


def robust_counts(counts: Tensor, residual: Tensor) -> Tensor:
    """Let pulses count less that are far off in time; all of shape (B, L, 1)."""
    return counts / (1 + (residual / RESIDUAL_SCALE).square())


def growing(distance: Tensor) -> Tensor:
    """How what is expected of a pulse's delay grows with its distance (B, L, 1)."""
    return DELAY_AT_ONCE + 5 * distance
