"""I3SuperDST, the compact form in which the South Pole sends all pulses of an event.

Pulses come in readouts: those of one module in a row. A readout has a header of 16 bits (13 bits module, the high
3 bits of its first time) and its pulses are stamps of 16 bits (8 bits time since the pulse before, 6 bits charge, one
bit local coincidence, one bit "last of its readout"). A time or charge with all bits set goes on in further words.
Times are whole ns; the first of a readout counts from the first of the readout before, or from -512 ns. Charges are
steps of 0.05 p.e. in the ice; the 14 bits of a module on its surface are logarithmic, their high ones in a stream of
their own. Widths, as powers of 2 ns, are runs of equal values in four streams.

Source: IceTray, I3SuperDST version 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icestream.readers.realtime.archive import open_archive
from icestream.readers.realtime.cursor import U8, Cursor
from icestream.readers.realtime.frames import FrameObject
from icestream.readers.realtime.pulse_series import MAX_PULSES, PulseSeries

SUPER_DST = "I3SuperDST"
VERSION = 1
FIRST_REFERENCE_NS = -512
CHARGE_STEP_PE = 0.05
LAST_IN_ICE_OM = 60

_HLC_FLAGS, _SLC_FLAGS = 7, 4
_TIME_BITS = 8
_FIRST_TIME_FULL, _TIME_FULL, _CHARGE_FULL = 0x7FF, 0xFF, 0x3F
_GOES_ON = 0xFFFF
_MAX_RUN_NIBBLES = 8
_LARGE_SIZE = 0xFF - 8


@dataclass(slots=True)
class _Streams:
    """What an archive of the class holds."""

    stamps: list[int]
    headers: NDArray[np.uint16]
    widths: list[bytes]
    """Of pulses in the ice without and with local coincidence, and the same on its surface."""
    extra: NDArray[np.uint8]


@dataclass(slots=True)
class _Stamps:
    """Decoded stamps, in the order of the archive."""

    readout: list[int] = field(default_factory=list)
    time_ns: list[int] = field(default_factory=list)
    charge_code: list[int] = field(default_factory=list)
    is_hlc: list[int] = field(default_factory=list)


def read_super_dst(stored: FrameObject) -> PulseSeries:
    """Decode all pulses.

    Raises:
        InvalidRealtimeMessage: The object is damaged or of another version.
    """
    archive = open_archive(stored, SUPER_DST)
    if (version := archive.enter_root(VERSION)) != VERSION:
        raise stored.error(f"class {SUPER_DST} is of version {version}; only {VERSION} is known")
    archive.enter("CompactVector<ChargeStamp>")
    archive.enter("SizeCodec")
    stamps = _words(archive.cursor, "charge stamps")
    archive.enter("CompactVector<DOMHeader>")
    headers = _words(archive.cursor, "headers")
    archive.enter("CompactVector<uint8_t>")
    widths = [_sized(archive.cursor, "widths") for _ in range(4)]
    extra = np.frombuffer(_sized(archive.cursor, "extra bytes"), np.uint8)
    archive.cursor.finish()
    return _pulse_series(_Streams(stamps.tolist(), headers, widths, extra), stored)


def _size(cursor: Cursor, what: str) -> int:
    """A number of items in as few bytes as it needs."""
    tag = cursor.integer(U8, f"the number of {what}")
    if tag < _LARGE_SIZE:
        return tag
    return int.from_bytes(cursor.take(0xFF - tag, f"the number of {what}"), "little")


def _sized(cursor: Cursor, what: str) -> bytes:
    return cursor.take(_size(cursor, what), what)


def _words(cursor: Cursor, what: str) -> NDArray[np.uint16]:
    if (n := _size(cursor, what)) > MAX_PULSES:
        raise cursor.error(f"there are {n} {what}; at most {MAX_PULSES} are read")
    return np.frombuffer(cursor.take(2 * n, what), "<u2")


def _pulse_series(streams: _Streams, stored: FrameObject) -> PulseSeries:
    string = (streams.headers >> 6 & 0x7F).astype(np.int64)
    om = (streams.headers & 0x3F).astype(np.int64) + 1
    stamps = _decoded_stamps(streams, (om > LAST_IN_ICE_OM).tolist(), stored)
    readout = np.array(stamps.readout, np.int64)
    is_on_top = om[readout] > LAST_IN_ICE_OM
    is_hlc = np.array(stamps.is_hlc, np.bool_)
    charge_pe = _charges_pe(np.array(stamps.charge_code, np.int64), is_on_top, streams.extra, stored)
    width_ns = _widths_ns(streams.widths, 2 * is_on_top + is_hlc, stored)
    time_ns = np.array(stamps.time_ns, np.float64)

    order = np.lexsort((time_ns, om[readout], string[readout]))
    keys, first = np.unique((string * 64 + om - 1)[readout[order]], return_index=True)
    n_pulses = np.diff(np.append(first, len(order)))
    time_ns, width_ns = time_ns[order], width_ns[order]
    _make_disjoint(time_ns, width_ns, first, n_pulses)
    flags = np.where(is_hlc[order], np.uint8(_HLC_FLAGS), np.uint8(_SLC_FLAGS))
    return PulseSeries(keys >> 6, (keys & 0x3F) + 1, n_pulses, time_ns, charge_pe[order], width_ns, flags)


def _decoded_stamps(streams: _Streams, is_on_top: list[bool], stored: FrameObject) -> _Stamps:
    """Follow the stamps of one readout after the other."""
    decoded = _Stamps()
    words = iter(streams.stamps)
    reference_ns = FIRST_REFERENCE_NS
    try:
        for readout, header in enumerate(streams.headers.tolist()):
            full, slop, time_ns = _FIRST_TIME_FULL, header >> 13 << _TIME_BITS, reference_ns
            is_last = False
            while not is_last:
                word = next(words)
                step_ns, charge = word & 0xFF | slop, word >> 8 & 0x3F
                is_last = word >> 15 == 1
                if step_ns == full:
                    step_ns += _overflow(words)
                if charge == _CHARGE_FULL and not is_on_top[readout]:
                    charge += _overflow(words)
                time_ns += step_ns
                if full == _FIRST_TIME_FULL:
                    reference_ns, full, slop = time_ns, _TIME_FULL, 0
                decoded.readout.append(readout)
                decoded.time_ns.append(time_ns)
                decoded.charge_code.append(charge)
                decoded.is_hlc.append(word >> 14 & 1)
    except StopIteration:
        raise stored.error("the charge stamps end within a readout") from None
    if (n_left := len(list(words))) > 0:
        raise stored.error(f"{n_left} charge stamps belong to no readout")
    return decoded


def _overflow(words: Iterator[int]) -> int:
    """What a full time or charge goes on with."""
    total = word = next(words)
    while word == _GOES_ON:
        word = next(words)
        total += word
    return total


def _charges_pe(
    codes: NDArray[np.int64], is_on_top: NDArray[np.bool_], extra: NDArray[np.uint8], stored: FrameObject
) -> NDArray[np.float32]:
    if (n_on_top := np.count_nonzero(is_on_top)) != len(extra):
        raise stored.error(
            f"{len(extra)} extra bytes; expected one for each of the {n_on_top} surface pulses"
        )
    # A code stands for the middle of its bin.
    charges = codes * CHARGE_STEP_PE + CHARGE_STEP_PE / 2
    logarithmic = codes[is_on_top] | extra.astype(np.int64) << 6
    charges[is_on_top] = 10 ** (logarithmic * (9 / (2**14 - 1)) - 2)
    return charges.astype(np.float32)


def _widths_ns(runs: list[bytes], stream: NDArray[np.int64], stored: FrameObject) -> NDArray[np.float32]:
    """Widths of the pulses, of which each belongs to one of the four streams."""
    exponents = np.empty(len(stream), np.int64)
    for number, content in enumerate(runs):
        is_in_stream = stream == number
        values, lengths = _runs(content, stored)
        if sum(lengths) != np.count_nonzero(is_in_stream):
            raise stored.error(
                f"{sum(lengths)} widths; expected one for each of {np.count_nonzero(is_in_stream)} pulses"
            )
        exponents[is_in_stream] = np.repeat(np.array(values, np.int64), np.array(lengths, np.int64))
    return np.exp2(exponents).astype(np.float32)


def _runs(content: bytes, stored: FrameObject) -> tuple[list[int], list[int]]:
    """Values and lengths of runs: a byte has the value in its low half, and 4 bits of the length in its high half."""
    values: list[int] = []
    lengths: list[int] = []
    n_nibbles = 0
    for byte in content:
        value, nibble = byte & 0xF, byte >> 4
        if values and values[-1] == value:
            n_nibbles += 1
            lengths[-1] |= nibble << 4 * n_nibbles
        else:
            n_nibbles = 0
            values.append(value)
            lengths.append(nibble)
        if n_nibbles >= _MAX_RUN_NIBBLES:
            raise stored.error("a run of widths is longer than any series of pulses")
    return values, lengths


def _make_disjoint(
    time_ns: NDArray[np.float64],
    width_ns: NDArray[np.float32],
    first: NDArray[np.int64],
    n_pulses: NDArray[np.int64],
) -> None:
    """Cut widths where a module's next pulse begins; pulses of equal times share theirs. In place."""
    if len(time_ns) == 0:
        return
    gap_ns = np.append(np.diff(time_ns), np.inf)
    gap_ns[first + n_pulses - 1] = np.inf
    np.minimum(width_ns, gap_ns, out=width_ns, casting="same_kind")
    for module in np.flatnonzero(np.logical_or.reduceat(width_ns == 0, first)).tolist():
        own = slice(int(first[module]), int(first[module] + n_pulses[module]))
        _share_widths(time_ns[own], width_ns[own])


def _share_widths(time_ns: NDArray[np.float64], width_ns: NDArray[np.float32]) -> None:
    """Let a pulse without width take half of that of the pulse before; the first one that of the second. In place.

    The shape of IceTray's own loop: whether a pulse is without width is decided before any are shared.
    """
    takes = width_ns == 0
    takes[1] |= takes[0]
    for i in range(1, len(width_ns)):
        if takes[i]:
            half = (width_ns[i - 1] or width_ns[i]) / 2
            width_ns[i - 1] = width_ns[i] = half
            time_ns[i] = time_ns[i - 1] + half
