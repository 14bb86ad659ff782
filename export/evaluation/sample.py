"""Gathers the events that methods are compared on, and lets the line fits answer for them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import islice, repeat

import numpy as np
from numpy.typing import NDArray

from export.dataset import TEST_SEED, LabelledEvents, label
from export.labelled_dataset import LabelledDataset, Part
from export.workers import worker_pool
from icestream.physics.detector import Detector, icecube86
from icestream.physics.events import Event, Pulses
from icestream.physics.linefit import line_fit, robust_line_fit
from icestream.physics.simulation import simulate

N_TEST = 20_000
SHARD_EVENTS = 500
ROBUST = "robust line fit, HLC"
LINE_FITS = ("line fit, all pulses", "line fit, HLC", ROBUST)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Test events and what the line fits say of them."""

    events: LabelledEvents
    line_fits: FloatArray
    """Unit vectors; shape (n, number of LINE_FITS, 3)."""


def simulated_sample(n_events: int, n_workers: int) -> Sample:
    """Make the fixed test set, or its first events, in worker processes."""
    firsts = range(0, n_events, SHARD_EVENTS)
    with worker_pool(n_workers) as pool:
        return _join(list(pool.map(_simulated_shard, firsts, repeat(n_events))))


def read_sample(data: LabelledDataset, n_events: int, parts: Collection[Part]) -> Sample:
    """Read the first events of some parts of a data set.

    Raises:
        InvalidDataset: There are none.
    """
    events = islice(data.events(parts), n_events)
    # Shard by shard, so that no more than one holds all of its pulses.
    shards = iter(lambda: list(islice(events, SHARD_EVENTS)), [])
    return _join([sample_of(shard, data.detector) for shard in shards])


def sample_of(events: Iterable[Event], detector: Detector) -> Sample:
    """Tabulate events for the model and fit lines to them."""
    events = list(events)
    fits = [_line_fits(event.pulses, detector) for event in events]
    return Sample(label(events, detector), np.array(fits, np.float64).reshape(-1, len(LINE_FITS), 3))


def _simulated_shard(first: int, n_events: int) -> Sample:
    """Make a part of the test set; runs in a worker process."""
    detector = icecube86()
    n_events = min(SHARD_EVENTS, n_events - first)
    return sample_of(simulate(detector, seed=TEST_SEED, first=first, n_events=n_events), detector)


def _line_fits(pulses: Pulses, detector: Detector) -> list[FloatArray]:
    """Answers of LINE_FITS, in their order."""
    hlc = pulses.is_hlc
    hlc_only = Pulses(pulses.sensor_id[hlc], pulses.time_ns[hlc], pulses.charge_pe[hlc], pulses.flags[hlc])
    return [line_fit(pulses, detector), line_fit(hlc_only, detector), robust_line_fit(pulses, detector)]


def _join(parts: Sequence[Sample]) -> Sample:
    tables = [table for part in parts for table in part.events.tables]
    columns = [
        np.concatenate([getattr(part.events, field.name) for part in parts])
        for field in fields(LabelledEvents)[1:]
    ]
    return Sample(LabelledEvents(tables, *columns), np.concatenate([part.line_fits for part in parts]))
