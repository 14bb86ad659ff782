"""The minimiser against functions whose minimum is known."""

import pytest
import torch
from torch import Tensor

from export.pixel_fit.minimizer import MAX_STEP, Likelihood, Minimizer, Standing
from export.pixel_fit.tables import SIGMAS_NS

FIRST = torch.tensor([0])
PRIORS = (1e-6, 1e-6)
STARTS = torch.tensor([[0.0, 0.0], [-1.2, 1.0], [2.0, 2.0], [-1.0, -1.5]])


def rosenbrock(place: Tensor, blur: Tensor) -> Standing:
    """A bent valley with its minimum, 0, at (1, 1)."""
    x, y = place[:, 0], place[:, 1]
    value = (1 - x) ** 2 + 10 * (y - x * x) ** 2
    slope = -torch.stack((-2 * (1 - x) - 40 * x * (y - x * x), 20 * (y - x * x)), 1)[:, :, None]
    return Standing(value, slope, slope @ slope.transpose(1, 2) + torch.eye(2))


def about(sigma_ns: float) -> Tensor:
    """Where the minimum of `shifted` is for a blur."""
    return torch.tensor([sigma_ns, -sigma_ns])


def shifted(place: Tensor, blur: Tensor) -> Standing:
    """A bowl whose place depends on the blur."""
    away = place - about(SIGMAS_NS[int(blur)])
    return Standing((away**2).sum(1), -2 * away[:, :, None], torch.eye(2).expand(len(place), 2, 2))


def minimized(
    likelihood: Likelihood, start: Tensor, *stages: tuple[float, int], level: Tensor = FIRST
) -> tuple[Tensor, Tensor]:
    place, llh = Minimizer((stages, ()), PRIORS)(likelihood, start, level)
    return place, llh


def test_the_minimum_of_a_bent_valley_is_found() -> None:
    place, llh = minimized(rosenbrock, STARTS, (SIGMAS_NS[0], 40))

    torch.testing.assert_close(place, torch.ones(4, 2), atol=1e-2, rtol=0)
    assert (llh < 1e-4).all()


def test_it_learns_the_curvature() -> None:
    # With nothing but the first curvature the steps creep along the valley.
    _, learned = minimized(rosenbrock, STARTS, (SIGMAS_NS[0], 25))
    _, restarted = minimized(rosenbrock, STARTS, *((sigma, 2) for sigma in SIGMAS_NS), (SIGMAS_NS[0], 13))

    assert (learned < restarted).all()


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_more_tries_are_never_worse(n: int) -> None:
    _, fewer = minimized(rosenbrock, STARTS, (SIGMAS_NS[0], n))
    _, more = minimized(rosenbrock, STARTS, (SIGMAS_NS[0], n + 1))

    assert (more <= fewer).all()


def test_the_first_try_is_the_start_itself() -> None:
    place, llh = minimized(rosenbrock, STARTS, (SIGMAS_NS[0], 1))

    torch.testing.assert_close(place, STARTS, atol=0, rtol=0)
    torch.testing.assert_close(llh, rosenbrock(STARTS, FIRST).llh)


def test_stages_follow_each_other_and_the_last_one_counts() -> None:
    first, last = SIGMAS_NS[0], SIGMAS_NS[-1]

    place, llh = minimized(shifted, STARTS, (first, 20), (last, 20))

    # The later minimum is another one: what was good before must not keep a fit there.
    torch.testing.assert_close(place, about(last).expand(4, 2), atol=0.01, rtol=0)
    assert (llh < 1e-3).all()


def test_a_level_without_stages_leaves_all_as_it_is() -> None:
    place, _ = minimized(rosenbrock, STARTS, (SIGMAS_NS[0], 9), level=torch.tensor([1]))

    torch.testing.assert_close(place, STARTS, atol=0, rtol=0)


def test_fits_do_not_depend_on_each_other() -> None:
    together, _ = minimized(rosenbrock, STARTS, (SIGMAS_NS[0], 10))
    alone = [minimized(rosenbrock, row[None], (SIGMAS_NS[0], 10))[0] for row in STARTS]

    torch.testing.assert_close(together, torch.cat(alone))


def test_equations_without_a_solution_leave_a_fit_where_it_is() -> None:
    def flat(place: Tensor, blur: Tensor) -> Standing:
        # A slope without any curvature asks for a step of more than 1e5.
        slope = torch.ones_like(place)[:, :, None]
        return Standing(place[:, 0], slope, torch.zeros(len(place), 2, 2))

    place, llh = minimized(flat, STARTS, (SIGMAS_NS[0], 5))

    assert 1 / PRIORS[0] > MAX_STEP
    torch.testing.assert_close(place, STARTS, atol=0, rtol=0)
    assert torch.isfinite(llh).all()


def test_a_place_without_a_likelihood_is_not_entered() -> None:
    def with_a_hole(place: Tensor, blur: Tensor) -> Standing:
        standing = shifted(place, blur)
        is_hole = place[:, 0] > SIGMAS_NS[0] / 2
        return standing._replace(llh=torch.where(is_hole, torch.nan, standing.llh))

    place, llh = minimized(with_a_hole, STARTS, (SIGMAS_NS[0], 20))

    assert torch.isfinite(place).all()
    assert torch.isfinite(llh).all()
    assert (place[:, 0] <= SIGMAS_NS[0] / 2).all()
