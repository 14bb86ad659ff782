import numpy as np
import torch

from export.calibrate import Calibration, RadiusCurve, conformal_quantile, falling, fit_radii


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Kappas, and angles that follow them, but not as a von Mises-Fisher law would have it."""
    kappas = 10 ** rng.uniform(-1, 4, n)
    spread = 1.7 * np.sqrt(-2 * np.log(rng.uniform(size=n)) / (0.5 + kappas**0.8))
    return kappas, np.pi * -np.expm1(-spread / np.pi)


def radii_of(kappas: np.ndarray, calibration: Calibration) -> np.ndarray:
    with torch.no_grad():
        return RadiusCurve(calibration)(torch.from_numpy(kappas.astype(np.float32))[:, None]).numpy()  # type: ignore[no-any-return]


def calibration_of(kappas: np.ndarray, angles: np.ndarray) -> Calibration:
    knots, radii = fit_radii(kappas, angles)
    pairs = tuple((float(small), float(large)) for small, large in radii)
    return Calibration(tuple(knots.tolist()), pairs, len(kappas), 0)


def test_radii_cover_what_they_promise_overall_and_at_any_kappa() -> None:
    rng = np.random.default_rng(1)
    calibration = calibration_of(*draw(rng, 20_000))
    kappas, angles = draw(rng, 40_000)
    is_inside = angles[:, None] <= radii_of(kappas, calibration)
    np.testing.assert_allclose(is_inside.mean(0), (0.5, 0.9), atol=0.015)
    for low in range(-1, 4):
        decade = (kappas >= 10.0**low) & (kappas < 10.0 ** (low + 1))
        np.testing.assert_allclose(is_inside[decade].mean(0), (0.5, 0.9), atol=0.04)


def test_radii_fall_with_kappa_and_stay_on_the_sphere() -> None:
    calibration = calibration_of(*draw(np.random.default_rng(2), 2000))
    radii = radii_of(np.logspace(-12, 12, 500), calibration)
    assert np.isfinite(radii).all()
    assert (np.diff(radii, axis=0) <= 1e-6).all()
    assert (radii > 0).all()
    assert (radii <= np.float32(np.pi)).all()
    assert (radii[:, 0] <= radii[:, 1] + 1e-6).all()


def test_one_kappa_for_all_events_is_calibrated_too() -> None:
    angles = np.random.default_rng(3).uniform(0, 1, 4000)
    radii = radii_of(np.ones(1), calibration_of(np.ones(4000), angles))
    np.testing.assert_allclose(radii[0], (0.5, 0.9), atol=0.05)


def test_curve_in_the_graph_interpolates_between_its_knots() -> None:
    calibration = Calibration((-1.0, 0.0, 2.0), ((0.5, 1.0), (-1.0, 0.0), (-4.0, -2.0)), 10, 0)
    log_kappas = np.linspace(-3, 4, 50)
    expected = np.stack(
        [np.interp(log_kappas, calibration.log_kappa, c) for c in np.array(calibration.log_radii).T], 1
    )
    np.testing.assert_allclose(radii_of(np.exp(log_kappas), calibration), np.exp(expected), rtol=1e-4)


def test_conformal_quantile_corrects_for_a_small_sample() -> None:
    assert conformal_quantile(np.arange(9.0), 0.5) == 4.0
    assert conformal_quantile(np.arange(9.0), 0.9) == 8.0
    assert conformal_quantile(np.arange(3.0), 0.9) == 2.0


def test_falling_pools_what_rises() -> None:
    np.testing.assert_allclose(falling(np.array([5.0, 2.0, 4.0, 3.0, 1.0])), [5.0, 3.0, 3.0, 3.0, 1.0])
