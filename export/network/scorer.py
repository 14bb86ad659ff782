"""What each pulse says of a hypothesis, seen in the light of all others: a small network over pulses."""

import math
from dataclasses import dataclass

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
WAVE_PER_DEPTH = single(math.pi / (1100.0 * METRE))
"""The longest wave over depth is 2200 m; the others, down to 275 m, are parts of it: the ice's clarity changes within
tens of metres."""
N_DEPTH_WAVES = 6
N_KNOWN = 2 * N_DEPTH_WAVES + 4
COUNT_OF_LATE_HLC = single(0.3)
COUNT_OF_PROMPT_HLC = single(0.7)
"""More than of a late one."""
COUNT_OF_SLC = single(0.05)
MAX_MEASURE = 3.0
MAX_SCORE = 6.0
MIN_DISTANCE2 = single((5.0 * METRE) ** 2)
"""Softens the distance of a pulse from what it is compared with."""
PER_RESIDUAL2 = single(1 / (150.0 * NANOSECOND) ** 2)
"""Residuals beyond 150 ns count less, before anything is learned."""
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
        # Planes: residual at three scales, distance at three, the third measure as it is.
        scales = torch.tensor((*TIME_SCALES, *DISTANCE_SCALES, 1.0))[:, None, None]
        left, right = zip((0, 3), (1, 3), (1, 4), (2, 4), (1, 6), (4, 6), strict=True)
        self.register_buffer("spread", torch.tensor((0, 0, 0, 1, 1, 1, 2)), persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("left", torch.tensor(left), persistent=False)
        self.register_buffer("right", torch.tensor(right), persistent=False)

    def forward(self, measures: Tensor) -> Tensor:
        """Map (N_MEASURES, B, L) to numbers of order 1; shape (N_MEASURED, B, L)."""
        wide = measures.index_select(0, self.spread)
        bounded = wide / (wide.abs() + self.scales)
        products = bounded.index_select(0, self.left) * bounded.index_select(0, self.right)
        return torch.cat((bounded, products, measures.clamp(-MAX_MEASURE, MAX_MEASURE)))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of pulses before a step, and what the step makes of it."""

    planes: Tensor
    """Shape (n, B, L); the last one is 1."""
    weight: Tensor
    """Shape (hidden, n)."""

    @classmethod
    def of_steps(cls, layer: nn.Linear, planes: Tensor, n_steps: int) -> "list[Known]":
        """For each of some steps, whose weights a layer holds one below the other, and in the layer's precision."""
        weight = torch.cat((layer.weight, layer.bias[:, None]), 1)
        return [cls(planes.to(weight.dtype), part) for part in weight.chunk(n_steps)]


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

    def forward(self, features: Tensor, event: Tensor, known: Known, share: Tensor) -> tuple[Tensor, Tensor]:
        """Score pulses.

        Args:
            features: What the hypothesis makes of each pulse; shape (n_features, B, L).
            event: What it is itself; shape (n_event_features, B, 1).
            known: What is known of each pulse without it.
            share: How much each pulse counts in means, summing to 1; shape (1, B, L).

        Returns:
            Scores (n_scores, B, L), and the event's mean of what they come from (hidden, B, 1).
        """
        exact, rough = features.dtype, self.first.weight.dtype
        share = share.to(rough)
        # One product instead of three that are added up.
        inputs = torch.cat((features.to(rough), event.to(rough) * known.planes[-1:], known.planes))
        weight = torch.cat((self.first.weight, self.event.weight, known.weight), 1)
        hidden = functional.relu(product(weight, inputs))
        context = mapped(self.context, mean(hidden, share)) + self.second.bias[:, None, None]
        hidden = functional.relu(product(self.second.weight, hidden) + context)
        return mapped(self.last, hidden).to(exact), mean(hidden, share).to(exact)


class KnownFeatures(nn.Module):
    """Stacks what is known of a pulse before any fit.

    Neither x nor y is among it: what is learned holds in every direction of the sky.
    """

    def forward(self, pulses: ScaledPulses, is_prompt: Tensor, log_n: Tensor) -> Tensor:
        """Return shape (N_KNOWN + 1, B, L), the last plane 1, for log10 of the pulses before selection (1, B, 1)."""
        wave = pulses.position[2:] * WAVE_PER_DEPTH
        # The other waves are multiples of the first: additions of angles cost a tenth of a sine.
        first = torch.cat((wave.sin(), wave.cos()))
        second = _of_sum(first, first)
        third, fourth = _of_sum(first, second), _of_sum(second, second)
        waves = (first, second, third, fourth, _of_sum(third, third), _of_sum(fourth, fourth))
        others = (pulses.log_charge, pulses.is_hlc, is_prompt, (log_n - 2) * pulses.is_real)
        return torch.cat(
            (*(each[:1] for each in waves), *(each[1:] for each in waves), *others, 0 * is_prompt + 1)
        )


def counts_in_means(pulses: ScaledPulses, is_prompt: Tensor) -> Tensor:
    """How much a pulse counts at first: prompt HLC, late HLC, others; shape (1, B, L)."""
    of_hlc = COUNT_OF_LATE_HLC + COUNT_OF_PROMPT_HLC * is_prompt
    return pulses.is_real * (COUNT_OF_SLC + pulses.is_hlc * of_hlc)


def robust_counts(counts: Tensor, residual: Tensor) -> Tensor:
    """Let pulses count less that are far off in time; all of shape (1, B, L)."""
    return counts / (1 + residual * residual * PER_RESIDUAL2)


def growing(distance: Tensor) -> Tensor:
    """How what is expected of a pulse's delay grows with its distance (1, B, L)."""
    return DELAY_AT_ONCE + 5 * distance


def shares(counts: Tensor) -> Tensor:
    """Divide counts (1, B, L) by their sum over each event."""
    return counts / counts.sum(-1, keepdim=True).clamp_min(1e-6)


def mean(planes: Tensor, share: Tensor) -> Tensor:
    """Mean over an event's pulses (n, B, L) with weights (1, B, L) that sum to 1; shape (n, B, 1)."""
    return (planes * share).sum(-1, keepdim=True)


def mapped(layer: nn.Linear, planes: Tensor) -> Tensor:
    """Let a layer take planes (n, B, L) to others."""
    answer = product(layer.weight, planes)
    return answer if layer.bias is None else answer + layer.bias[:, None, None]


def mapped_with_one(layer: nn.Linear, planes: Tensor) -> Tensor:
    """The same for planes (n + 1, B, L) of which the last one is 1: nothing has to be added to many planes."""
    return product(torch.cat((layer.weight, layer.bias[:, None]), 1), planes)


def product(weight: Tensor, planes: Tensor) -> Tensor:
    """Multiply a matrix (m, n) with planes (n, B, L); shape (m, B, L)."""
    # The weights stand on the left: one product for all pulses, and nothing is transposed.
    return (weight @ planes.flatten(1)).reshape(-1, *planes.shape[1:])


def _of_sum(one: Tensor, other: Tensor) -> Tensor:
    """Sine and cosine (2, B, L) of the sum of two angles."""
    (sine, cosine), (other_sine, other_cosine) = one.chunk(2), other.chunk(2)
    return torch.cat((sine * other_cosine + cosine * other_sine, cosine * other_cosine - sine * other_sine))
