"""Finds a pulse series by its name: whole, packed as I3SuperDST, or as a mask over another one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icestream.readers.realtime.archive import Archive, open_archive
from icestream.readers.realtime.cursor import I32, U8, U16, U32
from icestream.readers.realtime.frames import Frame, FrameObject
from icestream.readers.realtime.pulse_series import MAX_MODULES, MAX_PULSES, PulseSeries
from icestream.readers.realtime.superdst import SUPER_DST, read_super_dst

PULSE_MAP = "I3RecoPulseSeriesMap"
PULSE_MASK = "I3RecoPulseSeriesMapMask"
MAX_MASKS = 10
"""Real messages have a mask over a mask."""

_PULSE = np.dtype(
    [("id", "<u4"), ("time_ns", "<f8"), ("charge_pe", "<f4"), ("width_ns", "<f4"), ("flags", "u1")]
)


def find_object(frames: Sequence[Frame], key: str) -> FrameObject | None:
    """The object of this name in the last frame that has one: frames stand on those before them."""
    return next((found for frame in reversed(frames) if (found := frame.get(key))), None)


def find_pulses(frames: Sequence[Frame], stored: FrameObject) -> PulseSeries:
    """Decode a pulse series.

    Args:
        frames: Where masks find what they refer to.
        stored: The series.

    Raises:
        InvalidRealtimeMessage: It, or what it refers to, is damaged, missing or no pulse series.
    """
    masks: list[Mask] = []
    while (archive := open_archive(stored, PULSE_MASK, PULSE_MAP, SUPER_DST)).class_name == PULSE_MASK:
        if len(masks) == MAX_MASKS:
            raise stored.error(f"more than {MAX_MASKS} masks refer to each other")
        masks.append(mask := Mask(archive))
        source = find_object(frames, mask.source)
        if source is None:
            raise stored.error(f"the mask is over {mask.source!r}, which is in no frame")
        stored = source
    pulses = read_super_dst(stored) if archive.class_name == SUPER_DST else read_pulse_map(archive)
    for mask in reversed(masks):
        pulses = mask.of(pulses)
    return pulses


class Mask:
    """Which pulses of another series are meant: a bit for each of its modules, then for each pulse of those."""

    def __init__(self, archive: Archive) -> None:
        """Read the archive.

        Raises:
            InvalidRealtimeMessage: It is damaged, or of another version.
        """
        self._cursor = archive.cursor
        if archive.enter_root(2) < 2:
            raise archive.cursor.error(f"class {PULSE_MASK} is older than version 2")
        self.source = archive.cursor.text("the name of the masked series")
        self.has_module = self._bits(archive)
        archive.enter("list<bitmask>")
        n_modules = archive.cursor.count("masks of modules", n_bytes_each=3, at_most=MAX_MODULES)
        bits = [np.zeros(0, np.bool_)]
        n_free = MAX_PULSES
        for _ in range(n_modules):
            bits.append(self._bits(archive))
            n_free -= len(bits[-1])
            if n_free < 0:
                raise self._cursor.error(f"the mask is over more than {MAX_PULSES} pulses")
        archive.cursor.finish()
        self._n_bits = np.array([len(each) for each in bits[1:]], np.int64)
        self.has_pulse = np.concatenate(bits)
        """For the pulses of the modules that are meant."""
        if np.count_nonzero(self.has_module) != n_modules:
            raise self._cursor.error(
                f"the mask has bits for {n_modules} modules, but means {np.count_nonzero(self.has_module)}"
            )

    def of(self, pulses: PulseSeries) -> PulseSeries:
        """The pulses that are meant.

        Raises:
            InvalidRealtimeMessage: The mask was made for another series.
        """
        if len(self.has_module) != len(pulses.n_pulses) or not np.array_equal(
            self._n_bits, pulses.n_pulses[self.has_module]
        ):
            raise self._cursor.error(
                f"the mask does not fit the pulses of {self.source}: {len(self.has_module)} modules "
                f"with {self._n_bits.sum()} pulses in those it means; there are {len(pulses.n_pulses)} modules"
            )
        has_pulse = np.repeat(self.has_module, pulses.n_pulses)
        has_pulse[has_pulse] = self.has_pulse
        return pulses.selected(self.has_module, has_pulse)

    @staticmethod
    def _bits(archive: Archive) -> NDArray[np.bool_]:
        archive.enter("bitmask")
        cursor = archive.cursor
        n_bytes = cursor.integer(U16, "the size of a mask")
        n_unused = cursor.integer(U8, "the unused bits of a mask")
        content = cursor.take(n_bytes, "a mask")
        if n_unused > 7 or n_unused > 8 * n_bytes:
            raise cursor.error(
                f"{n_unused} of the {8 * n_bytes} bits of a mask are unused; expected less than 8"
            )
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        return bits[: 8 * n_bytes - n_unused].astype(np.bool_)


def read_pulse_map(archive: Archive) -> PulseSeries:
    """Read a series whose pulses are stored as they are.

    Raises:
        InvalidRealtimeMessage: It is damaged, of another version, or of modules with several photomultipliers.
    """
    archive.enter_root(0)
    archive.enter("map<OMKey, vector<I3RecoPulse>>")
    cursor = archive.cursor
    n_modules = cursor.count("modules", n_bytes_each=13, at_most=MAX_MODULES)
    keys, parts = [], [np.zeros(0, _PULSE)]
    for _ in range(n_modules):
        archive.enter("pair<OMKey, vector<I3RecoPulse>>")
        keys.append(read_module_key(archive))
        archive.enter("vector<I3RecoPulse>")
        parts.append(_read_pulses(archive))
    cursor.finish()
    if keys != sorted(set(keys)):
        raise cursor.error("the modules are not in ascending order")
    pulses = np.concatenate(parts)
    strings, oms = np.array(keys, np.int64).reshape(-1, 2).T
    return PulseSeries(
        strings,
        oms,
        np.array([len(part) for part in parts[1:]], np.int64),
        pulses["time_ns"].copy(),
        pulses["charge_pe"].copy(),
        pulses["width_ns"].copy(),
        pulses["flags"].copy(),
    )


def read_module_key(archive: Archive) -> tuple[int, int]:
    """Read the string and the number of a module.

    Raises:
        InvalidRealtimeMessage: It names one of several photomultipliers of a module, which IceCube has not.
    """
    archive.enter("OMKey", 2)
    start = archive.cursor.position
    string = archive.cursor.integer(I32, "a string")
    om = archive.cursor.integer(U32, "the number of a module")
    if photomultiplier := archive.cursor.integer(U8, "the number of a photomultiplier"):
        raise archive.cursor.error(
            f"photomultiplier {photomultiplier} of module {string}-{om}; IceCube's modules have only one",
            start,
        )
    return string, om


def _read_pulses(archive: Archive) -> NDArray[np.void]:
    cursor = archive.cursor
    n = cursor.count("pulses", n_bytes_each=_PULSE.itemsize, at_most=MAX_PULSES)
    if n == 0:
        return np.zeros(0, _PULSE)
    start = cursor.position
    if archive.enter("I3RecoPulse", 3) != 3:
        raise cursor.error("class I3RecoPulse is older than version 3", start)
    # The number of the first pulse has been read already, those of the others are columns.
    cursor.position -= U32.size
    return np.frombuffer(cursor.take(n * _PULSE.itemsize, "pulses"), _PULSE)
