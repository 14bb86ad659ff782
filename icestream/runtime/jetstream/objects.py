"""Payloads too large for a message, in JetStream's object store under the SHA-256 of their bytes.

The layout is the object store's own (NATS ADR-20), so `nats object get` reads what is put here.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Self

from nats import errors as nats_errors
from nats.js import JetStreamContext
from nats.js.api import Header, ObjectInfo, ObjectMetaOptions, StorageType
from nats.js.errors import APIError, BucketNotFoundError, NotFoundError

from icestream.errors import BrokerUnavailable, UndecodableMessage
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.refusals import NAME_IN_USE, refused_request
from icestream.runtime.jetstream.rights import Rights, rights_of
from icestream.runtime.jetstream.topology import DAY_S, GIB, MIB, wait_for_stream

MAX_OBJECT_BYTES = 256 * MIB
_CHUNK_BYTES = 128 << 10
_REQUEST_TIMEOUT_S = 5.0


class PulseObjects:
    """A bucket of immutable byte strings; the name of each is the SHA-256 of its bytes."""

    def __init__(
        self,
        connection: Connection,
        rights: Rights,
        *,
        bucket: str,
        max_age_s: float,
        from_domain: str | None,
    ) -> None:
        self._client = connection.client
        self._js = _jetstream(connection)
        self._rights = rights
        self._bucket = bucket
        self._stream = f"OBJ_{bucket}"
        self._max_age_s = max_age_s
        self._from_domain = from_domain

    @classmethod
    async def open(
        cls,
        connection: Connection,
        bucket: str,
        *,
        max_age_s: float = 4 * DAY_S,
        max_bytes: int = GIB,
        n_replicas: int = 1,
        from_domain: str | None = None,
    ) -> Self:
        """Open the bucket, and make it where there is none; who may not make it waits for whoever may.

        Args:
            connection: To the broker.
            bucket: Its name.
            max_age_s: For how long objects are kept; twice as long as the messages that refer to them,
                because an object that exists is not put again in the first half of its life.
            max_bytes: How much the bucket holds.
            n_replicas: On how many servers.
            from_domain: JetStream domain whose objects are brought here, too; they may come after the messages
                that refer to them.

        Raises:
            BrokerUnavailable: The broker does not answer, or nobody makes the bucket.
            Misconfigured: It does not take these settings.
        """
        js, rights = _jetstream(connection), await rights_of(connection)
        async with _translated(f"object bucket {bucket}"):
            try:
                await js.object_store(bucket)
            except (BucketNotFoundError, NotFoundError):
                if rights.may_create_stream(f"OBJ_{bucket}"):
                    await _create(js, bucket, max_age_s=max_age_s, max_bytes=max_bytes, n_replicas=n_replicas)
                else:
                    await wait_for_stream(connection, f"OBJ_{bucket}")
        return cls(connection, rights, bucket=bucket, max_age_s=max_age_s, from_domain=from_domain)

    async def put(self, payload: bytes) -> str:
        """Store the bytes; putting the same bytes again costs one look-up, or another copy where we may not look.

        Returns:
            The name to get them by: their SHA-256 in hexadecimal.

        Raises:
            BrokerUnavailable: The broker does not answer.
            StreamFull: The bucket has no room.
        """
        name = hashlib.sha256(payload).hexdigest()
        async with _translated(f"object {name}"):
            known = await self._known(name)
            if known is None or known.size != len(payload) or _age_s(known) >= self._max_age_s / 2:
                await self._store(name, payload)
                if known is not None:
                    await self._drop_chunks(known.nuid)
        return name

    async def _store(self, name: str, payload: bytes) -> None:
        # Not the client library's `put`: it purges what is superseded, right or no right.
        nuid = self._client._nuid.next().decode()
        chunks = [payload[start : start + _CHUNK_BYTES] for start in range(0, len(payload), _CHUNK_BYTES)]
        info = ObjectInfo(
            name=name,
            bucket=self._bucket,
            nuid=nuid,
            size=len(payload),
            chunks=len(chunks),
            digest=f"SHA-256={base64.urlsafe_b64encode(hashlib.sha256(payload).digest()).decode()}",
            mtime=datetime.now(UTC).isoformat(),
            options=ObjectMetaOptions(max_chunk_size=_CHUNK_BYTES),
        )
        try:
            for chunk in chunks:
                await self._js.publish(self._chunks_subject(nuid), chunk)
            await self._js.publish(
                self._info_subject(name), json.dumps(info.as_dict()).encode(), headers={Header.ROLLUP: "sub"}
            )
        except (TimeoutError, nats_errors.Error, APIError):
            await self._drop_chunks(nuid)
            raise

    async def _drop_chunks(self, nuid: str) -> None:
        """Forget chunks that nothing refers to; whoever may not leaves them to expire."""
        if self._rights.may_purge_stream(self._stream):
            await self._js.purge_stream(self._stream, subject=self._chunks_subject(nuid))

    async def get(self, name: str) -> bytes:
        """The bytes of this name.

        Raises:
            UndecodableMessage: There is no such object (any more), or it is damaged or too large.
            BrokerUnavailable: The broker does not answer, or the object may still be on its way here.
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
            if self._from_domain is not None:
                raise BrokerUnavailable(
                    f"object {name} has not come from the domain {self._from_domain}; it may be on its way"
                ) from error
            raise UndecodableMessage(f"there is no object {name}; it may have expired") from error

    async def _read(self, name: str) -> bytes:
        info = await self._info(name)
        if (info.size or 0) > MAX_OBJECT_BYTES:
            raise UndecodableMessage(f"object {name} has {info.size} bytes; the limit is {MAX_OBJECT_BYTES}")
        # Chunk by chunk, because the client library's own `get` waits for ever for a broker that restarts
        # and copies everything for each chunk.
        subject, sequence, chunks = self._chunks_subject(info.nuid), 1, list[bytes]()
        for _ in range(info.chunks or 0):
            chunk = await self._js.get_msg(
                self._stream, seq=sequence, subject=subject, direct=True, next=True
            )
            chunks.append(chunk.data or b"")
            sequence = (chunk.seq or 0) + 1
        return b"".join(chunks)

    async def _info(self, name: str) -> ObjectInfo:
        # By its subject: a right to this lets nobody read chunks.
        message = await self._js.get_msg(self._stream, subject=self._info_subject(name), direct=True)
        try:
            info: ObjectInfo = ObjectInfo.from_response(json.loads(message.data or b""))
        except (ValueError, TypeError) as error:
            raise UndecodableMessage(f"object {name} has unreadable metadata") from error
        if info.deleted:
            raise NotFoundError
        return info

    async def _known(self, name: str) -> ObjectInfo | None:
        if not self._rights.may_see_newest(self._stream, self._info_subject(name)):
            return None
        try:
            return await self._info(name)
        except (NotFoundError, UndecodableMessage):
            return None

    def _chunks_subject(self, nuid: str) -> str:
        return f"$O.{self._bucket}.C.{nuid}"

    def _info_subject(self, name: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _jetstream(connection: Connection) -> JetStreamContext:
    return connection.client.jetstream(timeout=_REQUEST_TIMEOUT_S)


async def _create(
    js: JetStreamContext, bucket: str, *, max_age_s: float, max_bytes: int, n_replicas: int
) -> None:
    try:
        await js.create_object_store(
            bucket, ttl=max_age_s, max_bytes=max_bytes, replicas=n_replicas, storage=StorageType.FILE
        )
    except APIError as error:
        if error.err_code != NAME_IN_USE:
            raise


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
