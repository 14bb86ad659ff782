"""Remembers, in the broker itself, how far each source was published."""

import json
from collections.abc import Collection

import structlog
from nats import errors as nats_errors
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import APIError, BucketNotFoundError, KeyNotFoundError
from nats.js.kv import KeyValue

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
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
        """Open the bucket, and make it where there is none.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        js = connection.client.jetstream(timeout=_TIMEOUT_S)
        name = f"{names.prefix}-emitter"
        try:
            bucket = await _bucket(js, name)
        except (nats_errors.Error, APIError) as error:
            raise BrokerUnavailable(f"the broker does not open the bucket {name}: {error!r}") from error
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

    async def stored_behind(self, checkpoint: Checkpoint) -> Collection[str]:
        """Message ids of this source's events that the stream holds behind a checkpoint.

        The stream forgets message ids after its duplicate window; this does not, so that a restart days
        later repeats nothing either.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
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


async def _bucket(js: JetStreamContext, name: str) -> KeyValue:
    try:
        return await js.key_value(name)
    except BucketNotFoundError:
        return await js.create_key_value(KeyValueConfig(bucket=name, history=1, storage=StorageType.FILE))
