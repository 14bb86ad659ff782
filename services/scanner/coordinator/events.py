"""The event that a scan is of: inside the request, or by its name in the stream."""

from nats import errors as nats_errors
from nats.js.errors import APIError, NotFoundError

from icestream.codec import DetachedEvent, decode_event, decode_pulses, event_from_message
from icestream.errors import BrokerUnavailable, InvalidScan, UnknownEvent
from icestream.physics.events import Event, EventId
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import Names, subject_token
from icestream.v1 import event_pb2

_TIMEOUT_S = 5.0


class StoredEvents:
    """Events of the stream EVENTS, and their pulses where those are in the object store."""

    def __init__(self, connection: Connection, names: Names, pulse_objects: PulseObjects) -> None:
        self._connection = connection
        self._names = names
        self._pulse_objects = pulse_objects

    async def read(self, message: event_pb2.Event) -> Event:
        """The event of a message, with its pulses.

        Raises:
            InvalidEvent: The columns do not fit together.
            UndecodableMessage: The pulses that it refers to are not there, or damaged.
            BrokerUnavailable: The broker does not answer.
        """
        return await self._attached(event_from_message(message))

    async def find(self, name: str) -> Event:
        """The event of a name `<detector>/<run>.<event>.<sub-event>`.

        Raises:
            InvalidScan: The name is of another form.
            UnknownEvent: It is not in the stream.
            BrokerUnavailable: The broker does not answer.
        """
        detector, _, event_id = name.rpartition("/")
        try:
            name = f"{detector}/{EventId.parse(event_id)}"
        except ValueError as error:
            raise InvalidScan(f"{error}, behind <detector>/", field="event_name") from error
        if not detector:
            raise InvalidScan(f"{name!r} lacks the detector; write <detector>/{name}", field="event_name")
        return await self._attached(decode_event(await self._payload(await self._sequence(name, detector))))

    async def _sequence(self, name: str, detector: str) -> int:
        # No index leads from ids to places: 30 000 headers a second are read, so an hour's events take a moment.
        subject = f"{self._names.prefix}.events.{subject_token(detector)}.>"
        async for message in stored_messages(self._connection, subject, headers_only=True):
            message_id = message.headers.get(MESSAGE_ID_HEADER, "")
            # A replayed dead letter has more behind the name.
            if message_id == name or message_id.startswith(f"{name}/"):
                return message.sequence
        raise UnknownEvent(name, self._names.events_stream)

    async def _payload(self, sequence: int) -> bytes:
        js = self._connection.client.jetstream(timeout=_TIMEOUT_S)
        try:
            message = await js.get_msg(self._names.events_stream, seq=sequence, direct=True)
        except NotFoundError as error:
            raise UnknownEvent(f"number {sequence}", self._names.events_stream) from error
        except (nats_errors.Error, APIError) as error:
            raise BrokerUnavailable(f"the broker does not hand out an event: {error!r}") from error
        return message.data or b""

    async def _attached(self, event: Event | DetachedEvent) -> Event:
        if not isinstance(event, DetachedEvent):
            return event
        stored = await self._pulse_objects.get(event.reference.sha256)
        return event.attach(decode_pulses(stored, event.event.id))
