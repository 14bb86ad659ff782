"""From the bytes of a realtime message to an event."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icestream.physics.events import HLC, Event, EventId, Pulses
from icestream.physics.icecube86 import MODULES_PER_STRING, REAL_RUNS, TOP_MODULES_M
from icestream.readers.realtime.alert import alert_reconstructions, alert_summary, named_ids
from icestream.readers.realtime.cursor import Place
from icestream.readers.realtime.document import Document, read_document, read_json, unpack_frames
from icestream.readers.realtime.event import RealtimeEvent, StoredReconstruction, StoredVertex
from icestream.readers.realtime.files import read_message
from icestream.readers.realtime.frames import Frame
from icestream.readers.realtime.objects import (
    PARTICLE,
    EventHeader,
    read_double,
    read_header,
    read_particle,
    read_position_m,
    read_string,
)
from icestream.readers.realtime.pulse_series import PulseSeries
from icestream.readers.realtime.pulses import find_object, find_pulses

DETECTOR = "icecube86"
PHYSICS, READOUT = "P", "Q"
"""Letters of the frames of an event and of the readout that it is a part of."""
N_STRINGS = len(TOP_MODULES_M)
MAX_SUB_EVENT = 2**31 - 1
"""What our own messages have room for."""


@dataclass(frozen=True, slots=True)
class FormatVersion:
    """What differs between versions of the message format."""

    series: str
    """Name of the pulses of the event."""
    online_tracks: tuple[str, ...]
    """Names of the online tracks, the best first."""


_OLD = FormatVersion("SplitUncleanedInIcePulses", ("OnlineL2_SplineMPE", "HESE_SPEFit2"))
_NEW = FormatVersion("SplitInIcePulses", ("l2_online_SplineMPE", "HESE_SPEFit2"))
FORMAT_VERSIONS: dict[str | None, FormatVersion] = {None: _OLD, "2021a": _OLD, "2023a": _NEW, "2024a": _NEW}

_ALERT_MESSAGE = "AlertShortFollowupMsg"
_TYPES_BY_ALERT = {"hese": "HESE", "ehe": "EHE", "neutrino": "neutrino", "estres": "ESTRES"}
_TYPES_BY_OBJECT = {"HESE_llhratio": "HESE", "Estres_p_miss": "ESTRES", "PoleEHEOphelia_ImpLF": "EHE"}


def read_realtime_event(path: str | Path) -> RealtimeEvent:
    """Read a file with one realtime message, JSON or pickle.

    Raises:
        InvalidRealtimeMessage: It names the file, frame, object and byte, and what would be right.
    """
    return realtime_event_from_bytes(read_message(Path(path)), source=str(path))


def realtime_event_from_bytes(data: bytes, *, source: str) -> RealtimeEvent:
    """Read a realtime message.

    Args:
        data: The message, JSON or pickle.
        source: What to call it in error messages.

    Raises:
        InvalidRealtimeMessage: See `read_realtime_event`.
    """
    place = Place(source)
    document = read_document(data, place)
    version = _version(document)
    frames = unpack_frames(document)
    physics, readout = _last_frame(frames, PHYSICS), _last_frame(frames, READOUT)
    if physics is None:
        raise place.error(f"the message has frames {_letters(frames)}; expected the event in a frame P")
    header = _header(physics, place)
    event_id = _event_id(header, document)

    stored = find_object(frames, version.series)
    if stored is None:
        raise place.error(
            f"the message has no pulse series {version.series!r}, "
            f"in which messages of format version {document.version} hold the event"
        )
    series = find_pulses(frames, stored)
    if len(series) == 0:
        raise stored.error("the event has no pulses")
    pulses, rows = _event_pulses(series, stored.place)
    event_type = _event_type(physics)
    event = Event(
        event_id,
        DETECTOR,
        header.start.unix_ns,
        pulses,
        alert_type=event_type or "",
        is_real=event_id.run_id in REAL_RUNS,
    )
    reconstructions = (
        *(_particles(frames)),
        *alert_reconstructions(document.figures, place),
    )
    return RealtimeEvent(
        source=source,
        event=event,
        width_ns=series.width_ns[rows],
        icetray_flags=series.flags[rows],
        mjd=header.start.mjd,
        readout_start_unix_ns=_readout_start_unix_ns(readout),
        format_version=document.version,
        event_type=event_type,
        series=version.series,
        reconstructions=reconstructions,
        online_track=_online_track(reconstructions, version),
        vertex=_vertex(frames),
        alert=alert_summary(document.figures, place),
        frames=frames,
    )


def _version(document: Document) -> FormatVersion:
    if document.version not in FORMAT_VERSIONS:
        known = ", ".join(filter(None, FORMAT_VERSIONS))
        raise document.place.error(
            f"the message is of format version {document.version!r}; known are {known}, and messages without one"
        )
    return FORMAT_VERSIONS[document.version]


def _last_frame(frames: Sequence[Frame], stream: str) -> Frame | None:
    return next((frame for frame in reversed(frames) if frame.stream == stream), None)


def _letters(frames: Sequence[Frame]) -> str:
    return ", ".join(frame.stream for frame in frames)


def _header(physics: Frame, place: Place) -> EventHeader:
    stored = physics.get("I3EventHeader")
    if stored is None:
        raise place.inside(frame=physics.stream).error("the frame has no I3EventHeader")
    header = read_header(stored)
    if header.sub_event > MAX_SUB_EVENT:
        raise stored.error(f"the sub-event is {header.sub_event}; expected at most {MAX_SUB_EVENT}")
    return header


def _event_id(header: EventHeader, document: Document) -> EventId:
    """The event's name, on which header and figures must agree."""
    run_id, event_id = named_ids(document.figures, document.place)
    if run_id not in (None, header.run_id) or event_id not in (None, header.event_id):
        raise document.place.error(
            f"the message names run {run_id} and event {event_id}, but its header says run {header.run_id} "
            f"and event {header.event_id}; expected the same"
        )
    return EventId(header.run_id, header.event_id, header.sub_event)


def _readout_start_unix_ns(readout: Frame | None) -> int | None:
    stored = None if readout is None else readout.get("QI3EventHeader") or readout.get("I3EventHeader")
    return None if stored is None else read_header(stored).start.unix_ns


def _event_pulses(series: PulseSeries, place: Place) -> tuple[Pulses, NDArray[np.intp]]:
    """The pulses in order of time, and which rows of the series they are.

    Raises:
        InvalidRealtimeMessage: A module is not one of IceCube's in the ice. None in the series of real events is on
            the surface, so that one there means that pulses would be lost without a reason.
    """
    is_in_ice = (series.string >= 1) & (series.string <= N_STRINGS)
    is_in_ice &= (series.om >= 1) & (series.om <= MODULES_PER_STRING)
    if not is_in_ice.all():
        first = int(np.argmin(is_in_ice))
        n_lost = series.n_pulses[~is_in_ice].sum()
        raise place.error(
            f"module {series.string[first]}-{series.om[first]} is not one of IceCube's {N_STRINGS} strings of "
            f"{MODULES_PER_STRING} modules in the ice; {n_lost} pulses are of such modules"
        )
    sensor_id = ((series.string - 1) * MODULES_PER_STRING + series.om - 1)[series.module]
    order = np.lexsort((sensor_id, series.time_ns))
    pulses = Pulses(
        sensor_id[order].astype(np.uint16),
        series.time_ns[order],
        series.charge_pe[order],
        series.flags[order] & np.uint8(HLC),
    )
    return pulses, order


def _event_type(physics: Frame) -> str | None:
    """What kind of alert this is, by the rule of Skymap Scanner."""
    if stored := physics.get(_ALERT_MESSAGE):
        alert = read_json(read_string(stored).encode(), stored.place, stored.start)
        names = alert if isinstance(alert, dict) else {}
        return next((kind for name, kind in _TYPES_BY_ALERT.items() if name in names), None)
    return next((kind for key, kind in _TYPES_BY_OBJECT.items() if physics.get(key)), None)


def _particles(frames: Sequence[Frame]) -> list[StoredReconstruction]:
    found = []
    for frame in frames:
        for stored in frame.objects:
            if stored.cpp_type == PARTICLE:
                particle = read_particle(stored)
                x, y, z = particle.position_m
                found.append(
                    StoredReconstruction(
                        name=stored.key,
                        origin=frame.stream,
                        zenith_rad=particle.zenith_rad,
                        azimuth_rad=particle.azimuth_rad,
                        position_m=(x, y, z),
                        time_ns=_known(particle.time_ns),
                        energy_gev=_known(particle.energy_gev),
                        shape=particle.shape,
                        fit_status=particle.fit_status,
                    )
                )
    return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _online_track(
    reconstructions: Sequence[StoredReconstruction], version: FormatVersion
) -> StoredReconstruction | None:
    by_name = {each.name: each for each in reconstructions}
    return next((by_name[name] for name in version.online_tracks if name in by_name), None)


def _vertex(frames: Sequence[Frame]) -> StoredVertex | None:
    position = find_object(frames, "HESE_VHESelfVetoVertexPos")
    time = find_object(frames, "HESE_VHESelfVetoVertexTime")
    if position is None or time is None:
        return None
    return StoredVertex(read_position_m(position), read_double(time))
