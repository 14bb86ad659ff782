"""Dead letters as rows of their table.

Nothing here fails: a dead letter that could not be recorded would have to become a dead letter, which could not be
recorded either. What a header lacks is empty, and what is too long is cut.
"""

import hashlib
from collections.abc import Mapping

from icestream.runtime.deadletters import (
    DELIVERIES,
    EVENT_ID,
    ORIGINAL_MESSAGE_ID,
    ORIGINAL_SEQUENCE,
    ORIGINAL_SUBJECT,
    PROBLEM,
    REASON,
    STORED,
    header_number,
)
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.tracing import TRACEPARENT, is_sampled, span_context
from services.recorder.reconstruction_rows import MAX_NAME, Row, day_of

_MAX_TEXT = 1000


def dead_letter_row(
    subject: str,
    headers: Mapping[str, str],
    *,
    sequence: int,
    stored_unix_ns: int,
    recorded_unix_ns: int,
) -> Row:
    """The row of a dead letter; the same for the same message, apart from the time of recording.

    Args:
        subject: Its last token is the service that gave up.
        headers: What is known of it; the payload stays in the stream.
        sequence: Of the message in its stream.
        stored_unix_ns: When the broker stored it; stands in where the header does not say when it died.
        recorded_unix_ns: Now.
    """
    dead_unix_ns = header_number(headers.get(STORED)) or stored_unix_ns
    traceparent = headers.get(TRACEPARENT)
    context = span_context(traceparent) if traceparent and is_sampled(traceparent) else None
    return {
        "letter_id": _letter_id(headers.get(MESSAGE_ID_HEADER) or f"#{sequence}/{stored_unix_ns}"),
        "dead_day": day_of(dead_unix_ns),
        "dead_unix_ns": dead_unix_ns,
        "service": _text(subject.rpartition(".")[2], MAX_NAME),
        "reason": _text(headers.get(REASON) or "unknown", MAX_NAME),
        "problem": _text(headers.get(PROBLEM)),
        "n_deliveries": header_number(headers.get(DELIVERIES)),
        "event_name": _text(headers.get(EVENT_ID)),
        "original_subject": _text(headers.get(ORIGINAL_SUBJECT)),
        "original_message_id": _text(headers.get(ORIGINAL_MESSAGE_ID)),
        "original_sequence": header_number(headers.get(ORIGINAL_SEQUENCE)),
        "trace_id": f"{context.trace_id:032x}" if context else "",
        "stream_sequence": sequence,
        "recorded_unix_ns": recorded_unix_ns,
    }


def _letter_id(message_id: str) -> str:
    """The message id, or its checksum where an index could not hold it."""
    if len(message_id) <= MAX_NAME and _storable(message_id) == message_id:
        return message_id
    return hashlib.sha256(message_id.encode("utf-8", "replace")).hexdigest()


def _text(value: str | None, limit: int = _MAX_TEXT) -> str:
    return _storable((value or "")[:limit])


def _storable(text: str) -> str:
    """The text without what a database refuses: NUL, and half surrogate pairs."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")
