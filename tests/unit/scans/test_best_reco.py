import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.scan_accuracy import is_chosen
from icestream.errors import InvalidEvent, ModelFailed, ModelUnavailable
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventKind, ModelVersion
from icestream.physics.simulation import SimulationSettings, simulate
from icestream.ports import Answer, CallOptions, TensorModel
from icestream.runtime.local_stack import CHECKOUT
from icestream.runtime.onnx_models import OnnxModels
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos import registry
from icestream.scans.recos.best import CASCADE, RECO, TRACK, PreparedForBoth, reach_verdict
from icestream.scans.recos.reco import PreparedEvent
from tests.unit.scans.test_track_reco import a_track

DETECTOR = icecube86()
TRACK_MODEL, CASCADE_MODEL = "pixel_fit_track", "pixel_fit_cascade"
COMPARING_BATCH = 1
"""The verdict's last questions are about one pixel each."""


class FakeModels:
    """Both fits: a pixel's llh is its distance from straight above, and the comparison's is given.

    Args:
        track_llh: Of the track's best direction, with the comparison's blur.
        cascade_llh: Of the times alone, of the cascade's best direction.
    """

    def __init__(self, track_llh: float = 10.0, cascade_llh: float = 20.0) -> None:
        self.llhs = {TRACK_MODEL: track_llh, CASCADE_MODEL: cascade_llh}
        self.asked: list[tuple[str, Mapping[str, NDArray[Any]]]] = []
        self.failures: list[Exception] = []
        self.has_answers = True

    async def infer_tensors(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        options: CallOptions,  # noqa: ARG002
    ) -> Answer:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop()
        self.asked.append((model, inputs))
        n = len(inputs["direction"])
        llh = 1 - inputs["direction"][:, 2].astype(np.float32)
        if n == COMPARING_BATCH:
            llh = np.full(1, self.llhs[model], np.float32)
        if not self.has_answers:
            llh = np.full(n, np.nan, np.float32)
        seed = inputs["seeds"][:, 0]
        # What dark modules and charges add is not to be compared.
        answer = {"llh": llh + 5, "timing_llh": llh, "position": seed[:, :3], "time": seed[:, 3]}
        if model == CASCADE_MODEL:
            answer |= {"llh": llh + 1000, "energy_gev": np.full(n, 7.0, np.float32)}
        return Answer(ModelVersion(model, "1"), answer)

    @property
    def compared(self) -> list[tuple[str, Mapping[str, NDArray[Any]]]]:
        return [(model, inputs) for model, inputs in self.asked if len(inputs["direction"]) == 1]


def a_batch(prepared: PreparedEvent, n: int = 3) -> PixelBatch:
    rows = np.arange(n)
    seeds = np.tile([*prepared.seed.position_m, prepared.seed.time_ns], (n, 1, 1))
    return PixelBatch(0, 64, rows, np.zeros(n, np.int64), np.tile([0.0, 0.6, 0.8], (n, 1)), seeds)


async def fitted(model: TensorModel, prepared: PreparedEvent | None = None) -> PixelFits:
    prepared = prepared or RECO.prepare(a_track(), DETECTOR)
    return await RECO.fit(a_batch(prepared), prepared, model, CallOptions())


def test_it_is_offered_with_both_hypotheses_and_what_they_need() -> None:
    assert registry.get("best") is RECO
    assert RECO.hypotheses == TRACK.hypotheses + CASCADE.hypotheses == ("track", "cascade")
    assert set(RECO.models) == {TRACK_MODEL, CASCADE_MODEL}


def test_an_event_with_too_few_hits_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="hit modules"):
        RECO.prepare(a_track(3), DETECTOR)


@pytest.mark.parametrize(("track_llh", "cascade_llh", "winner"), [(10, 14, "track"), (14, 10, "cascade")])
async def test_what_explains_the_times_better_wins_and_says_by_how_much(
    track_llh: float, cascade_llh: float, winner: str
) -> None:
    fits = await fitted(FakeModels(track_llh, cascade_llh))

    assert {RECO.hypotheses[index] for index in fits.hypothesis.tolist()} == {winner}
    np.testing.assert_allclose(fits.rival_llh - fits.llh, 4.0)


async def test_pixels_are_fitted_as_by_the_winner_alone() -> None:
    for reco, llhs in ((TRACK, (1.0, 2.0)), (CASCADE, (2.0, 1.0))):
        model = FakeModels(*llhs)
        fits = await fitted(model)
        prepared = reco.prepare(a_track(), DETECTOR)
        alone = await reco.fit(a_batch(prepared), prepared, model, CallOptions())

        np.testing.assert_array_equal(fits.llh, alone.llh)
        np.testing.assert_array_equal(fits.energy_total_gev, alone.energy_total_gev)


async def test_both_are_compared_on_the_same_hits_with_the_same_cap_on_photons() -> None:
    model = FakeModels()
    await fitted(model)

    (track, track_inputs), (cascade, cascade_inputs) = model.compared
    assert (track, cascade) == (TRACK_MODEL, CASCADE_MODEL)
    np.testing.assert_array_equal(track_inputs["hits"], cascade_inputs["hits"])
    assert track_inputs["max_photons"] == cascade_inputs["max_photons"]


async def test_both_are_compared_at_their_own_best_direction() -> None:
    model = FakeModels()
    await fitted(model)

    for _, inputs in model.compared:
        # The fake likes straight above best; pixels of nside 64 are a degree wide.
        assert inputs["direction"][0, 2] > np.cos(np.radians(1.0))


async def test_the_verdict_is_reached_once_for_all_batches_of_an_event() -> None:
    model, prepared = FakeModels(), RECO.prepare(a_track(), DETECTOR)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(fitted(model, prepared))

    assert len(model.compared) == 2


async def test_a_batch_that_is_given_up_does_not_end_the_verdict_of_the_others() -> None:
    model, prepared = FakeModels(), RECO.prepare(a_track(), DETECTOR)
    first, second = (asyncio.create_task(fitted(model, prepared)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()

    assert np.isfinite((await second).llh).all()
    assert len(model.compared) == 2


async def test_a_verdict_that_could_not_be_reached_is_tried_again() -> None:
    model, prepared = FakeModels(), RECO.prepare(a_track(), DETECTOR)
    model.failures.append(ModelUnavailable("away"))

    with pytest.raises(ModelUnavailable):
        await fitted(model, prepared)

    assert np.isfinite((await fitted(model, prepared)).llh).all()


async def test_a_hypothesis_that_fits_nowhere_is_named() -> None:
    model = FakeModels()
    model.has_answers = False

    with pytest.raises(ModelFailed, match="'track'"):
        await fitted(model)


def simulated(kind: EventKind, n: int) -> list[Event]:
    found: list[Event] = []
    for event in simulate(DETECTOR, seed=77, settings=SimulationSettings()):
        if is_chosen(event, kind):
            found.append(event)
            if len(found) == n:
                break
    return found


@pytest.mark.parametrize(("kind", "winner"), [(EventKind.THROUGH_GOING_TRACK, 0), (EventKind.CASCADE, 1)])
async def test_the_shipped_fits_tell_tracks_from_cascades(kind: EventKind, winner: int) -> None:
    winners = []
    async with OnnxModels(Path(CHECKOUT) / "model_repository", n_threads=1) as models:
        for event in simulated(kind, 6):
            prepared = RECO.prepare(event, DETECTOR)
            assert isinstance(prepared, PreparedForBoth)
            winners.append((await reach_verdict(prepared.parts, models, CallOptions(timeout_s=120.0))).winner)

    # 97 % of the one and 95 % of the other were told, of 60 each.
    assert winners.count(winner) >= 5
