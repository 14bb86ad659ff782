"""Frames of the `.i3` format: named objects of C++ classes, as bytes.

A frame is `[i3]`, the version 6 as u32, the stream (two bytes of class information and a letter), the number of
objects as u32, then per object its key, its C++ type and its bytes, each behind its length as u32, and at last the
CRC-32C of all this behind the version, without the usual inversions.

Source: IceTray, I3Frame.
"""

from dataclasses import dataclass

import google_crc32c

from icestream.errors import InvalidRealtimeMessage
from icestream.readers.realtime.cursor import U32, Cursor, Place

MAGIC = b"[i3]"
VERSION = 6
MAX_OBJECTS = 10_000
"""A real frame has less than 100."""

_STREAM_CLASS = b"\0\0"
_CRC_BYTES = 4
_ALL_ONES = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, eq=False)
class FrameObject:
    """One object of a frame; its bytes are a portable binary archive, see `archive`."""

    key: str
    cpp_type: str
    """As the frame names it, for example `I3PODHolder<double>`."""
    place: Place
    frame_bytes: bytes
    """Of the whole frame, so that byte offsets in error messages count from its beginning."""
    start: int
    end: int

    @property
    def n_bytes(self) -> int:
        """Size of the object's archive."""
        return self.end - self.start

    def cursor(self) -> Cursor:
        """Read the object from its beginning."""
        return Cursor(self.frame_bytes, self.place, self.start, self.end)

    def error(self, problem: str) -> InvalidRealtimeMessage:
        """The failure to raise about the object as a whole."""
        return self.place.error(problem, self.start)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame whose checksum is right; no other one is made."""

    stream: str
    """One letter: G geometry, C calibration, D detector status, Q readout of the detector, P physics."""
    n_bytes: int
    crc32c: int
    """Stored, and the same as that of the bytes."""
    objects: tuple[FrameObject, ...]

    def get(self, key: str) -> FrameObject | None:
        """The object of this name."""
        return next((each for each in self.objects if each.key == key), None)


def read_frame(data: bytes, place: Place) -> Frame:
    """Check a frame and find its objects, without decoding them.

    Args:
        data: The whole frame.
        place: Its message and, as far as that is known, its letter.

    Raises:
        InvalidRealtimeMessage: It is no frame of version 6, damaged, or has an object twice.
    """
    cursor = Cursor(data, place)
    if cursor.take(len(MAGIC), "the mark of a frame") != MAGIC:
        raise cursor.error(f"this is no frame; expected it to begin with {MAGIC.decode()}", 0)
    if (version := cursor.integer(U32, "the frame's version")) != VERSION:
        raise cursor.error(f"the frame is of version {version}; only {VERSION} is known", len(MAGIC))
    begin = cursor.position
    if cursor.n_left < _CRC_BYTES:
        raise cursor.error("the frame ends before its checksum")
    crc32c = _check_crc(data, begin, place)
    cursor.end -= _CRC_BYTES
    if cursor.take(len(_STREAM_CLASS), "the stream's class") != _STREAM_CLASS:
        raise cursor.error("the frame's stream is of an unknown class", begin)
    letter = cursor.take(1, "the stream's letter").decode("latin-1")
    if not (letter.isascii() and letter.isalpha()):
        raise cursor.error(f"the frame's stream is {letter!r}; expected a letter", cursor.position - 1)
    cursor.place = place.inside(frame=letter)
    n_objects = cursor.integer(U32, "the number of objects")
    if n_objects > MAX_OBJECTS:
        raise cursor.error(f"the frame has {n_objects} objects; at most {MAX_OBJECTS} are read")
    objects = tuple(_read_object(cursor, data) for _ in range(n_objects))
    cursor.finish()
    _refuse_repeated(objects)
    return Frame(letter, len(data), crc32c, objects)


def _check_crc(data: bytes, begin: int, place: Place) -> int:
    """The checksum, which is at the end of the frame."""
    end = len(data) - _CRC_BYTES
    stored: int = U32.unpack_from(data, end)[0]
    # The library inverts the register before and after, which IceTray does not.
    actual = google_crc32c.extend(_ALL_ONES, data[begin:end]) ^ _ALL_ONES
    if actual != stored:
        raise place.error(f"the frame is damaged: its CRC-32C is {actual:08x}; stored is {stored:08x}", end)
    return stored


def _read_object(cursor: Cursor, data: bytes) -> FrameObject:
    key = _name(cursor, "an object's key")
    cpp_type = _name(cursor, f"the type of object {key}")
    place = cursor.place.inside(object_key=key)
    n_bytes = cursor.count(f"bytes of object {key}", n_bytes_each=1)
    start = cursor.skip(n_bytes, f"object {key}")
    return FrameObject(key, cpp_type, place, data, start, cursor.position)


def _name(cursor: Cursor, what: str) -> str:
    start = cursor.position
    name = cursor.text(what)
    # It will be shown to people, whose terminals obey some characters.
    if not name or not name.isprintable():
        raise cursor.error(f"{what} is {name!r}; expected printable text", start)
    return name


def _refuse_repeated(objects: tuple[FrameObject, ...]) -> None:
    keys = set()
    for each in objects:
        if each.key in keys:
            raise each.error("the frame has an object of this name already")
        keys.add(each.key)
