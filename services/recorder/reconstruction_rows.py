"""Reconstructions as rows of their table, and back."""

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np

from icestream.codec import reconstructions_to_messages
from icestream.errors import InvalidRecord
from icestream.physics.celestial import NS_PER_DAY, equatorial_angles
from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.events import (
    Estimate,
    EventId,
    EventKind,
    ModelVersion,
    Reconstruction,
    Timings,
    Truth,
)
from icestream.v1 import record_pb2
from services.recorder.sky import FloatArray, sky_vectors

Row = dict[str, Any]

MAX_NAME = 200
"""Characters of names: they are parts of keys, and an index holds no more than 2700 bytes."""

_UNIT_TOLERANCE = 1e-3
_EPOCH = date(1970, 1, 1)


def day_of(unix_ns: int) -> date:
    """The UTC day of a moment."""
    return _EPOCH + timedelta(days=unix_ns // NS_PER_DAY)


def check_reconstruction(reconstruction: Reconstruction) -> None:
    """Refuse what no table could hold, or nobody could find.

    Raises:
        InvalidRecord: It names what is wrong.
    """
    model, estimate, truth = reconstruction.model, reconstruction.estimate, reconstruction.truth
    names = {"detector": reconstruction.detector, "model": model.name, "model_version": model.version}
    for field, name in names.items():
        check_name(field, name)
    if "\0" in reconstruction.trace_id or len(reconstruction.trace_id) > MAX_NAME:
        raise InvalidRecord(f"trace_id {reconstruction.trace_id[:MAX_NAME]!r} is none")
    # Written so that NaN fails as well.
    if not abs(math.hypot(*estimate.direction) - 1) < _UNIT_TOLERANCE:
        raise InvalidRecord(f"direction {estimate.direction} is no unit vector")
    numbers = [estimate.kappa, estimate.radius50_rad, estimate.radius90_rad]
    if truth is not None:
        numbers += [truth.azimuth_rad, truth.zenith_rad, truth.energy_gev or 0.0]
    if not all(map(math.isfinite, numbers)):
        raise InvalidRecord("kappa, a radius or a part of the truth is not a finite number")


def check_name(field: str, name: str) -> None:
    """Refuse a name that cannot be part of a key.

    Raises:
        InvalidRecord: It is empty, too long, or holds the one character that PostgreSQL does not take.
    """
    if not 0 < len(name) <= MAX_NAME or "\0" in name:
        problem = f"{field} is {name[:MAX_NAME]!r}; names have 1 to {MAX_NAME} characters, none of them NUL"
        raise InvalidRecord(problem)


def reconstruction_rows(reconstructions: Sequence[Reconstruction], recorded_unix_ns: int) -> list[Row]:
    """The rows of checked reconstructions; whatever takes numpy is computed for all at once."""
    directions = np.array([row.estimate.direction for row in reconstructions]).reshape(-1, 3)
    sky = sky_vectors(directions, np.array([row.start_unix_ns for row in reconstructions], np.int64))
    right_ascension, declination = equatorial_angles(sky)
    columns = zip(
        reconstructions,
        sky.tolist(),
        right_ascension.tolist(),
        declination.tolist(),
        _opening_angles(reconstructions, directions),
        strict=True,
    )
    return [
        _row(reconstruction, recorded_unix_ns, opening_angle_rad)
        | (_sky_columns(vector, ra_rad, dec_rad) if reconstruction.start_unix_ns else _NO_SKY)
        for reconstruction, vector, ra_rad, dec_rad, opening_angle_rad in columns
    ]


def recorded_reconstructions(rows: Sequence[Mapping[str, Any]]) -> list[record_pb2.RecordedReconstruction]:
    """What clients are told of rows."""
    messages = reconstructions_to_messages([_reconstruction(row) for row in rows])
    found = []
    for row, message in zip(rows, messages, strict=True):
        recorded = record_pb2.RecordedReconstruction(
            reconstruction=message,
            opening_angle_rad=row["opening_angle_rad"],
            recorded_unix_ns=row["recorded_unix_ns"],
        )
        if row["ra_rad"] is not None:
            recorded.equatorial.ra_rad, recorded.equatorial.dec_rad = row["ra_rad"], row["dec_rad"]
        found.append(recorded)
    return found


_NO_SKY: Row = dict.fromkeys(("ra_rad", "dec_rad", "sky_x", "sky_y", "sky_z"))


def _sky_columns(vector: Sequence[float], ra_rad: float, dec_rad: float) -> Row:
    x, y, z = vector
    return {"ra_rad": ra_rad, "dec_rad": dec_rad, "sky_x": x, "sky_y": y, "sky_z": z}


def _opening_angles(reconstructions: Sequence[Reconstruction], directions: FloatArray) -> list[float | None]:
    truths = [row.truth for row in reconstructions]
    true_angles = [(truth.azimuth_rad, truth.zenith_rad) if truth else (0.0, 0.0) for truth in truths]
    azimuth, zenith = np.array(true_angles).reshape(-1, 2).T
    angles = opening_angles_rad(directions, unit_vectors(azimuth, zenith)).tolist()
    return [angle if truth else None for angle, truth in zip(angles, truths, strict=True)]


def _row(reconstruction: Reconstruction, recorded_unix_ns: int, opening_angle_rad: float | None) -> Row:
    event_id, estimate = reconstruction.event_id, reconstruction.estimate
    truth, timings = reconstruction.truth, reconstruction.timings
    x, y, z = estimate.direction
    return {
        "detector": reconstruction.detector,
        "run_id": event_id.run_id,
        "event_id": event_id.event_id,
        "sub_event": event_id.sub_event,
        "model": reconstruction.model.name,
        "model_version": reconstruction.model.version,
        "event_day": day_of(reconstruction.start_unix_ns),
        "start_unix_ns": reconstruction.start_unix_ns,
        "x": x,
        "y": y,
        "z": z,
        "kappa": estimate.kappa,
        "radius50_rad": estimate.radius50_rad,
        "radius90_rad": estimate.radius90_rad,
        "n_pulses": reconstruction.n_pulses,
        "n_pulses_used": estimate.n_pulses_used,
        "published_unix_ns": timings.published_unix_ns,
        "received_unix_ns": timings.received_unix_ns,
        "inferred_unix_ns": timings.inferred_unix_ns,
        "trace_id": reconstruction.trace_id,
        "kind": (truth.kind if truth else EventKind.UNKNOWN).value,
        "truth_azimuth_rad": truth.azimuth_rad if truth else None,
        "truth_zenith_rad": truth.zenith_rad if truth else None,
        "truth_energy_gev": truth.energy_gev if truth else None,
        "opening_angle_rad": opening_angle_rad,
        "recorded_unix_ns": recorded_unix_ns,
    }


def _reconstruction(row: Mapping[str, Any]) -> Reconstruction:
    return Reconstruction(
        event_id=EventId(row["run_id"], row["event_id"], row["sub_event"]),
        detector=row["detector"],
        start_unix_ns=row["start_unix_ns"],
        n_pulses=row["n_pulses"],
        truth=_truth(row),
        estimate=Estimate(
            direction=(row["x"], row["y"], row["z"]),
            kappa=row["kappa"],
            radius50_rad=row["radius50_rad"],
            radius90_rad=row["radius90_rad"],
            n_pulses_used=row["n_pulses_used"],
        ),
        model=ModelVersion(row["model"], row["model_version"]),
        timings=Timings(row["published_unix_ns"], row["received_unix_ns"], row["inferred_unix_ns"]),
        trace_id=row["trace_id"],
    )


def _truth(row: Mapping[str, Any]) -> Truth | None:
    if row["truth_azimuth_rad"] is None:
        return None
    kind = EventKind(row["kind"])
    return Truth(row["truth_azimuth_rad"], row["truth_zenith_rad"], row["truth_energy_gev"], kind)
