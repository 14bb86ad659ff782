"""How far a scan is, and what it needs next: a fold over what comes back from the workers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icestream.physics import healpix
from icestream.scans import milestones
from icestream.scans.level_results import BestPixel, LevelResults
from icestream.scans.milestones import Milestones
from icestream.scans.pace import FitTimes, Pace
from icestream.scans.pixels import PixelBatch, PixelFits, TakenRows
from icestream.scans.plan import first_pixels, pixels_to_refine, spread
from icestream.scans.request import ScanRequest
from icestream.scans.skymap import Skymap

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ToDetector = Callable[[FloatArray], FloatArray]
"""Turns unit vectors of the map's frame into detector coordinates, where the neutrino came from; (n, 3) each."""

_LONGEST_S = 1e7
"""No worker works longer on one result."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one result did; each of its rows is counted once."""

    n_accepted: int = 0
    n_duplicates: int = 0
    """Rows that were there before."""
    n_unknown: int = 0
    """Rows that were never asked for."""
    n_late: int = 0
    """Rows that came after the end."""
    batches: list[PixelBatch] = field(default_factory=list)
    """What the workers are to do now in addition."""


@dataclass(frozen=True, slots=True, eq=False)
class OutstandingRows:
    """Rows of a batch that follow each other and for which nobody has answered."""

    first_row: int
    """Row of the whole batch with which these begin."""
    batch: PixelBatch
    """These rows alone, under the number of the whole batch."""
    is_whole: bool = False
    """Whether these are all rows of the batch."""


class _Span(NamedTuple):
    """Where the rows of a batch are."""

    level: int
    first_row: int
    end_row: int


class ScanState:
    """One scan from its first batch to its end.

    Everything follows from the request and from the results in the order in which they were taken: the same
    results in the same order give the same batches, so that a log of results is all that has to be stored.

    When: with a predictive threshold of 1 a scan goes in rounds. Once nothing is outstanding it looks where the
    best pixel is, plans what is missing around it on all levels, and on the next one; where nothing is missing
    it has ended. The map then does not depend on the order of results at all. With a lower threshold a level
    that passes one of its milestones is looked at in addition right away, and then this level, all coarser
    ones and the next are planned. Pixels are planned once, and there are finitely many: a scan always ends.

    Where: around the best pixel. If llh compare over levels it is that of the smallest llh of all, of equal ones
    on the finest level. If they do not, it is that of the smallest llh on the finest level that has one
    and that has passed its first milestone at some time: by the client's own measure enough of it is there
    to trust it, whereas the first few pixels of a level that has just begun would pull the scan anywhere.
    Before any level has, the first level decides. So a finer level can move the centre, the coarser
    ones are then extended around it, and in the end all levels lie around the pixel that the map calls best.
    """

    def __init__(self, request: ScanRequest, to_detector: ToDetector) -> None:
        """Prepare; nothing is planned before `begin`.

        Args:
            request: Checked by `plan.check_size`.
            to_detector: Must always return the same for the same vectors.

        Raises:
            InvalidScan: The predictive threshold is not a share.
        """
        self.request = request
        self.pace = Pace()
        self.n_duplicates = self.n_unknown = self.n_late = 0
        self.is_cancelled = False
        self._has_ended = False
        self._to_detector = to_detector
        self._levels = [
            _empty_level(request, index) for index, _ in enumerate(request.options.progression.nsides)
        ]
        self._fit_times = [FitTimes() for _ in self._levels]
        shares = milestones.shares(request.options.predictive_threshold)
        self._milestones = [Milestones(shares) for _ in self._levels[:-1]] + [Milestones((1.0,))]
        self._spans: list[_Span] = []

    @property
    def levels(self) -> list[LevelResults]:
        """Those that have begun, coarse ones first."""
        return [level for level in self._levels if level.n_pixels_planned]

    @property
    def fit_times(self) -> list[FitTimes]:
        """Of each of `levels`."""
        return self._fit_times[: len(self.levels)]

    @property
    def n_fits_sent(self) -> int:
        """Rows of all batches so far."""
        return sum(level.n_rows_planned for level in self._levels)

    @property
    def n_fits_done(self) -> int:
        """Rows that came back, with a fit or as given up."""
        return sum(level.n_rows_taken for level in self._levels)

    @property
    def is_ended(self) -> bool:
        """Whether no result is waited for any more."""
        return self._has_ended or self.is_cancelled

    @property
    def is_complete(self) -> bool:
        """Whether the scan came to its own end on its last level and no pixel is missing."""
        is_whole = all(level.n_pixels_planned and not level.n_pixels_missing for level in self._levels)
        return self._has_ended and is_whole

    @property
    def best(self) -> BestPixel | None:
        """The best pixel so far, by the rule above; None before there is a fit."""
        with_fit = [index for index, level in enumerate(self._levels) if level.best_llh < math.inf]
        if not with_fit:
            return None
        if self.request.levels_compare:
            index = min(reversed(with_fit), key=lambda index: self._levels[index].best_llh)
        else:
            index = max((i for i in with_fit if self._milestones[i].is_settled), default=with_fit[0])
        return self._levels[index].best

    def begin(self) -> list[PixelBatch]:
        """Plan the first level; to be called once."""
        options = self.request.options
        return self._send(0, first_pixels(options.progression.nsides[0], options.pointing))

    def take(self, rows: TakenRows) -> Outcome:
        """Take what came back, and plan what follows from it.

        Rows that were not asked for, that are there already or that come after the end are dropped and counted.
        """
        if self.is_ended:
            self.n_late += len(rows)
            return Outcome(n_late=len(rows))
        index, row, is_known = self._find(rows)
        level = self._levels[index]
        is_taken = np.zeros(len(rows), np.bool_)
        is_taken[is_known] = level.are_taken(row[is_known])
        is_new = is_known & ~is_taken
        n_new, n_duplicates = int(np.count_nonzero(is_new)), int(np.count_nonzero(is_taken))
        n_unknown = len(rows) - n_new - n_duplicates
        self.n_duplicates += n_duplicates
        self.n_unknown += n_unknown
        batches: list[PixelBatch] = []
        if n_new:
            self._accept(index, rows, row, is_new)
            batches = self._advance(index)
        return Outcome(n_new, n_duplicates, n_unknown, 0, batches)

    def cancel(self) -> None:
        """End now, with what is there; harmless after the end."""
        self.is_cancelled = not self._has_ended

    def outstanding(self) -> list[OutstandingRows]:
        """What the workers still owe, in the order of the batches; nothing after the end."""
        if self.is_ended:
            return []
        return [part for number, span in enumerate(self._spans) for part in self._missing_parts(number, span)]

    def skymap(
        self,
        *,
        hypotheses: tuple[str, ...],
        notes: Mapping[str, str] | None = None,
    ) -> Skymap:
        """The map as far as it is there.

        Args:
            hypotheses: Of the reco.
            notes: Provenance.
        """
        request = self.request
        return Skymap(
            scan_id=request.scan_id,
            event_id=request.event_id,
            event_type=request.alert_type or "none",
            detector=request.detector,
            start_unix_ns=request.start_unix_ns,
            is_real_event=request.is_real_event,
            frame=request.frame,
            reco=request.options.reco,
            hypotheses=hypotheses,
            levels=tuple(level.to_map() for level in self.levels),
            is_complete=self.is_complete,
            levels_compare=request.levels_compare,
            notes=dict(notes or {}),
        )

    def _find(self, rows: TakenRows) -> tuple[int, IntArray, BoolArray]:
        """Which level a result is of, the rows there, and which of them are those that were asked for."""
        is_known = np.zeros(len(rows), np.bool_)
        if not 0 <= rows.number < len(self._spans):
            return 0, np.zeros(len(rows), np.int64), is_known
        span = self._spans[rows.number]
        level = self._levels[span.level]
        row = span.first_row + rows.first_row + np.arange(len(rows))
        is_known = (row >= span.first_row) & (row < span.end_row) & (rows.nside == level.nside)
        is_known[is_known] = level.are_rows(row[is_known], rows.pixel[is_known], rows.variation[is_known])
        return span.level, row, is_known

    def _accept(self, index: int, rows: TakenRows, row: IntArray, is_new: BoolArray) -> None:
        level = self._levels[index]
        if rows.fits is None:
            level.give_up(row[is_new])
        else:
            level.take(row[is_new], _chosen(rows.fits, is_new))
        n_new = int(np.count_nonzero(is_new))
        # A worker whose clock is broken must not break the scan; NaN fails as well.
        worker_s = rows.worker_s if 0 <= rows.worker_s < _LONGEST_S else 0.0
        succeeded = rows.fits is not None
        self._fit_times[index].add(n_new, worker_s * n_new / len(rows), succeeded=succeeded)
        self.pace.add(n_new, rows.started_unix_ns, worker_s)

    def _advance(self, index: int) -> list[PixelBatch]:
        """Plan what follows from new results of one level."""
        passes = self._milestones[index].passes(self._levels[index].share_done)
        if self.n_fits_done == self.n_fits_sent:
            batches = self._refine(len(self.levels) - 1)
            self._has_ended = not batches
            return batches
        # Waiting for the round to be complete is what makes its map independent of the order of results.
        is_predictive = self.request.options.predictive_threshold < 1
        return self._refine(index) if passes and is_predictive else []

    def _refine(self, deepest: int) -> list[PixelBatch]:
        """Plan what is missing around the best pixel, on all levels up to the one after `deepest`."""
        best = self.best
        if best is None:
            return []
        batches = []
        levels = self.request.options.progression.levels
        for index in range(1, min(deepest + 2, len(levels))):
            nside, extension = levels[index]
            pixel = pixels_to_refine(levels[index - 1][0], nside, extension, best.centre)
            batches += self._send(index, self._levels[index].without_planned(pixel))
        return batches

    def _send(self, index: int, pixel: IntArray) -> list[PixelBatch]:
        """Plan pixels of one level."""
        if len(pixel) == 0:
            return []
        level = self._levels[index]
        pixel, first_row = spread(pixel), level.n_rows_planned
        direction = self._to_detector(healpix.centres(level.nside, pixel))
        level.plan(pixel, direction, self._guesses(index, pixel))
        self._milestones[index].set_back(level.share_done)
        n_before, size, n_rows = len(self._spans), self.request.batch_size, level.n_rows_planned
        self._spans += [_Span(index, row, min(row + size, n_rows)) for row in range(first_row, n_rows, size)]
        return [
            level.batch(number, span.first_row, span.end_row)
            for number, span in enumerate(self._spans[n_before:], n_before)
        ]

    def _guesses(self, index: int, pixel: IntArray) -> FloatArray:
        """First guesses: the fit of the nearest coarser pixel around each that has one, else the event's seed.

        Returns:
            x, y, z in m and t in ns; shape (n, 1 or 2, 4).
        """
        seed = self.request.seed
        of_event = np.array([*seed.position_m, seed.time_ns], np.float64)
        guess = np.full((len(pixel), 4), np.nan)
        for coarser in reversed(self._levels[:index]):
            is_open = np.isnan(guess[:, 0])
            around = healpix.parents(self._levels[index].nside, pixel[is_open], coarser.nside)
            guess[is_open] = coarser.fitted_seeds(around)
        guess[np.isnan(guess[:, 0])] = of_event
        if index == 0 or not self.request.adds_fallback_seed:
            return guess[:, None]
        return np.stack((guess, np.broadcast_to(of_event, guess.shape)), axis=1)

    def _missing_parts(self, number: int, span: _Span) -> list[OutstandingRows]:
        level = self._levels[span.level]
        is_missing = ~level.are_taken(slice(span.first_row, span.end_row))
        edges = np.flatnonzero(np.diff(is_missing, prepend=False, append=False)).tolist()
        return [
            OutstandingRows(
                first,
                level.batch(number, span.first_row + first, span.first_row + end),
                is_whole=end - first == span.end_row - span.first_row,
            )
            for first, end in zip(edges[::2], edges[1::2], strict=True)
        ]


def _empty_level(request: ScanRequest, index: int) -> LevelResults:
    return LevelResults(
        request.options.progression.nsides[index],
        np.array(request.offsets_m, np.float64),
        rotates_offsets=request.rotates_offsets,
        n_seeds=2 if index and request.adds_fallback_seed else 1,
    )


def _chosen(fits: PixelFits, is_chosen: BoolArray) -> PixelFits:
    """Some rows of fits."""
    if is_chosen.all():
        return fits
    return PixelFits(
        llh=fits.llh[is_chosen],
        position_m=fits.position_m[is_chosen],
        time_ns=fits.time_ns[is_chosen],
        n_hits=fits.n_hits[is_chosen],
        hypothesis=fits.hypothesis[is_chosen],
        rival_llh=fits.rival_llh[is_chosen],
        energy_inside_gev=fits.energy_inside_gev[is_chosen],
        energy_total_gev=fits.energy_total_gev[is_chosen],
    )
