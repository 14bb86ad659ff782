import torch

from export.network.least_squares import damping, limited, normal_equations, solve


def test_the_solution_is_that_of_lapack() -> None:
    generator = torch.Generator().manual_seed(1)
    slopes = torch.randn(6, 40, 5, generator=generator, dtype=torch.float64)
    values = torch.randn(6, 40, 1, generator=generator, dtype=torch.float64)
    weight = torch.rand(6, 40, 1, generator=generator, dtype=torch.float64)
    step = solve(normal_equations(torch.cat((slopes, values), -1), weight))
    root = weight.sqrt()
    expected = torch.linalg.lstsq(root * slopes, root * values).solution
    torch.testing.assert_close(step, expected.transpose(1, 2))


def test_damping_makes_the_diagonal_grow_and_nothing_else() -> None:
    grown = torch.ones(2, 3, 4) * damping(torch.tensor([0.5, 0.0, 1.0]))
    expected = torch.ones(2, 3, 4)
    expected[:, 0, 0], expected[:, 2, 2] = 1.5, 2.0
    torch.testing.assert_close(grown, expected)


def test_a_limited_step_stays_within_and_a_small_one_as_it_is() -> None:
    limits = torch.tensor([0.5, 1.0])
    assert (limited(torch.tensor([[100.0, -100.0]]), limits).abs() <= limits).all()
    torch.testing.assert_close(
        limited(torch.tensor([[1e-3, -1e-3]]), limits), torch.tensor([[1e-3, -1e-3]]), atol=1e-8, rtol=1e-4
    )
