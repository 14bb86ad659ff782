import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.cherenkov import (
    C_M_PER_NS,
    MEAN_ACCEPTANCE,
    MEAN_EMISSION_COS,
    N_GROUP,
    PE_PER_M,
    TAN_CHERENKOV,
    angular_acceptance,
    blurred_acceptance,
    cascade_emission,
    muon_light_factor,
    point_charge_pe,
    point_delay_ns,
    track_charge_pe,
    track_delay_ns,
)

COSINES = np.linspace(-1, 1, 20_001)
lengths_m = st.floats(5, 89)


@given(st.floats(-500, 500), st.floats(1, 300))
def test_track_light_arrives_as_photons_of_the_cherenkov_angle_do(along: float, distance: float) -> None:
    emission = along - distance / TAN_CHERENKOV
    flight = np.hypot(along - emission, distance)

    expected = emission / C_M_PER_NS + flight * N_GROUP / C_M_PER_NS
    assert track_delay_ns(along, distance) == pytest.approx(expected, abs=1e-6)


@given(st.floats(-500, 500), st.floats(1, 300))
def test_phase_fronts_arrive_when_the_earliest_path_does(along: float, distance: float) -> None:
    # Fermat's principle holds for the phase velocity, where the emission angle is the Cherenkov angle;
    # the energy then travels along the same path with the group velocity.
    n_phase = np.sqrt(1 + TAN_CHERENKOV**2)
    emissions = along - distance / TAN_CHERENKOV + np.linspace(-5, 5, 10_001)
    phase_times = emissions + n_phase * np.hypot(along - emissions, distance)

    assert emissions[phase_times.argmin()] == pytest.approx(along - distance / TAN_CHERENKOV, abs=0.02)


def test_group_velocity_delays_light_beyond_the_phase_formula() -> None:
    old = (100 + 80 * TAN_CHERENKOV) / C_M_PER_NS

    assert track_delay_ns(100.0, 80.0) - old == pytest.approx(
        80 / np.sin(np.arctan(TAN_CHERENKOV)) * (N_GROUP - np.sqrt(1 + TAN_CHERENKOV**2)) / C_M_PER_NS
    )


def test_flash_travels_with_the_group_velocity() -> None:
    assert point_delay_ns(100.0) == pytest.approx(452.43, abs=0.01)


def test_photons_per_metre_match_the_published_figure() -> None:
    assert pytest.approx(210, abs=0.5) == PE_PER_M


@given(lengths_m, st.floats(18, 276), st.floats(1, 400), st.floats(1.01, 2))
def test_light_fades_with_distance(scattering: float, absorption: float, near: float, factor: float) -> None:
    for charge in (track_charge_pe, point_charge_pe):
        assert 0 < charge(near * factor, scattering, absorption) < charge(near, scattering, absorption)


def test_near_light_follows_geometry() -> None:
    # Closer than a scattering length, a track's light falls as 1/d and a flash's as 1/d^2.
    assert track_charge_pe(0.5, 50.0, 100.0) / track_charge_pe(1.0, 50.0, 100.0) == pytest.approx(2, rel=0.05)
    assert point_charge_pe(0.5, 50.0, 100.0) / point_charge_pe(1.0, 50.0, 100.0) == pytest.approx(4, rel=0.05)


def test_acceptance_has_the_published_mean_and_prefers_light_from_below() -> None:
    values = [angular_acceptance(cosine) for cosine in COSINES]

    assert np.mean(values) == pytest.approx(MEAN_ACCEPTANCE, abs=0.002)
    assert min(values) >= 0
    assert angular_acceptance(0.8) > 5 * angular_acceptance(-0.8)


@given(st.floats(-1, 1))
def test_distant_light_has_forgotten_its_direction(cos_up: float) -> None:
    assert blurred_acceptance(cos_up, 1e4, 29.0) == pytest.approx(MEAN_ACCEPTANCE)
    assert blurred_acceptance(cos_up, 0.0, 29.0) == angular_acceptance(cos_up)


def test_shower_light_is_normalised_and_peaks_at_the_cherenkov_angle() -> None:
    values = np.array([cascade_emission(cosine) for cosine in COSINES])

    assert values.mean() == pytest.approx(1, abs=0.01)
    assert COSINES[values.argmax()] == pytest.approx(1 / 1.3195, abs=1e-4)
    assert (values * COSINES).mean() == pytest.approx(MEAN_EMISSION_COS, abs=0.002)


def test_muon_is_never_darker_than_a_bare_track() -> None:
    assert muon_light_factor(1e-9) == 1.0
    assert muon_light_factor(1e3) == pytest.approx(1.330, abs=0.001)
