"""Events for the emitter."""

import numpy as np

from icestream.errors import InvalidEvent, Violation
from icestream.physics.events import Event, EventId, Pulses, Truth
from icestream.readers.unreadable import UnreadableEvent


def make_event(event_id: int, *, run_id: int = 1, n_pulses: int = 2) -> Event:
    """An event of the meta row that a Kaggle data set needs."""
    rows = np.arange(n_pulses)
    pulses = Pulses(
        (rows % 5_160).astype(np.uint16),
        rows.astype(np.float64),
        np.ones(n_pulses, np.float32),
        np.ones(n_pulses, np.uint8),
    )
    return Event(EventId(run_id, event_id), "icecube86", 0, pulses, Truth(1.0, 2.0))


def unreadable_event(event_id: int) -> UnreadableEvent:
    """One that a data set names and cannot give."""
    name = EventId(1, event_id)
    return UnreadableEvent(name, InvalidEvent(str(name), [Violation("pulses", "rows outside the file")]))
