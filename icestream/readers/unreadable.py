"""What a reader says of an event that it cannot read."""

from dataclasses import dataclass

from icestream.errors import InvalidEvent
from icestream.physics.events import EventId


@dataclass(frozen=True, slots=True)
class UnreadableEvent:
    """An event of a data set for which no `Event` can be made; the others are not affected."""

    id: EventId
    error: InvalidEvent
