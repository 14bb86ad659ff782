"""Small weighted least-squares problems, solved with few operations, all of which ONNX has."""

import torch
from torch import Tensor


def normal_equations(rows: Tensor, weight: Tensor) -> Tensor:
    """Sum up the equations of weighted least squares.

    Args:
        rows: Slopes of n parameters and, as the last plane, what is left to explain; shape (n + 1, B, L).
        weight: Shape (1, B, L).

    Returns:
        Matrix and right-hand side in one; shape (n, n + 1, B, 1).
    """
    # No matrix product: it would want the events first, and the transpositions cost more than it saves.
    return (rows[:-1, None] * (weight * rows)).sum(-1, keepdim=True)


def solve(equations: Tensor) -> Tensor:
    """Solve positive definite equations by Gauss-Jordan elimination, which needs no pivoting for them.

    Args:
        equations: Matrix and right-hand side; shape (n, n + 1, B, 1).

    Returns:
        Shape (n, B, 1).
    """
    n = len(equations)
    identity = diagonal(torch.ones(n, dtype=equations.dtype, device=equations.device))
    for i in range(n):
        pivot = equations[i : i + 1] / equations[i : i + 1, i : i + 1]
        # Takes the pivot row from all others and leaves it in its own place.
        equations = equations - (equations[:, i : i + 1] - identity[:, i : i + 1]) * pivot
    return equations[:, -1]


def diagonal(values: Tensor) -> Tensor:
    """Put values (n,) on the diagonal of equations; shape (n, n + 1, 1, 1)."""
    identity = torch.eye(len(values), len(values) + 1, dtype=values.dtype, device=values.device)
    return (identity * values[:, None])[..., None, None]


def limited(step: Tensor, limits: Tensor) -> Tensor:
    """Keep each parameter of a step (n, B, 1) smoothly within its limits (n, 1, 1)."""
    return limits * torch.tanh(step / limits)
