import math

import numpy as np
import pytest
import torch

from export.losses import opening_angle_rad, vmf_negative_log_likelihood


def exact_nll(kappa: float, cosine: float) -> float:
    """In float64, from the textbook's form."""
    log_sinh = kappa + math.log(-math.expm1(-2 * kappa)) - math.log(2)
    return -(math.log(kappa) - math.log(4 * math.pi) - log_sinh) - kappa * cosine


@pytest.mark.parametrize("kappa", [1e-5, 1e-2, 1.0, 30.0, 1e3])
def test_vmf_density_integrates_to_one(kappa: float) -> None:
    cosines = np.linspace(-1, 1, 400_001)
    sines = np.sqrt(1 - cosines**2)
    truth = torch.from_numpy(np.stack((sines, 0 * cosines, cosines), 1))
    p = torch.tensor([0.0, 0.0, kappa], dtype=torch.float64).expand_as(truth)
    density = torch.exp(-vmf_negative_log_likelihood(p, truth)).numpy()
    assert 2 * math.pi * np.trapezoid(density, cosines) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kappa", [1e-6, 1e-4, 1e-3, 1e-1, 10.0, 1e4, 1e6])
def test_vmf_is_exact_in_float32(kappa: float) -> None:
    truth = torch.tensor([[0.0, 0.0, 1.0]])
    p = torch.tensor([[0.0, 0.0, kappa]])
    assert float(vmf_negative_log_likelihood(p, truth)) == pytest.approx(exact_nll(kappa, 1.0), rel=1e-5)
    assert float(vmf_negative_log_likelihood(-p, truth)) == pytest.approx(exact_nll(kappa, -1.0), rel=1e-5)


@pytest.mark.parametrize("p", [(0.0, 0.0, 0.0), (0.0, 0.0, 1e-8), (0.0, 0.0, 5.0), (0.0, 0.0, -1e6)])
def test_losses_have_a_finite_slope_everywhere(p: tuple[float, ...]) -> None:
    truth = torch.tensor([[0.0, 0.0, 1.0]])
    for loss in (vmf_negative_log_likelihood, opening_angle_rad):
        estimate = torch.tensor([p], requires_grad=True)
        (slope,) = torch.autograd.grad(loss(estimate, truth).sum(), estimate)
        assert torch.isfinite(slope).all()


def test_opening_angle_is_the_angle() -> None:
    angles = torch.tensor([1e-4, 0.5, 3.0])
    truth = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    p = 7 * torch.stack((angles.sin(), torch.zeros(3), angles.cos()), 1)
    torch.testing.assert_close(opening_angle_rad(p, truth), angles, rtol=1e-3, atol=1e-6)
