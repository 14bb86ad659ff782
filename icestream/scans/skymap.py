"""A likelihood map of the sky in several resolutions, and where its best direction is."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icestream.physics.events import EventId
from icestream.scans.request import Frame

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """The finished pixels of one resolution, in ascending order of their index; n rows."""

    nside: int
    pixel: IntArray
    """RING index; shape (n,)."""
    llh: FloatArray
    """-ln L, smaller is better; NaN where every fit of the pixel failed. Shape (n,)."""
    position_m: FloatArray
    """Shape (n, 3)."""
    time_ns: FloatArray
    n_hits: IntArray
    hypothesis: IntArray
    """Index into `Skymap.hypotheses`."""
    rival_llh: FloatArray
    energy_inside_gev: FloatArray
    energy_total_gev: FloatArray
    is_complete: bool
    """Whether nothing of what was planned on this level is missing."""
    missing: IntArray
    """Pixels that were given up, or that are not there yet; RING index, ascending."""

    def __len__(self) -> int:
        return len(self.pixel)


@dataclass(frozen=True, slots=True, eq=False)
class Skymap:
    """All levels of a scan, coarse ones first."""

    scan_id: str
    event_id: EventId
    event_type: str
    """Alert type such as "neutrino" or "hese"; "none" where there is none."""
    detector: str
    start_unix_ns: int
    """UTC time of the event; 0 where it is not known."""
    is_real_event: bool
    frame: Frame
    reco: str
    hypotheses: tuple[str, ...]
    levels: tuple[Level, ...]
    is_complete: bool
    """Whether the scan has ended and no pixel is missing."""
    levels_compare: bool
    """Whether llh of different levels mean the same; if not, the finest level holds the best pixel."""
    notes: Mapping[str, str]
    """Provenance for headers: model versions, software version."""
