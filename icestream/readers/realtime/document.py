"""The outer part of a realtime message: a JSON document, or a pickle of one, around packed frames."""

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from typing import Any

from icestream.readers.realtime.cursor import Place
from icestream.readers.realtime.frames import MAGIC, Frame, read_frame
from icestream.readers.realtime.pickles import lift_bytes, read_plain_pickle

MAX_MESSAGE_BYTES = 16 << 20
"""Real messages have 0.1 to 0.5 MB."""
MAX_FRAMES = 100
"""Real messages have 5."""
MAX_UNPACKED_BYTES = 16 << 20
"""Of all frames of a message together; real ones have up to 0.8 MB."""

_MAX_JSON_VALUES = 100_000
_PICKLE_PROTOCOL = b"\x80"


@dataclass(frozen=True, slots=True)
class PackedFrame:
    """A frame as it stands in the document."""

    name: str
    """What the document calls it, which should be its letter."""
    base64: str


@dataclass(frozen=True, slots=True)
class Document:
    """What is in a message before its frames are unpacked."""

    place: Place
    version: str | None
    """Of the format; None in messages of before there were versions."""
    packed_frames: tuple[PackedFrame, ...]
    figures: dict[str, Any]
    """What stands beside the frames; empty in old messages."""


def read_document(data: bytes, place: Place) -> Document:
    """Find the parts of a message.

    Raises:
        InvalidRealtimeMessage: It is neither JSON nor a pickle of plain data, or lacks a part.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise place.error(f"the message has more than {MAX_MESSAGE_BYTES} bytes, which no real one has")
    is_pickle = data.startswith(_PICKLE_PROTOCOL)
    content = read_plain_pickle(data, place) if is_pickle else read_json(data, place)
    value = _part(content, "value", place)
    body = _part(value, "data", place)
    figures: dict[str, Any] = {}
    if isinstance(body, dict):
        figures = {key: part for key, part in body.items() if key != "frames"}
        body = _part(body, "frames", place, inside="value.data")
    version = value.get("version")
    if version is not None and not isinstance(version, str):
        raise place.error("value.version is not text; expected for example '2023a'")
    return Document(place, version, _packed_frames(body, place), figures)


def read_json(data: bytes, place: Place, start: int | None = None) -> object:
    """Read a JSON document of bounded size.

    Args:
        data: The document.
        place: For error messages.
        start: Where the document begins in what `place` counts bytes of; None where problems have no place of
            their own there.

    Raises:
        InvalidRealtimeMessage: It is not JSON, or holds so many or so deeply nested values as no real one does.
    """
    # A value takes 30 times the memory of its text, so that they are counted before there are any.
    if sum(map(data.count, (b"[", b"{", b","))) > _MAX_JSON_VALUES:
        raise place.error(f"the JSON document has more than {_MAX_JSON_VALUES} values", start)
    try:
        content: object = json.loads(data)
    except json.JSONDecodeError as error:
        offset = error.pos if start is None else start
        raise place.error(f"this is no JSON document: {error.msg}", offset) from error
    except (ValueError, RecursionError) as error:
        raise place.error(f"this is no JSON document of ours: {error}", start) from error
    return content


def unpack_frames(document: Document) -> tuple[Frame, ...]:
    """Unpack and check all frames of a message.

    Raises:
        InvalidRealtimeMessage: One is damaged, or all together are larger than any real ones.
    """
    frames = []
    n_left = MAX_UNPACKED_BYTES
    for packed in document.packed_frames:
        place = document.place.inside(frame=packed.name)
        pickled = _inflated(packed.base64, n_left, place)
        n_left -= len(pickled)
        data, _ = lift_bytes(pickled, MAGIC, place)
        frames.append(read_frame(data, place))
    return tuple(frames)


def _part(content: object, key: str, place: Place, inside: str = "") -> Any:
    if not isinstance(content, dict) or key not in content:
        where = inside or ("value" if key == "data" else "the document")
        raise place.error(
            f"{where} has no {key!r}; a realtime message has its frames at value.data or value.data.frames"
        )
    return content[key]


def _packed_frames(body: object, place: Place) -> tuple[PackedFrame, ...]:
    if not isinstance(body, list) or not 0 < len(body) <= MAX_FRAMES:
        raise place.error(f"the frames are not a list of 1 to {MAX_FRAMES}")
    frames = []
    for number, pair in enumerate(body, start=1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise place.error(f"frame number {number} is not a pair of a letter and base64 text")
        name, packed = pair
        frames.append(PackedFrame(name if len(name) == 1 and name.isalpha() else f"number {number}", packed))
    return tuple(frames)


def _inflated(packed: str, limit: int, place: Place) -> bytes:
    """Undo base64 and zlib, without ever holding more than the limit."""
    try:
        compressed = base64.b64decode(packed, validate=True)
    except (ValueError, binascii.Error) as error:
        raise place.error(f"the frame is not base64: {error}") from error
    inflater = zlib.decompressobj()
    try:
        # One byte more, so that what is as long as the limit still ends.
        content = inflater.decompress(compressed, limit + 1)
    except zlib.error as error:
        raise place.error(f"the frame is not zlib data: {error}") from error
    if len(content) > limit:
        raise place.error(f"the frames of the message inflate to more than {MAX_UNPACKED_BYTES} bytes")
    if not inflater.eof:
        raise place.error("the frame's zlib data ends too early")
    if inflater.unused_data:
        raise place.error("there is something behind the end of the frame's zlib data")
    return content
