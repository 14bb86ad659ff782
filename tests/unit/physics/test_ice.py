import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.ice import (
    CENTRE_DEPTH_M,
    absorption_length_m,
    ice_table,
    mean_lengths_m,
    scattering_length_m,
)

INSIDE_M = np.arange(-500.0, 500.0, 1.0)
DESCRIBED_M = np.arange(CENTRE_DEPTH_M - 2490, CENTRE_DEPTH_M - 1400, 1.0)

heights_m = st.floats(-900, 900)


def geometric_mean(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))


def test_lengths_span_the_published_ranges() -> None:
    scattering, absorption = scattering_length_m(DESCRIBED_M), absorption_length_m(DESCRIBED_M)

    assert scattering.min() == pytest.approx(5, rel=0.1)
    assert scattering.max() == pytest.approx(89, rel=0.1)
    assert absorption.min() == pytest.approx(18, rel=0.1)
    assert absorption.max() == pytest.approx(276, rel=0.1)


def test_means_inside_the_array_are_the_published_ones() -> None:
    assert geometric_mean(scattering_length_m(INSIDE_M)) == pytest.approx(29, rel=0.1)
    assert geometric_mean(absorption_length_m(INSIDE_M)) == pytest.approx(100, rel=0.1)


def test_dust_layer_is_where_light_scatters_most() -> None:
    depth = CENTRE_DEPTH_M - DESCRIBED_M[scattering_length_m(DESCRIBED_M).argmin()]

    assert 2000 < depth < 2100


@given(heights_m, heights_m)
def test_mean_of_a_path_is_the_harmonic_mean_of_its_ice(z_from: float, z_to: float) -> None:
    scattering, absorption = mean_lengths_m(ice_table(), z_from, z_to)

    if abs(z_to - z_from) > 20:
        z = np.linspace(z_from, z_to, 2001)
        assert scattering == pytest.approx(1 / (1 / scattering_length_m(z)).mean(), rel=0.02)
        assert absorption == pytest.approx(1 / (1 / absorption_length_m(z)).mean(), rel=0.02)


@given(heights_m)
def test_level_path_has_the_ice_of_its_height(z: float) -> None:
    scattering, absorption = mean_lengths_m(ice_table(), z, z)

    assert scattering == pytest.approx(float(scattering_length_m(np.array(z))), rel=0.02)
    assert absorption == pytest.approx(float(absorption_length_m(np.array(z))), rel=0.02)
