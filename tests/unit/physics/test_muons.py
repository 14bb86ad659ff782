import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.physics.muons import (
    IONISATION_GEV_PER_M,
    RADIATION_PER_M,
    energy_after_gev,
    light_per_m,
    propagate,
    range_m,
)
from icestream.physics.randomness import random_stream

energies_gev = st.floats(2, 1e8)


@given(energies_gev)
def test_muon_has_stopped_after_its_range(energy: float) -> None:
    assert energy_after_gev(energy, range_m(energy), RADIATION_PER_M) == pytest.approx(0, abs=1e-6 * energy)
    assert energy_after_gev(energy, 0.9 * range_m(energy), RADIATION_PER_M) > 0


def test_energy_loss_starts_with_the_published_slope() -> None:
    lost = 1000 - energy_after_gev(1000.0, 0.01, RADIATION_PER_M)

    assert lost / 0.01 == pytest.approx(IONISATION_GEV_PER_M + RADIATION_PER_M * 1000, rel=1e-4)


@given(energies_gev, st.floats(1, 3000), st.integers(0, 10**6))
def test_losses_lie_on_the_way_and_never_exceed_the_energy(energy: float, length: float, seed: int) -> None:
    muon = propagate(random_stream(3, seed), energy, length)

    assert 0 <= muon.length_m <= length
    assert (muon.losses[:, 0] <= muon.length_m).all()
    assert (np.diff(muon.losses[:, 0]) >= 0).all()
    assert muon.losses[:, 1].sum() <= energy


def test_mean_loss_is_that_of_the_continuous_formula() -> None:
    # 1 PeV muons over 100 m: the large losses are half of the radiated energy.
    muons = [propagate(random_stream(4, i), 1e6, 100.0) for i in range(20_000)]
    lost = np.mean([muon.losses[:, 1].sum() for muon in muons])

    expected = (1e6 - energy_after_gev(1e6, 100.0, RADIATION_PER_M)) / 2
    assert lost == pytest.approx(expected, rel=0.15)


@given(st.floats(10, 1e8), st.floats(0, 1000))
def test_muon_fades_on_its_way(energy: float, at: float) -> None:
    muon = propagate(random_stream(5, 1), energy, 1000.0)

    assert 1 <= light_per_m(muon, at) <= light_per_m(muon, 0.0)
