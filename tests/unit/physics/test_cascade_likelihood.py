import numpy as np
import pytest

from icestream.physics.cascade_likelihood import CHARGE_PER_PHOTON_PE, NOISE, NOISE_NS, Shower, cascade_llh
from icestream.physics.cherenkov import point_delay_ns
from icestream.physics.detector import icecube86

UP = (0.0, 0.0, 1.0)
SHOWER = Shower((20.0, 10.0, -300.0), 500.0, 3e3)
NO_HITS = np.empty((0, 5))
NO_MODULES = np.empty((0, 5))


def modules_as_expected(shower: Shower, direction: tuple[float, float, float]) -> np.ndarray:
    """Modules with the charge that makes each of them likeliest; found by asking the likelihood."""
    detector = icecube86()
    away = np.linalg.norm(detector.positions_m - np.array(shower.position_m), axis=1)
    near = np.argsort(away)[:40]
    charges = np.geomspace(1e-3, 1e4, 400)
    rows = []
    for i in near:
        llh = [
            cascade_llh(
                direction,
                shower,
                NO_HITS,
                np.array([[*detector.positions_m[i], charge, 1.0]]),
                sigma_ns=10.0,
                max_photons=20,
            ).charge
            for charge in charges
        ]
        rows.append([*detector.positions_m[i], charges[int(np.argmin(llh))], 1.0])
    return np.array(rows)


def charge_llh(shower: Shower, direction: tuple[float, float, float], modules: np.ndarray) -> float:
    return cascade_llh(direction, shower, NO_HITS, modules, sigma_ns=10.0, max_photons=20).charge


def test_the_charge_term_is_least_at_the_shower_that_made_the_charges() -> None:
    modules = modules_as_expected(SHOWER, UP)
    best = charge_llh(SHOWER, UP, modules)
    assert best == pytest.approx(0, abs=0.1)
    for other in (
        Shower((45.0, 10.0, -300.0), 500.0, 3e3),
        Shower((20.0, 10.0, -280.0), 500.0, 3e3),
        Shower(SHOWER.position_m, 500.0, 2e3),
        Shower(SHOWER.position_m, 500.0, 5e3),
    ):
        assert charge_llh(other, UP, modules) > best + 1
    for direction in ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0)):
        assert charge_llh(SHOWER, direction, modules) > best + 1


def test_a_dark_module_speaks_against_a_bright_shower_near_by() -> None:
    dark = np.array([[20.0, 10.0, -330.0, 0.0, 1.0]])
    faint = charge_llh(Shower(SHOWER.position_m, 500.0, 10.0), UP, dark)
    assert charge_llh(Shower(SHOWER.position_m, 500.0, 1e4), UP, dark) > faint + 5


def test_light_before_its_time_is_noise() -> None:
    hit = np.array([[20.0, 10.0, -360.0, 0.0, 1.0]])
    llh = cascade_llh(UP, SHOWER, hit, NO_MODULES, sigma_ns=10.0, max_photons=20).timing
    assert llh == pytest.approx(-np.log(NOISE / NOISE_NS))


def test_bright_modules_want_their_first_light_on_time() -> None:
    time_ns = SHOWER.time_ns + point_delay_ns(60.0)

    def llh(charge_pe: float, delay_ns: float) -> float:
        hit = np.array([[20.0, 10.0, -360.0, time_ns + delay_ns, charge_pe]])
        return cascade_llh(UP, SHOWER, hit, NO_MODULES, sigma_ns=10.0, max_photons=20).timing

    assert llh(20, 5) < llh(1, 5)
    assert llh(20, 200) > llh(1, 200)


def test_the_mean_charge_of_a_photon_is_known() -> None:
    assert pytest.approx(0.875) == CHARGE_PER_PHOTON_PE
