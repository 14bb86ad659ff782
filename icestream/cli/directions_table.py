"""Directions as people read them: degrees, one line an event."""

import math

from icestream.physics.directions import angles, opening_angles_rad, unit_vectors
from icestream.physics.events import Reconstruction

COLUMNS = ("event", "azimuth", "zenith", "50 % within", "90 % within", "pulses", "off truth")


def cells(reconstruction: Reconstruction) -> tuple[str, ...]:
    """One cell for each of `COLUMNS`."""
    estimate = reconstruction.estimate
    azimuth, zenith = angles(estimate.direction)
    return (
        str(reconstruction.event_id),
        _degrees(float(azimuth)),
        _degrees(float(zenith)),
        _degrees(estimate.radius50_rad),
        _degrees(estimate.radius90_rad),
        f"{estimate.n_pulses_used} of {reconstruction.n_pulses}",
        _degrees(error) if (error := error_rad(reconstruction)) is not None else "",
    )


def error_rad(reconstruction: Reconstruction) -> float | None:
    """Angle between the estimate and the event's true direction; None where that is not known."""
    truth = reconstruction.truth
    if truth is None:
        return None
    true_direction = unit_vectors(truth.azimuth_rad, truth.zenith_rad)
    return float(opening_angles_rad(reconstruction.estimate.direction, true_direction))


def _degrees(angle_rad: float) -> str:
    return f"{math.degrees(angle_rad):.1f}°"
