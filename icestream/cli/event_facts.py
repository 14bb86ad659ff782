"""What there is to say of an event: its name and time, its pulses, and where others saw it come from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icestream.cli.scan_event import DatasetEvent
from icestream.physics import celestial
from icestream.physics.cleaning import clean, connected_pulses, pulses_in_window, taken
from icestream.physics.detector import Detector
from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.events import Event, Pulses, check_event
from icestream.readers.realtime import RealtimeEvent, StoredReconstruction

FloatArray = NDArray[np.float64]

GIVEN, TRUTH = "--direction", "truth"
"""Names of directions that no message holds."""


@dataclass(frozen=True, slots=True)
class PulseCounts:
    """Some of an event's pulses in numbers; times are None where there are no pulses."""

    n_modules: int
    n_pulses: int
    n_hlc: int
    charge_pe: float
    first_ns: float | None
    last_ns: float | None

    @classmethod
    def of(cls, pulses: Pulses) -> "PulseCounts":
        """Count."""
        times_ns = pulses.time_ns
        return cls(
            n_modules=len(np.unique(pulses.sensor_id)),
            n_pulses=len(pulses),
            n_hlc=int(np.count_nonzero(pulses.is_hlc)),
            charge_pe=float(pulses.charge_pe.sum(dtype=np.float64)),
            first_ns=float(times_ns.min()) if len(pulses) else None,
            last_ns=float(times_ns.max()) if len(pulses) else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """Where an event came from, as somebody says."""

    name: str
    azimuth_rad: float
    zenith_rad: float
    right_ascension_rad: float | None
    """ICRS, like the declination; None where the event's time is not known."""
    declination_rad: float | None
    stored: StoredReconstruction | None = None
    """All that a message says of it."""
    is_online_track: bool = False
    """Whether it is the best track of the online system."""
    off_given_rad: float | None = None
    """Angle to the direction that somebody gave; None where nobody did."""

    @property
    def vector(self) -> FloatArray:
        """Unit vector to where the particle came from; shape (3,)."""
        return unit_vectors(self.azimuth_rad, self.zenith_rad)


@dataclass(frozen=True, slots=True, eq=False)
class EventFacts:
    """All facts of an event."""

    source: str
    event: Event
    message: RealtimeEvent | None
    """None for events of Kaggle data sets."""
    is_cleaned: NDArray[np.bool_]
    """Which pulses IceCube's online cleaning keeps; shape (n,)."""
    counts: PulseCounts
    cleaned: PulseCounts
    alert_like: PulseCounts
    """After cleaning and without DeepCore, as alerts count."""
    directions: tuple[Direction, ...]
    """Those of the message in its order, the truth, and last the one that was given."""


def facts_of(
    chosen: DatasetEvent, detector: Detector, given: tuple[float, float] | None = None
) -> EventFacts:
    """Gather the facts.

    Args:
        chosen: The event, and where it is from.
        detector: Where its sensors are.
        given: Azimuth and zenith of a direction to compare with, in rad.

    Raises:
        InvalidEvent: It breaks a rule that all events have to keep.
    """
    event, message = chosen.event, chosen.message
    check_event(event, detector.n_sensors)
    is_cleaned = cleaned_rows(event.pulses, detector)
    return EventFacts(
        source=str(chosen.dataset.folder) if message is None else message.source,
        event=event,
        message=message,
        is_cleaned=is_cleaned,
        counts=PulseCounts.of(event.pulses),
        cleaned=PulseCounts.of(taken(event.pulses, is_cleaned)),
        alert_like=PulseCounts.of(clean(event.pulses, detector)),
        directions=tuple(_directions(event, message, given)),
    )


def cleaned_rows(pulses: Pulses, detector: Detector) -> NDArray[np.bool_]:
    """Which pulses `clean` keeps, those of DeepCore among them; shape (n,)."""
    rows = connected_pulses(pulses, detector)
    rows[rows] = pulses_in_window(taken(pulses, rows))
    return rows


def _directions(
    event: Event, message: RealtimeEvent | None, given: tuple[float, float] | None
) -> list[Direction]:
    found = []
    if message is not None:
        for stored in message.reconstructions:
            is_online = stored is message.online_track
            angles_rad = (stored.azimuth_rad, stored.zenith_rad)
            found.append(_direction(event, given, stored.name, angles_rad, stored, is_online=is_online))
    if event.truth is not None:
        found.append(_direction(event, given, TRUTH, (event.truth.azimuth_rad, event.truth.zenith_rad)))
    if given is not None:
        found.append(_direction(event, given, GIVEN, given))
    return found


def _direction(
    event: Event,
    given: tuple[float, float] | None,
    name: str,
    angles_rad: tuple[float, float],
    stored: StoredReconstruction | None = None,
    *,
    is_online: bool = False,
) -> Direction:
    vector = unit_vectors(*angles_rad)
    right_ascension_rad = declination_rad = None
    # A fit that failed may have left NaN, of which ERFA knows nothing.
    if event.start_unix_ns and np.isfinite(vector).all():
        sky = celestial.equatorial_angles(celestial.to_equatorial(vector, event.start_unix_ns))
        right_ascension_rad, declination_rad = map(float, sky)
    off_rad = None if given is None else float(opening_angles_rad(vector, unit_vectors(*given)))
    return Direction(name, *angles_rad, right_ascension_rad, declination_rad, stored, is_online, off_rad)
