"""What a wrong ice model does can be simulated: the same ice, but clearer or dustier."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.detector import icecube86
from icestream.physics.events import Event
from icestream.physics.ice import absorption_length_m, ice_table, mean_lengths_m, scattering_length_m
from icestream.physics.light import _track_light
from icestream.physics.light_bounds import light_bounds
from icestream.physics.rays import Ray
from icestream.physics.simulation import SimulationSettings, simulate

heights_m = st.floats(-900, 900)
N_EVENTS = 40


def events(settings: SimulationSettings) -> list[Event]:
    return list(simulate(icecube86(), seed=3, n_events=N_EVENTS, settings=settings))


@given(heights_m, heights_m, st.sampled_from((0.8, 0.9, 1.1, 2.0)))
def test_clarity_stretches_all_lengths(z_from: float, z_to: float, clarity: float) -> None:
    usual = mean_lengths_m(ice_table(), z_from, z_to)

    stretched = mean_lengths_m(ice_table(clarity=clarity), z_from, z_to)

    assert stretched == pytest.approx((clarity * usual[0], clarity * usual[1]), rel=1e-9)


def test_clarity_stretches_the_clearest_ice() -> None:
    usual, clear = ice_table(), ice_table(clarity=1.5)

    assert clear.clearest_scattering_m == pytest.approx(1.5 * usual.clearest_scattering_m)
    assert clear.clearest_absorption_m == pytest.approx(1.5 * usual.clearest_absorption_m)


def test_usual_ice_is_the_described_profile_to_the_last_bit() -> None:
    table = ice_table()
    z = table.bottom_z_m + table.step_m * np.arange(len(table.scattering), dtype=np.float64)

    for integral, length in (
        (table.scattering, scattering_length_m(z)),
        (table.absorption, absorption_length_m(z)),
    ):
        steps = 0.5 * table.step_m * (1 / length[1:] + 1 / length[:-1])
        np.testing.assert_array_equal(integral, np.concatenate(([0.0], np.cumsum(steps))))


def test_usual_clarity_is_the_default_everywhere() -> None:
    for usual, default in (
        (ice_table(clarity=1.0), ice_table()),
        (light_bounds(1.0), light_bounds()),
    ):
        for column, expected in zip(usual, default, strict=True):
            np.testing.assert_array_equal(column, expected)
    for event, same in zip(
        events(SimulationSettings(ice_clarity=1.0)), events(SimulationSettings()), strict=True
    ):
        np.testing.assert_array_equal(event.pulses.time_ns, same.pulses.time_ns)
        np.testing.assert_array_equal(event.pulses.charge_pe, same.pulses.charge_pe)


def test_light_reaches_farther_in_clearer_ice() -> None:
    dusty, usual, clear = light_bounds(0.8), light_bounds(), light_bounds(1.25)

    # From 100 m on; scattered light of a source near by is brighter in dusty ice.
    for less, more in ((dusty, usual), (usual, clear)):
        assert (less.track_pe[:, 25:] < more.track_pe[:, 25:]).all()
        assert (less.point_pe[:, 25:] < more.point_pe[:, 25:]).all()


@given(st.floats(-500, 500), st.floats(100, 400))
def test_far_modules_see_more_of_a_track_in_clearer_ice(z: float, distance: float) -> None:
    upwards = Ray(0.0, 0.0, -1000.0, 0.0, 0.0, 0.0, 1.0)

    dusty, usual, clear = (
        _track_light(ice_table(clarity=clarity), upwards, z, z + 1000.0, distance).expected_pe
        for clarity in (0.8, 1.0, 1.25)
    )

    assert dusty < usual < clear


def test_events_are_simulated_in_the_ice_that_is_asked_for() -> None:
    usual, clear = events(SimulationSettings()), events(SimulationSettings(ice_clarity=1.1))

    assert [event.truth for event in usual] != [event.truth for event in clear]
