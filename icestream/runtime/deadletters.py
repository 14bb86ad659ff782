"""Messages that could not be processed: kept with the reason, listed, replayed or thrown away by a person."""

import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Self

from nats import errors as nats_errors
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from icestream.errors import BrokerUnavailable, InvalidInput
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.topology import Names

REASON = "Icestream-Reason"
PROBLEM = "Icestream-Problem"
DELIVERIES = "Icestream-Deliveries"
ORIGINAL_SUBJECT = "Icestream-Original-Subject"
ORIGINAL_MESSAGE_ID = "Icestream-Original-Message-Id"
ORIGINAL_SEQUENCE = "Icestream-Original-Sequence"
EVENT_ID = "Icestream-Event-Id"
STORED = "Icestream-Dead-Unix-Ns"
TRACEPARENT = "traceparent"

_MAX_PROBLEM = 1000
_MAX_INT64 = (1 << 63) - 1

_WORD = r"[^.*>\s]+"
_CONSUMED = {
    "router": rf"events\.{_WORD}\.{_WORD}",
    "scan-worker": rf"scans\.work\.{_WORD}\.{_WORD}",
    "recorder": rf"reconstructions\.{_WORD}\.{_WORD}|scans\.log\.{_WORD}\.ended",
}
"""By the service that buries, the subjects of what it can have buried, behind the deployment's prefix."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that a service gave up on."""

    service: str
    reason: str
    """Kind of failure, lower case, for example `invalid_event`."""
    problem: str
    """One sentence for a person."""
    n_deliveries: int
    subject: str
    """Where the message came from, and where a replay sends it; empty where it never was a message."""
    message_id: str
    """The `Nats-Msg-Id` that it came with."""
    event_id: str
    """Empty where the message was too damaged to say."""
    payload: bytes
    """The message as it came."""
    sequence: int = 0
    """Sequence number of the message in its stream."""
    traceparent: str | None = None

    def headers(self, now_unix_ns: int) -> dict[str, str]:
        """Everything but the payload, each fact on one line."""
        headers = {
            REASON: self.reason,
            PROBLEM: " ".join(self.problem.split())[:_MAX_PROBLEM],
            DELIVERIES: str(self.n_deliveries),
            ORIGINAL_SUBJECT: self.subject,
            ORIGINAL_MESSAGE_ID: self.message_id,
            ORIGINAL_SEQUENCE: str(self.sequence),
            EVENT_ID: self.event_id,
            STORED: str(now_unix_ns),
        }
        return headers | ({TRACEPARENT: self.traceparent} if self.traceparent else {})


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter in its stream."""

    sequence: int
    """Number by which it is shown, replayed and purged."""
    stored_unix_ns: int
    letter: DeadLetter

    @classmethod
    def of(cls, message: RawStreamMsg) -> Self:
        """Read a message of the stream; facts that it lacks, or that are none, are empty."""
        headers: Mapping[str, str] = message.headers or {}
        letter = DeadLetter(
            service=(message.subject or "").rpartition(".")[2],
            reason=headers.get(REASON, "unknown"),
            problem=headers.get(PROBLEM, ""),
            n_deliveries=header_number(headers.get(DELIVERIES)),
            subject=headers.get(ORIGINAL_SUBJECT, ""),
            message_id=headers.get(ORIGINAL_MESSAGE_ID, ""),
            event_id=headers.get(EVENT_ID, ""),
            payload=message.data or b"",
            sequence=header_number(headers.get(ORIGINAL_SEQUENCE)),
            traceparent=headers.get(TRACEPARENT),
        )
        return cls(message.seq or 0, header_number(headers.get(STORED)), letter)


def header_number(value: str | None) -> int:
    """A whole number that a database can hold; 0 where it is none."""
    text = (value or "").strip()
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    return number if number <= _MAX_INT64 else 0


class DeadLetterWriter:
    """Puts dead letters into their stream."""

    def __init__(self, publisher: WindowedPublisher, names: Names) -> None:
        self._publisher = publisher
        self._names = names

    async def write(self, letter: DeadLetter) -> None:
        """Store a letter; returns once the broker has it.

        Raises:
            IceStreamError: The broker did not take it.
        """
        # The sequence sets a replayed message's second letter apart from its first.
        message_id = f"{letter.service}/{letter.message_id}/{letter.sequence}/{letter.n_deliveries}"
        stored = await self._publisher.publish(
            self._names.dead_letters(letter.service),
            letter.payload,
            message_id=message_id,
            headers=letter.headers(time.time_ns()),
        )
        await stored


class DeadLetterBox:
    """The dead letters of one deployment, for a person to look at."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._js = connection.client.jetstream(timeout=5.0)
        self._names = names

    async def letters(self) -> AsyncIterator[StoredDeadLetter]:
        """All of them, the oldest first."""
        sequence = 1
        while (message := await self._next_from(sequence)) is not None:
            yield StoredDeadLetter.of(message)
            sequence = (message.seq or sequence) + 1

    async def get(self, sequence: int) -> StoredDeadLetter:
        """One letter.

        Raises:
            InvalidInput: There is none with this number.
            BrokerUnavailable: The broker does not answer.
        """
        message = await self._next_from(sequence)
        if message is None or message.seq != sequence:
            raise InvalidInput(f"there is no dead letter {sequence}; `icestream deadletters list` shows them")
        return StoredDeadLetter.of(message)

    async def replay(self, stored: StoredDeadLetter, publisher: WindowedPublisher) -> None:
        """Send the original message where it came from once more, then forget the letter.

        Whoever writes a letter says in it where the message came from, and it is we who send it there: so only
        where the service that wrote it takes its messages from. Which service that is, the broker vouches for.

        Raises:
            InvalidInput: It never was a message, so there is nowhere to send it; or it cannot have come from
                where it says.
            IceStreamError: The broker did not take it.
        """
        letter = stored.letter
        if not letter.subject:
            raise InvalidInput(
                f"dead letter {stored.sequence} was never published ({letter.problem!r}); mend its source instead"
            )
        if not self._can_come_from(letter.service, letter.subject):
            raise InvalidInput(
                f"dead letter {stored.sequence} says that it came from {letter.subject!r}, but {letter.service!r} "
                "takes no messages from there; look at it with `icestream deadletters show`, then purge it"
            )
        # Its old id may still be known to the stream, which would drop the replay as a duplicate.
        message_id = f"{letter.message_id}/replay-{stored.sequence}"
        await (await publisher.publish(letter.subject, letter.payload, message_id=message_id))
        await self.forget(stored.sequence)

    async def forget(self, sequence: int) -> None:
        """Delete one letter.

        Raises:
            InvalidInput: There is none with this number.
            BrokerUnavailable: The broker does not answer.
        """
        try:
            await self._js.delete_msg(self._names.dead_letter_stream, sequence)
        except (nats_errors.TimeoutError, nats_errors.ConnectionClosedError) as error:
            raise BrokerUnavailable("the broker does not answer for the dead letters") from error
        except APIError as error:
            raise InvalidInput(f"there is no dead letter {sequence}: {error.description}") from error

    def _can_come_from(self, service: str, subject: str) -> bool:
        prefix, consumed = re.escape(self._names.prefix), _CONSUMED.get(service, "(?!)")
        return re.fullmatch(rf"{prefix}\.(?:{consumed})", subject) is not None

    async def _next_from(self, sequence: int) -> RawStreamMsg | None:
        try:
            return await self._js.get_msg(
                self._names.dead_letter_stream,
                seq=sequence,
                subject=self._names.everything_in("deadletter"),
                direct=True,
                next=True,
            )
        except NotFoundError:
            return None
        except (nats_errors.Error, APIError) as error:
            raise BrokerUnavailable(f"the broker does not show the dead letters: {error!r}") from error
