"""What a neutrino telescope records and what a reconstruction says of it."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from icestream.errors import InvalidEvent, Violation

MAX_PULSES = 200_000
"""A longer event is refused: it is a calibration flash or damage, and would hold up all others."""

HLC = 1
"""Flag bit of a pulse: hard local coincidence (Kaggle: `auxiliary` is false)."""


class EventKind(IntEnum):
    """What a neutrino interaction looks like in the detector."""

    UNKNOWN = 0
    THROUGH_GOING_TRACK = 1
    STARTING_TRACK = 2
    CASCADE = 3


@dataclass(frozen=True, slots=True, order=True)
class EventId:
    """The name of an event within its detector."""

    run_id: int
    event_id: int
    sub_event: int = 0

    def __str__(self) -> str:
        return f"{self.run_id}.{self.event_id}.{self.sub_event}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<run>.<event>` or `<run>.<event>.<sub-event>`.

        Raises:
            ValueError: The text is of another form.
        """
        parts = text.split(".")
        if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts):
            raise ValueError(f"{text!r} is not an event id; write <run>.<event> or <run>.<event>.<sub-event>")
        return cls(*map(int, parts))


@dataclass(frozen=True, slots=True, eq=False)
class Pulses:
    """The pulses of one event, as columns of equal length (n,)."""

    sensor_id: NDArray[np.uint16]
    """Row of the detector table: (string - 1) * 60 + (om - 1) in IceCube."""
    time_ns: NDArray[np.float64]
    """Leading-edge times; only differences within an event carry meaning."""
    charge_pe: NDArray[np.float32]
    """Charges in photo-electrons."""
    flags: NDArray[np.uint8]
    """Bit set, see `HLC`."""

    def __len__(self) -> int:
        return len(self.sensor_id)

    def __getitem__(self, rows: slice) -> Self:
        """Some of the pulses, in place."""
        return type(self)(self.sensor_id[rows], self.time_ns[rows], self.charge_pe[rows], self.flags[rows])

    @property
    def is_hlc(self) -> NDArray[np.bool_]:
        """Which pulses are in hard local coincidence; shape (n,)."""
        return (self.flags & HLC).astype(np.bool_)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of the neutrino from elsewhere: a simulation, or another reconstruction."""

    azimuth_rad: float
    zenith_rad: float
    energy_gev: float | None = None
    kind: EventKind = EventKind.UNKNOWN


@dataclass(frozen=True, slots=True)
class Event:
    """One triggered readout of the detector."""

    id: EventId
    detector: str
    """The name of the detector that the sensor ids belong to."""
    start_unix_ns: int
    """UTC time of the event, which its place in the sky is computed for; 0 where it is not known. Pulse times count
    from here, or from up to a millisecond before, where the event is a part of a longer readout: that is less than
    10^-5 degrees of the sky's rotation."""
    pulses: Pulses
    truth: Truth | None = None
    alert_type: str = ""
    """What kind of alert the online system made of it, for example `HESE`; empty where there was none."""
    is_real: bool = False
    """Whether a detector recorded it; false for simulations, and where it is not known."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Which model answered."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A model's answer for one event."""

    direction: tuple[float, float, float]
    """Unit vector to where the neutrino came from."""
    kappa: float
    """Concentration that the network states; ranks events, is not calibrated."""
    radius50_rad: float
    """Half of the true directions lie within this angle."""
    radius90_rad: float
    """Nine of ten true directions lie within this angle."""
    n_pulses_used: int


@dataclass(frozen=True, slots=True)
class Timings:
    """When one event passed which stage; Unix times in ns, 0 where a stage was not passed."""

    published_unix_ns: int
    received_unix_ns: int
    inferred_unix_ns: int


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The direction of one event, with its uncertainty and its origin."""

    event_id: EventId
    detector: str
    start_unix_ns: int
    n_pulses: int
    """Pulses in the event, of which the model was shown `estimate.n_pulses_used`."""
    truth: Truth | None
    estimate: Estimate
    model: ModelVersion
    timings: Timings
    trace_id: str = ""
    """Hexadecimal; empty where the event is not traced."""


def check_event(event: Event, n_sensors: int) -> None:
    """Refuse an event that no reconstruction could use.

    Args:
        event: Columns of equal length are taken for granted: a `codec` or reader made it.
        n_sensors: Sensor ids must be below it.

    Raises:
        InvalidEvent: It names every rule that is broken.
    """
    pulses = event.pulses
    n = len(pulses)
    if n == 0:
        problem = "the event has no pulses; at least 1 is needed"
        raise InvalidEvent(str(event.id), [Violation("pulses", problem)])
    if n > MAX_PULSES:
        problem = f"{n} pulses; at most {MAX_PULSES} are accepted"
        raise InvalidEvent(str(event.id), [Violation("pulses", problem)])

    violations = []
    if (highest := int(pulses.sensor_id.max())) >= n_sensors:
        problem = f"sensor {highest} is not in detector {event.detector!r}, whose ids are 0..{n_sensors - 1}"
        violations.append(Violation("pulses.sensor_id", problem))
    if not np.isfinite(pulses.time_ns).all():
        violations.append(Violation("pulses.time_ns", "a time is NaN or infinite; times are finite ns"))
    # Written so that NaN fails as well.
    if not (pulses.charge_pe.min() >= 0 and np.isfinite(pulses.charge_pe.max())):
        problem = "a charge is negative, NaN or infinite; charges are finite p.e. of at least 0"
        violations.append(Violation("pulses.charge_pe", problem))
    if violations:
        raise InvalidEvent(str(event.id), violations)
