import numpy as np
import pytest
import torch
from torch import Tensor

from export.network.direction import DirectionNetwork, direction_and_kappa
from export.network.pulses import scaled
from export.network.scorer import WAVE_PER_DEPTH, KnownFeatures
from export.network.transformer import Block
from export.presets import NetworkShape
from tests.unit.export.export_cases import random_network, random_table


def as_batch(table: np.ndarray, length: int | None = None) -> tuple[Tensor, Tensor]:
    """One event, padded to a length with rows that no event has."""
    padded = np.full((1, length or len(table), 6), 77.0, table.dtype)
    padded[0, : len(table)] = table
    return torch.from_numpy(padded), torch.tensor([[len(table)]], dtype=torch.int32)


def exact(table: np.ndarray) -> tuple[DirectionNetwork, np.ndarray]:
    """A network and an event in float64, where an invariance is not hidden by rounding."""
    return random_network().double(), table.astype(np.float64)


@torch.no_grad()
def test_more_padding_changes_nothing() -> None:
    network, table = exact(random_table(np.random.default_rng(1), 20))
    answer = network(*as_batch(table))
    torch.testing.assert_close(network(*as_batch(table, 48)), answer, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_order_of_pulses_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    network, table = exact(random_table(rng, 30))
    answer = network(*as_batch(table))
    torch.testing.assert_close(network(*as_batch(rng.permutation(table))), answer, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_answer_turns_with_the_event() -> None:
    network, table = exact(random_table(np.random.default_rng(3), 30))
    angle = np.radians(60)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned = table.copy()
    turned[:, :3] = table[:, :3] @ turn.T
    expected = network(*as_batch(table)) @ torch.from_numpy(turn.T)
    torch.testing.assert_close(network(*as_batch(turned)), expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_number_of_dropped_pulses_reaches_the_network() -> None:
    network, (pulses, lengths) = random_network(), as_batch(random_table(np.random.default_rng(4), 30))
    assert not torch.allclose(network(pulses, lengths), network(pulses, 100 * lengths))


@pytest.mark.parametrize(
    "pulse",
    [
        (0, 0, 0, 0, 0, 0),
        (3e38, -3e38, 3e38, -3e38, 3e38, 1),
        (0, 0, 0, 1e9, 1e9, 1),
        (1e-38, 0, 0, -1e-38, 1e-38, 0),
        (500, 500, 500, 0, -1, 1),
    ],
)
@pytest.mark.parametrize("n_pulses", [0, 1, 2, 7])
@torch.no_grad()
def test_any_finite_input_has_a_finite_answer(pulse: tuple[float, ...], n_pulses: int) -> None:
    pulses = torch.tensor([[pulse] * 6 + [(0.0,) * 6]])
    direction, kappa = direction_and_kappa(
        random_network()(pulses, torch.tensor([[n_pulses]], dtype=torch.int32))
    )
    assert torch.isfinite(kappa).all()
    torch.testing.assert_close(direction.float().norm(dim=-1), torch.ones(1))


@torch.no_grad()
def test_an_untrained_transformer_answers_as_the_fits_do() -> None:
    network, (pulses, lengths) = random_network(), as_batch(random_table(np.random.default_rng(6), 30))
    assert network.transformer is not None
    network.transformer.head.weight.zero_()
    estimates = network.estimates(pulses, lengths)
    torch.testing.assert_close(estimates.p, estimates.origins[-1], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_network_without_blocks_answers_as_its_last_step_does() -> None:
    torch.manual_seed(7)
    network = DirectionNetwork(NetworkShape(n_track_steps=2, n_shower_steps=2, n_hidden=8))
    estimates = network.estimates(*as_batch(random_table(np.random.default_rng(8), 30)))
    torch.testing.assert_close(estimates.p, estimates.origins[-1], rtol=0, atol=0)


@torch.no_grad()
def test_one_query_is_answered_as_if_it_were_a_token() -> None:
    torch.manual_seed(9)
    block = Block(width=12, n_heads=3, mlp_ratio=2)
    tokens, masked = torch.randn(2, 7, 12), torch.tensor([0.0] * 5 + [-1e4] * 2).expand(2, 1, 1, 7)
    alone = block.ask(tokens[:, :1], tokens[:, 1:], masked[..., 1:])
    torch.testing.assert_close(alone, block(tokens, masked)[:, :1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_waves_over_depth_are_multiples_of_the_first() -> None:
    pulses, lengths = as_batch(random_table(np.random.default_rng(10), 9).astype(np.float64))
    event = scaled(pulses, lengths)
    known = KnownFeatures()(event, event.is_real, torch.full((1, 1, 1), 2.0))
    angles = event.position[2:] * WAVE_PER_DEPTH * torch.tensor([1, 2, 3, 4, 6, 8])[:, None, None]
    torch.testing.assert_close(known[:12], torch.cat((angles.sin(), angles.cos())))
