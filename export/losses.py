"""What the network is trained to make small."""

import math

import torch
from torch import Tensor


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
