"""What came back of one level of a scan: its pixels as columns, of which each keeps its best variation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icestream.physics import healpix
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.plan import displacements
from icestream.scans.skymap import Level

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_FIT = np.dtype(
    [
        ("llh", np.float64),
        ("position_m", np.float64, 3),
        ("time_ns", np.float64),
        ("n_hits", np.int64),
        ("hypothesis", np.int64),
        ("rival_llh", np.float64),
        ("energy_inside_gev", np.float64),
        ("energy_total_gev", np.float64),
    ]
)
"""The columns of `PixelFits`, side by side."""


@dataclass(frozen=True, slots=True, eq=False)
class BestPixel:
    """The pixel of the smallest llh."""

    nside: int
    pixel: int
    """RING index."""
    centre: FloatArray
    """Unit vector in the map's frame; shape (3,)."""
    direction: FloatArray
    """The same in detector coordinates; shape (3,)."""
    llh: float
    position_m: FloatArray
    time_ns: float
    hypothesis: int
    """Index into the reco's hypotheses."""
    rival_llh: float
    """-ln L of the best other hypothesis there; NaN where there is none."""


class LevelResults:
    """The planned pixels of one level and their fits; a slot per pixel and a row per fit, as they were planned.

    Row r is variation r % v of the pixel in slot r // v, where v is the number of variations. What comes out
    depends only on which rows were taken, not on their order.
    """

    def __init__(self, nside: int, offsets_m: FloatArray, *, rotates_offsets: bool, n_seeds: int) -> None:
        """Begin without pixels.

        Args:
            nside: Resolution.
            offsets_m: Position variations; shape (v, 3).
            rotates_offsets: Whether they are turned with the pixel.
            n_seeds: First guesses per row.
        """
        self.nside = nside
        self.n_variations = len(offsets_m)
        self.n_pixels_done = 0
        """Those of which every variation is there, as a fit or as given up."""
        self.n_pixels_missing = 0
        """Those of which every variation was given up."""
        self.n_rows_taken = 0
        self._offsets_m = offsets_m
        self._rotates_offsets = rotates_offsets
        self._pixel = np.empty(0, np.int64)
        self._by_pixel = np.empty(0, np.int64)  # slots in ascending order of their pixel
        self._direction = np.empty((0, 3))
        self._guesses = np.empty((0, n_seeds, 4))
        self._is_taken = np.empty(0, np.bool_)
        self._n_arrived = np.empty(0, np.int64)
        self._n_fitted = np.empty(0, np.int64)
        self._winner = np.empty(0, np.int64)  # variation; n_variations before the first fit
        self._fit = np.empty(0, _FIT)
        self._best_slot = -1

    @property
    def n_pixels_planned(self) -> int:
        """Pixels so far."""
        return len(self._pixel)

    @property
    def n_rows_planned(self) -> int:
        """Fits so far."""
        return len(self._is_taken)

    @property
    def share_done(self) -> float:
        """Finished pixels among the planned ones; 0 where there are none."""
        return self.n_pixels_done / max(self.n_pixels_planned, 1)

    @property
    def best_llh(self) -> float:
        """The smallest llh of all finished pixels; infinite before the first."""
        return float(self._fit["llh"][self._best_slot]) if self._best_slot >= 0 else np.inf

    @property
    def best(self) -> BestPixel | None:
        """The finished pixel of the smallest llh, of equal ones the one of the smallest index."""
        slot = self._best_slot
        if slot < 0:
            return None
        fit, pixel = self._fit[slot], int(self._pixel[slot])
        return BestPixel(
            nside=self.nside,
            pixel=pixel,
            centre=healpix.centres(self.nside, pixel),
            direction=self._direction[slot].copy(),
            llh=float(fit["llh"]),
            position_m=fit["position_m"].copy(),
            time_ns=float(fit["time_ns"]),
            hypothesis=int(fit["hypothesis"]),
            rival_llh=float(fit["rival_llh"]),
        )

    def without_planned(self, pixel: IntArray) -> IntArray:
        """Those of some pixels that are not planned yet, in their order."""
        return pixel[self._slots(pixel) < 0]

    def plan(self, pixel: IntArray, direction: FloatArray, guesses: FloatArray) -> None:
        """Add pixels after all others.

        Args:
            pixel: RING indices, all different and not planned yet; shape (n,).
            direction: Shape (n, 3).
            guesses: First guesses of x, y, z and t before they are displaced; shape (n, n_seeds, 4).
        """
        n = len(pixel)
        self._pixel = np.concatenate((self._pixel, pixel))
        self._by_pixel = np.argsort(self._pixel)
        self._direction = np.concatenate((self._direction, direction))
        self._guesses = np.concatenate((self._guesses, guesses))
        self._is_taken = np.concatenate((self._is_taken, np.zeros(n * self.n_variations, np.bool_)))
        self._n_arrived = np.concatenate((self._n_arrived, np.zeros(n, np.int64)))
        self._n_fitted = np.concatenate((self._n_fitted, np.zeros(n, np.int64)))
        self._winner = np.concatenate((self._winner, np.full(n, self.n_variations)))
        self._fit = np.concatenate((self._fit, np.zeros(n, _FIT)))

    def batch(self, number: int, first_row: int, end_row: int) -> PixelBatch:
        """Rows as they go to a worker."""
        slot, variation = np.divmod(np.arange(first_row, end_row), self.n_variations)
        direction = self._direction[slot]
        seeds = self._guesses[slot]
        seeds[:, :, :3] += displacements(
            direction, self._offsets_m[variation], rotates=self._rotates_offsets
        )[:, None]
        return PixelBatch(number, self.nside, self._pixel[slot], variation, direction, seeds)

    def are_rows(self, row: IntArray, pixel: IntArray, variation: IntArray) -> BoolArray:
        """Whether rows, none beyond the planned ones, are of these pixels and variations; shape (n,)."""
        slot, expected = np.divmod(row, self.n_variations)
        of_pixel: BoolArray = self._pixel[slot] == pixel
        of_variation: BoolArray = expected == variation
        return of_pixel & of_variation

    def are_taken(self, row: IntArray | slice) -> BoolArray:
        """Which rows are there, as a fit or as given up; shape (n,)."""
        return self._is_taken[row]

    def take(self, row: IntArray, fits: PixelFits) -> None:
        """Take the fits of rows, ascending and none of them taken before."""
        slot, variation = np.divmod(row, self.n_variations)
        fit = np.empty(len(row), _FIT)
        for name in _FIT.fields or ():
            fit[name] = getattr(fits, name)
        # No fit is infinitely good, and none infinitely bad can be told from one that failed.
        fit["llh"][~np.isfinite(fit["llh"])] = np.nan
        np.add.at(self._n_fitted, slot, 1)
        self._keep_winners(slot, variation, fit)
        self._arrive(row, slot)

    def give_up(self, row: IntArray) -> None:
        """Do without rows, ascending and none of them taken before."""
        self._arrive(row, row // self.n_variations)

    def fitted_seeds(self, pixel: IntArray) -> FloatArray:
        """Where and when finished fits found the event.

        Returns:
            x, y, z in m and t in ns, NaN for pixels that have no such fit; shape (n, 4).
        """
        slot = self._slots(pixel)
        seeds = np.full((len(pixel), 4), np.nan)
        is_there = slot >= 0
        is_there[is_there] = self._n_arrived[slot[is_there]] == self.n_variations
        fit = self._fit[slot[is_there]]
        found = np.column_stack((fit["position_m"], fit["time_ns"]))
        is_usable = (self._n_fitted[slot[is_there]] > 0) & np.isfinite(fit["llh"])
        is_usable &= np.isfinite(found).all(axis=1)
        seeds[is_there] = np.where(is_usable[:, None], found, np.nan)
        return seeds

    def to_map(self) -> Level:
        """The finished pixels, and which are missing."""
        is_there = (self._n_arrived == self.n_variations) & (self._n_fitted > 0)
        slot = self._by_pixel[is_there[self._by_pixel]]
        missing = self._pixel[self._by_pixel[~is_there[self._by_pixel]]]
        columns = {name: np.ascontiguousarray(self._fit[name][slot]) for name in _FIT.fields or ()}
        return Level(
            nside=self.nside,
            pixel=self._pixel[slot],
            is_complete=len(missing) == 0,
            missing=missing,
            **columns,
        )

    def _slots(self, pixel: IntArray) -> IntArray:
        """Where pixels are, -1 for those that are not planned; shape (n,)."""
        if len(self._pixel) == 0:
            return np.full(len(pixel), -1)
        place = np.searchsorted(self._pixel, pixel, sorter=self._by_pixel)
        slot = self._by_pixel[np.minimum(place, len(self._pixel) - 1)]
        return np.where(self._pixel[slot] == pixel, slot, -1)

    def _keep_winners(self, slot: IntArray, variation: IntArray, fit: NDArray[np.void]) -> None:
        """Let each pixel keep the smallest llh: NaN loses to any number, and equal ones to the first variation."""
        # Sorting puts NaN last.
        order = np.lexsort((variation, fit["llh"], slot))
        is_first = np.diff(slot[order], prepend=-1) > 0
        chosen = order[is_first]
        slot, variation, fit = slot[chosen], variation[chosen], fit[chosen]
        before, now = self._fit["llh"][slot], fit["llh"]
        is_new = self._winner[slot] == self.n_variations
        is_equal = (now == before) | (np.isnan(now) & np.isnan(before))
        wins = is_new | (now < before) | (np.isnan(before) & ~np.isnan(now))
        wins |= is_equal & (variation < self._winner[slot])
        self._winner[slot[wins]] = variation[wins]
        self._fit[slot[wins]] = fit[wins]

    def _arrive(self, row: IntArray, slot: IntArray) -> None:
        self._is_taken[row] = True
        self.n_rows_taken += len(row)
        np.add.at(self._n_arrived, slot, 1)
        touched = slot[np.diff(slot, prepend=-1) > 0]
        finished = touched[self._n_arrived[touched] == self.n_variations]
        self.n_pixels_done += len(finished)
        self.n_pixels_missing += int(np.count_nonzero(self._n_fitted[finished] == 0))
        self._find_best(finished[self._n_fitted[finished] > 0])

    def _find_best(self, finished: IntArray) -> None:
        """Compare newly finished pixels with the best one."""
        finished = finished[np.isfinite(self._fit["llh"][finished])]
        if self._best_slot >= 0:
            finished = np.append(finished, self._best_slot)
        if len(finished):
            self._best_slot = int(
                finished[np.lexsort((self._pixel[finished], self._fit["llh"][finished]))[0]]
            )
