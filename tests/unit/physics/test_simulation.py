import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icestream.errors import InvalidDetector
from icestream.physics.detector import Detector, icecube86
from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.events import Event, EventKind, check_event
from icestream.physics.interactions import Spectrum, draw_interaction
from icestream.physics.layout import layout_of
from icestream.physics.linefit import robust_line_fit
from icestream.physics.randomness import random_stream
from icestream.physics.simulation import SimulationSettings, simulate, simulate_event

DETECTOR = icecube86()
N_EVENTS = 600


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return list(simulate(DETECTOR, seed=42, n_events=N_EVENTS))


def assert_same(first: Event, second: Event) -> None:
    assert (first.id, first.start_unix_ns, first.truth) == (second.id, second.start_unix_ns, second.truth)
    for column in ("sensor_id", "time_ns", "charge_pe", "flags"):
        np.testing.assert_array_equal(getattr(first.pulses, column), getattr(second.pulses, column))


@settings(max_examples=30)
@given(st.integers(0, N_EVENTS - 1))
def test_event_depends_on_seed_and_index_only(events: list[Event], index: int) -> None:
    assert_same(simulate_event(DETECTOR, seed=42, index=index), events[index])


def test_worker_that_starts_in_the_middle_makes_the_same_events(events: list[Event]) -> None:
    for event, expected in zip(
        simulate(DETECTOR, seed=42, first=100, n_events=20), events[100:], strict=False
    ):
        assert_same(event, expected)


def test_other_seed_makes_other_events(events: list[Event]) -> None:
    other = simulate_event(DETECTOR, seed=43, index=0)

    assert other.id != events[0].id
    assert other.truth != events[0].truth


def test_stream_without_end_goes_on() -> None:
    stream = simulate(DETECTOR, seed=1)

    assert [next(stream).id.event_id for _ in range(3)] == [0, 1, 2]


def test_every_event_is_valid_and_kaggle_like(events: list[Event]) -> None:
    for event in events:
        check_event(event, DETECTOR.n_sensors)
        pulses = event.pulses
        assert (np.diff(pulses.time_ns) >= 0).all()
        np.testing.assert_array_equal(pulses.time_ns, np.rint(pulses.time_ns))
        np.testing.assert_allclose(np.rint(pulses.charge_pe / 0.025) * 0.025, pulses.charge_pe, rtol=1e-6)
        assert pulses.charge_pe.min() > 0
        assert len(np.unique(pulses.sensor_id[pulses.is_hlc])) >= 8
        assert 0 <= pulses.time_ns.min() <= pulses.time_ns.max() <= 15_000


def test_sizes_and_kinds_resemble_the_kaggle_data_set(events: list[Event]) -> None:
    sizes = np.array([len(event.pulses) for event in events])
    hlc = np.array([np.count_nonzero(event.pulses.is_hlc) for event in events])
    is_track = [event.truth is not None and event.truth.kind != EventKind.CASCADE for event in events]

    assert 50 < np.median(sizes) < 90
    assert 100 < sizes.mean() < 300
    assert 30 < np.median(sizes - hlc) < 55
    assert 0.56 < np.mean(is_track) < 0.72


def test_light_tells_where_a_neutrino_came_from(events: list[Event]) -> None:
    errors = [
        opening_angles_rad(
            robust_line_fit(event.pulses, DETECTOR),
            unit_vectors(event.truth.azimuth_rad, event.truth.zenith_rad),
        )
        for event in events
        if event.truth is not None and event.truth.kind != EventKind.CASCADE
    ]

    assert np.degrees(np.median(errors)) < 13


def test_events_follow_each_other_at_the_trigger_rate(events: list[Event]) -> None:
    starts = np.array([event.start_unix_ns for event in events])

    assert (np.diff(starts) == SimulationSettings().spacing_ns).all()


def test_neutrinos_come_evenly_from_the_whole_sky_before_the_trigger() -> None:
    rng, layout, spectrum = random_stream(1, 1), layout_of(DETECTOR), Spectrum(1.7, 1e2, 1e8)
    drawn = [draw_interaction(rng, layout, spectrum, 1 + i % 3) for i in range(6000)]
    vectors = unit_vectors([d.azimuth_rad for d in drawn], [d.zenith_rad for d in drawn])

    # For an even sky the mean is 0 and the mean of squares 1/3 along each axis.
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=5 * np.sqrt(1 / 3 / len(drawn)))
    np.testing.assert_allclose((vectors**2).mean(axis=0), 1 / 3, atol=0.02)


def test_particles_fly_where_the_neutrino_was_going() -> None:
    rng, layout, spectrum = random_stream(1, 2), layout_of(DETECTOR), Spectrum(1.7, 1e4, 1e8)
    for kind in (1, 2, 3):
        for _ in range(100):
            drawn = draw_interaction(rng, layout, spectrum, kind)
            came_from = unit_vectors(drawn.azimuth_rad, drawn.zenith_rad)
            flight = [drawn.place.px, drawn.place.py, drawn.place.pz]
            assert np.linalg.norm(flight) == pytest.approx(1)
            assert opening_angles_rad(-came_from, np.array(flight)) < np.radians(2)


def test_energies_follow_the_spectrum() -> None:
    spectrum, rng, layout = Spectrum(2.0, 1e2, 1e8), random_stream(1, 3), layout_of(DETECTOR)
    energies = np.array([draw_interaction(rng, layout, spectrum, 3).energy_gev for _ in range(5000)])

    assert 1e2 <= energies.min() <= energies.max() <= 1e8
    # Of E^-2, a share of 1/x lies above x times the lowest energy.
    assert (energies > 1e3).mean() == pytest.approx(0.1, abs=0.02)


def test_detector_that_sees_nothing_is_refused() -> None:
    far_apart = Detector("sparse", np.array([[0.0, 0, 0], [9e4, 0, 0]]), np.ones(2))

    with pytest.raises(InvalidDetector, match="sparse"):
        simulate_event(far_apart, seed=1, index=0)
