"""Small networks and made-up events for the tests of `export`."""

import numpy as np
import torch

from export.calibrate import Calibration
from export.dataset import LabelledEvents
from export.network.direction import DirectionNetwork
from export.presets import NetworkShape
from icestream.physics.features import FeatureArray

SMALL = NetworkShape(
    n_track_steps=1,
    n_shower_steps=1,
    n_hidden=8,
    width=16,
    n_biased_blocks=1,
    n_plain_blocks=2,
    n_heads=2,
    mlp_ratio=2,
    n_frequencies=3,
    n_bias_channels=4,
)
CALIBRATION = Calibration((-2.0, 0.0, 2.0), ((0.3, 0.9), (-1.0, 0.1), (-3.0, -1.5)), 1000, 0)


def random_network(seed: int = 0) -> DirectionNetwork:
    """An untrained network whose head is not close to its first estimate, as it would be served."""
    torch.manual_seed(seed)
    network = DirectionNetwork(SMALL)
    assert network.transformer is not None
    torch.nn.init.normal_(network.transformer.head.weight)
    return network.exact().eval()


def random_table(rng: np.random.Generator, n_pulses: int) -> FeatureArray:
    """A plane wave with noise, as the model reads it."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    times = np.sort(rng.normal(scale=800, size=(n_pulses, 1)), axis=0)
    positions = -direction * times * 0.3 + rng.normal(scale=60, size=(n_pulses, 3))
    charges = rng.lognormal(size=(n_pulses, 1))
    is_hlc = rng.uniform(size=(n_pulses, 1)) < 0.6
    return np.concatenate((positions, times, charges, is_hlc), axis=1).astype(np.float32)


def random_events(seed: int, n_events: int) -> LabelledEvents:
    """Events of many lengths with directions that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    tables = [random_table(rng, int(n)) for n in rng.integers(2, 60, n_events)]
    directions = rng.normal(size=(n_events, 3)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    n_pulses = np.array([len(table) for table in tables], np.int32)
    return LabelledEvents(
        tables, n_pulses, directions, np.zeros(n_events, np.int64), np.full(n_events, np.nan)
    )
