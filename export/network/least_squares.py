"""Small weighted least-squares problems, solved with few operations, all of which ONNX has."""

import torch
from torch import Tensor


def normal_equations(rows: Tensor, weight: Tensor) -> Tensor:
    """Sum up the equations of weighted least squares.

    Args:
        rows: Slopes of n parameters and, as the last column, what is left to explain; shape (..., L, n + 1).
        weight: Shape (..., L, 1).

    Returns:
        Matrix and right-hand side in one; shape (..., n, n + 1).
    """
    return ((weight * rows).transpose(-1, -2) @ rows)[..., :-1, :]


def solve(equations: Tensor) -> Tensor:
    """Solve positive definite equations by Gauss-Jordan elimination, which needs no pivoting for them.

    Args:
        equations: Matrix and right-hand side; shape (B, n, n + 1).

    Returns:
        Shape (B, 1, n).
    """
    n = equations.shape[1]
    identity = torch.eye(n, dtype=equations.dtype, device=equations.device)
    for i in range(n):
        pivot = equations[:, i : i + 1] / equations[:, i : i + 1, i : i + 1]
        # Takes the pivot row from all others and leaves it in its own place.
        equations = equations - (equations[:, :, i : i + 1] - identity[:, i : i + 1]) * pivot
    return equations[..., -1:].transpose(1, 2)


def damping(factors: Tensor) -> Tensor:
    """What to multiply equations (B, n, n + 1) with, so that their diagonal grows by a share (n,) of itself."""
    identity = torch.eye(len(factors), len(factors) + 1, dtype=factors.dtype, device=factors.device)
    return 1 + identity * factors[:, None]


def limited(step: Tensor, limits: Tensor) -> Tensor:
    """Keep each parameter of a step (..., n) smoothly within its limits (n,)."""
    return limits * torch.tanh(step / limits)
