import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from icestream.physics.cherenkov import TAN_CHERENKOV
from icestream.physics.detector import icecube86
from icestream.physics.directions import unit_vectors
from icestream.physics.ice import ice_table
from icestream.physics.interactions import Spectrum
from icestream.physics.layout import layout_of
from icestream.physics.light import Ice, _shower_light, _track_light
from icestream.physics.light_bounds import MAX_REACH_M, STEP_M, light_bounds, reaches_m, zone_of
from icestream.physics.randomness import random_stream
from icestream.physics.rays import Ray
from icestream.physics.simulation import draw_event

directions = st.builds(unit_vectors, st.floats(0, 2 * np.pi), st.floats(0, np.pi))
heights_m = st.floats(-600, 600)
distances_m = st.floats(1, 800)


def ray_of(start: np.ndarray, flight: np.ndarray) -> Ray:
    return Ray(start[0], start[1], start[2], 0.0, flight[0], flight[1], flight[2])


@given(heights_m, distances_m, directions, directions)
def test_no_shower_is_brighter_than_its_bound(
    z: float, distance: float, flight: np.ndarray, outward: np.ndarray
) -> None:
    source = -distance * outward + [0, 0, z]

    light = _shower_light(ice_table(), ray_of(source, flight), 0.0, 0.0, z)

    bound = light_bounds().point_pe[zone_of(z), int(distance / STEP_M)]
    assert light.expected_pe <= bound * 1.001


@given(heights_m, distances_m, directions, st.floats(0, 2 * np.pi))
def test_no_track_is_brighter_than_its_bound(
    z: float, distance: float, flight: np.ndarray, turn: float
) -> None:
    first = np.cross(flight, [0.6, 0.0, 0.8] if abs(flight[1]) < 0.9 else [0.0, 0.0, 1.0])
    if np.linalg.norm(first) < 1e-3:
        return
    first /= np.linalg.norm(first)
    outward = np.cos(turn) * first + np.sin(turn) * np.cross(flight, first)
    emission = -distance / TAN_CHERENKOV
    start = -distance * outward + [0, 0, z]

    light = _track_light(ice_table(), ray_of(start, flight), z, 0.0, distance)

    assert emission < 0
    bound = light_bounds().track_pe[zone_of(z), int(distance / STEP_M)]
    assert light.expected_pe <= bound * 1.001


def test_brighter_sources_reach_farther_but_never_beyond_the_table() -> None:
    bounds = light_bounds().track_pe
    reaches = np.array([reaches_m(bounds, light) for light in (1e-6, 1.0, 1e3, 1e12)])

    assert (np.diff(reaches, axis=0) >= 0).all()
    assert reaches.max() < MAX_REACH_M


def test_cells_hold_all_their_modules() -> None:
    layout = layout_of(icecube86())
    positions = icecube86().positions_m
    cells = layout.cells
    for i in range(len(cells.x_m)):
        members = positions[cells.first_sensor[i] : cells.first_sensor[i + 1]]
        distances = np.linalg.norm(members - [cells.x_m[i], cells.y_m[i], cells.z_m[i]], axis=1)
        assert distances.max() <= cells.radius_m[i] + 1e-9
    assert cells.first_sensor[-1] == len(positions)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_dismissing_cells_changes_no_event(index: int) -> None:
    layout, ice = layout_of(icecube86()), Ice(ice_table(), light_bounds())
    endless = layout.cells._replace(radius_m=np.full_like(layout.cells.radius_m, np.inf))

    recorded, expected = (
        draw_event(random_stream(2, index), which, ice, Spectrum(1.7, 1e2, 1e6), (0.7, 0.1))[0].trace
        for which in (layout, layout._replace(cells=endless))
    )

    for column, expected_column in zip(recorded, expected, strict=True):
        np.testing.assert_array_equal(column, expected_column)
