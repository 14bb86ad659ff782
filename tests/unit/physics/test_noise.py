import numpy as np
import pytest
from numpy.typing import NDArray

from icestream.physics.compiled import compiled
from icestream.physics.detector import icecube86
from icestream.physics.layout import layout_of
from icestream.physics.noise import add_noise
from icestream.physics.pmt import Hit
from icestream.physics.randomness import RandomState, random_stream
from tests.unit.physics.physics_cases import record_of

WINDOW_NS = 1_000_000.0
N_SENSORS = 5160


@pytest.fixture(scope="module")
def hits() -> list[Hit]:
    return [(int(sensor), time, charge) for sensor, time, charge in _noise_rows(random_stream(1, 1))]


@compiled
def _noise_rows(rng: RandomState) -> NDArray[np.float64]:
    hits = [(0, -1.0, 0.0)]
    add_noise(rng, hits, N_SENSORS, 0.0, WINDOW_NS)
    rows = np.empty((len(hits) - 1, 3))
    for i in range(1, len(hits)):
        rows[i - 1, 0], rows[i - 1, 1], rows[i - 1, 2] = hits[i]
    return rows


def test_noise_has_the_published_rate(hits: list[Hit]) -> None:
    rate_hz = len(hits) / (WINDOW_NS * 1e-9) / N_SENSORS

    assert 500 < rate_hz < 700


def test_noise_fills_the_window_and_the_detector_evenly(hits: list[Hit]) -> None:
    sensors, times, _ = np.array(hits).T

    assert times.min() >= 0
    assert times.max() < WINDOW_NS
    assert np.histogram(times, 4, (0, WINDOW_NS))[0] == pytest.approx(len(hits) / 4, rel=0.15)
    assert np.histogram(sensors, 4, (0, N_SENSORS))[0] == pytest.approx(len(hits) / 4, rel=0.15)


def test_noise_comes_in_bursts(hits: list[Hit]) -> None:
    sensors, times, _ = np.array(hits).T
    order = np.lexsort((times, sensors))
    is_same = np.diff(sensors[order]) == 0
    soon = np.count_nonzero(np.diff(times[order])[is_same] < 10_000)

    by_chance = len(hits) * 600 * 10e-6
    assert soon > 20 * by_chance


def test_noise_is_hardly_ever_coincident(hits: list[Hit]) -> None:
    recorded = record_of(hits, layout_of(icecube86()))

    assert recorded.is_hlc.mean() < 0.1
