"""Events for the router, and a detector small enough to know by heart."""

import numpy as np
from numpy.typing import ArrayLike

from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId, Pulses, Truth
from services.router.reconstruction import PreparedEvent
from tests.support.fake_model import NOT_A_NUMBER_PE, POISON_PE

_POSITIONS_M = np.random.default_rng(1).uniform(-500, 500, (60, 3))
TOY = Detector("toy", _POSITIONS_M, np.ones(60))
DETECTORS = {"toy": TOY}
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def make_event(
    event_id: int = 1,
    *,
    n_pulses: int = 3,
    detector: str = "toy",
    sensor_id: ArrayLike | None = None,
    time_ns: ArrayLike | None = None,
    charge_pe: ArrayLike | None = None,
    truth: Truth | None = None,
) -> Event:
    """An event; what is not given is harmless, and differs from event to event."""
    rows = np.arange(n_pulses)
    pulses = Pulses(
        np.asarray((rows + event_id) % 60 if sensor_id is None else sensor_id, np.uint16),
        np.asarray(10.0 * rows if time_ns is None else time_ns, np.float64),
        np.asarray(np.ones(n_pulses) if charge_pe is None else charge_pe, np.float32),
        np.ones(n_pulses, np.uint8),
    )
    return Event(EventId(1, event_id), detector, 1_000, pulses, truth)


def poison_event(event_id: int = 1) -> Event:
    """The model fails for every batch that holds it."""
    return make_event(event_id, charge_pe=[1.0, POISON_PE, 1.0])


def nan_event(event_id: int = 1) -> Event:
    """The model answers NaN for it."""
    return make_event(event_id, charge_pe=[1.0, NOT_A_NUMBER_PE, 1.0])


def prepare(event: Event, traceparent: str | None = None) -> PreparedEvent:
    """The event as the model wants to see it."""
    return PreparedEvent.prepare(event, DETECTORS, traceparent)
