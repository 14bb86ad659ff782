"""Payloads too large for a message, in JetStream's object store under the SHA-256 of their bytes.

The layout is the object store's own (NATS ADR-20), so `nats object get` reads what is put here.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Self

from nats import errors as nats_errors
from nats.js import JetStreamContext
from nats.js.api import ObjectInfo, StorageType
from nats.js.errors import APIError, BadObjectMetaError, BucketNotFoundError, NotFoundError
from nats.js.object_store import ObjectStore

from icestream.errors import BrokerUnavailable, UndecodableMessage
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.refusals import NAME_IN_USE, refused_request
from icestream.runtime.jetstream.topology import DAY_S, GIB, MIB

MAX_OBJECT_BYTES = 256 * MIB
_REQUEST_TIMEOUT_S = 5.0


class PulseObjects:
    """A bucket of immutable byte strings; the name of each is the SHA-256 of its bytes."""

    def __init__(self, js: JetStreamContext, store: ObjectStore, *, bucket: str, max_age_s: float) -> None:
        self._js = js
        self._store = store
        self._bucket = bucket
        self._max_age_s = max_age_s

    @classmethod
    async def open(
        cls,
        connection: Connection,
        bucket: str,
        *,
        max_age_s: float = 4 * DAY_S,
        max_bytes: int = GIB,
        n_replicas: int = 1,
    ) -> Self:
        """Open the bucket, and make it where there is none.

        Args:
            connection: To the broker.
            bucket: Its name.
            max_age_s: For how long objects are kept; twice as long as the messages that refer to them,
                because an object that exists is not put again in the first half of its life.
            max_bytes: How much the bucket holds.
            n_replicas: On how many servers.

        Raises:
            BrokerUnavailable: The broker does not answer.
            Misconfigured: It does not take these settings.
        """
        js = connection.client.jetstream(timeout=_REQUEST_TIMEOUT_S)
        async with _translated(f"object bucket {bucket}"):
            try:
                store = await js.object_store(bucket)
            except (BucketNotFoundError, NotFoundError):
                store = await _create(
                    js, bucket, max_age_s=max_age_s, max_bytes=max_bytes, n_replicas=n_replicas
                )
        return cls(js, store, bucket=bucket, max_age_s=max_age_s)

    async def put(self, payload: bytes) -> str:
        """Store the bytes; putting the same bytes again costs one look-up.

        Returns:
            The name to get them by: their SHA-256 in hexadecimal.

        Raises:
            BrokerUnavailable: The broker does not answer.
            StreamFull: The bucket has no room.
        """
        name = hashlib.sha256(payload).hexdigest()
        async with _translated(f"object {name}"):
            if not await self._is_there_for_long(name, len(payload)):
                await self._store.put(name, payload)
        return name

    async def get(self, name: str) -> bytes:
        """The bytes of this name.

        Raises:
            UndecodableMessage: There is no such object (any more), or it is damaged or too large.
            BrokerUnavailable: The broker does not answer.
        """
        async with _translated(f"object {name}"):
            try:
                payload = await self._read(name)
            except NotFoundError:
                # Somebody put the object again while we read the chunks of the copy before.
                payload = await self._read_again(name)
        if hashlib.sha256(payload).hexdigest() != name:
            raise UndecodableMessage(f"object {name} is damaged: its bytes have another SHA-256")
        return payload

    async def _read_again(self, name: str) -> bytes:
        try:
            return await self._read(name)
        except NotFoundError as error:
            raise UndecodableMessage(f"there is no object {name}; it may have expired") from error

    async def _read(self, name: str) -> bytes:
        info = await self._info(name)
        if (info.size or 0) > MAX_OBJECT_BYTES:
            raise UndecodableMessage(f"object {name} has {info.size} bytes; the limit is {MAX_OBJECT_BYTES}")
        # Chunk by chunk, because the client library's own `get` waits for ever for a broker that restarts
        # and copies everything for each chunk.
        subject, sequence, chunks = f"$O.{self._bucket}.C.{info.nuid}", 1, list[bytes]()
        for _ in range(info.chunks or 0):
            chunk = await self._js.get_msg(
                f"OBJ_{self._bucket}", seq=sequence, subject=subject, direct=True, next=True
            )
            chunks.append(chunk.data or b"")
            sequence = (chunk.seq or 0) + 1
        return b"".join(chunks)

    async def _info(self, name: str) -> ObjectInfo:
        try:
            return await self._store.get_info(name)
        except BadObjectMetaError as error:
            raise UndecodableMessage(f"object {name} has unreadable metadata") from error

    async def _is_there_for_long(self, name: str, n_bytes: int) -> bool:
        try:
            info = await self._info(name)
        except (NotFoundError, UndecodableMessage):
            return False
        return info.size == n_bytes and _age_s(info) < self._max_age_s / 2


async def _create(
    js: JetStreamContext, bucket: str, *, max_age_s: float, max_bytes: int, n_replicas: int
) -> ObjectStore:
    try:
        return await js.create_object_store(
            bucket, ttl=max_age_s, max_bytes=max_bytes, replicas=n_replicas, storage=StorageType.FILE
        )
    except APIError as error:
        if error.err_code != NAME_IN_USE:
            raise
        return await js.object_store(bucket)


def _age_s(info: ObjectInfo) -> float:
    if not info.mtime:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(info.mtime)).total_seconds()


@asynccontextmanager
async def _translated(what: str) -> AsyncIterator[None]:
    """Let only failures of ours out."""
    try:
        yield
    except (TimeoutError, nats_errors.TimeoutError, nats_errors.NoRespondersError) as error:
        raise BrokerUnavailable(f"the broker does not answer for {what}") from error
    except APIError as error:
        failure = refused_request(error, what=what)
        raise failure from error
    except nats_errors.Error as error:
        raise BrokerUnavailable(f"the broker does not answer for {what}: {error!r}") from error
