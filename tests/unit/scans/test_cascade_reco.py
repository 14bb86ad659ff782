import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from icestream.errors import InvalidEvent
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventId, ModelVersion, Pulses
from icestream.ports import Answer, CallOptions
from icestream.scans.pixels import PixelBatch
from icestream.scans.recos import registry
from icestream.scans.recos.cascade import MAX_CHARGE_PE, MAX_MODULES, RECO

DETECTOR = icecube86()
START_NS = 1e9
"""So late that float32 times would be off by 64 ns."""


class Recorder:
    """A model that remembers the question and answers with the seeds."""

    def __init__(self) -> None:
        self.inputs: dict[str, NDArray[Any]] = {}

    async def infer_tensors(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        options: CallOptions,  # noqa: ARG002
    ) -> Answer:
        assert model == "pixel_fit_cascade"
        self.inputs = dict(inputs)
        seed = inputs["seeds"][:, 0]
        n = len(seed)
        answer = {
            "llh": np.arange(n, dtype=np.float32),
            "timing_llh": np.zeros(n, np.float32),
            "position": seed[:, :3],
            "time": seed[:, 3],
            "energy_gev": np.full(n, 7.0, np.float32),
        }
        return Answer(ModelVersion(model, "1"), answer)


def an_event(n_modules: int = 20, charge_pe: float = 3.0) -> Event:
    """Modules of the string in the middle, lit one after the other."""
    rows = np.arange(n_modules)
    pulses = Pulses(
        (35 * 60 + 20 + rows).astype(np.uint16),
        START_NS + rows.astype(np.float64) * 60,
        np.full(n_modules, charge_pe, np.float32),
        np.ones(n_modules, np.uint8),
    )
    return Event(EventId(1, 1), "icecube86", 0, pulses)


def a_batch(seed: tuple[float, float, float, float], nside: int = 8) -> PixelBatch:
    n = 5
    return PixelBatch(
        0, nside, np.arange(n), np.zeros(n, np.int64), np.ones((n, 3)), np.tile(seed, (n, 1, 1))
    )


def test_it_is_installed() -> None:
    assert registry.get("cascade") is RECO


def test_dark_modules_are_among_those_whose_charges_count() -> None:
    modules = RECO.prepare(an_event(), DETECTOR).tensors["modules"]
    assert modules.shape == (MAX_MODULES, 5)
    # The string is longer than the ball of the nearest modules.
    assert 10 < (modules[:, 3] > 0).sum() <= 20
    assert modules.dtype == np.float32


def test_saturated_modules_count_by_their_times_alone() -> None:
    event = an_event()
    event.pulses.charge_pe[3] = MAX_CHARGE_PE + 1
    tensors = RECO.prepare(event, DETECTOR).tensors
    assert len(tensors["hits"]) == 20
    assert tensors["modules"][:, 3].max() < MAX_CHARGE_PE


def test_an_event_with_too_few_hits_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="at least 5"):
        RECO.prepare(an_event(3), DETECTOR)


def test_an_event_of_saturated_modules_alone_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="charge"):
        RECO.prepare(an_event(charge_pe=MAX_CHARGE_PE + 1), DETECTOR)


def test_times_reach_the_model_relative_to_the_event_and_come_back_absolute() -> None:
    prepared = RECO.prepare(an_event(), DETECTOR)
    model = Recorder()
    seed = (*prepared.seed.position_m, prepared.seed.time_ns + 12.5)
    fits = asyncio.run(RECO.fit(a_batch(seed), prepared, model, CallOptions()))
    assert np.abs(model.inputs["hits"][:, 3]).max() < 1e4
    np.testing.assert_array_equal(model.inputs["seeds"][:, 0, 3], 12.5)
    np.testing.assert_array_equal(fits.time_ns, seed[3])
    np.testing.assert_array_equal(fits.energy_total_gev, 7.0)
    assert np.isnan(fits.energy_inside_gev).all()


@pytest.mark.parametrize(("nside", "level"), [(8, 0), (64, 1), (512, 1)])
def test_only_coarse_pixels_search_for_the_vertex(nside: int, level: int) -> None:
    prepared = RECO.prepare(an_event(), DETECTOR)
    model = Recorder()
    seed = (*prepared.seed.position_m, prepared.seed.time_ns)
    asyncio.run(RECO.fit(a_batch(seed, nside), prepared, model, CallOptions()))
    assert model.inputs["level"].tolist() == [level]
