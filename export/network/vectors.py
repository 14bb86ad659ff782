"""Vectors of batches of events, as planes: shape (3, B, 1 or L)."""

import torch
from torch import Tensor

from export.network.units import single

OFFSET = single(1e-6)


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Scalar products of vectors (3, B, 1 or L); shape (1, B, 1 or L)."""
    return (one * other).sum(0, keepdim=True)


def unit(vector: Tensor) -> Tensor:
    """Scale vectors to length 1; a vanishing one stays vanishing."""
    return vector / dot(vector, vector).clamp_min(1e-18).sqrt()


def length(vector: Tensor) -> Tensor:
    """Length of vectors (3, ...), at least 1e-6; shape (1, ...)."""
    return dot(vector, vector).clamp_min(1e-12).sqrt()


def azimuth_frame(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the directions' azimuth, 1 and 0 for a vertical one.

    Args:
        direction: Shape (3, ...).

    Returns:
        Each of shape (1, ...).
    """
    # The offset decides for azimuth 0 where there is none, and vanishes elsewhere.
    x, y = direction[:1], direction[1:2]
    offset = OFFSET / (1 + 1e9 * (x * x + y * y))
    cosine, sine = unit(torch.cat((x + offset, y))).chunk(2)
    return cosine, sine


def rotate(vector: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn vectors about the vertical by the angle of the given cosine and sine; shape (3, ...)."""
    x, y, z = vector.chunk(3)
    return torch.cat((cosine * x - sine * y, sine * x + cosine * y, z))
