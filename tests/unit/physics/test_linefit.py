from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from icestream.physics.detector import Detector, icecube86
from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.events import Pulses
from icestream.physics.linefit import FALLBACK_DIRECTION, line_fit, robust_line_fit
from tests.unit.physics.physics_cases import pulse_tables, pulses_of, reordered, shifted

DETECTOR = icecube86()
Fit = Callable[[Pulses, Detector], NDArray[np.float64]]
FITS = pytest.mark.parametrize("fit", [line_fit, robust_line_fit])


def sweep(direction: NDArray[np.float64], n: int = 60, speed_m_per_ns: float = 0.25) -> Pulses:
    """Pulses of modules near a line that crosses the detector, passed at a constant speed."""
    positions = DETECTOR.positions_m
    along = positions @ -direction
    distance = np.linalg.norm(positions + along[:, None] * direction, axis=1)
    sensors = np.argsort(distance)[:n]
    return pulses_of(sensors, 10_000 + along[sensors] / speed_m_per_ns)


@FITS
@given(st.floats(0, 2 * np.pi), st.floats(0.05, np.pi - 0.05))
def test_front_that_sweeps_the_detector_is_found(fit: Fit, azimuth: float, zenith: float) -> None:
    direction = unit_vectors(azimuth, zenith)

    assert opening_angles_rad(fit(sweep(direction, 200), DETECTOR), direction) < np.radians(12)


@FITS
@given(pulse_tables())
def test_answer_is_always_a_unit_vector(fit: Fit, pulses: Pulses) -> None:
    direction = fit(pulses, DETECTOR)

    assert direction.shape == (3,)
    assert np.linalg.norm(direction) == pytest.approx(1)


@FITS
@pytest.mark.parametrize(
    "pulses",
    [
        pulses_of([], []),
        pulses_of([5], [1.0]),
        pulses_of([5, 5, 5], [1.0, 2.0, 900.0]),
        pulses_of([5, 600, 1200], [7.0, 7.0, 7.0]),
    ],
    ids=["none", "one", "one module", "one time"],
)
def test_pulses_without_direction_give_the_fallback(fit: Fit, pulses: Pulses) -> None:
    np.testing.assert_array_equal(fit(pulses, DETECTOR), FALLBACK_DIRECTION)


@FITS
@given(pulse_tables(), st.integers(0, 10**9))
def test_shift_in_time_changes_nothing(fit: Fit, pulses: Pulses, by_ns: int) -> None:
    before, after = fit(pulses, DETECTOR), fit(shifted(pulses, float(by_ns)), DETECTOR)

    np.testing.assert_array_equal(before, after)


@FITS
@given(st.integers(0, 1000))
def test_order_of_pulses_changes_nothing(fit: Fit, seed: int) -> None:
    pulses = sweep(unit_vectors(1.0, 1.0))
    order = np.random.default_rng(seed).permutation(len(pulses))

    np.testing.assert_allclose(fit(reordered(pulses, order), DETECTOR), fit(pulses, DETECTOR), atol=1e-6)


def test_robust_fit_ignores_noise_that_is_not_coincident() -> None:
    direction = unit_vectors(2.0, 1.2)
    signal = sweep(direction)
    noise = pulses_of(np.arange(0, 5000, 50), np.linspace(20_000, 0, 100), is_hlc=False)
    both = Pulses(
        *(np.concatenate(columns) for columns in zip(columns_of(signal), columns_of(noise), strict=True))
    )

    np.testing.assert_array_equal(robust_line_fit(both, DETECTOR), robust_line_fit(signal, DETECTOR))


def test_robust_fit_drops_late_light() -> None:
    direction = unit_vectors(2.0, 1.2)
    signal = sweep(direction)
    late = shifted(signal, 3_000.0)
    both = Pulses(
        *(np.concatenate(columns) for columns in zip(columns_of(signal), columns_of(late), strict=True))
    )

    np.testing.assert_allclose(robust_line_fit(both, DETECTOR), robust_line_fit(signal, DETECTOR), atol=1e-6)


def columns_of(pulses: Pulses) -> tuple[NDArray[np.generic], ...]:
    return pulses.sensor_id, pulses.time_ns, pulses.charge_pe, pulses.flags
