import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from icestream.errors import ModelFailed, ModelUnavailable
from icestream.physics.detector import Detector
from icestream.physics.events import Event
from icestream.ports import Answer, CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.progress import ScanProgress
from icestream.scans.recos.reco import PreparedEvent
from icestream.scans.request import Seed
from icestream.scans.state import ScanState
from icestream.scans.sweep import scan_in_process
from tests.unit.scans.scan_cases import at_target, make_fits, make_request, same_frame

PREPARED = PreparedEvent(Seed((0.0, 0.0, 0.0), 0.0), {})


class NoModel:
    """For a reco that computes by itself."""

    async def infer_tensors(
        self, model: str, inputs: Mapping[str, NDArray[Any]], options: CallOptions
    ) -> Answer:
        raise NotImplementedError


class FakeReco:
    """Finds the target; fails for the batches that it is told to, and single fits of odd pixels."""

    name = "fake"
    hypotheses: tuple[str, ...] = ("track",)
    models: tuple[str, ...] = ()
    offsets_m: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    rotates_offsets = False
    adds_fallback_seed = False
    levels_compare = True
    batch_size = 16

    def __init__(
        self, failures: Mapping[int, Exception] | None = None, *, fits_odd_pixels: bool = True
    ) -> None:
        self.failures = failures or {}
        self.fits_odd_pixels = fits_odd_pixels
        self.asked: list[int] = []

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:  # noqa: ARG002
        return PREPARED

    async def fit(
        self,
        batch: PixelBatch,
        prepared: PreparedEvent,  # noqa: ARG002
        model: TensorModel,  # noqa: ARG002
        options: CallOptions,  # noqa: ARG002
    ) -> PixelFits:
        self.asked.append(batch.number)
        if batch.number in self.failures:
            raise self.failures[batch.number]
        is_fitted = self.fits_odd_pixels | (batch.pixel % 2 == 0)
        return make_fits(np.where(is_fitted, at_target(batch).llh, np.nan))


async def scan(
    reco: FakeReco,
    on_progress: list[ScanProgress] | None = None,
    *,
    n_at_once: int = 1,
    predictive_threshold: float = 1.0,
) -> ScanState:
    clock = iter(range(10**18, 10**18 + 10**15, 10**9))
    return await scan_in_process(
        make_request(predictive_threshold=predictive_threshold),
        reco,
        PREPARED,
        NoModel(),
        same_frame,
        CallOptions(),
        None if on_progress is None else lambda _, progress: on_progress.append(progress),
        n_at_once=n_at_once,
        clock_ns=lambda: next(clock),
    )


async def test_a_whole_scan_runs_in_one_process() -> None:
    reco = FakeReco()
    state = await scan(reco)
    assert state.is_complete
    assert reco.asked == list(range(len(reco.asked)))


async def test_progress_is_told_after_each_batch() -> None:
    reco, seen = FakeReco(), list[ScanProgress]()
    await scan(reco, seen)
    assert len(seen) == len(reco.asked)
    assert [progress.worker_s for progress in seen[:3]] == [1.0, 2.0, 3.0]
    assert seen[-1].eta_s == 0.0


async def test_a_batch_that_the_model_cannot_fit_is_given_up() -> None:
    state = await scan(FakeReco({1: ModelFailed("not this one")}))
    assert state.is_ended
    assert not state.is_complete
    coarse = state.skymap(hypotheses=("track",)).levels[0]
    assert len(coarse.missing) == 16


async def test_fits_that_failed_one_by_one_are_no_gap_in_the_map() -> None:
    state = await scan(FakeReco(fits_odd_pixels=False))
    coarse = state.skymap(hypotheses=("track",)).levels[0]
    assert state.is_complete
    assert np.count_nonzero(np.isnan(coarse.llh)) == 24


async def test_a_model_that_is_away_ends_the_scan_with_its_error() -> None:
    with pytest.raises(ModelUnavailable):
        await scan(FakeReco({2: ModelUnavailable("gone")}))


class SlowReco(FakeReco):
    """Answers later batches sooner, and counts how many it has in work."""

    def __init__(self, failures: Mapping[int, Exception] | None = None) -> None:
        super().__init__(failures)
        self.n_in_work = self.most_in_work = 0
        self.n_cancelled = 0

    async def fit(
        self, batch: PixelBatch, prepared: PreparedEvent, model: TensorModel, options: CallOptions
    ) -> PixelFits:
        self.n_in_work += 1
        self.most_in_work = max(self.most_in_work, self.n_in_work)
        try:
            await asyncio.sleep(0.005 * (-batch.number % 4))
            return await super().fit(batch, prepared, model, options)
        except asyncio.CancelledError:
            self.n_cancelled += 1
            raise
        finally:
            self.n_in_work -= 1


@pytest.mark.parametrize("n_at_once", [1, 2, 3])
async def test_no_more_batches_than_asked_for_are_in_work(n_at_once: int) -> None:
    reco = SlowReco()
    state = await scan(reco, n_at_once=n_at_once)
    assert state.is_complete
    assert reco.most_in_work == n_at_once


@pytest.mark.parametrize("predictive_threshold", [0.2, 1.0])
async def test_the_scan_is_the_same_however_many_batches_are_in_work(predictive_threshold: float) -> None:
    states = [await scan(SlowReco(), n_at_once=n, predictive_threshold=predictive_threshold) for n in (1, 3)]
    one, many = (state.skymap(hypotheses=("track",)) for state in states)
    assert states[0].n_fits_sent == states[1].n_fits_sent
    for first, second in zip(one.levels, many.levels, strict=True):
        assert np.array_equal(first.pixel, second.pixel)
        assert np.array_equal(first.llh, second.llh)


async def test_an_error_ends_what_else_is_in_work() -> None:
    reco = SlowReco({3: ModelUnavailable("gone")})
    with pytest.raises(ModelUnavailable):
        await scan(reco, n_at_once=3)
    assert reco.n_in_work == 0
