"""Realtime messages to test with, written byte by byte; a case says only what matters to it."""

import base64
import json
import pickle
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

REAL_EVENTS = Path(__file__).parents[5] / "shared/data/realtime_events"

ModuleKey = tuple[int, int]
"""String and number on it."""


@dataclass(frozen=True)
class Pulse:
    """A pulse in the units of I3SuperDST."""

    time_ns: int = 1000
    charge_code: int = 20
    width_exponent: int = 3
    is_hlc: bool = True

    @property
    def charge_pe(self) -> float:
        return self.charge_code * 0.05 + 0.025


Readout = tuple[ModuleKey, Sequence[Pulse]]

READOUTS: Sequence[Readout] = (
    ((1, 1), [Pulse(1000), Pulse(1010, charge_code=100), Pulse(1300)]),
    ((86, 60), [Pulse(1005, is_hlc=False)]),
    ((2, 30), [Pulse(5000, charge_code=62), Pulse(5600, width_exponent=9)]),
)


def text(content: str) -> bytes:
    encoded = content.encode()
    return struct.pack("<I", len(encoded)) + encoded


class ArchiveWriter:
    """Writes an object as IceTray does, in the order of calls."""

    def __init__(self, class_name: str, version: int = 0) -> None:
        self._seen: dict[str, bool] = {}
        self._n_objects = 0
        self.content = b"\0\1" + struct.pack("<h", 2) + text(class_name)
        self.enter(class_name, version, is_tracked=True)
        self.enter("I3FrameObject", is_tracked=True)

    def enter(self, class_name: str, version: int = 0, *, is_tracked: bool = False) -> "ArchiveWriter":
        if class_name not in self._seen:
            self._seen[class_name] = is_tracked
            self.content += struct.pack("<BB", is_tracked, version)
        if self._seen[class_name]:
            self.content += struct.pack("<I", self._n_objects)
            self._n_objects += 1
        return self

    def put(self, layout: str, *values: float) -> "ArchiveWriter":
        self.content += struct.pack("<" + layout, *values)
        return self

    def raw(self, content: bytes) -> "ArchiveWriter":
        self.content += content
        return self


def double(value: float) -> bytes:
    return ArchiveWriter("I3Double").put("d", value).content


def boolean(value: int) -> bytes:
    return ArchiveWriter("I3Bool").put("B", value).content


def string(value: str) -> bytes:
    return ArchiveWriter("I3String").raw(text(value)).content


def position(x: float, y: float, z: float) -> bytes:
    return ArchiveWriter("I3Position").put("3d", x, y, z).content


def header(
    run_id: int = 123456,
    event_id: int = 789,
    sub_event: int = 0,
    *,
    year: int = 2022,
    ticks: int = 10**13,
    version: int = 3,
) -> bytes:
    writer = ArchiveWriter("I3EventHeader", version).put("IIIiI", run_id, 0, event_id, 20, sub_event)
    writer.raw(text("InIceSplit"))
    for end in (0, 10**5):
        writer.enter("I3Time", is_tracked=True).enter("I3FrameObject").put("iq", year, ticks + end)
    return writer.content


def particle(zenith_rad: float = 1.0, azimuth_rad: float = 2.0, *, energy_gev: float = float("nan")) -> bytes:
    writer = ArchiveWriter("I3Particle", 5).put("IQiii", 7, 8, 0, 40, 0)
    writer.enter("I3Position", is_tracked=True).enter("I3FrameObject").put("3d", 1.5, -2.5, 3.5)
    writer.enter("I3Direction", is_tracked=True).enter("I3FrameObject").put("2d", zenith_rad, azimuth_rad)
    return writer.put("4d", 1234.5, energy_gev, float("nan"), 0.2998).put("i", 0).content


def time_window(start_ns: float, stop_ns: float) -> bytes:
    return ArchiveWriter("I3TimeWindow", 1).put("2d", start_ns, stop_ns).content


def size(n: int) -> bytes:
    if n < 0xFF - 8:
        return bytes((n,))
    n_bytes = (n.bit_length() + 7) // 8
    return bytes((0xFF - n_bytes,)) + n.to_bytes(n_bytes, "little")


def _overflow(rest: int) -> list[int]:
    words = []
    while rest >= 0xFFFF:
        words.append(0xFFFF)
        rest -= 0xFFFF
    return [*words, rest]


def _run_bytes(values: Sequence[int]) -> bytes:
    content = b""
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    for value, length in runs:
        n_nibbles = (length.bit_length() + 3) // 4
        content += bytes(value | (length >> 4 * i & 0xF) << 4 for i in range(n_nibbles))
    return content


def super_dst(readouts: Iterable[Readout] = READOUTS) -> bytes:
    """Pack readouts, which are put in order of their first times."""
    stamps: list[int] = []
    headers: list[int] = []
    widths: list[list[int]] = [[], [], [], []]
    extra = b""
    reference_ns = -512
    for (string_number, om), pulses in sorted(readouts, key=lambda readout: readout[1][0].time_ns):
        is_on_top, previous_ns = om > 60, reference_ns
        for number, pulse in enumerate(pulses):
            full = 0xFF if number else 0x7FF
            step, charge = pulse.time_ns - previous_ns, pulse.charge_code
            kept_step, kept_charge = min(step, full), charge & 0x3F if is_on_top else min(charge, 0x3F)
            if number == 0:
                headers.append(string_number << 6 | om - 1 | kept_step >> 8 << 13)
                reference_ns = pulse.time_ns
            is_last = number == len(pulses) - 1
            stamps.append(kept_step & 0xFF | kept_charge << 8 | pulse.is_hlc << 14 | is_last << 15)
            if kept_step == full:
                stamps += _overflow(step - full)
            if is_on_top:
                extra += bytes((charge >> 6,))
            elif kept_charge == 0x3F:
                stamps += _overflow(charge - 0x3F)
            widths[2 * is_on_top + pulse.is_hlc].append(pulse.width_exponent)
            previous_ns = pulse.time_ns
    writer = ArchiveWriter("I3SuperDST", 1).enter("stamps").enter("size")
    writer.raw(size(len(stamps)) + struct.pack(f"<{len(stamps)}H", *stamps)).enter("headers")
    writer.raw(size(len(headers)) + struct.pack(f"<{len(headers)}H", *headers)).enter("widths")
    for content in (*map(_run_bytes, widths), extra):
        writer.raw(size(len(content)) + content)
    return writer.content


def _bits(bits: Sequence[bool]) -> bytes:
    n_bytes = (len(bits) + 7) // 8
    number = sum(bit << i for i, bit in enumerate(bits))
    return struct.pack("<HB", n_bytes, 8 * n_bytes - len(bits)) + number.to_bytes(n_bytes, "little")


def mask(source: str, modules: Sequence[Sequence[bool] | None]) -> bytes:
    """A mask of which pulses of each module of the source are meant; None for modules that are not."""
    writer = ArchiveWriter("I3RecoPulseSeriesMapMask", 2).raw(text(source)).enter("bitmask")
    writer.raw(_bits([pulses is not None for pulses in modules])).enter("list")
    meant = [pulses for pulses in modules if pulses is not None]
    return writer.put("I", len(meant)).raw(b"".join(map(_bits, meant))).content


def whole_mask(source: str, readouts: Iterable[Readout] = READOUTS) -> bytes:
    """A mask that means all pulses."""
    n_pulses: dict[ModuleKey, int] = {}
    for key, pulses in readouts:
        n_pulses[key] = n_pulses.get(key, 0) + len(pulses)
    return mask(source, [[True] * n for _, n in sorted(n_pulses.items())])


def pulse_map(readouts: Iterable[Readout] = READOUTS, *, photomultiplier: int = 0) -> bytes:
    """Pulses as they are, not packed."""
    writer = ArchiveWriter("I3RecoPulseSeriesMap").enter("map")
    modules = sorted(readouts, key=lambda readout: readout[0])
    writer.put("I", len(modules))
    for (string_number, om), pulses in modules:
        writer.enter("pair").enter("OMKey", 2, is_tracked=True)
        writer.put("iIB", string_number, om, photomultiplier).enter("vector").put("I", len(pulses))
        for pulse in pulses:
            writer.enter("I3RecoPulse", 3, is_tracked=True)
            flags = 7 if pulse.is_hlc else 4
            writer.put("dffB", pulse.time_ns, pulse.charge_pe, 2**pulse.width_exponent, flags)
    return writer.content


def _crc32c_of(byte: int) -> int:
    """By the definition: the polynomial 0x1EDC6F41 reflected."""
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = [_crc32c_of(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    """Without inversions, as IceTray has it."""
    register = 0
    for byte in data:
        register = register >> 8 ^ _CRC32C[(register ^ byte) & 0xFF]
    return register


Objects = Mapping[str, tuple[str, bytes]]
"""C++ type and archive by key."""


def frame(stream: str, objects: Objects) -> bytes:
    content = b"\0\0" + stream.encode() + struct.pack("<I", len(objects))
    for key, (cpp_type, archive) in objects.items():
        content += text(key) + text(cpp_type) + struct.pack("<I", len(archive)) + archive
    return b"[i3]" + struct.pack("<I", 6) + content + struct.pack("<I", crc32c(content))


class Latin1:
    """Pickles like the I3Frame of Python 3's IceTray."""

    def __init__(self, state: bytes) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (), ({}, self.state))


def pickled_frame(content: bytes) -> bytes:
    """As Python 3 pickles an I3Frame's state: bytes as text of the same numbers."""
    return pickle.dumps(Latin1(content), protocol=2)


def pickled_frame_of_python2(content: bytes) -> bytes:
    return b"\x80\x02cicecube.icetray\nI3Frame\n)R}T" + struct.pack("<I", len(content)) + content + b"\x86b."


def packed(pickled: bytes) -> str:
    return base64.b64encode(zlib.compress(pickled)).decode()


DEFAULT_OBJECTS: Mapping[str, Objects] = {
    "Q": {
        "QI3EventHeader": ("I3EventHeader", header(ticks=10**13 - 60_000)),
        "I3SuperDST": ("I3SuperDST", super_dst()),
        "InIceDSTPulses": ("I3RecoPulseSeriesMapMask", whole_mask("I3SuperDST")),
    },
    "P": {
        "I3EventHeader": ("I3EventHeader", header()),
        "SplitUncleanedInIcePulses": ("I3RecoPulseSeriesMapMask", whole_mask("InIceDSTPulses")),
        "OnlineL2_SplineMPE": ("I3Particle", particle()),
    },
}


@dataclass(frozen=True)
class Message:
    """A message whose parts can be replaced."""

    objects: Mapping[str, Objects] = field(default_factory=lambda: DEFAULT_OBJECTS)
    """By frame."""
    version: str | None = "2021a"
    figures: Mapping[str, object] = field(default_factory=dict)

    def with_objects(self, stream: str, **objects: tuple[str, bytes] | None) -> "Message":
        """Add objects to a frame, or remove them."""
        changed: dict[str, tuple[str, bytes]] = dict(self.objects[stream])
        for key, value in objects.items():
            if value is None:
                del changed[key]
            else:
                changed[key] = value
        return replace(self, objects={**self.objects, stream: changed})

    def frames(self) -> list[list[str]]:
        return [[name, packed(pickled_frame(frame(name, objects)))] for name, objects in self.objects.items()]

    def document(self) -> dict[str, Any]:
        return document(self.frames(), version=self.version, figures=self.figures)

    def as_json(self) -> bytes:
        return json.dumps(self.document()).encode()

    def as_pickle(self, protocol: int = 3) -> bytes:
        return pickle.dumps(self.document(), protocol=protocol)


def document(
    frames: object, *, version: str | None = "2021a", figures: Mapping[str, object] | None = None
) -> dict[str, Any]:
    data = frames if version is None else {"frames": frames, **(figures or {})}
    value: dict[str, Any] = {"data": data, "streams": ["neutrino"]}
    if version is not None:
        value["version"] = version
    return {"service": "PFOnlineWriter", "value": value}
