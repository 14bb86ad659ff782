import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from icestream.physics.cleaning import clean, connected_pulses, pulses_in_window
from icestream.physics.detector import icecube86
from icestream.physics.events import Pulses
from tests.unit.physics.physics_cases import pulse_tables, pulses_of, reordered, shifted

DETECTOR = icecube86()
NO_PULSES = pulses_of([], [])
FIRST_OF_DEEPCORE = 78 * 60
"""The uppermost sensor of string 79."""


def connected_by_definition(pulses: Pulses) -> NDArray[np.bool_]:
    """All pairs, as the cleaning is told in words."""
    places = DETECTOR.positions_m[pulses.sensor_id]
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    delays = np.abs(pulses.time_ns[:, None] - pulses.time_ns)
    is_pair = (distances <= 150) & (delays <= 1000) & ~np.eye(len(pulses), dtype=bool)
    partners = [set(pulses.sensor_id[row & pulses.is_hlc].tolist()) for row in is_pair]
    selected: NDArray[np.bool_] = pulses.is_hlc & np.array([len(modules) >= 2 for modules in partners])
    if not selected.any():
        selected = pulses.is_hlc
    for _ in range(3):
        selected = selected | is_pair[:, selected].any(axis=1)
    return selected


@given(pulse_tables())
def test_connected_pulses_are_those_of_the_definition(pulses: Pulses) -> None:
    np.testing.assert_array_equal(connected_pulses(pulses, DETECTOR), connected_by_definition(pulses))


@given(pulse_tables(), st.integers(0, 1000))
def test_order_of_pulses_changes_no_verdict(pulses: Pulses, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(pulses))

    np.testing.assert_array_equal(
        connected_pulses(reordered(pulses, order), DETECTOR), connected_pulses(pulses, DETECTOR)[order]
    )


@given(pulse_tables(), st.integers(0, 10**9))
def test_shift_in_time_changes_no_verdict(pulses: Pulses, by_ns: int) -> None:
    np.testing.assert_array_equal(
        connected_pulses(shifted(pulses, float(by_ns)), DETECTOR), connected_pulses(pulses, DETECTOR)
    )


def test_noise_far_from_the_core_is_dropped() -> None:
    core = pulses_of([10, 11, 12, 13, 3000], [0.0, 50.0, 100.0, 5000.0, 50.0], is_hlc=[1, 1, 1, 0, 0])

    assert connected_pulses(core, DETECTOR).tolist() == [True, True, True, False, False]


def test_second_pulse_of_a_module_makes_it_its_own_partner() -> None:
    pair_of_modules = pulses_of([10, 10, 11, 40], [0.0, 20.0, 10.0, 0.0])

    assert connected_pulses(pair_of_modules, DETECTOR).tolist() == [True, True, True, False]


def test_many_pulses_of_one_module_are_no_core_of_their_own() -> None:
    # Modules 40 to 42 are one; 10 flashes alone, and each of its pulses has a partner in one module only.
    pulses = pulses_of([10, 10, 10, 40, 41, 42], [0.0, 10.0, 20.0, 0.0, 0.0, 0.0])

    assert connected_pulses(pulses, DETECTOR).tolist() == [False] * 3 + [True] * 3


def test_all_coincident_pulses_are_seeds_where_none_has_enough_partners() -> None:
    pulses = pulses_of([10, 3000, 3001], [0.0, 0.0, 10.0], is_hlc=[1, 1, 0])

    assert connected_pulses(pulses, DETECTOR).tolist() == [True, True, True]


def test_chain_of_noise_is_followed_for_three_links_only() -> None:
    core = [0.0, 1.0, 2.0]
    chain = [900.0, 1800.0, 2700.0, 3600.0]
    pulses = pulses_of([10, 11, 12, 13, 14, 15, 16], core + chain, is_hlc=[1, 1, 1, 0, 0, 0, 0])

    assert connected_pulses(pulses, DETECTOR).tolist() == [True] * 6 + [False]


def test_limits_of_radius_and_time_belong_to_the_range() -> None:
    pulses = pulses_of([10, 11, 12, 10, 10], [0.0, 0.0, 0.0, 1000.0, -1000.1], is_hlc=[1, 1, 1, 0, 0])

    assert connected_pulses(pulses, DETECTOR).tolist() == [True, True, True, True, False]


def test_event_without_coincidence_is_cleaned_away() -> None:
    assert len(clean(pulses_of([10, 11, 12], [0.0, 1.0, 2.0], is_hlc=False), DETECTOR)) == 0


def test_no_pulses_stay_no_pulses() -> None:
    assert len(clean(NO_PULSES, DETECTOR)) == 0


@given(pulse_tables())
def test_window_holds_as_many_pulses_as_any(pulses: Pulses) -> None:
    is_inside = pulses_in_window(pulses)
    inside = pulses.time_ns[is_inside]

    most = max(np.count_nonzero((t <= pulses.time_ns) & (pulses.time_ns <= t + 6000)) for t in pulses.time_ns)
    assert len(inside) == most
    assert inside.max() - inside.min() <= 6000


def test_first_of_equally_full_windows_is_taken() -> None:
    pulses = pulses_of([1, 2, 3, 4], [20_000.0, 20_100.0, 0.0, 6000.0])

    assert pulses_in_window(pulses).tolist() == [False, False, True, True]


@pytest.mark.parametrize(("strings_below", "n_kept"), [(79, 3), (87, 4), (1, 0)])
def test_strings_are_left_out_on_demand(strings_below: int, n_kept: int) -> None:
    # String 79 hangs beside string 36; at its top these three modules are within reach.
    near = [35 * 60 + 18, 35 * 60 + 19, 35 * 60 + 20]
    pulses = pulses_of([*near, FIRST_OF_DEEPCORE], [0.0, 1.0, 2.0, 3.0], is_hlc=[1, 1, 1, 0])

    assert len(clean(pulses, DETECTOR, strings_below=strings_below)) == n_kept


def test_cleaned_pulses_stay_in_their_order() -> None:
    pulses = pulses_of([12, 10, 4000, 11], [30.0, 20.0, 10.0, 0.0], is_hlc=[1, 1, 0, 1])

    assert clean(pulses, DETECTOR).sensor_id.tolist() == [12, 10, 11]
