"""Reads what a stream holds, in order and without a durable consumer."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.connection import Connection

_ANSWER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of a stream."""

    subject: str
    payload: bytes
    headers: dict[str, str]
    sequence: int
    stored_unix_ns: int


async def stored_messages(
    connection: Connection, subject: str, *, first_sequence: int = 1, headers_only: bool = False
) -> AsyncGenerator[StoredMessage, None]:
    """Read everything that is stored under a subject right now.

    Args:
        connection: To the broker.
        subject: May have wildcards.
        first_sequence: Start at this sequence number of the stream.
        headers_only: Leave the payloads where they are.

    Raises:
        BrokerUnavailable: The broker does not answer, or has no such stream.
    """
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=max(first_sequence, 1),
        headers_only=headers_only or None,
    )
    js = connection.client.jetstream(timeout=_ANSWER_TIMEOUT_S)
    try:
        subscription = await js.subscribe(subject, ordered_consumer=True, config=config)
        try:
            info = await subscription.consumer_info()
            # What was delivered before the answer came counts as well.
            n_left = (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)
            while n_left > 0:
                message = await subscription.next_msg(_ANSWER_TIMEOUT_S)
                n_left = message.metadata.num_pending
                yield stored_message(message)
        finally:
            await subscription.unsubscribe()
    except (nats_errors.Error, APIError) as error:
        raise BrokerUnavailable(f"the broker does not show what is stored of {subject}: {error!r}") from error


async def new_messages(connection: Connection, subject: str) -> AsyncGenerator[StoredMessage, None]:
    """Read what is stored under a subject from now on, for ever.

    Raises:
        BrokerUnavailable: The broker does not answer, or has no such stream.
    """
    js = connection.client.jetstream(timeout=_ANSWER_TIMEOUT_S)
    config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
    try:
        subscription = await js.subscribe(subject, ordered_consumer=True, config=config)
    except (nats_errors.Error, APIError) as error:
        raise BrokerUnavailable(f"the broker does not show what comes on {subject}: {error!r}") from error
    try:
        async for message in subscription.messages:
            yield stored_message(message)
    finally:
        await subscription.unsubscribe()


def stored_message(message: Msg) -> StoredMessage:
    """A message as a consumer without acknowledgements delivers it."""
    return StoredMessage(
        subject=message.subject,
        payload=message.data,
        headers=message.headers or {},
        sequence=message.metadata.sequence.stream,
        stored_unix_ns=_stored_unix_ns(message.reply),
    )


def _stored_unix_ns(reply: str) -> int:
    """`$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<left>`, or two tokens more."""
    tokens = reply.split(".")
    # The client library's own rounds to what a float holds: microseconds.
    return int(tokens[7 if len(tokens) == 9 else 9])
