"""Remembers, in the broker itself, how far each source was published."""

import json
from collections.abc import Collection

import structlog
from nats import errors as nats_errors
from nats.js.errors import APIError, KeyNotFoundError
from nats.js.kv import KeyValue

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.checkpoints import open_checkpoints
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.jetstream.rights import rights_of
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import Names, subject_token
from services.emitter.progress import Checkpoint

_TIMEOUT_S = 5.0

_log = structlog.get_logger()


class Checkpoints:
    """Checkpoints of one source, and what the stream holds behind them."""

    def __init__(
        self, connection: Connection, bucket: KeyValue, names: Names, detector: str, source: str
    ) -> None:
        self._connection = connection
        self._js = connection.client.jetstream(timeout=_TIMEOUT_S)
        self._bucket = bucket
        self._stream = names.events_stream
        self._subject = names.events(detector, source)
        self._key = f"{subject_token(detector)}.{subject_token(source)}"

    @classmethod
    async def open(cls, connection: Connection, names: Names, detector: str, source: str) -> "Checkpoints":
        """Open the bucket of checkpoints; see `open_checkpoints`."""
        bucket = await open_checkpoints(connection, names)
        return cls(connection, bucket, names, detector, source)

    async def load(self, fingerprint: str) -> Checkpoint | None:
        """The last checkpoint of this source; None where there is none, or another source had its name.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        try:
            entry = await self._bucket.get(self._key)
        except KeyNotFoundError:
            return None
        except (nats_errors.Error, APIError) as error:
            raise BrokerUnavailable(f"the broker does not tell the checkpoint: {error!r}") from error
        stored = json.loads(entry.value or b"{}")
        if stored.get("fingerprint") != fingerprint:
            _log.warning("the checkpoint is another source's: starting at the first event", source=self._key)
            return None
        return Checkpoint(stored["position"], stored["sequence"])

    async def save(self, checkpoint: Checkpoint, fingerprint: str) -> None:
        """Store a checkpoint; without a broker it is not stored, which costs a restart a longer look back."""
        content = {
            "fingerprint": fingerprint,
            "position": checkpoint.position,
            "sequence": checkpoint.sequence,
        }
        try:
            await self._bucket.put(self._key, json.dumps(content).encode())
        except (nats_errors.Error, APIError) as error:
            _log.warning("checkpoint not stored", problem=repr(error))

    async def stored_behind(self, checkpoint: Checkpoint) -> Collection[str] | None:
        """Message ids of this source's events that the stream holds behind a checkpoint.

        The stream forgets message ids after its duplicate window; this does not, so that a restart days
        later repeats nothing either.

        Returns:
            None where the broker lets us publish events and not see them. A restart within the duplicate
            window still repeats nothing; a later one repeats what was stored after the last checkpoint.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        if not (await rights_of(self._connection)).may_read(self._stream):
            return None
        messages = stored_messages(
            self._connection, self._subject, first_sequence=checkpoint.sequence + 1, headers_only=True
        )
        return {message.headers.get(MESSAGE_ID_HEADER, "") async for message in messages}

    async def beginning(self) -> Checkpoint:
        """Where a source that was never published starts: nothing of it is stored before this moment.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        try:
            info = await self._js.stream_info(self._stream)
        except (nats_errors.Error, APIError) as error:
            raise BrokerUnavailable(f"the broker does not describe {self._stream}: {error!r}") from error
        return Checkpoint(position=0, sequence=info.state.last_seq)
