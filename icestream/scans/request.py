"""What somebody asked a scan to be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from icestream.physics.events import EventId
from icestream.scans.progression import Progression

ALERT_PRIORITY = 100
"""Scans from this priority on are alerts: nothing of lower priority holds them up. Source: SkyDriver."""

Scalar = str | int | float | bool


class Frame(StrEnum):
    """What the longitude and the colatitude of a map's pixels mean."""

    EQUATORIAL = "equatorial"
    """Right ascension and 90 degrees minus declination (ICRS)."""
    DETECTOR = "detector"
    """Azimuth and zenith angle; for events whose time is not known."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """A part of the sky to which the first level is confined."""

    longitude_rad: float
    """Right ascension, or azimuth in the detector's frame."""
    colatitude_rad: float
    """90 degrees minus declination, or zenith angle in the detector's frame."""
    radius_rad: float


@dataclass(frozen=True, slots=True)
class Seed:
    """First guess of where and when the event was."""

    position_m: tuple[float, float, float]
    time_ns: float
    """From the event's start."""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a client can choose about a scan."""

    reco: str
    progression: Progression
    predictive_threshold: float = 1.0
    """Share of a level that must be there before the next one begins; 1 waits for all of it."""
    pointing: Pointing | None = None
    priority: int = 0
    classifiers: Mapping[str, Scalar] = field(default_factory=dict)
    """Labels for finding scans again; at most 25, of at most 25 characters each."""
    offsets_m: tuple[tuple[float, float, float], ...] | None = None
    """Position variations in place of the reco's own."""


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """Everything that the course of a scan depends on, fixed when it is accepted."""

    scan_id: str
    event_id: EventId
    detector: str
    start_unix_ns: int
    """UTC time of the event; 0 where it is not known."""
    n_pulses: int
    options: ScanOptions
    frame: Frame
    seed: Seed
    """Vertex at which first-level fits begin."""
    offsets_m: tuple[tuple[float, float, float], ...]
    """Each pixel is fitted once from the seed displaced by each of these; the best fit counts."""
    rotates_offsets: bool
    """Whether the offsets are turned with the pixel: z along its direction."""
    adds_fallback_seed: bool
    """Whether finer levels try the event's own seed beside the coarser pixel's fit."""
    levels_compare: bool
    """Whether llh of different levels mean the same. If not, the finest level that has results decides."""
    batch_size: int
    """Fits in one batch."""
    created_unix_ns: int
    startup_sha256: str = ""
    """Name of the event and the detector in the object store; empty where the scan runs in one process."""
    alert_type: str = ""
    """As of `Event`, and the next one too."""
    is_real_event: bool = False
