import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.cherenkov import C_M_PER_NS, N_PHASE
from icestream.physics.detector import icecube86
from icestream.physics.directions import unit_vectors
from icestream.physics.events import Pulses
from icestream.physics.seed_vertex import refined_time_ns, seed_vertex
from tests.unit.physics.physics_cases import pulse_tables, pulses_of, reordered, shifted

DETECTOR = icecube86()
PLACES = DETECTOR.positions_m


def test_vertex_is_where_and_when_the_threshold_is_crossed() -> None:
    pulses = pulses_of([1, 2, 3, 4], [0.0, 100.0, 200.0, 300.0], [100.0, 100.0, 100.0, 900.0])

    vertex = seed_vertex(pulses, DETECTOR)

    assert vertex.time_ns == 200.0
    np.testing.assert_allclose(vertex.position_m, PLACES[[1, 2, 3]].mean(axis=0))


def test_threshold_itself_is_not_enough() -> None:
    pulses = pulses_of([1, 2, 3], [0.0, 100.0, 200.0], [125.0, 125.0, 1.0])

    assert seed_vertex(pulses, DETECTOR).time_ns == 200.0


def test_light_before_the_window_does_not_count() -> None:
    pulses = pulses_of([1, 2, 3], [0.0, 3000.1, 3100.0], [200.0, 200.0, 200.0])

    vertex = seed_vertex(pulses, DETECTOR)

    assert vertex.time_ns == 3100.0
    np.testing.assert_allclose(vertex.position_m, PLACES[[2, 3]].mean(axis=0))


def test_pulses_without_coincidence_do_not_count() -> None:
    pulses = pulses_of([1, 2, 3], [0.0, 100.0, 200.0], [300.0, 200.0, 200.0], is_hlc=[0, 1, 1])

    assert seed_vertex(pulses, DETECTOR).time_ns == 200.0


def test_charge_weighs_the_places() -> None:
    pulses = pulses_of([1, 2], [0.0, 10.0], [100.0, 300.0])

    expected = PLACES[1] / 4 + PLACES[2] * 3 / 4
    np.testing.assert_allclose(seed_vertex(pulses, DETECTOR).position_m, expected)


def test_module_that_outshines_all_others_is_ignored() -> None:
    pulses = pulses_of([1, 2, 3], [0.0, 100.0, 200.0], [9000.0, 150.0, 150.0])

    vertex = seed_vertex(pulses, DETECTOR)

    assert vertex.time_ns == 200.0
    np.testing.assert_allclose(vertex.position_m, PLACES[[2, 3]].mean(axis=0))


def test_dim_event_crosses_the_lower_threshold() -> None:
    pulses = pulses_of([1, 2, 3], [0.0, 100.0, 200.0], [3.0, 3.0, 3.0])

    assert seed_vertex(pulses, DETECTOR).time_ns == 100.0


def test_too_dim_event_starts_from_its_centre() -> None:
    vertex = seed_vertex(pulses_of([1, 2, 3], [0.0, 100.0, 900.0]), DETECTOR)

    assert vertex.time_ns == 100.0
    np.testing.assert_allclose(vertex.position_m, PLACES[[1, 2, 3]].mean(axis=0))


@pytest.mark.parametrize("charge_pe", [0.0, 1.0, 1e6])
def test_single_pulse_is_its_own_vertex(charge_pe: float) -> None:
    vertex = seed_vertex(pulses_of([7], [123.0], charge_pe), DETECTOR)

    assert vertex.time_ns == 123.0
    np.testing.assert_allclose(vertex.position_m, PLACES[7])


@given(pulse_tables())
def test_vertex_lies_within_the_event(pulses: Pulses) -> None:
    vertex = seed_vertex(pulses, DETECTOR)

    places = PLACES[pulses.sensor_id]
    assert (places.min(axis=0) - 1e-6 <= vertex.position_m).all()
    assert (vertex.position_m <= places.max(axis=0) + 1e-6).all()
    assert pulses.time_ns.min() <= vertex.time_ns <= pulses.time_ns.max()


@given(pulse_tables(), st.integers(0, 10**9))
def test_shift_in_time_moves_the_vertex_in_time_alone(pulses: Pulses, by_ns: int) -> None:
    before, after = seed_vertex(pulses, DETECTOR), seed_vertex(shifted(pulses, float(by_ns)), DETECTOR)

    np.testing.assert_allclose(after.position_m, before.position_m)
    assert after.time_ns - before.time_ns == pytest.approx(by_ns)


@given(pulse_tables(), st.floats(0, 2 * np.pi), st.floats(0, np.pi), st.integers(0, 1000))
def test_order_of_pulses_changes_no_time(pulses: Pulses, azimuth: float, zenith: float, seed: int) -> None:
    mixed = reordered(pulses, np.random.default_rng(seed).permutation(len(pulses)))
    travel = -unit_vectors(azimuth, zenith)

    assert refined_time_ns([0, 0, 0], travel, mixed, DETECTOR) == refined_time_ns(
        [0, 0, 0], travel, pulses, DETECTOR
    )


@given(st.floats(0, 2 * np.pi), st.floats(0, np.pi), st.floats(-500, 500))
def test_refined_time_is_that_of_the_track_whose_light_was_seen(
    azimuth: float, zenith: float, along_m: float
) -> None:
    travel = -unit_vectors(azimuth, zenith)
    point, passed_ns = np.array([30.0, -20.0, 10.0]), 5000.0
    start = point + along_m * travel
    sensors = np.arange(0, 5160, 100)
    offsets = PLACES[sensors] - point
    along = offsets @ travel
    distance = np.linalg.norm(offsets - along[:, None] * travel, axis=1)
    # The light leaves the track at the Cherenkov angle and is slower than the track by the phase index.
    sine = np.sqrt(1 - N_PHASE**-2)
    emitted = along - distance / np.tan(np.arccos(1 / N_PHASE))
    seen = passed_ns + (emitted + distance / sine * N_PHASE) / C_M_PER_NS

    refined = refined_time_ns(start, travel, pulses_of(sensors, seen), DETECTOR)

    assert refined == pytest.approx(passed_ns + along_m / C_M_PER_NS, abs=1e-6)


def test_refined_time_is_by_the_first_light_of_the_nearest_module() -> None:
    # Straight down along string 1: its modules are nearest, and 3 lies 17.02 m below 2.
    pulses = pulses_of([2, 3, 3, 700], [90.0, 200.0, 100.0, 0.0], is_hlc=[0, 1, 1, 1])

    assert refined_time_ns(PLACES[2], [0, 0, -1], pulses, DETECTOR) == pytest.approx(100 - 17.02 / C_M_PER_NS)
