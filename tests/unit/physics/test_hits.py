import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.detector import icecube86
from icestream.physics.events import Pulses
from icestream.physics.hits import hits_of, select_hits
from tests.unit.physics.physics_cases import pulse_tables, pulses_of, reordered

DETECTOR = icecube86()


def test_hit_is_the_first_time_and_the_whole_charge_of_a_module() -> None:
    hits = hits_of(pulses_of([7, 5000, 7], [30.0, 20.0, 10.0], [0.5, 2.0, 0.25]), DETECTOR)

    assert hits.sensor_id.tolist() == [7, 5000]
    assert hits.time_ns.tolist() == [10.0, 20.0]
    assert hits.charge_pe.tolist() == [0.75, 2.0]
    assert hits.n_pulses.tolist() == [2, 1]
    np.testing.assert_array_equal(hits.position_m, DETECTOR.positions_m[[7, 5000]])
    assert hits.efficiency.tolist() == [1.0, 1.35]


@given(pulse_tables())
def test_no_pulse_and_no_charge_is_lost(pulses: Pulses) -> None:
    hits = hits_of(pulses, DETECTOR)

    assert hits.n_pulses.sum() == len(pulses)
    assert hits.charge_pe.sum() == pytest.approx(pulses.charge_pe.sum(dtype=np.float64))
    assert len(np.unique(hits.sensor_id)) == len(hits)
    assert (np.diff(hits.time_ns) >= 0).all()


@given(pulse_tables(), st.integers(0, 1000), st.integers(1, 300))
def test_order_of_pulses_does_not_change_what_was_hit(pulses: Pulses, seed: int, max_hits: int) -> None:
    order = np.random.default_rng(seed).permutation(len(pulses))

    before = select_hits(pulses, DETECTOR, max_hits)
    after = select_hits(reordered(pulses, order), DETECTOR, max_hits)

    np.testing.assert_array_equal(before.sensor_id, after.sensor_id)
    np.testing.assert_array_equal(before.time_ns, after.time_ns)
    np.testing.assert_allclose(before.charge_pe, after.charge_pe)


def test_brightest_modules_are_kept_in_order_of_time() -> None:
    pulses = pulses_of([1, 2, 3, 4], [10.0, 20.0, 30.0, 40.0], [2.0, 0.5, 5.0, 1.0])

    assert select_hits(pulses, DETECTOR, max_hits=2).sensor_id.tolist() == [1, 3]


def test_earlier_of_equally_bright_modules_are_kept() -> None:
    pulses = pulses_of([1, 2, 3, 4], [40.0, 30.0, 20.0, 10.0])

    assert select_hits(pulses, DETECTOR, max_hits=3).sensor_id.tolist() == [4, 3, 2]


@given(pulse_tables())
def test_few_modules_are_all_kept(pulses: Pulses) -> None:
    assert len(select_hits(pulses, DETECTOR, max_hits=5160)) == len(np.unique(pulses.sensor_id))


def test_no_pulses_make_no_hits() -> None:
    hits = hits_of(pulses_of([], []), DETECTOR)

    assert len(hits) == 0
    assert hits.position_m.shape == (0, 3)
