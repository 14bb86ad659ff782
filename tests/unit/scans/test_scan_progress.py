import math
from dataclasses import replace

import pytest

from icestream.scans.pixels import TakenRows
from icestream.scans.progress import LevelProgress, ScanProgress, progress_at
from icestream.scans.request import Pointing
from icestream.scans.state import ScanState
from tests.unit.scans.scan_cases import (
    CREATED_UNIX_NS,
    TWO_OFFSETS,
    answer,
    at_target,
    giving_up,
    make_request,
    run,
    same_frame,
)

S = 1_000_000_000


def now(seconds: float) -> int:
    return CREATED_UNIX_NS + round(seconds * S)


def test_before_the_beginning_nothing_is_known() -> None:
    progress = progress_at(ScanState(make_request(), same_frame), now(2))
    assert progress == ScanProgress(
        levels=(),
        n_fits_sent=0,
        n_fits_done=0,
        n_pixels_missing=0,
        fits_per_s=0.0,
        eta_s=-1.0,
        elapsed_s=2.0,
        n_unknown=0,
        n_duplicates=0,
        n_late=0,
        worker_s=0.0,
    )


def test_progress_tells_of_each_round() -> None:
    request = make_request("8:0,64:12,512:24", batch_size=1000)
    state = ScanState(request, same_frame)
    (coarse,) = state.begin()
    planned = LevelProgress(8, 768, 0, 768, 0.0, 0.0, 0.0)
    assert progress_at(state, now(1)).levels == (planned,)

    # One worker, 7.68 s for 768 fits.
    fits = at_target(coarse)
    taken = replace(answer(coarse, fits, started_unix_ns=now(1)), worker_s=7.68)
    (middle,) = state.take(taken).batches
    progress = progress_at(state, now(8.68))
    first, second = progress.levels
    assert first == LevelProgress(8, 768, 768, 768, 0.01, 0.01, 0.01)
    assert (second.n_pixels_planned, second.n_pixels_done, second.n_pixels_expected) == (len(middle), 0, 768)
    assert (progress.n_fits_sent, progress.n_fits_done) == (768 + len(middle), 768)
    assert progress.fits_per_s == pytest.approx(100.0)
    assert progress.eta_s == pytest.approx((len(middle) + 1536) / 100)
    assert (progress.elapsed_s, progress.worker_s) == (8.68, 7.68)

    # The next level is twice as slow.
    taken = replace(answer(middle, at_target(middle), started_unix_ns=now(8.68)), worker_s=len(middle) / 50)
    sent = sum(map(len, state.take(taken).batches))
    progress = progress_at(state, now(8.68 + len(middle) / 50))
    assert [level.nside for level in progress.levels] == [8, 64, 512]
    assert progress.levels[1].mean_fit_s == pytest.approx(0.02)
    assert progress.eta_s == pytest.approx(sent / 50)


def test_after_the_end_nothing_is_left() -> None:
    state, batches, _ = run(make_request())
    progress = progress_at(state, now(100))
    assert progress.eta_s == 0.0
    assert progress.n_fits_done == progress.n_fits_sent == sum(map(len, batches))
    assert all(level.n_pixels_done == level.n_pixels_planned for level in progress.levels)


def test_what_was_given_up_is_done_and_missing() -> None:
    state, *_ = run(make_request("1:0", offsets_m=TWO_OFFSETS), giving_up)
    progress = progress_at(state, now(1))
    assert (progress.n_pixels_missing, progress.n_fits_done) == (12, 24)
    assert progress.levels[0].n_pixels_done == 12
    assert progress.levels[0].mean_fit_s == 0.0
    assert progress.worker_s == 2.0


def test_a_pointed_scan_expects_the_pixels_that_it_has() -> None:
    state = ScanState(make_request("8:0", pointing=Pointing(1.0, 1.2, math.radians(20))), same_frame)
    n_planned = sum(map(len, state.begin()))
    (level,) = progress_at(state, now(1)).levels
    assert level.n_pixels_expected == level.n_pixels_planned == n_planned


def test_dropped_rows_are_counted_by_their_kind() -> None:
    state = ScanState(make_request(), same_frame)
    first, second, *_ = state.begin()

    def take(rows: TakenRows) -> None:
        state.take(rows)

    take(answer(first, at_target(first)))
    take(answer(first, at_target(first)))
    take(replace(answer(second, at_target(second)), nside=64))
    state.cancel()
    take(answer(second, at_target(second)))
    progress = progress_at(state, now(1))
    assert (progress.n_duplicates, progress.n_unknown, progress.n_late) == (16, 16, 16)


def test_a_clock_behind_the_workers_gives_no_rate_and_no_negative_time() -> None:
    state = ScanState(make_request(), same_frame)
    first, *_ = state.begin()
    state.take(answer(first, at_target(first)))
    progress = progress_at(state, CREATED_UNIX_NS - S)
    assert (progress.fits_per_s, progress.elapsed_s) == (0.0, 0.0)


def test_time_of_rows_that_were_there_before_is_not_counted_again() -> None:
    state = ScanState(make_request(), same_frame)
    first, *_ = state.begin()
    for _ in range(2):
        state.take(answer(first, at_target(first)))
    assert progress_at(state, now(1)).worker_s == 1.0
