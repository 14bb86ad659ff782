"""What a realtime message says: an event, and what IceCube's own online system said of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icestream.physics.directions import unit_vectors
from icestream.physics.events import Event
from icestream.readers.realtime.frames import Frame

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StoredReconstruction:
    """One of IceCube's online reconstructions: a reference to compare with, not the truth.

    Messages hold directions in the detector only; `icestream.physics.celestial.to_equatorial` of `direction` and the
    event's `start_unix_ns` gives right ascension and declination.
    """

    name: str
    """As the message names it, for example `OnlineL2_SplineMPE`."""
    origin: str
    """Where it stands in the message: a frame's letter, or `alert`."""
    zenith_rad: float
    azimuth_rad: float
    """Of where the particle came from, like all our directions."""
    position_m: tuple[float, float, float] | None = None
    """A point of the track, or where the cascade was."""
    time_ns: float | None = None
    """When the particle was there, on the clock of the pulses."""
    energy_gev: float | None = None
    shape: str = ""
    """What was fitted, for example `InfiniteTrack` or `Cascade`."""
    fit_status: str = ""
    """`OK`, or how the fit failed."""

    @property
    def direction(self) -> FloatArray:
        """Unit vector to where the particle came from; shape (3,)."""
        return unit_vectors(self.azimuth_rad, self.zenith_rad)


@dataclass(frozen=True, slots=True)
class StoredVertex:
    """Where and when the online system saw the first bright light; see `icestream.physics.seed_vertex`."""

    position_m: tuple[float, float, float]
    time_ns: float


@dataclass(frozen=True, slots=True)
class AlertSummary:
    """The figures beside the frames of a message; each is None, or empty, where the message has none."""

    unique_id: str | None
    event_time: str | None
    """UTC, as the message writes it."""
    n_channels: int | None
    """Modules with pulses after cleaning, DeepCore left out (`nch`)."""
    n_pulses: int | None
    """Pulses after cleaning, DeepCore left out (`npulses`)."""
    charge_pe: float | None
    """Their charge (`qtot`)."""
    is_icetop_triggered: bool | None
    energies_gev: Mapping[str, float]
    """Energy estimates by their names."""
    scores: Mapping[str, float]
    """Classifiers' answers by their names."""


@dataclass(frozen=True, slots=True, eq=False)
class RealtimeEvent:
    """All that a realtime message holds."""

    source: str
    """The file, or what the caller called the message."""
    event: Event
    """Pulses are in order of time; their times are as stored. `start_unix_ns` is the start of the event, though the
    pulse times count from that of the readout, which is up to a millisecond earlier: see `readout_start_unix_ns`."""
    width_ns: NDArray[np.float32]
    """How long each pulse of the event may have lasted; shape (n,)."""
    icetray_flags: NDArray[np.uint8]
    """Of each pulse of the event: 1 hard local coincidence, 2 ATWD, 4 FADC; shape (n,)."""
    mjd: float
    """Modified Julian date (UTC) of the event's start, as sky maps name it."""
    readout_start_unix_ns: int | None
    """UTC time from which the pulse times count, rounded to ns; None where the message does not say."""
    format_version: str | None
    """For example `2021a`; None for messages of before there were versions."""
    event_type: str | None
    """HESE, EHE, neutrino, ESTRES, or None where the message does not say."""
    series: str
    """Name of the pulse series that the event's pulses are."""
    reconstructions: tuple[StoredReconstruction, ...]
    """In the order of the message."""
    online_track: StoredReconstruction | None
    """The best track among them, by the format version."""
    vertex: StoredVertex | None
    alert: AlertSummary | None
    """None where the message has frames only."""
    frames: tuple[Frame, ...]
    """Everything in the message; `list_contents` describes it."""


@dataclass(frozen=True, slots=True)
class ObjectContents:
    """One object of a message, for people."""

    key: str
    cpp_type: str
    n_bytes: int
    value: str
    """The value or a summary of it, in one line; empty where the class is not known here."""


@dataclass(frozen=True, slots=True)
class FrameContents:
    """One frame of a message, for people."""

    stream: str
    """One letter, see `Frame`."""
    n_bytes: int
    crc32c: int
    """The frame's checksum, which is right: a message with another one is refused as a whole."""
    objects: tuple[ObjectContents, ...]
