"""What the network is trained to make small."""

import math

import torch
from torch import Tensor

from export.network.direction import Estimates

VMF_SHARE = 0.05
"""Of the likelihood, where the angle is what is made small. Source: IceMix."""
SHARP_RAD = 0.02
"""Track steps are rewarded for relative improvement down to about this angle."""


def training_loss(estimates: Estimates, truth: Tensor, *, of_angle: bool) -> Tensor:
    """Sum up what each part of the network is to make small; shape (B,).

    Args:
        estimates: Of the network.
        truth: Unit vectors to the sources; shape (B, 3).
        of_angle: Whether the final answer is scored by its angle, rather than by the likelihood alone.
    """
    loss = vmf_negative_log_likelihood(estimates.p, truth)
    if of_angle:
        loss = VMF_SHARE * loss + opening_angle_rad(estimates.p, truth)
    for origin in estimates.origins:
        loss = loss + vmf_negative_log_likelihood(origin, truth)
    for flight in estimates.flights:
        angle = opening_angle_rad(-flight, truth)
        loss = loss + angle + (angle + SHARP_RAD).log()
    return loss


def vmf_negative_log_likelihood(p: Tensor, truth: Tensor) -> Tensor:
    """Minus log of the von Mises-Fisher density on the sphere, at the true direction.

    Args:
        p: Mean direction times concentration kappa; shape (B, 3).
        truth: Unit vectors; shape (B, 3).

    Returns:
        Shape (B,); exact to float32 for kappa from 0 to at least 1e6.

    Source: Fisher (1953): kappa / (2 pi (1 - exp(-2 kappa))) exp(kappa (cos - 1)).
    """
    kappa = _length(p)
    # kappa (1 - cos), without the cancellation of the two for a large kappa.
    misfit = (p / kappa[:, None] - truth).square().sum(-1) * kappa / 2
    return misfit + math.log(2 * math.pi) + _log_normalisation(kappa)


def opening_angle_rad(p: Tensor, truth: Tensor) -> Tensor:
    """Angle between p (B, 3) and unit vectors (B, 3), with a finite slope everywhere; shape (B,)."""
    direction = p / _length(p)[:, None]
    return 2 * torch.atan2(_length(direction - truth), _length(direction + truth))


def _log_normalisation(kappa: Tensor) -> Tensor:
    """log[(1 - exp(-2 kappa)) / kappa]; its series where the quotient would lose digits."""
    large = kappa.clamp_min(1e-3)
    series = math.log(2) - kappa + kappa.square() / 6
    return torch.where(kappa < 1e-3, series, (-torch.expm1(-2 * large) / large).log())


def _length(vector: Tensor) -> Tensor:
    return vector.square().sum(-1).clamp_min(1e-14).sqrt()
