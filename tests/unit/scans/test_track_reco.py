from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from icestream.errors import InvalidEvent, ModelUnavailable
from icestream.physics.detector import icecube86
from icestream.physics.events import Event, EventId, ModelVersion, Pulses
from icestream.ports import Answer, CallOptions
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos import registry
from icestream.scans.recos.reco import PreparedEvent
from icestream.scans.recos.track import (
    DARK_STRIDE,
    FINE_NSIDES,
    MAX_HITS,
    MAX_PHOTONS,
    MIN_HITS,
    MODEL,
    Track,
    stage_of,
)

DETECTOR = icecube86()
SPE, MPE = Track("spe", max_photons=1), Track("mpe", max_photons=MAX_PHOTONS)
FIRST_ON_STRING_36 = 35 * 60
FIRST_OF_DEEPCORE = 78 * 60
NSIDES = (8, 64, 512)
"""Coarse, middle and fine."""
LATE_NS = (735_000.0, 1e9)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What the model was asked."""

    model: str
    inputs: Mapping[str, NDArray[Any]]
    options: CallOptions


class FakeTensorModel:
    """Implements `icestream.ports.TensorModel`: every track is where its first seed is."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[Call] = []
        self._failure = failure

    async def infer_tensors(
        self, model: str, inputs: Mapping[str, NDArray[Any]], options: CallOptions
    ) -> Answer:
        self.calls.append(Call(model, inputs, options))
        if self._failure is not None:
            raise self._failure
        first = inputs["seeds"][:, 0]
        llh = np.arange(len(first), dtype=np.float32) / 4
        return Answer(
            ModelVersion(model, "1"), {"llh": llh, "position": first[:, :3], "time": first[:, 3] + 2}
        )


def a_track(
    n_hlc: int = 8, *, start_ns: float = 0.0, n_slc: int = 0, n_deepcore: int = 0, charge_pe: float = 1.0
) -> Event:
    """Light that goes down string 36, with light beside it that is in no coincidence."""
    hlc = FIRST_ON_STRING_36 + 15 + np.arange(n_hlc)
    slc = FIRST_ON_STRING_36 + 15 + n_hlc + np.arange(n_slc)
    # DeepCore hangs beside the lower half of string 36.
    deepcore = FIRST_OF_DEEPCORE + np.arange(n_deepcore)
    sensors = np.concatenate((hlc, slc, deepcore)).astype(np.uint16)
    flags = np.concatenate((np.ones(n_hlc), np.zeros(n_slc), np.ones(n_deepcore))).astype(np.uint8)
    steps = np.concatenate((np.arange(n_hlc + n_slc), np.arange(n_deepcore)))
    times = (start_ns + 60.0 * steps).astype(np.float64)
    charges = np.full(len(sensors), charge_pe, np.float32)
    return Event(EventId(3, 4), "icecube86", 0, Pulses(sensors, times, charges, flags))


def a_batch(nside: int, prepared: PreparedEvent, n: int = 3, n_seeds: int = 1) -> PixelBatch:
    """Pixels whose seeds are around the event's own."""
    rows = np.arange(n)
    direction = np.tile([0.0, 0.6, 0.8], (n, 1))
    seeds = np.tile([*prepared.seed.position_m, prepared.seed.time_ns], (n, n_seeds, 1))
    seeds[:, :, 3] += 10 * rows[:, None] + np.arange(n_seeds)
    return PixelBatch(0, nside, rows, np.zeros(n, np.int64), direction, seeds)


async def asked(
    reco: Track, event: Event, nside: int, *, n_seeds: int = 1
) -> tuple[Mapping[str, NDArray[Any]], PixelFits]:
    """The model's inputs, and what becomes of its answer."""
    prepared, model = reco.prepare(event, DETECTOR), FakeTensorModel()
    fits = await reco.fit(a_batch(nside, prepared, n_seeds=n_seeds), prepared, model, CallOptions())
    (call,) = model.calls
    assert call.model == MODEL
    return call.inputs, fits


def same_tables(first: PreparedEvent, second: PreparedEvent) -> bool:
    return all(np.array_equal(first.tensors[name], second.tensors[name]) for name in ("hits", "dark"))


def test_both_likelihoods_are_offered_under_their_names() -> None:
    spe, mpe = registry.get("track_spe"), registry.get("track_mpe")

    assert isinstance(spe, Track)
    assert isinstance(mpe, Track)
    assert (spe.max_photons, mpe.max_photons) == (1, MAX_PHOTONS)
    assert spe.models == mpe.models == (MODEL,)
    assert spe.hypotheses == mpe.hypotheses == ("track",)


@pytest.mark.parametrize("n_hlc", [0, 3, MIN_HITS - 1])
def test_an_event_with_too_few_hits_is_refused_with_their_number(n_hlc: int) -> None:
    with pytest.raises(InvalidEvent, match=rf"{n_hlc} hit modules .* at least {MIN_HITS}") as refused:
        MPE.prepare(a_track(n_hlc, n_slc=2), DETECTOR)

    assert "3.4.0" in str(refused.value)


def test_an_event_with_just_enough_hits_is_taken() -> None:
    assert len(MPE.prepare(a_track(MIN_HITS), DETECTOR).tensors["hits"]) == MIN_HITS


def test_pulses_that_cannot_be_are_refused() -> None:
    event = a_track()
    pulses = replace(event.pulses, time_ns=np.full(len(event.pulses), np.nan))

    with pytest.raises(InvalidEvent):
        MPE.prepare(replace(event, pulses=pulses), DETECTOR)


@pytest.mark.parametrize(
    ("nside", "stage"), [(1, 0), (8, 0), (16, 0), (32, 1), (64, 1), (128, 1), (256, 2), (512, 2), (1024, 2)]
)
def test_finer_pixels_are_fitted_with_less_blur(nside: int, stage: int) -> None:
    assert stage_of(nside) == stage


def test_all_light_around_the_coincidences_is_seen() -> None:
    prepared = MPE.prepare(a_track(8, n_slc=3, n_deepcore=4), DETECTOR)

    assert len(prepared.tensors["hits"]) == 15


def test_modules_without_light_are_told_with_how_many_they_stand_for() -> None:
    event = a_track(8, n_slc=3)
    dark = MPE.prepare(event, DETECTOR).tensors["dark"]

    n_dark = FIRST_OF_DEEPCORE - len(np.unique(event.pulses.sensor_id))
    assert dark[:, 4].sum() == pytest.approx(n_dark, abs=DARK_STRIDE * len(event.pulses))
    assert set(np.unique(dark[:, 3])) <= set(DETECTOR.efficiency.astype(np.float32))
    lit = DETECTOR.positions_m[event.pulses.sensor_id].astype(np.float32)
    assert not (dark[:, None, :3] == lit).all(axis=2).any()
    # All of the detector without DeepCore, from top to bottom.
    assert len(np.unique(dark[:, :2].round(), axis=0)) >= 78
    assert np.ptp(dark[:, 2]) > 950


def test_noise_counts_as_light_for_dark_modules() -> None:
    event = a_track(8)
    noisy = np.arange(0, FIRST_OF_DEEPCORE, 3, dtype=np.uint16)
    n = len(noisy)
    pulses = Pulses(
        np.concatenate((event.pulses.sensor_id, noisy)),
        np.concatenate((event.pulses.time_ns, np.full(n, 50_000.0))),
        np.ones(n + 8, np.float32),
        np.concatenate((event.pulses.flags, np.zeros(n, np.uint8))),
    )
    quiet, loud = (MPE.prepare(e, DETECTOR).tensors["dark"] for e in (event, replace(event, pulses=pulses)))

    assert len(loud) < 0.75 * len(quiet)


def test_hits_are_where_their_modules_are() -> None:
    event = a_track(8, charge_pe=2.5)
    table = MPE.prepare(event, DETECTOR).tensors["hits"]

    np.testing.assert_array_equal(
        table[:, :3], DETECTOR.positions_m[event.pulses.sensor_id].astype(np.float32)
    )
    np.testing.assert_allclose(np.diff(table[:, 3]), 60.0, atol=1e-3)
    assert (table[:, 4] == 2.5).all()
    assert table.dtype == np.float32


def test_only_the_brightest_of_many_modules_are_kept() -> None:
    sensors = np.arange(300, dtype=np.uint16)
    charges = np.linspace(1, 4, 300, dtype=np.float32)
    pulses = Pulses(sensors, np.arange(0.0, 3000.0, 10.0), charges, np.ones(300, np.uint8))

    table = MPE.prepare(Event(EventId(1, 1), "icecube86", 0, pulses), DETECTOR).tensors["hits"]

    assert len(table) == MAX_HITS
    assert table[:, 4].min() == charges[300 - MAX_HITS]


def test_the_seed_is_the_middle_of_the_core() -> None:
    event = a_track(9, start_ns=1000.0, n_slc=3)
    seed = MPE.prepare(event, DETECTOR).seed

    np.testing.assert_allclose(seed.position_m, DETECTOR.positions_m[event.pulses.sensor_id[:9]].mean(axis=0))
    assert seed.time_ns == pytest.approx(1000.0 + 4 * 60.0)


def test_a_single_bright_module_does_not_draw_the_seed_to_itself() -> None:
    event = a_track(9)
    charges = event.pulses.charge_pe.copy()
    charges[0] = 1000.0
    seed = MPE.prepare(replace(event, pulses=replace(event.pulses, charge_pe=charges)), DETECTOR).seed

    # It counts for five of the others.
    assert seed.time_ns == pytest.approx(36 * 60.0 / 13)


@pytest.mark.parametrize("start_ns", LATE_NS)
def test_late_events_are_as_exact_as_early_ones(start_ns: float) -> None:
    # Times around 1e9 have steps of 64 ns in float32.
    early, late = (MPE.prepare(a_track(8, start_ns=start, n_slc=3), DETECTOR) for start in (0.0, start_ns))

    assert same_tables(early, late)
    assert late.seed.time_ns == early.seed.time_ns + start_ns


@pytest.mark.parametrize("start_ns", LATE_NS)
@pytest.mark.parametrize("nside", NSIDES)
async def test_late_seeds_are_as_exact_as_early_ones(start_ns: float, nside: int) -> None:
    early, _ = await asked(MPE, a_track(), nside)
    late, _ = await asked(MPE, a_track(start_ns=start_ns), nside)

    for name, value in early.items():
        np.testing.assert_array_equal(late[name], value)


@pytest.mark.parametrize("start_ns", [0.0, *LATE_NS])
async def test_fitted_times_count_from_the_start_of_the_event(start_ns: float) -> None:
    event = a_track(9, start_ns=start_ns)
    _, fits = await asked(MPE, event, 64)

    # The middle of the hits, the seed of each row, and the 2 ns of the fake.
    assert fits.time_ns.dtype == np.float64
    np.testing.assert_allclose(fits.time_ns, start_ns + 240.0 + np.array([2.0, 12.0, 22.0]), atol=1e-3)


async def test_fits_say_what_the_model_said() -> None:
    event = a_track(8, n_slc=3)
    _, fits = await asked(MPE, event, 64)

    assert fits.llh.tolist() == [0.0, 0.25, 0.5]
    assert fits.llh.dtype == np.float64
    np.testing.assert_allclose(
        fits.position_m, np.tile(MPE.prepare(event, DETECTOR).seed.position_m, (3, 1)), rtol=1e-6
    )
    assert fits.n_hits.tolist() == [11] * 3
    assert fits.hypothesis.tolist() == [0] * 3
    assert np.isnan([fits.rival_llh, fits.energy_inside_gev, fits.energy_total_gev]).all()


@pytest.mark.parametrize("nside", NSIDES)
async def test_each_nside_has_its_level(nside: int) -> None:
    inputs, _ = await asked(MPE, a_track(), nside)

    assert inputs["level"].tolist() == [NSIDES.index(nside)]


@pytest.mark.parametrize("nside", NSIDES)
async def test_one_photon_counts_in_spe_and_on_all_but_the_finest_stage(nside: int) -> None:
    spe, _ = await asked(SPE, a_track(), nside)
    mpe, _ = await asked(MPE, a_track(), nside)

    assert spe["max_photons"].tolist() == [1.0]
    assert mpe["max_photons"].tolist() == [MAX_PHOTONS if nside >= FINE_NSIDES[-1] else 1.0]


@pytest.mark.parametrize("nside", NSIDES)
async def test_the_model_is_asked_in_the_types_that_it_takes(nside: int) -> None:
    inputs, _ = await asked(MPE, a_track(), nside, n_seeds=2)

    assert {name: value.dtype.name for name, value in inputs.items()} == {
        "direction": "float32",
        "seeds": "float32",
        "hits": "float32",
        "dark": "float32",
        "level": "int32",
        "max_photons": "float32",
    }
    assert inputs["direction"].shape == (3, 3)
    assert inputs["seeds"].shape[0::2] == (3, 4)


@pytest.mark.parametrize("nside", NSIDES)
async def test_each_seed_is_tried(nside: int) -> None:
    event = a_track(9)
    inputs, _ = await asked(MPE, event, nside, n_seeds=2)

    # Times after the middle of the hits; a seed's number is its delay here.
    expected = 10.0 * np.arange(3)[:, None] + [0, 1]
    np.testing.assert_allclose(inputs["seeds"][:, :, 3], expected, atol=1e-4)


async def test_a_call_keeps_its_options_and_its_failure() -> None:
    prepared = MPE.prepare(a_track(), DETECTOR)
    model, options = FakeTensorModel(ModelUnavailable("away")), CallOptions(timeout_s=7.0)

    with pytest.raises(ModelUnavailable, match="away"):
        await MPE.fit(a_batch(8, prepared), prepared, model, options)

    assert model.calls[0].options is options
