"""Reconstructions as columns of their table, and rows of it as reconstructions.

Thousands a second come here, so that whatever can is done for all of a transaction at once, and the messages are read
column by column, past the types that the rest of the world deals in.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from icestream.v1 import event_pb2, reconstruction_pb2, record_pb2
from services.recorder.sky import FloatArray, sky_vectors

Row = dict[str, Any]

Columns = dict[str, list[Any]]
"""Rows by column: of each, as many values as there are rows."""

MAX_NAME = 200
"""Characters of names: they are parts of keys, and an index holds no more than 2700 bytes."""

_UNIT_TOLERANCE = 1e-3
_EPOCH = date(1970, 1, 1)
_KINDS = frozenset(kind.value for kind in EventKind)

_COPIED = (
    *("detector", "run_id", "event_id", "sub_event", "model", "model_version", "start_unix_ns", "kappa"),
    *("radius50_rad", "radius90_rad", "n_pulses", "n_pulses_used", "trace_id"),
)
_VECTOR = ("x", "y", "z")
_TIMES = ("published_unix_ns", "received_unix_ns", "inferred_unix_ns")


def day_of(unix_ns: int) -> date:
    """The UTC day of a moment."""
    return _date(unix_ns // NS_PER_DAY)


def unsound_reconstructions(
    messages: Sequence[reconstruction_pb2.Reconstruction],
) -> dict[int, InvalidRecord]:
    """What is wrong with each message that no table could hold, or nobody could find, by its place.

    Args:
        messages: At least one.
    """
    found = dict[int, InvalidRecord]()
    for place in _suspects(messages):
        try:
            check_reconstruction(messages[place])
        except InvalidRecord as error:
            found[place] = error
    return found


def check_reconstruction(message: reconstruction_pb2.Reconstruction) -> None:
    """Refuse what no table could hold, or nobody could find.

    Raises:
        InvalidRecord: It names what is wrong.
    """
    for field in ("detector", "model", "model_version"):
        check_name(field, getattr(message, field))
    if not _is_trace_id(message.trace_id):
        raise InvalidRecord(f"trace_id {message.trace_id[:MAX_NAME]!r} is none")
    direction = (message.direction.x, message.direction.y, message.direction.z)
    # Written so that NaN fails as well.
    if not abs(math.hypot(*direction) - 1) < _UNIT_TOLERANCE:
        raise InvalidRecord(f"direction {direction} is no unit vector")
    if not all(map(math.isfinite, _numbers(message))):
        raise InvalidRecord("kappa, a radius or a part of the truth is not a finite number")


def columns_of(rows: Sequence[Row]) -> Columns:
    """Rows by column.

    Args:
        rows: At least one, all of the same columns.
    """
    return {name: [row[name] for row in rows] for name in rows[0]}


def check_name(field: str, name: str) -> None:
    """Refuse a name that cannot be part of a key.

    Raises:
        InvalidRecord: It is empty, too long, or holds the one character that PostgreSQL does not take.
    """
    if not _is_name(name):
        problem = f"{field} is {name[:MAX_NAME]!r}; names have 1 to {MAX_NAME} characters, none of them NUL"
        raise InvalidRecord(problem)


def reconstruction_columns(
    messages: Sequence[reconstruction_pb2.Reconstruction], recorded_unix_ns: int
) -> Columns:
    """The rows of sound reconstructions.

    Args:
        messages: At least one.
        recorded_unix_ns: Now.
    """
    columns = _columns(_COPIED, messages)
    columns |= _columns(_VECTOR, [message.direction for message in messages])
    columns |= _columns(_TIMES, [message.timings for message in messages])
    directions = np.array([columns[name] for name in _VECTOR]).T
    start_unix_ns = np.array(columns["start_unix_ns"], np.int64)
    columns["event_day"] = [_date(number) for number in (start_unix_ns // NS_PER_DAY).tolist()]
    columns["recorded_unix_ns"] = [recorded_unix_ns] * len(messages)
    truths = [message.truth if message.HasField("truth") else None for message in messages]
    return columns | _sky_columns(directions, start_unix_ns) | _truth_columns(directions, truths)


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


@lru_cache
def _date(n_days: int) -> date:
    return _EPOCH + timedelta(days=n_days)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and "\0" not in name


def _is_trace_id(text: str) -> bool:
    return len(text) <= MAX_NAME and "\0" not in text


def _suspects(messages: Sequence[reconstruction_pb2.Reconstruction]) -> list[int]:
    """Places of the messages that a closer look might refuse: all that it would, and hardly any other."""
    names = list(map(attrgetter("detector", "model", "model_version"), messages))
    wrong_names = {group for group in set(names) if not all(map(_is_name, group))}
    vectors = np.array([(at.x, at.y, at.z) for at in (message.direction for message in messages)])
    numbers = np.array([_numbers(message) for message in messages])
    # What is too large to be squared is infinite, and as wrong.
    with np.errstate(over="ignore"):
        is_unit = abs(np.sqrt((vectors**2).sum(axis=-1)) - 1) < 0.9 * _UNIT_TOLERANCE
    is_sound = is_unit & np.isfinite(numbers).all(axis=-1)
    is_sound &= [group not in wrong_names for group in names]
    is_sound &= [_is_trace_id(message.trace_id) for message in messages]
    return [int(place) for place in np.flatnonzero(~is_sound)]


def _numbers(message: reconstruction_pb2.Reconstruction) -> tuple[float, ...]:
    """What has to be finite; a truth that is absent is all zeros."""
    truth = message.truth
    radii = (message.radius50_rad, message.radius90_rad)
    return (message.kappa, *radii, truth.azimuth_rad, truth.zenith_rad, truth.energy_gev)


def _columns(names: Sequence[str], messages: Sequence[Any]) -> Columns:
    """Some fields of some messages."""
    values = zip(*map(attrgetter(*names), messages), strict=True)
    return dict(zip(names, map(list, values), strict=True))


def _sky_columns(directions: FloatArray, start_unix_ns: NDArray[np.int64]) -> Columns:
    """Where in the sky it is; nowhere where the event's time is not known."""
    sky = sky_vectors(directions, start_unix_ns)
    columns = zip(
        ("ra_rad", "dec_rad", "sky_x", "sky_y", "sky_z"), (*equatorial_angles(sky), *sky.T), strict=True
    )
    is_known = start_unix_ns != 0
    return {name: _some(values, is_known) for name, values in columns}


def _truth_columns(directions: FloatArray, truths: Sequence[event_pb2.Truth | None]) -> Columns:
    has_truth = np.array([truth is not None for truth in truths])
    azimuth_rad, zenith_rad = np.array(
        [(truth.azimuth_rad, truth.zenith_rad) if truth is not None else (0.0, 0.0) for truth in truths]
    ).T
    opening_angle_rad = opening_angles_rad(directions, unit_vectors(azimuth_rad, zenith_rad))
    columns = {
        "truth_azimuth_rad": azimuth_rad,
        "truth_zenith_rad": zenith_rad,
        "opening_angle_rad": opening_angle_rad,
    }
    return {name: _some(values, has_truth) for name, values in columns.items()} | {
        # A newer publisher may know kinds that this version does not.
        "kind": [
            truth.kind if truth is not None and truth.kind in _KINDS else EventKind.UNKNOWN.value
            for truth in truths
        ],
        "truth_energy_gev": [
            truth.energy_gev if truth is not None and truth.HasField("energy_gev") else None
            for truth in truths
        ],
    }


def _some(values: FloatArray, is_there: NDArray[np.bool_]) -> list[float | None]:
    """Values as a database takes them, with None for those that are not there."""
    found = values.astype(object)
    found[~is_there] = None
    return list(found)


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
