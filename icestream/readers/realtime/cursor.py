"""Reads little-endian numbers out of bytes that may be damaged, and says where they are."""

import struct
from dataclasses import dataclass, replace
from typing import Self

from icestream.errors import InvalidRealtimeMessage

U8 = struct.Struct("<B")
U16 = struct.Struct("<H")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
I16 = struct.Struct("<h")
I32 = struct.Struct("<i")
I64 = struct.Struct("<q")
F64 = struct.Struct("<d")

_ESCAPE = 0xFFFFFFFF
"""A count that does not fit into 32 bits: 64 bits follow."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a message we are, for error messages."""

    source: str
    """The file, or what the caller calls the message."""
    frame: str = ""
    object_key: str = ""

    def inside(self, *, frame: str | None = None, object_key: str = "") -> Self:
        """The same message, further in."""
        return replace(self, frame=self.frame if frame is None else frame, object_key=object_key)

    def error(self, problem: str, offset: int | None = None) -> InvalidRealtimeMessage:
        """The failure to raise about this place."""
        return InvalidRealtimeMessage(
            problem, source=self.source, frame=self.frame, object_key=self.object_key, offset=offset
        )


class Cursor:
    """A position in some bytes, which moves forward as values are read.

    Every read that does not fit raises `InvalidRealtimeMessage` before it takes any memory.
    """

    def __init__(self, data: bytes, place: Place, start: int = 0, end: int | None = None) -> None:
        self.place = place
        self.position = start
        self.end = len(data) if end is None else end
        self._data = data

    @property
    def n_left(self) -> int:
        """Bytes that have not been read."""
        return self.end - self.position

    def error(self, problem: str, offset: int | None = None) -> InvalidRealtimeMessage:
        """The failure to raise about this position, or another one."""
        return self.place.error(problem, self.position if offset is None else offset)

    def skip(self, n_bytes: int, what: str) -> int:
        """Move on and return where the skipped bytes begin."""
        if not 0 <= n_bytes <= self.n_left:
            raise self.error(f"{what} takes {n_bytes} bytes, but {self.n_left} are left")
        start = self.position
        self.position += n_bytes
        return start

    def take(self, n_bytes: int, what: str) -> bytes:
        """The next bytes."""
        start = self.skip(n_bytes, what)
        return self._data[start : self.position]

    def integer(self, layout: struct.Struct, what: str) -> int:
        """The next number, of one of the integer layouts."""
        value: int = layout.unpack_from(self._data, self.skip(layout.size, what))[0]
        return value

    def number(self, what: str) -> float:
        """The next double; it may be NaN."""
        value: float = F64.unpack_from(self._data, self.skip(F64.size, what))[0]
        return value

    def numbers(self, n: int, what: str) -> tuple[float, ...]:
        """The next so many doubles."""
        return tuple(self.number(what) for _ in range(n))

    def boolean(self, what: str) -> bool:
        """The next byte, 0 or 1."""
        value = self.integer(U8, what)
        if value > 1:
            raise self.error(f"{what} is {value}; expected 0 or 1", self.position - 1)
        return value == 1

    def count(self, what: str, *, n_bytes_each: int, at_most: int | None = None) -> int:
        """The next count, of items that each take at least so many of the bytes that are left."""
        start = self.position
        n = self.integer(U32, what)
        if n == _ESCAPE:
            n = self.integer(U64, what)
        if n * n_bytes_each > self.n_left:
            raise self.error(f"{n} {what} do not fit into the {self.n_left} bytes that are left", start)
        if at_most is not None and n > at_most:
            raise self.error(f"there are {n} {what}; at most {at_most} are read", start)
        return n

    def text(self, what: str) -> str:
        """The next string, which is UTF-8."""
        start = self.position
        content = self.take(self.count(f"bytes of {what}", n_bytes_each=1), what)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not text: {error.reason}", start) from error

    def finish(self) -> None:
        """Refuse bytes that nobody read."""
        if self.n_left:
            raise self.error(f"{self.n_left} bytes are left behind the last value; expected none")
