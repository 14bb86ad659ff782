"""The logs of all scans: what is read at the start, and what is added."""

from collections.abc import AsyncGenerator, Mapping

from nats import errors as nats_errors
from nats.js.errors import APIError

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.publisher import Ack, WindowedPublisher
from icestream.runtime.jetstream.scan_topology import LogEntry, ScanNames
from icestream.runtime.jetstream.stored import StoredMessage, stored_messages

REQUEST_SHA256 = "Icestream-Request-Sha256"
_TIMEOUT_S = 5.0


class ScanLog:
    """The stream SCANS."""

    def __init__(self, connection: Connection, publisher: WindowedPublisher, names: ScanNames) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = names

    async def last_sequence(self) -> int:
        """Of the newest entry right now.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        try:
            js = self._connection.client.jetstream(timeout=_TIMEOUT_S)
            return (await js.stream_info(self._names.log_stream)).state.last_seq
        except (nats_errors.Error, APIError) as error:
            raise BrokerUnavailable(
                f"the broker says nothing of {self._names.log_stream}: {error!r}"
            ) from error

    async def entries(self, kind: LogEntry, *, until: int) -> AsyncGenerator[StoredMessage, None]:
        """Those of one kind of all scans, up to a sequence number."""
        async for message in self._read(self._names.logs(kind), until=until):
            yield message

    async def of(self, scan_id: str, *, until: int | None = None) -> AsyncGenerator[StoredMessage, None]:
        """Those of one scan, up to a sequence number.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        async for message in self._read(self._names.log_of(scan_id), until=until):
            yield message

    async def append(
        self, scan_id: str, kind: LogEntry, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> Ack:
        """Add one of the entries that a scan has once; adding it again is harmless.

        Raises:
            IceStreamError: The broker did not take it.
        """
        subject, message_id = self._names.log(scan_id, kind), f"{scan_id}/{kind}"
        return await (await self._publisher.publish(subject, payload, message_id=message_id, headers=headers))

    async def _read(self, subject: str, *, until: int | None) -> AsyncGenerator[StoredMessage, None]:
        async for message in stored_messages(self._connection, subject):
            if until is not None and message.sequence > until:
                return
            yield message
