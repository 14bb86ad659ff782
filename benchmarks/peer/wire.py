"""Events as JSON: pulses as lists of sensor id, time, charge and whether the pulse is HLC."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from icestream.physics.events import HLC, Event, Pulses

_CHARGE_DIGITS = 3
"""Charges are multiples of 0.025 p.e.; as doubles their float32 values would take 17 digits."""


def encode_events(events: Iterable[Event]) -> str:
    """One item of the queue."""
    return json.dumps([{"event_id": str(event.id), "pulses": _rows(event.pulses)} for event in events])


def pulses_of(event: Mapping[str, Any]) -> Pulses:
    """The pulses of one event of a request."""
    table = np.array(event["pulses"], np.float64)
    return Pulses(
        sensor_id=table[:, 0].astype(np.uint16),
        time_ns=table[:, 1],
        charge_pe=table[:, 2].astype(np.float32),
        flags=table[:, 3].astype(np.uint8) * np.uint8(HLC),
    )


def _rows(pulses: Pulses) -> list[tuple[int, float, float, int]]:
    charges = pulses.charge_pe.astype(np.float64).round(_CHARGE_DIGITS)
    columns = (pulses.sensor_id, pulses.time_ns, charges, pulses.flags & HLC)
    return list(zip(*(column.tolist() for column in columns), strict=True))
