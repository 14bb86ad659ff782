"""Vectors of batches of events: shape (..., 3)."""

import torch
from torch import Tensor

from export.network.units import single

OFFSET = single(1e-6)


def unit(vector: Tensor) -> Tensor:
    """Scale vectors to length 1; a vanishing one stays vanishing."""
    return vector / vector.square().sum(-1, keepdim=True).clamp_min(1e-18).sqrt()


def length(vector: Tensor) -> Tensor:
    """Length of vectors (..., 3), at least 1e-6; shape (..., 1)."""
    return vector.square().sum(-1, keepdim=True).clamp_min(1e-12).sqrt()


def azimuth_frame(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the directions' azimuth, 1 and 0 for a vertical one.

    Args:
        direction: Shape (..., 3).

    Returns:
        Each of shape (..., 1).
    """
    # The offset decides for azimuth 0 where there is none, and vanishes elsewhere.
    x, y = direction[..., :1], direction[..., 1:2]
    offset = OFFSET / (1 + 1e9 * (x * x + y * y))
    horizontal = unit(torch.cat((x + offset, y), -1))
    return horizontal[..., :1], horizontal[..., 1:]


def rotate(vector: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn vectors about the vertical by the angle of the given cosine and sine; shape (..., 3)."""
    x, y, z = vector[..., :1], vector[..., 1:2], vector[..., 2:]
    return torch.cat((cosine * x - sine * y, sine * x + cosine * y, z), -1)
