import torch

from export.network.least_squares import diagonal, limited, normal_equations, solve


def test_the_solution_is_that_of_lapack() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(6, 4, 40, generator=generator, dtype=torch.float64)
    weight = torch.rand(1, 4, 40, generator=generator, dtype=torch.float64)
    step = solve(normal_equations(rows, weight))
    slopes, values = (weight.sqrt() * rows).permute(1, 2, 0).split_with_sizes((5, 1), -1)
    expected = torch.linalg.lstsq(slopes, values).solution
    torch.testing.assert_close(step, expected.transpose(0, 1))


def test_what_is_added_to_the_diagonal_of_equations_changes_nothing_else() -> None:
    grown = torch.ones(3, 4, 2, 1) + diagonal(torch.tensor([0.5, 0.0, 1.0]))
    expected = torch.ones(3, 4, 2, 1)
    expected[0, 0], expected[2, 2] = 1.5, 2.0
    torch.testing.assert_close(grown, expected)


def test_a_limited_step_stays_within_and_a_small_one_as_it_is() -> None:
    limits = torch.tensor([0.5, 1.0])
    assert (limited(torch.tensor([[100.0, -100.0]]), limits).abs() <= limits).all()
    torch.testing.assert_close(
        limited(torch.tensor([[1e-3, -1e-3]]), limits), torch.tensor([[1e-3, -1e-3]]), atol=1e-8, rtol=1e-4
    )
