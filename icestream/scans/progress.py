"""How far a scan is, in numbers for people."""

import math
from dataclasses import dataclass

from icestream.scans.level_results import LevelResults
from icestream.scans.pace import FitTimes
from icestream.scans.plan import expected_pixels
from icestream.scans.state import ScanState

UNKNOWN_ETA_S = -1.0


@dataclass(frozen=True, slots=True)
class LevelProgress:
    """How far one level is."""

    nside: int
    n_pixels_planned: int
    n_pixels_done: int
    """Those of which every variation came back, with a fit or as given up."""
    n_pixels_expected: int
    """As expected at the start."""
    mean_fit_s: float
    """Time on a worker per fit; 0 before the first."""
    fastest_fit_s: float
    slowest_fit_s: float


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """How far a scan is."""

    levels: tuple[LevelProgress, ...]
    """Those that have begun, coarse ones first."""
    n_fits_sent: int
    n_fits_done: int
    n_pixels_missing: int
    """Those that were given up."""
    fits_per_s: float
    """Since the first worker began; 0 before the first result."""
    eta_s: float
    """Expected time to the end; negative while it is unknown, 0 after the end."""
    elapsed_s: float
    """Since the scan was accepted."""
    n_unknown: int
    n_duplicates: int
    n_late: int
    worker_s: float
    """Time that workers spent on it."""


def progress_at(state: ScanState, now_unix_ns: int) -> ScanProgress:
    """Tell how far a scan is.

    Args:
        state: The scan.
        now_unix_ns: The present, or once the scan has ended its end.
    """
    expected = _expected_pixels(state)
    return ScanProgress(
        levels=tuple(
            _level_progress(level, times, n_expected)
            for level, times, n_expected in zip(state.levels, state.fit_times, expected, strict=False)
        ),
        n_fits_sent=state.n_fits_sent,
        n_fits_done=state.n_fits_done,
        n_pixels_missing=sum(level.n_pixels_missing for level in state.levels),
        fits_per_s=_fits_per_s(state, now_unix_ns),
        eta_s=_eta_s(state, expected),
        elapsed_s=max(now_unix_ns - state.request.created_unix_ns, 0) / 1e9,
        n_unknown=state.n_unknown,
        n_duplicates=state.n_duplicates,
        n_late=state.n_late,
        worker_s=sum(times.total_s for times in state.fit_times),
    )


def _expected_pixels(state: ScanState) -> tuple[int, ...]:
    options = state.request.options
    first, *finer = expected_pixels(options.progression, options.pointing)
    # The first level is planned once and never extended: once it has begun its number is known.
    planned = [level.n_pixels_planned for level in state.levels[:1]]
    return *(planned or [first]), *finer


def _level_progress(level: LevelResults, times: FitTimes, n_expected: int) -> LevelProgress:
    return LevelProgress(
        nside=level.nside,
        n_pixels_planned=level.n_pixels_planned,
        n_pixels_done=level.n_pixels_done,
        n_pixels_expected=n_expected,
        mean_fit_s=times.mean_s,
        fastest_fit_s=times.fastest_s,
        slowest_fit_s=times.slowest_s,
    )


def _fits_per_s(state: ScanState, now_unix_ns: int) -> float:
    began_unix_ns = state.pace.first_started_unix_ns
    if not began_unix_ns or now_unix_ns <= began_unix_ns:
        return 0.0
    return state.n_fits_done * 1e9 / (now_unix_ns - began_unix_ns)


def _eta_s(state: ScanState, expected: tuple[int, ...]) -> float:
    """The fits that are left, each as long as the latest ones took."""
    if state.is_ended:
        return 0.0
    seconds_per_fit = state.pace.seconds_per_fit()
    if math.isnan(seconds_per_fit):
        return UNKNOWN_ETA_S
    n_to_come = sum(expected[len(state.levels) :]) * len(state.request.offsets_m)
    return seconds_per_fit * (state.n_fits_sent - state.n_fits_done + n_to_come)
