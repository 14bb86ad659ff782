import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from icestream.errors import InvalidScan
from icestream.physics import healpix
from icestream.physics.directions import unit_vectors
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.plan import pixels_to_refine
from icestream.scans.request import Pointing
from icestream.scans.skymap import Skymap
from icestream.scans.state import ScanState
from tests.unit.scans.scan_cases import (
    TARGET,
    TWO_OFFSETS,
    Fit,
    answer,
    at_target,
    by_level,
    failing,
    giving_up,
    is_same_batch,
    make_fits,
    make_request,
    part_of,
    pixels_of,
    run,
    same_frame,
    towards,
)

seeds = st.integers(0, 2**32 - 1)
far = unit_vectors(1.0 + math.pi / 2, 1.9)


def map_of(state: ScanState) -> Skymap:
    return state.skymap(hypotheses=("track",))


def is_same_map(first: Skymap, second: Skymap) -> bool:
    names = ("nside", "pixel", "llh", "position_m", "time_ns", "missing", "is_complete")
    return len(first.levels) == len(second.levels) and all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name not in ("nside", "is_complete"))
        for a, b in zip(first.levels, second.levels, strict=True)
        for name in names
    )


def unreliable(seed: int) -> Fit:
    """Answers that look arbitrary but depend on the pixel alone: many equal, some NaN, some given up."""

    def fit(batch: PixelBatch) -> PixelFits | None:
        noise = np.array(
            [
                np.random.default_rng([seed, batch.nside, pixel, variation]).uniform()
                for pixel, variation in zip(batch.pixel, batch.variation, strict=True)
            ]
        )
        llh = np.where(noise < 0.2, np.nan, np.round(noise, 1))
        position = np.where(noise[:, None] < 0.4, np.nan, batch.direction)
        return None if batch.pixel[0] % 7 == seed % 7 else make_fits(llh, position)

    return fit


def test_a_scan_begins_with_the_whole_sky() -> None:
    batches = ScanState(make_request("8:0,64:12", batch_size=256), same_frame).begin()
    assert [len(batch) for batch in batches] == [256, 256, 256]
    assert [batch.number for batch in batches] == [0, 1, 2]
    assert sorted(pixels_of(batches, 8)) == list(range(768))


def test_each_pixel_is_sent_once_per_variation() -> None:
    batches = ScanState(make_request("2:0", offsets_m=TWO_OFFSETS, batch_size=7), same_frame).begin()
    rows = [(int(p), int(v)) for batch in batches for p, v in zip(batch.pixel, batch.variation, strict=True)]
    assert sorted(rows) == [(pixel, variation) for pixel in range(48) for variation in range(2)]
    assert max(map(len, batches)) == 7


def test_the_default_progression_finds_the_target_with_the_documented_number_of_pixels() -> None:
    state, batches, _ = run(make_request("8:0,64:12,512:24", batch_size=256))
    assert state.is_complete
    assert len(pixels_of(batches, 8)) == 768
    assert 9 * 64 <= len(pixels_of(batches, 64)) <= 20 * 64
    assert 21 * 64 <= len(pixels_of(batches, 512)) <= 40 * 64
    assert state.best is not None
    assert state.best.nside == 512
    assert state.best.pixel == int(healpix.pixels_at(512, TARGET))


def test_in_the_end_everything_around_the_best_pixel_is_there() -> None:
    state, batches, _ = run(make_request("2:0,4:12,8:12,16:24"))
    assert state.best is not None
    for coarse, fine, extension in ((2, 4, 12), (4, 8, 12), (8, 16, 24)):
        around = pixels_to_refine(coarse, fine, extension, state.best.centre)
        assert set(around.tolist()) <= set(pixels_of(batches, fine))


def test_directions_are_those_of_the_detector() -> None:
    def upside_down(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return -vectors

    (batch,) = ScanState(make_request("1:0"), upside_down).begin()
    np.testing.assert_allclose(batch.direction, -healpix.centres(1, batch.pixel))


def test_the_best_pixel_is_told_in_both_frames() -> None:
    state = ScanState(make_request("2:0", batch_size=48), lambda vectors: -vectors)
    (batch,) = state.begin()
    state.take(answer(batch, at_target(batch)))
    assert state.best is not None
    np.testing.assert_allclose(state.best.direction, -state.best.centre)
    assert state.best.pixel == int(healpix.pixels_at(2, -TARGET))


# First guesses


def test_the_first_level_begins_at_the_events_seed_displaced_by_the_offset() -> None:
    request = make_request("1:0", offsets_m=TWO_OFFSETS, adds_fallback_seed=True, batch_size=24)
    (batch,) = ScanState(request, same_frame).begin()
    assert batch.seeds.shape == (24, 1, 4)
    expected = np.where((batch.variation == 0)[:, None], [1.0, 2.0, 3.0, 4.0], [11.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(batch.seeds[:, 0], expected)


def test_offsets_turn_with_the_pixel_where_the_reco_wants_it() -> None:
    request = make_request("2:0", offsets_m=((0.0, 0.0, 20.0),), rotates_offsets=True, batch_size=48)
    (batch,) = ScanState(request, same_frame).begin()
    np.testing.assert_allclose(batch.seeds[:, 0, :3] - [1.0, 2.0, 3.0], 20 * batch.direction, atol=1e-12)


@pytest.mark.parametrize("offset_m", [(0.0, 0.0, 0.0), (5.0, 0.0, 0.0)])
def test_finer_levels_begin_where_the_coarser_pixel_around_them_was_fitted(
    offset_m: tuple[float, float, float],
) -> None:
    _, batches, _ = run(make_request("2:0,4:12", offsets_m=(offset_m,)))
    fine = [batch for batch in batches if batch.nside == 4]
    assert fine
    for batch in fine:
        around = healpix.parents(4, batch.pixel, 2)
        np.testing.assert_allclose(batch.seeds[:, 0, :3], 100 * healpix.centres(2, around) + offset_m)
        np.testing.assert_array_equal(batch.seeds[:, 0, 3], around)


def test_finer_levels_begin_at_the_best_variation_of_the_coarser_pixel() -> None:
    def fit(batch: PixelBatch) -> PixelFits:
        return make_fits(-batch.variation, np.repeat(batch.variation[:, None], 3, axis=1))

    _, batches, _ = run(make_request("1:0,2:3", offsets_m=TWO_OFFSETS), fit)
    first_variations = [batch.seeds[batch.variation == 0, 0, 0] for batch in batches if batch.nside == 2]
    assert set(np.concatenate(first_variations).tolist()) == {1.0}


def test_where_the_coarser_fit_failed_the_one_around_it_is_taken_and_else_the_events_seed() -> None:
    def fit(batch: PixelBatch) -> PixelFits:
        fits = at_target(batch)
        is_odd = (healpix.parents(batch.nside, batch.pixel, 1) % 2).astype(bool)
        position = np.where(((batch.nside == 2) | is_odd)[:, None], np.nan, np.full((len(batch), 3), 50.0))
        return make_fits(fits.llh, position)

    _, batches, _ = run(make_request("1:0,2:12,4:40"), fit)
    fine = [batch for batch in batches if batch.nside == 4]
    x_m = np.concatenate([batch.seeds[:, 0, 0] for batch in fine])
    is_odd = np.concatenate([healpix.parents(4, batch.pixel, 1) for batch in fine]) % 2 == 1
    assert set(x_m[is_odd].tolist()) == {1.0}
    assert set(x_m[~is_odd].tolist()) == {50.0}


def test_a_fallback_seed_stands_beside_the_coarser_fit_on_finer_levels() -> None:
    request = make_request("2:0,4:12", adds_fallback_seed=True, offsets_m=TWO_OFFSETS)
    _, batches, _ = run(request)
    for batch in batches:
        n_seeds = 1 if batch.nside == 2 else 2
        assert batch.seeds.shape == (len(batch), n_seeds, 4)
        if n_seeds == 2:
            first_guess = np.array([1.0, 2.0, 3.0]) + np.array(TWO_OFFSETS)[batch.variation]
            np.testing.assert_allclose(batch.seeds[:, 1, :3], first_guess)
            np.testing.assert_array_equal(batch.seeds[:, 1, 3], 4.0)


def test_a_fallback_seed_is_repeated_where_there_is_no_coarser_fit() -> None:
    def fit(batch: PixelBatch) -> PixelFits:
        return make_fits(at_target(batch).llh, np.full((len(batch), 3), np.nan))

    _, batches, _ = run(make_request("2:0,4:12", adds_fallback_seed=True), fit)
    for batch in batches:
        np.testing.assert_array_equal(batch.seeds[:, 0], batch.seeds[:, -1])


# Which fit counts


def answered_pixel(llh_by_variation: list[float]) -> Skymap:
    """A scan of one variation after the other, each giving this llh for all pixels."""
    offsets = ((0.0, 0.0, 0.0),) * len(llh_by_variation)
    state = ScanState(make_request("1:0", offsets_m=offsets, batch_size=1), same_frame)
    for batch in state.begin():
        variation = int(batch.variation[0])
        state.take(answer(batch, make_fits([llh_by_variation[variation]], time_ns=float(variation))))
    return map_of(state)


@pytest.mark.parametrize(
    ("llh", "best", "winner"),
    [
        ([3.0, 1.0, 2.0], 1.0, 1),
        ([math.nan, 5.0, math.nan], 5.0, 1),
        ([math.nan, math.nan, math.nan], math.nan, 0),
        ([2.0, 2.0, 3.0], 2.0, 0),
        ([math.inf, 1e300, -math.inf], 1e300, 1),
    ],
)
def test_the_smallest_llh_wins_and_never_nan(llh: list[float], best: float, winner: int) -> None:
    (level,) = answered_pixel(llh).levels
    np.testing.assert_array_equal(level.llh, np.full(12, best))
    np.testing.assert_array_equal(level.time_ns, np.full(12, float(winner)))
    assert len(level.missing) == 0


@given(
    st.lists(st.sampled_from([math.nan, 0.0, 1.0, 2.0, -1.0]), min_size=24, max_size=24),
    st.permutations(range(24)),
    st.integers(1, 24),
)
def test_which_variation_wins_does_not_depend_on_how_results_come_in(
    llh: list[float], order: list[int], size: int
) -> None:
    def result(order: list[int], size: int) -> Skymap:
        request = make_request("1:0", offsets_m=TWO_OFFSETS, batch_size=size)
        state = ScanState(request, same_frame)
        batches = state.begin()
        for index in order:
            if index < len(batches):
                batch = batches[index]
                row = 2 * batch.pixel + batch.variation
                state.take(answer(batch, make_fits(np.array(llh)[row], time_ns=row)))
        return map_of(state)

    assert is_same_map(result(order, size), result(list(range(24)), 1))


def test_a_pixel_is_final_when_all_of_its_variations_are_there() -> None:
    state = ScanState(make_request("1:0", offsets_m=TWO_OFFSETS, batch_size=1), same_frame)
    first, second, *_ = state.begin()
    assert first.pixel[0] == second.pixel[0]
    state.take(answer(first, make_fits([1.0])))
    assert state.best is None
    assert len(map_of(state).levels[0]) == 0
    state.take(answer(second, make_fits([2.0])))
    assert state.best is not None
    assert (state.best.pixel, state.best.llh) == (first.pixel[0], 1.0)


def test_a_pixel_that_was_given_up_is_missing_unless_one_variation_was_fitted() -> None:
    state = ScanState(make_request("1:0", offsets_m=TWO_OFFSETS, batch_size=1), same_frame)
    batches = state.begin()
    for index, batch in enumerate(batches):
        fits = None if index in (0, 1, 2) else make_fits([float(batch.pixel[0])])
        state.take(answer(batch, fits))
    (level,) = map_of(state).levels
    assert level.missing.tolist() == [batches[0].pixel[0]]
    assert len(level) == 11
    assert np.isfinite(level.llh).all()
    assert state.is_ended
    assert not state.is_complete
    assert not map_of(state).is_complete


def test_a_partial_map_holds_what_is_there_and_names_what_is_not() -> None:
    state = ScanState(make_request("2:0,4:12"), same_frame)
    first, *others = state.begin()
    state.take(answer(first, at_target(first)))
    skymap = map_of(state)
    (level,) = skymap.levels
    assert not skymap.is_complete
    assert not level.is_complete
    assert level.pixel.tolist() == sorted(first.pixel.tolist())
    assert level.missing.tolist() == sorted(pixels_of(others, 2))
    np.testing.assert_allclose(level.position_m, 100 * healpix.centres(2, level.pixel))


def test_a_map_says_what_it_is_of() -> None:
    request = replace(make_request(), alert_type="hese", is_real_event=True)
    state, *_ = run(request)
    skymap = state.skymap(hypotheses=("track", "cascade"), notes={"model": "m/1"})
    assert (skymap.scan_id, skymap.event_type, skymap.is_real_event) == ("s1", "hese", True)
    assert (skymap.hypotheses, skymap.notes) == (("track", "cascade"), {"model": "m/1"})
    assert (skymap.is_complete, skymap.levels_compare) == (True, True)
    assert [level.nside for level in skymap.levels] == [2, 4, 8]
    assert all(level.is_complete for level in skymap.levels)
    state, *_ = run(make_request())
    assert (map_of(state).event_type, map_of(state).is_real_event) == ("none", False)


# Where the scan looks next


def test_a_pointed_scan_confines_its_first_level_alone() -> None:
    pointing = Pointing(1.0, 1.2, math.radians(20))
    _, batches, _ = run(make_request("8:0,16:30", pointing=pointing), towards(unit_vectors(1.0, 1.5)))
    inside = healpix.pixels_within(8, TARGET, math.radians(20)).tolist()
    assert sorted(pixels_of(batches, 8)) == inside
    around = set(healpix.parents(16, pixels_of(batches, 16), 8).tolist())
    assert around - set(inside)


def test_a_pointed_scan_of_no_radius_looks_at_the_pixel_there() -> None:
    state, batches, _ = run(make_request("64:0", pointing=Pointing(1.0, 1.2, 0.0)))
    assert pixels_of(batches, 64) == [int(healpix.pixels_at(64, TARGET))]
    assert state.is_complete


def test_the_next_level_waits_for_all_of_the_one_before() -> None:
    state = ScanState(make_request("2:0,4:12"), same_frame)
    first, *others, last = state.begin()
    assert not any(state.take(answer(batch, at_target(batch))).batches for batch in (first, *others))
    assert {batch.nside for batch in state.take(answer(last, at_target(last))).batches} == {4}


@pytest.mark.parametrize("levels_compare", [True, False])
def test_a_minimum_that_moves_opens_coarser_levels_again(levels_compare: bool) -> None:
    # On the finest level the minimum lies at the edge of what was refined.
    targets = {4: TARGET, 8: TARGET, 16: unit_vectors(1.0, 1.2 + 0.5)}
    state, batches, _ = run(
        make_request("4:0,8:12,16:12", levels_compare=levels_compare, batch_size=1000), by_level(targets)
    )
    nsides = [batch.nside for batch in batches]
    assert 8 in nsides[nsides.index(16) :]
    assert state.is_complete
    assert state.best is not None
    assert state.best.pixel == int(healpix.pixels_at(16, targets[16]))


def test_nothing_is_planned_twice() -> None:
    targets = {4: TARGET, 8: far, 16: unit_vectors(1.0, 1.7)}
    _, batches, _ = run(make_request("4:0,8:12,16:12", levels_compare=False), by_level(targets))
    for nside in (4, 8, 16):
        assert len(pixels_of(batches, nside)) == len(set(pixels_of(batches, nside)))
    assert [batch.number for batch in batches] == list(range(len(batches)))


def test_where_llh_do_not_compare_the_finest_level_decides() -> None:
    def worse_when_finer(batch: PixelBatch) -> PixelFits:
        fits = at_target(batch)
        return replace(fits, llh=fits.llh + 100 * batch.nside)

    comparing, *_ = run(make_request(levels_compare=True), worse_when_finer)
    assert comparing.best is not None
    assert comparing.best.nside == 2
    separate, *_ = run(make_request(levels_compare=False), worse_when_finer)
    assert separate.best is not None
    assert separate.best.nside == 8
    assert separate.best.pixel == int(healpix.pixels_at(8, TARGET))


def test_of_equal_llh_the_finest_level_and_the_first_pixel_win() -> None:
    state, *_ = run(make_request("1:0,2:3"), lambda batch: make_fits(np.zeros(len(batch))))
    assert state.best is not None
    assert state.best.nside == 2
    assert state.best.pixel == map_of(state).levels[1].pixel[0]


def test_a_level_whose_fits_all_failed_leaves_the_decision_to_the_coarser_one() -> None:
    def fit(batch: PixelBatch) -> PixelFits:
        return failing(batch) if batch.nside == 4 else at_target(batch)

    state, batches, _ = run(make_request("2:0,4:12,8:12", levels_compare=False), fit)
    assert pixels_of(batches, 8)
    assert state.best is not None
    assert state.best.pixel == int(healpix.pixels_at(8, TARGET))


# Predictive scanning


def test_a_predictive_scan_begins_the_next_level_at_its_threshold() -> None:
    state = ScanState(make_request("2:0,4:12", predictive_threshold=0.5, batch_size=1), same_frame)
    batches = state.begin()
    planned = [len(state.take(answer(batch, at_target(batch))).batches) for batch in batches]
    first = next(index for index, n in enumerate(planned) if n)
    assert first + 1 == 24
    # Later milestones look again, and find something new only where the best pixel has moved.
    assert {index + 1 for index, n in enumerate(planned) if n} <= {24, 29, 34, 39, 44, 48}


def test_the_few_first_fits_of_a_level_do_not_move_the_scan_where_llh_do_not_compare() -> None:
    request = make_request("2:0,4:12,8:12", predictive_threshold=0.5, levels_compare=False, batch_size=1)
    state = ScanState(request, same_frame)
    coarse = state.begin()
    fine: list[PixelBatch] = []
    for batch in coarse[:-1]:
        fine += state.take(answer(batch, at_target(batch))).batches
    # One misleading fit on the finer level, then the end of the coarse one.
    state.take(answer(fine[0], make_fits([-1000.0])))
    assert state.best is not None
    assert state.best.nside == 2
    after = state.take(answer(coarse[-1], at_target(coarse[-1]))).batches
    assert all(batch.nside == 4 for batch in after)


def test_a_late_minimum_is_followed_by_a_predictive_scan() -> None:
    state = ScanState(make_request("2:0,4:3", predictive_threshold=0.5, batch_size=1), same_frame)
    waiting = state.begin()
    # The batch of the best pixel comes last of all.
    holder = int(healpix.pixels_at(2, TARGET))
    waiting.sort(key=lambda batch: batch.nside == 2 and batch.pixel[0] == holder)
    while waiting:
        batch = waiting.pop(0)
        waiting[-1:-1] = state.take(answer(batch, at_target(batch))).batches
    assert state.is_complete
    assert state.best is not None
    assert state.best.pixel == int(healpix.pixels_at(4, TARGET))


def test_a_threshold_that_is_no_share_is_refused() -> None:
    with pytest.raises(InvalidScan, match="predictive threshold"):
        ScanState(make_request(predictive_threshold=0.0), same_frame)


# What is dropped


def test_the_same_result_twice_counts_once() -> None:
    state = ScanState(make_request(), same_frame)
    first, *_ = state.begin()
    state.take(answer(first, make_fits(np.full(16, 5.0))))
    outcome = state.take(answer(first, make_fits(np.full(16, -5.0))))
    assert (outcome.n_accepted, outcome.n_duplicates, state.n_duplicates) == (0, 16, 16)
    assert state.best is not None
    assert state.best.llh == 5.0


def test_of_a_result_that_overlaps_another_the_new_rows_count() -> None:
    state = ScanState(make_request(), same_frame)
    first, *_ = state.begin()
    rows = answer(first, at_target(first))
    state.take(part_of(rows, 4, 10))
    outcome = state.take(part_of(rows, 8, 16))
    assert (outcome.n_accepted, outcome.n_duplicates) == (6, 2)
    assert state.take(rows).n_accepted == 4
    assert state.n_fits_done == 16


def test_rows_that_were_never_asked_for_are_dropped_and_counted() -> None:
    state = ScanState(make_request(), same_frame)
    first, *_ = state.begin()
    rows = answer(first, at_target(first))
    for wrong in (
        replace(rows, number=-1),
        replace(rows, number=99),
        replace(rows, nside=4),
        replace(rows, first_row=16),
        replace(rows, first_row=-16),
        replace(rows, pixel=rows.pixel + 1),
        replace(rows, variation=rows.variation + 1),
    ):
        outcome = state.take(wrong)
        assert (outcome.n_accepted, outcome.n_unknown) == (0, 16)
    assert state.n_unknown == 7 * 16
    assert state.n_fits_done == 0


def test_only_the_wrong_rows_of_a_result_are_dropped() -> None:
    state = ScanState(make_request(), same_frame)
    first, *_ = state.begin()
    pixel = first.pixel.copy()
    pixel[3] = 47 - pixel[3]
    outcome = state.take(replace(answer(first, at_target(first)), pixel=pixel))
    assert (outcome.n_accepted, outcome.n_unknown) == (15, 1)


def test_nothing_is_known_before_the_beginning() -> None:
    other = ScanState(make_request(), same_frame)
    first, *_ = other.begin()
    state = ScanState(make_request(), same_frame)
    assert state.take(answer(first, at_target(first))).n_unknown == 16
    assert not state.is_ended


def test_results_after_the_end_are_late() -> None:
    state, batches, _ = run(make_request())
    outcome = state.take(answer(batches[0], at_target(batches[0])))
    assert (outcome.n_late, state.n_late) == (16, 16)
    assert state.is_complete


def test_a_cancelled_scan_keeps_its_map_and_waits_for_nothing() -> None:
    state = ScanState(make_request(), same_frame)
    first, second, *_ = state.begin()
    state.take(answer(first, at_target(first)))
    state.cancel()
    assert state.is_ended
    assert state.is_cancelled
    assert not state.is_complete
    assert state.outstanding() == []
    assert state.take(answer(second, at_target(second))).n_late == 16
    assert len(map_of(state).levels[0]) == 16


def test_a_scan_that_has_ended_cannot_be_cancelled() -> None:
    state, *_ = run(make_request())
    state.cancel()
    assert not state.is_cancelled
    assert state.is_complete


def test_an_empty_result_changes_nothing() -> None:
    state = ScanState(make_request(), same_frame)
    first, *_ = state.begin()
    outcome = state.take(part_of(answer(first, at_target(first)), 0, 0))
    assert outcome.n_accepted == outcome.n_unknown == outcome.n_duplicates == 0


@pytest.mark.parametrize("worker_s", [math.nan, math.inf, -1.0, 1e308])
def test_a_worker_with_a_broken_clock_does_no_harm(worker_s: float) -> None:
    state = ScanState(make_request(), same_frame)
    first, *_ = state.begin()
    rows = replace(answer(first, at_target(first)), worker_s=worker_s, started_unix_ns=-5)
    assert state.take(rows).n_accepted == 16
    assert state.fit_times[0].total_s == 0.0


# Restarts


def test_what_is_outstanding_is_what_nobody_answered_for() -> None:
    state = ScanState(make_request("2:0", offsets_m=TWO_OFFSETS, rotates_offsets=True), same_frame)
    batches = state.begin()
    rows = answer(batches[2], at_target(batches[2]))
    state.take(answer(batches[0], at_target(batches[0])))
    state.take(part_of(rows, 0, 4))
    state.take(part_of(rows, 8, 12))
    parts = state.outstanding()
    assert [(part.batch.number, part.first_row, len(part.batch)) for part in parts] == [
        (1, 0, 16), (2, 4, 4), (2, 12, 4), (3, 0, 16), (4, 0, 16), (5, 0, 16),
    ]  # fmt: skip
    assert is_same_batch(parts[0].batch, batches[1])
    np.testing.assert_array_equal(parts[1].batch.seeds, batches[2].seeds[4:8])
    for part in parts:
        fits = at_target(part.batch)
        assert state.take(answer(part.batch, fits, first_row=part.first_row)).n_unknown == 0
    assert state.is_complete


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([1.0, 0.9, 0.5, 0.25]), st.booleans(), st.integers(1, 40))
def test_the_same_results_in_the_same_order_give_the_same_batches(
    seed: int, threshold: float, levels_compare: bool, batch_size: int
) -> None:
    request = make_request(
        "1:0,2:5,4:5",
        predictive_threshold=threshold,
        levels_compare=levels_compare,
        offsets_m=TWO_OFFSETS,
        adds_fallback_seed=True,
        batch_size=batch_size,
    )
    state, batches, answers = run(request, unreliable(seed), rng=np.random.default_rng(seed))
    assert state.is_ended

    again = ScanState(request, same_frame)
    replayed = again.begin()
    for rows in answers:
        replayed += again.take(rows).batches
    assert len(replayed) == len(batches)
    assert all(map(is_same_batch, replayed, batches))
    assert is_same_map(map_of(again), map_of(state))
    assert again.is_complete == state.is_complete


@settings(max_examples=40, deadline=None)
@given(seeds, seeds, st.booleans(), st.integers(1, 40))
def test_without_prediction_the_map_does_not_depend_on_the_order_of_results(
    seed: int, order: int, levels_compare: bool, batch_size: int
) -> None:
    request = make_request(
        "1:0,2:5,4:5", levels_compare=levels_compare, offsets_m=TWO_OFFSETS, batch_size=batch_size
    )
    state, batches, _ = run(request, unreliable(seed))
    other, other_batches, _ = run(request, unreliable(seed), rng=np.random.default_rng(order))
    assert all(map(is_same_batch, batches, other_batches))
    assert is_same_map(map_of(state), map_of(other))


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([1.0, 0.7, 0.1, 0.01]), st.booleans())
def test_every_scan_ends_with_all_that_it_planned(seed: int, threshold: float, levels_compare: bool) -> None:
    request = make_request("1:0,2:2,4:3,8:3", predictive_threshold=threshold, levels_compare=levels_compare)
    state, batches, _ = run(request, unreliable(seed), rng=np.random.default_rng(seed))
    assert state.is_ended
    assert state.n_fits_done == state.n_fits_sent == sum(map(len, batches))
    if state.best is not None:
        for coarse, fine, extension in ((1, 2, 2), (2, 4, 3), (4, 8, 3)):
            around = pixels_to_refine(coarse, fine, extension, state.best.centre)
            assert set(around.tolist()) <= set(pixels_of(batches, fine))


@pytest.mark.parametrize("fit", [failing, giving_up])
@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_a_scan_without_a_single_fit_ends_incomplete(fit: Fit, threshold: float) -> None:
    state, batches, _ = run(make_request(predictive_threshold=threshold), fit)
    assert {batch.nside for batch in batches} == {2}
    assert state.is_ended
    assert not state.is_complete
    assert state.best is None


def test_a_scan_of_the_finest_resolution_needs_no_memory_of_the_sky() -> None:
    pointing = Pointing(1.0, 1.2, 1e-6)
    state, batches, _ = run(make_request("1048576:0", pointing=pointing))
    assert state.is_complete
    assert 0 < sum(map(len, batches)) < 20


def test_levels_that_have_not_begun_are_not_in_the_map() -> None:
    state = ScanState(make_request(), same_frame)
    assert state.levels == []
    assert map_of(state).levels == ()
    state.begin()
    assert [level.nside for level in state.levels] == [2]
