"""Single values of a message: its header, particles, positions and plain numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from icestream.readers.realtime.archive import FRAME_OBJECT, Archive, open_archive
from icestream.readers.realtime.cursor import I32, U32, U64
from icestream.readers.realtime.frames import FrameObject
from icestream.readers.realtime.i3time import I3Time, read_i3time

EVENT_HEADER = "I3EventHeader"
PARTICLE = "I3Particle"
POSITION = "I3Position"
DOUBLE = "I3Double"
STRING = "I3String"

T = TypeVar("T")

_SHAPES = {
    0: "Null",
    10: "Primary",
    20: "TopShower",
    30: "Cascade",
    31: "CascadeSegment",
    40: "InfiniteTrack",
    50: "StartingTrack",
    60: "StoppingTrack",
    70: "ContainedTrack",
    80: "MCTrack",
    90: "Dark",
}
_FIT_STATUSES = {
    -1: "NotSet",
    0: "OK",
    10: "GeneralFailure",
    20: "InsufficientHits",
    30: "FailedToConverge",
    40: "MissingSeed",
    50: "InsufficientQuality",
}


@dataclass(frozen=True, slots=True)
class EventHeader:
    """Name and time of an event."""

    run_id: int
    event_id: int
    sub_event: int
    stream: str
    """How the readout was split into events, for example `InIceSplit`."""
    start: I3Time
    end: I3Time


@dataclass(frozen=True, slots=True)
class Particle:
    """A reconstructed particle; numbers are NaN where they were not fitted."""

    shape: str
    fit_status: str
    position_m: tuple[float, ...]
    zenith_rad: float
    azimuth_rad: float
    time_ns: float
    energy_gev: float


def read_header(stored: FrameObject) -> EventHeader:
    """Read an event's header.

    Raises:
        InvalidRealtimeMessage: It is damaged, or no header; so for all functions of this module.
    """
    archive = open_archive(stored, EVENT_HEADER)
    if archive.enter_root(3) < 3:
        raise stored.error(f"class {EVENT_HEADER} is older than version 3")
    cursor = archive.cursor
    run_id = cursor.integer(U32, "the run")
    cursor.integer(U32, "the sub-run")
    event_id = cursor.integer(U32, "the event")
    cursor.integer(I32, "the state")
    sub_event = cursor.integer(U32, "the sub-event")
    stream = cursor.text("the sub-event stream")
    start, end = read_i3time(archive), read_i3time(archive)
    cursor.finish()
    return EventHeader(run_id, event_id, sub_event, stream, start, end)


def read_particle(stored: FrameObject) -> Particle:
    """Read a particle."""
    archive = open_archive(stored, PARTICLE)
    if archive.enter_root(5) < 5:
        raise stored.error(f"class {PARTICLE} is older than version 5")
    cursor = archive.cursor
    cursor.integer(U32, "the particle's minor id")
    cursor.integer(U64, "the particle's major id")
    cursor.integer(I32, "the particle's type")
    shape = cursor.integer(I32, "the particle's shape")
    fit_status = cursor.integer(I32, "the fit's status")
    archive.enter(POSITION)
    archive.enter(FRAME_OBJECT)
    position_m = cursor.numbers(3, "the particle's position")
    archive.enter("I3Direction")
    archive.enter(FRAME_OBJECT)
    zenith_rad, azimuth_rad = cursor.numbers(2, "the particle's direction")
    time_ns, energy_gev, _length_m, _speed = cursor.numbers(
        4, "the particle's time, energy, length and speed"
    )
    cursor.integer(I32, "the particle's location")
    cursor.finish()
    return Particle(
        _SHAPES.get(shape, str(shape)),
        _FIT_STATUSES.get(fit_status, str(fit_status)),
        position_m,
        zenith_rad,
        azimuth_rad,
        time_ns,
        energy_gev,
    )


def read_position_m(stored: FrameObject) -> tuple[float, float, float]:
    """Read a position."""
    x, y, z = read_value(stored, POSITION, lambda archive: archive.cursor.numbers(3, "the position"))
    return x, y, z


def read_double(stored: FrameObject) -> float:
    """Read a number."""
    return read_value(stored, DOUBLE, lambda archive: archive.cursor.number("the number"))


def read_string(stored: FrameObject) -> str:
    """Read a text."""
    return read_value(stored, STRING, lambda archive: archive.cursor.text("the text"))


def read_value(stored: FrameObject, class_name: str, read: Callable[[Archive], T], newest: int = 0) -> T:
    """Read an object of a class whose fields `read` reads, up to a version of the class."""
    archive = open_archive(stored, class_name)
    archive.enter_root(newest)
    value = read(archive)
    archive.cursor.finish()
    return value
