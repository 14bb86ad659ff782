"""Pixels of the sky as they go to a worker, and as they come back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PixelBatch:
    """Pixels of one level that one worker fits together; n rows."""

    number: int
    """Counts the batches of a scan from 0, in the order in which they were planned."""
    nside: int
    pixel: IntArray
    """RING index; shape (n,)."""
    variation: IntArray
    """Which of the reco's position variations; shape (n,)."""
    direction: FloatArray
    """Unit vectors to where the neutrino came from, in detector coordinates; shape (n, 3)."""
    seeds: FloatArray
    """First guesses of x, y, z (m) and t (ns, from the event's start) of a point of the track or cascade;
    shape (n, k, 4) with k at least 1. A reco tries all of them and keeps the best."""

    def __len__(self) -> int:
        return len(self.pixel)


@dataclass(frozen=True, slots=True, eq=False)
class PixelFits:
    """What a reco found for the pixels of one batch, row by row as they were asked."""

    llh: FloatArray
    """-ln L, smaller is better; NaN where the fit failed. Shape (n,)."""
    position_m: FloatArray
    """Fitted point: of a track the one closest to the seed, of a cascade its vertex. Shape (n, 3)."""
    time_ns: FloatArray
    """Fitted time at that point, from the event's start; shape (n,)."""
    n_hits: IntArray
    """Hit modules that the fit used; shape (n,)."""
    hypothesis: IntArray
    """Which of the reco's hypotheses won, an index into `Reco.hypotheses`; shape (n,)."""
    rival_llh: FloatArray
    """-ln L of the best other hypothesis on the same data, NaN where there is none; shape (n,)."""
    energy_inside_gev: FloatArray
    """Energy lost inside the detector, NaN where the reco does not fit it; shape (n,)."""
    energy_total_gev: FloatArray
    """Energy lost at all, NaN where the reco does not fit it; shape (n,)."""

    def __len__(self) -> int:
        return len(self.llh)


@dataclass(frozen=True, slots=True, eq=False)
class TakenRows:
    """What came back of a batch, or of a part of it: n rows that follow each other there."""

    number: int
    """As of the `PixelBatch`."""
    first_row: int
    """Row of the batch with which these begin."""
    nside: int
    pixel: IntArray
    """As in the batch; shape (n,)."""
    variation: IntArray
    """As in the batch; shape (n,)."""
    fits: PixelFits | None
    """n rows; None where the rows were given up."""
    failure: str = ""
    """Why they were given up; empty where they were fitted."""
    started_unix_ns: int = 0
    """When the worker began."""
    worker_s: float = 0.0
    """Time on the worker."""

    def __len__(self) -> int:
        return len(self.pixel)
