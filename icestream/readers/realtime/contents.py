"""Describes everything in a message, for people."""

import math
import struct
from collections.abc import Callable

import numpy as np

from icestream.errors import InvalidRealtimeMessage
from icestream.readers.realtime.archive import FRAME_OBJECT, Archive, open_archive
from icestream.readers.realtime.cursor import I32
from icestream.readers.realtime.event import FrameContents, ObjectContents, RealtimeEvent
from icestream.readers.realtime.frames import FrameObject
from icestream.readers.realtime.objects import (
    DOUBLE,
    EVENT_HEADER,
    PARTICLE,
    POSITION,
    STRING,
    read_double,
    read_header,
    read_particle,
    read_position_m,
    read_string,
    read_value,
)
from icestream.readers.realtime.pulse_series import MAX_MODULES, PulseSeries
from icestream.readers.realtime.pulses import PULSE_MAP, PULSE_MASK, Mask, read_module_key, read_pulse_map
from icestream.readers.realtime.superdst import SUPER_DST, read_super_dst

MAX_CHARACTERS = 160
"""Of a value that are shown."""

_LEAST_INTEGER = -(2**31)


def list_contents(event: RealtimeEvent) -> tuple[FrameContents, ...]:
    """List each frame's objects with their types, sizes and, where the class is known, values."""
    return tuple(
        FrameContents(
            frame.stream,
            frame.n_bytes,
            frame.crc32c,
            tuple(ObjectContents(o.key, o.cpp_type, o.n_bytes, _described(o)) for o in frame.objects),
        )
        for frame in event.frames
    )


def _described(stored: FrameObject) -> str:
    try:
        describe = _DESCRIBERS.get(open_archive(stored).class_name)
        value = "" if describe is None else describe(stored)
    except InvalidRealtimeMessage as error:
        # The frame is whole: this is a version of the class that nobody here has seen.
        value = f"not decoded: {error.problem}"
    shown = (
        value if len(value) <= MAX_CHARACTERS else f"{value[:MAX_CHARACTERS]}... ({len(value)} characters)"
    )
    return "".join(character if character.isprintable() else "?" for character in shown)


def _header(stored: FrameObject) -> str:
    header = read_header(stored)
    split = f", sub-event {header.sub_event} of {header.stream}" if header.stream else ""
    utc = np.datetime64(header.start.unix_ns, "ns")
    return f"run {header.run_id}, event {header.event_id}{split}, from {utc} UTC"


def _particle(stored: FrameObject) -> str:
    particle = read_particle(stored)
    values = [
        f"{particle.shape}, fit {particle.fit_status}",
        f"zenith {math.degrees(particle.zenith_rad):.2f} azimuth {math.degrees(particle.azimuth_rad):.2f} deg",
        f"{_metres(particle.position_m)} at {particle.time_ns:.1f} ns",
    ]
    if not math.isnan(particle.energy_gev):
        values.append(f"{particle.energy_gev:.4g} GeV")
    return ", ".join(values)


def _metres(position: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.2f}' for value in position)}) m"


def _pulses(pulses: PulseSeries) -> str:
    # A hostile charge may be infinite.
    with np.errstate(invalid="ignore"):
        charge_pe = pulses.charge_pe.sum(dtype=np.float64)
    return f"{len(pulses)} pulses of {len(pulses.n_pulses)} modules, {charge_pe:.2f} p.e."


def _mask(stored: FrameObject) -> str:
    mask = Mask(open_archive(stored, PULSE_MASK))
    n_pulses, n_modules = np.count_nonzero(mask.has_pulse), np.count_nonzero(mask.has_module)
    return f"{n_pulses} pulses of {n_modules} modules of {mask.source}"


def _windows(stored: FrameObject) -> str:
    """Time windows of modules, as of calibration errata and saturation."""

    def read(archive: Archive) -> str:
        cursor = archive.cursor
        archive.enter("map<OMKey, I3TimeWindowSeries>")
        windows = []
        for _ in range(cursor.count("modules", n_bytes_each=17, at_most=MAX_MODULES)):
            archive.enter("pair<OMKey, I3TimeWindowSeries>")
            string, om = read_module_key(archive)
            archive.enter("I3TimeWindowSeries", 1)
            archive.enter(FRAME_OBJECT)
            archive.enter("list<I3TimeWindow>")
            for _ in range(cursor.count("time windows", n_bytes_each=24)):
                archive.enter("I3TimeWindow", 1)
                archive.enter(FRAME_OBJECT)
                windows.append(f"{string}-{om}: {_window(archive)}")
        return "; ".join(windows)

    return read_value(stored, "I3TimeWindowSeriesMap", read)


def _window(archive: Archive) -> str:
    start_ns, stop_ns = archive.cursor.numbers(2, "a time window")
    return f"{start_ns:.1f} to {stop_ns:.1f} ns"


def _baseline(stored: FrameObject) -> str:
    """What a difference of detector geometry, calibration or status is to; its other fields are not read."""
    archive = open_archive(stored)
    archive.enter_root(newest=0)
    return f"difference to {archive.cursor.text('the baseline')}"


def _fields(layout: str, *names: str) -> Callable[[Archive], str]:
    """Describe a class of numbers, given what `struct` calls their layout."""
    fields = struct.Struct(f"<{layout}")

    def read(archive: Archive) -> str:
        values = fields.unpack(archive.cursor.take(fields.size, "the object's fields"))
        return ", ".join(
            f"{name} {value:.10g}" for name, value in zip(names, values, strict=True) if _is_set(value)
        )

    return read


def _is_set(value: float) -> bool:
    # Where a fit gives no integer IceTray leaves the least one.
    return not math.isnan(value) and value != _LEAST_INTEGER


def _of_class(name: str, read: Callable[[Archive], str], newest: int = 0) -> Callable[[FrameObject], str]:
    return lambda stored: read_value(stored, name, read, newest)


_PLAIN: dict[str, tuple[Callable[[Archive], str], int]] = {
    "I3Bool": (lambda archive: str(archive.cursor.boolean("the value")), 0),
    "I3Int": (lambda archive: str(archive.cursor.integer(I32, "the value")), 0),
    "I3TimeWindow": (_window, 1),
    "I3LogLikelihoodFitParams": (_fields("2d2i", "logl", "rlogl", "ndof", "nmini"), 0),
    "I3LineFitParams": (_fields("4di", "speed", "vx", "vy", "vz", "n_hits"), 1),
    "I3TrackCharacteristicsValues": (
        _fields(
            "4d",
            "avg_dom_dist_q_tot_dom",
            "empty_hits_track_length",
            "track_hits_separation_length",
            "track_hits_distribution_smoothness",
        ),
        0,
    ),
    "I3CscdLlhFitParams": (
        _fields(
            "4i9d",
            *("hits", "hit_oms", "unhit_oms", "status"),
            *("error_t", "error_x", "error_y", "error_z", "error_zenith", "error_azimuth", "error_energy"),
            *("neg_llh", "reduced_llh"),
        ),
        0,
    ),
}
"""Classes of plain fields by their names: how to read them, and the newest version."""

_DESCRIBERS: dict[str, Callable[[FrameObject], str]] = {
    EVENT_HEADER: _header,
    PARTICLE: _particle,
    POSITION: lambda stored: _metres(read_position_m(stored)),
    DOUBLE: lambda stored: f"{read_double(stored):.8g}",
    STRING: lambda stored: " ".join(read_string(stored).split()),
    PULSE_MASK: _mask,
    PULSE_MAP: lambda stored: _pulses(read_pulse_map(open_archive(stored))),
    SUPER_DST: lambda stored: _pulses(read_super_dst(stored)),
    "I3TimeWindowSeriesMap": _windows,
    "I3GeometryDiff": _baseline,
    "I3CalibrationDiff": _baseline,
    "I3DetectorStatusDiff": _baseline,
    **{name: _of_class(name, read, newest) for name, (read, newest) in _PLAIN.items()},
}
