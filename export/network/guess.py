"""A robust line fit as plain tensor operations: the first guess from which the network starts.

Source: "improved LineFit", arXiv:1308.5501; its thresholds are softened here, so that rounding does not decide
between two answers.
"""

from dataclasses import dataclass

from torch import Tensor

from export.network.units import METRE, NANOSECOND, single

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


@dataclass(frozen=True, slots=True)
class Guess:
    """A plane of light that moves through the detector; one per event, in units of 500 m and 500 m/c."""

    centre: Tensor
    """Mean position of the pulses that count; shape (B, 1, 3)."""
    time: Tensor
    """Mean time of these pulses; shape (B, 1, 1)."""
    velocity: Tensor
    """In units of c; shape (B, 1, 3)."""


def prompt(distance: Tensor, delay: Tensor, counts: Tensor) -> Tensor:
    """Find the pulses whose light came without much scattering.

    Args:
        distance: Between pulses i and j; shape (B, 1, L, L).
        delay: Time of pulse i minus time of pulse j; shape (B, 1, L, L).
        counts: 1 for pulses that can tell others late, 0 otherwise; shape (B, L, 1).

    Returns:
        1 for a prompt pulse, 0 for a late one; shape (B, L, 1).
    """
    is_near = ((CLEANING_RADIUS - distance) / SOFTNESS).clamp(0, 1)
    is_later = ((delay - CLEANING_DELAY) / SOFTNESS).clamp(0, 1)
    is_late = is_near * is_later * counts.transpose(1, 2)[:, None]
    return 1 - is_late.amax(-1).transpose(1, 2)


def guess_line(position: Tensor, time: Tensor, weight: Tensor) -> Guess:
    """Fit position = centre + velocity (t - time) by least squares, again and again with fewer outliers.

    Args:
        position: Shape (B, L, 3).
        time: Shape (B, L, 1).
        weight: 1 for a pulse that counts, 0 otherwise; shape (B, L, 1).
    """
    guess = _least_squares(position, time, weight)
    for _ in range(N_ITERATIONS):
        miss = position - guess.centre - guess.velocity * (time - guess.time)
        distance = miss.square().sum(-1, keepdim=True).clamp_min(HUBER_LENGTH2).sqrt()
        guess = _least_squares(position, time, weight * HUBER_LENGTH / distance)
    return guess


def _least_squares(position: Tensor, time: Tensor, weight: Tensor) -> Guess:
    share = weight / weight.sum(1, keepdim=True).clamp_min(1e-6)
    centre = (share * position).sum(1, keepdim=True)
    mean_time = (share * time).sum(1, keepdim=True)
    late = time - mean_time
    # The small term leaves a lone pulse, or pulses of one time, without a velocity instead of dividing by zero.
    variance = (share * late.square()).sum(1, keepdim=True) + MIN_VARIANCE
    velocity = (share * late * (position - centre)).sum(1, keepdim=True) / variance
    return Guess(centre, mean_time, velocity)
