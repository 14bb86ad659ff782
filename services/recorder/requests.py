"""What clients ask, checked."""

import base64
import binascii
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from icestream.errors import InvalidQuery
from icestream.physics.events import EventKind
from icestream.v1 import record_pb2
from services.recorder.selection import Cone, Selection

DEFAULT_PAGE = 50
MAX_PAGE = 5000

_DIGEST_BYTES = 9
_INT64 = range(-(1 << 63), 1 << 63)
# NUL, and halves of surrogate pairs, which JSON can hold and a database cannot.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

PlaceInOrder = tuple[int, str, int, int, int, str, str]
"""Of a row in the order of listing: time, detector, run, event, sub-event, model and version."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    size: int
    after: PlaceInOrder | None
    """The last row before it; None for the first page."""


def selection_of(message: record_pb2.ReconstructionFilter) -> Selection:
    """Read a filter.

    Raises:
        InvalidQuery: It cannot choose anything.
    """
    selection = Selection(
        detector=_text(message.detector, "filter.detector"),
        run_id=message.run_id if message.HasField("run_id") else None,
        start_unix_ns=message.start_unix_ns if message.HasField("start_unix_ns") else None,
        end_unix_ns=message.end_unix_ns if message.HasField("end_unix_ns") else None,
        cone=_cone(message.cone) if message.HasField("cone") else None,
        model=_text(message.model, "filter.model"),
        model_version=_text(message.model_version, "filter.model_version"),
        max_radius90_rad=_number(message, "max_radius90_rad"),
        min_kappa=_number(message, "min_kappa"),
        kinds=frozenset(_kind(number) for number in message.kinds),
    )
    first, last = selection.start_unix_ns, selection.end_unix_ns
    if first is not None and last is not None and first >= last:
        raise InvalidQuery(
            "it is not after start_unix_ns, so that nothing is between", field="filter.end_unix_ns"
        )
    return selection


def page_of(message: record_pb2.ListReconstructionsRequest) -> Page:
    """Read which part of a list is wanted.

    Raises:
        InvalidQuery: The size is negative, or the token was made for another filter.
    """
    if message.page_size < 0:
        raise InvalidQuery(f"a page of {message.page_size} reconstructions", field="page_size")
    size = min(message.page_size or DEFAULT_PAGE, MAX_PAGE)
    return Page(size, _place_of(message.page_token, message.filter) if message.page_token else None)


def page_token(place: PlaceInOrder, question: record_pb2.ReconstructionFilter) -> str:
    """What asks for the page behind a row."""
    text = json.dumps(place, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(_digest(question) + text.encode()).decode()


def checked_name(message: record_pb2.GetReconstructionRequest) -> Selection:
    """Read which event is wanted; the number of the event itself is no part of a selection.

    Raises:
        InvalidQuery: The detector is missing.
    """
    if not message.detector:
        raise InvalidQuery(
            "an event is found by its detector, run and number; set detector", field="detector"
        )
    return Selection(
        detector=_text(message.detector, "detector"),
        run_id=message.run_id,
        model=_text(message.model, "model"),
        model_version=_text(message.model_version, "model_version"),
    )


def _place_of(token: str, question: record_pb2.ReconstructionFilter) -> PlaceInOrder:
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
        digest, place = content[:_DIGEST_BYTES], json.loads(content[_DIGEST_BYTES:])
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidQuery("it is none of ours", field="page_token") from error
    if digest != _digest(question):
        raise InvalidQuery("it belongs to another filter; begin again without a token", field="page_token")
    if not _is_place(place):
        raise InvalidQuery("it is none of ours", field="page_token")
    return tuple(place)


def _is_place(place: Any) -> bool:
    kinds = (int, str, int, int, int, str, str)
    return (
        isinstance(place, list)
        and len(place) == len(kinds)
        and all(type(value) is kind for value, kind in zip(place, kinds, strict=True))
        and all(value in _INT64 for value in place if isinstance(value, int))
        and not any(_UNSTORABLE.search(value) for value in place if isinstance(value, str))
    )


def _digest(question: record_pb2.ReconstructionFilter) -> bytes:
    return hashlib.sha256(question.SerializeToString(deterministic=True)).digest()[:_DIGEST_BYTES]


def _cone(message: record_pb2.Cone) -> Cone:
    centre, radius_rad = message.centre, message.radius_rad
    if not (math.isfinite(centre.ra_rad) and abs(centre.dec_rad) <= math.pi / 2):
        problem = f"RA {centre.ra_rad}, Dec {centre.dec_rad} is no direction; Dec is in [-pi/2, pi/2], in rad"
        raise InvalidQuery(problem, field="filter.cone.centre")
    if not 0 < radius_rad <= math.pi:
        raise InvalidQuery(f"{radius_rad} is not in (0, pi], in rad", field="filter.cone.radius_rad")
    return Cone(centre.ra_rad, centre.dec_rad, radius_rad)


def _text(value: str, field: str) -> str:
    if "\0" in value:
        raise InvalidQuery("names hold no NUL", field=field)
    return value


def _number(message: record_pb2.ReconstructionFilter, field: str) -> float | None:
    if not message.HasField(field):
        return None
    value = float(getattr(message, field))
    if math.isnan(value):
        raise InvalidQuery("NaN is no bound", field=f"filter.{field}")
    return value


def _kind(number: int) -> EventKind:
    try:
        return EventKind(number)
    except ValueError as error:
        raise InvalidQuery(f"{number} is no kind of event", field="filter.kinds") from error
