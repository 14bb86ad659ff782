"""A robust line fit as plain tensor operations: the first guess from which the network starts.

Source: "improved LineFit", arXiv:1308.5501; its thresholds are softened here, so that rounding does not decide
between two answers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.network.pulses import ScaledPulses
from export.network.units import METRE, NANOSECOND, single
from export.network.vectors import dot

N_ITERATIONS = 2
HUBER_LENGTH = single(153.0 * METRE)
"""Where a pulse starts to count as an outlier."""
HUBER_LENGTH2 = single(HUBER_LENGTH**2)
MIN_VARIANCE = single(1e-6)
CLEANING_RADIUS = 156.0 * METRE
"""A pulse does not count where another was seen this near"""
CLEANING_DELAY = 778.0 * NANOSECOND
"""and so much earlier: its light was scattered."""
SOFTNESS = 0.01
"""Width of both thresholds: 5 m and 17 ns."""
PER_SQUARE = single(1 / (2 * CLEANING_RADIUS * SOFTNESS))
"""Turns differences of squared distances about the radius into multiples of the softness."""
RADIUS2 = single(CLEANING_RADIUS**2 * PER_SQUARE)
PER_SOFTNESS = single(1 / SOFTNESS)
DELAY = single(CLEANING_DELAY / SOFTNESS)
NEVER = 1e4
"""More than any square."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A plane of light that moves through the detector; one per event, in units of 500 m and 500 m/c."""

    centre: Tensor
    """Mean position of the pulses that count; shape (3, B, 1)."""
    time: Tensor
    """Mean time of these pulses; shape (1, B, 1)."""
    velocity: Tensor
    """In units of c; shape (3, B, 1)."""


def prompt(pulses: ScaledPulses, counts: Tensor) -> Tensor:
    """Find the pulses whose light came without much scattering.

    Args:
        pulses: Of the events.
        counts: 1 for pulses that can tell others late, 0 otherwise; shape (1, B, L).

    Returns:
        1 for a prompt pulse, 0 for a late one; shape (1, B, L).
    """
    # One product finds all squared distances; in the precision of the fits, because they are differences of large
    # numbers. Float32 is enough for all that comes after, for the pairs are many.
    place = pulses.position
    here = dot(place, place) * PER_SQUARE
    one = 0 * here + 1
    of_late = torch.cat((2 * PER_SQUARE * place, one, RADIUS2 - here))
    # A pulse that does not count is far from all.
    of_early = torch.cat((place, counts * NEVER - NEVER - here, one))
    is_near = (of_late.permute(1, 2, 0) @ of_early.transpose(0, 1)).float().clamp(0, 1)
    time = (pulses.time[0] * PER_SOFTNESS).float()
    is_later = ((time - DELAY)[:, :, None] - time[:, None]).clamp(0, 1)
    return 1 - (is_near * is_later).amax(-1).to(place.dtype)[None]


def guess_line(position: Tensor, time: Tensor, weight: Tensor) -> Guess:
    """Fit position = centre + velocity (t - time) by least squares, again and again with fewer outliers.

    Args:
        position: Shape (3, B, L).
        time: Shape (1, B, L).
        weight: 1 for a pulse that counts, 0 otherwise; shape (1, B, L).
    """
    guess = _least_squares(position, time, weight)
    for _ in range(N_ITERATIONS):
        miss = position - guess.centre - guess.velocity * (time - guess.time)
        distance = dot(miss, miss).clamp_min(HUBER_LENGTH2).sqrt()
        guess = _least_squares(position, time, weight * HUBER_LENGTH / distance)
    return guess


def _least_squares(position: Tensor, time: Tensor, weight: Tensor) -> Guess:
    share = weight / weight.sum(-1, keepdim=True).clamp_min(1e-6)
    centre = (share * position).sum(-1, keepdim=True)
    mean_time = (share * time).sum(-1, keepdim=True)
    late = time - mean_time
    # The small term leaves a lone pulse, or pulses of one time, without a velocity instead of dividing by zero.
    variance = (share * late * late).sum(-1, keepdim=True) + MIN_VARIANCE
    velocity = (share * late * (position - centre)).sum(-1, keepdim=True) / variance
    return Guess(centre, mean_time, velocity)
