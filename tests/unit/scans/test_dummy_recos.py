import asyncio
import random
from typing import cast

import numpy as np
import pytest

from icestream.errors import InvalidEvent, Misconfigured
from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId, Pulses
from icestream.ports import CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos import crash_dummy
from icestream.scans.recos.crash_dummy import PROBABILITY_VARIABLE, WAYS_VARIABLE, CrashDummy
from icestream.scans.recos.dummy import SLEEP_VARIABLE, Dummy
from icestream.scans.recos.reco import Reco

TOY = Detector("toy", np.random.default_rng(1).uniform(-500, 500, (60, 3)), np.ones(60))
NO_MODEL = cast("TensorModel", None)


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLEEP_VARIABLE, "0")


def an_event(event_id: int = 1, n_pulses: int = 3) -> Event:
    rows = np.arange(n_pulses)
    pulses = Pulses(
        rows.astype(np.uint16),
        rows.astype(np.float64) * 10,
        np.ones(n_pulses, np.float32),
        np.ones(n_pulses, np.uint8),
    )
    return Event(EventId(1, event_id), "toy", 0, pulses)


def a_batch(n: int = 50, *, nside: int = 8, first_pixel: int = 0, variation: int = 0) -> PixelBatch:
    pixel = np.arange(first_pixel, first_pixel + n)
    return PixelBatch(0, nside, pixel, np.full(n, variation), np.ones((n, 3)), np.ones((n, 1, 4)))


def fit(batch: PixelBatch, event: Event | None = None, reco: Reco | None = None) -> PixelFits:
    reco = reco or Dummy()
    prepared = reco.prepare(event or an_event(), TOY)
    return asyncio.run(reco.fit(batch, prepared, NO_MODEL, CallOptions()))


def test_the_llh_is_always_the_same_for_the_same_fit() -> None:
    np.testing.assert_array_equal(fit(a_batch()).llh, fit(a_batch()).llh)
    # Whatever else is in the batch.
    np.testing.assert_array_equal(fit(a_batch(10, first_pixel=20)).llh, fit(a_batch()).llh[20:30])


def test_the_llh_differs_with_everything_that_it_depends_on() -> None:
    llh = fit(a_batch()).llh
    assert len(set(llh.tolist())) == len(llh)
    for other in (
        fit(a_batch(nside=16)),
        fit(a_batch(variation=1)),
        fit(a_batch(), an_event(event_id=2)),
        fit(a_batch(first_pixel=1000)),
    ):
        assert not np.isin(other.llh, llh).any()


def test_the_llh_looks_random() -> None:
    llh = fit(a_batch(20_000)).llh
    assert llh.min() >= 0
    assert llh.max() < 1
    assert abs(llh.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(llh[1:], llh[:-1])[0, 1]) < 0.03


def test_an_event_without_pulses_is_refused() -> None:
    with pytest.raises(InvalidEvent):
        Dummy().prepare(an_event(n_pulses=0), TOY)


def test_the_seed_is_where_the_charge_is() -> None:
    seed = Dummy().prepare(an_event(), TOY).seed
    np.testing.assert_allclose(seed.position_m, TOY.positions_m[:3].mean(axis=0))
    assert seed.time_ns == 10.0


def test_a_sleep_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLEEP_VARIABLE, "long")
    with pytest.raises(Misconfigured, match=SLEEP_VARIABLE):
        fit(a_batch(1))


def test_a_crash_dummy_that_does_not_crash_is_a_dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROBABILITY_VARIABLE, "0")
    np.testing.assert_array_equal(fit(a_batch(), reco=CrashDummy()).llh, fit(a_batch()).llh)


def test_a_crash_dummy_fails_in_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROBABILITY_VARIABLE, "1")
    ended: list[int] = []
    reco = CrashDummy(end_process=ended.append)
    monkeypatch.setenv(WAYS_VARIABLE, "raise")
    with pytest.raises(RuntimeError, match="meant to"):
        fit(a_batch(1), reco=reco)
    monkeypatch.setenv(WAYS_VARIABLE, "exit")
    fit(a_batch(1), reco=reco)
    assert ended == [66]
    monkeypatch.setenv(WAYS_VARIABLE, "hang")

    async def hang() -> None:
        prepared = reco.prepare(an_event(), TOY)
        await asyncio.wait_for(reco.fit(a_batch(1), prepared, NO_MODEL, CallOptions()), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(hang())


def test_a_crash_dummy_decides_anew_with_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WAYS_VARIABLE, "raise")
    reco, outcomes = CrashDummy(random.Random(1)), []
    for _ in range(200):
        try:
            fit(a_batch(1), reco=reco)
            outcomes.append(0)
        except RuntimeError:
            outcomes.append(1)
    assert 0.65 < np.mean(outcomes) < 0.85
    assert isinstance(CrashDummy()._rng, random.SystemRandom)
    assert crash_dummy.DEFAULT_PROBABILITY == 0.75


@pytest.mark.parametrize(
    ("variable", "value"), [(PROBABILITY_VARIABLE, "2"), (PROBABILITY_VARIABLE, "x"), (WAYS_VARIABLE, "burn")]
)
def test_a_setting_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(PROBABILITY_VARIABLE, "1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(Misconfigured, match=variable):
        fit(a_batch(1), reco=CrashDummy())
