"""Builders for the tests of the physics; each says only what matters to a test."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from icestream.physics.compiled import compiled
from icestream.physics.events import Pulses
from icestream.physics.layout import Layout
from icestream.physics.pmt import Hit
from icestream.physics.readout import Record, record

FloatArray = NDArray[np.float64]


def pulses_of(
    sensor_id: ArrayLike, time_ns: ArrayLike, charge_pe: ArrayLike = 1.0, is_hlc: ArrayLike = True
) -> Pulses:
    """Columns of pulses; a single charge or flag is meant for all."""
    sensors = np.asarray(sensor_id, np.uint16)
    return Pulses(
        sensors,
        np.asarray(time_ns, np.float64),
        np.broadcast_to(np.asarray(charge_pe, np.float32), sensors.shape).copy(),
        np.broadcast_to(np.asarray(is_hlc, np.uint8), sensors.shape).copy(),
    )


def reordered(pulses: Pulses, order: ArrayLike) -> Pulses:
    """The same pulses in other rows."""
    rows = np.asarray(order)
    return Pulses(pulses.sensor_id[rows], pulses.time_ns[rows], pulses.charge_pe[rows], pulses.flags[rows])


def shifted(pulses: Pulses, by_ns: float) -> Pulses:
    """The same pulses, all later."""
    return Pulses(pulses.sensor_id, pulses.time_ns + by_ns, pulses.charge_pe, pulses.flags)


@st.composite
def pulse_tables(draw: st.DrawFn, max_pulses: int = 200) -> Pulses:
    """Pulses as IceCube might record them, in any order, with equal times and modules among them."""
    n = draw(st.integers(1, max_pulses))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_modules = draw(st.sampled_from((1, 2, 50, 5160)))
    return pulses_of(
        rng.integers(0, n_modules, n),
        rng.integers(0, draw(st.sampled_from((1, 50, 15_000))), n).astype(float),
        rng.integers(1, 200, n) * 0.025,
        rng.random(n) < draw(st.sampled_from((0.0, 0.3, 1.0))),
    )


def record_of(hits: list[Hit], layout: Layout) -> Record:
    """What the detector records of hits."""
    return _record_rows(np.array(hits, np.float64), layout)


@compiled
def _record_rows(rows: FloatArray, layout: Layout) -> Record:
    """Kernels share lists that only kernels may make."""
    return record([(int(row[0]), row[1], row[2]) for row in rows], layout)
