"""What each module saw of an event, as the likelihood of a track takes it: first light and all charge."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from icestream.physics.detector import Detector
from icestream.physics.events import Pulses

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """The hit modules of one event in order of their first light, as columns of equal length (n,)."""

    sensor_id: NDArray[np.uint16]
    """Row of the detector table; each at most once."""
    time_ns: FloatArray
    """Of the first pulse."""
    charge_pe: FloatArray
    """Of all pulses together."""
    n_pulses: NDArray[np.int64]
    position_m: FloatArray
    """Shape (n, 3)."""
    efficiency: FloatArray
    """Relative quantum efficiency, 1 for a standard module."""

    def __len__(self) -> int:
        return len(self.sensor_id)


def hits_of(pulses: Pulses, detector: Detector) -> Hits:
    """Gather the pulses by module."""
    order = np.lexsort((pulses.time_ns, pulses.sensor_id))
    sensors, first, n_pulses = np.unique(pulses.sensor_id[order], return_index=True, return_counts=True)
    rows = np.repeat(np.arange(len(sensors)), n_pulses)
    times = np.asarray(pulses.time_ns, np.float64)[order][first]
    hits = Hits(
        sensors,
        times,
        np.bincount(rows, pulses.charge_pe[order], len(sensors)).astype(np.float64),
        n_pulses.astype(np.int64),
        np.asarray(detector.positions_m[sensors], np.float64),
        np.asarray(detector.efficiency[sensors], np.float64),
    )
    return _rows(hits, np.argsort(times, kind="stable"))


def select_hits(pulses: Pulses, detector: Detector, max_hits: int) -> Hits:
    """Gather the pulses by module and keep the modules that say most of a track.

    These are the brightest: the first of many photons has scattered least. Of equals, as of many modules with
    one photon each, the earlier ones are kept: late light is scattered or noise.

    Returns:
        At most `max_hits` hits.
    """
    hits = hits_of(pulses, detector)
    # Stable, so that equals stay in order of time.
    brightest = np.argsort(-hits.charge_pe, kind="stable")[:max_hits]
    return _rows(hits, np.sort(brightest))


def _rows(hits: Hits, rows: NDArray[np.int64]) -> Hits:
    """The chosen hits, in the given order."""
    return Hits(*(getattr(hits, column.name)[rows] for column in fields(hits)))
