"""Which reconstructions somebody asks for, as SQL."""

import math
from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement

from icestream.physics.celestial import equatorial_vectors
from icestream.physics.events import EventKind
from services.recorder.reconstruction_rows import day_of
from services.recorder.schema import RECONSTRUCTIONS

_TABLE = RECONSTRUCTIONS.c
_ROUNDING_RAD = 1e-9


@dataclass(frozen=True, slots=True)
class Cone:
    """A disc on the sky."""

    ra_rad: float
    dec_rad: float
    radius_rad: float

    def conditions(self) -> list[ColumnElement[bool]]:
        """Whether a row lies in it; rows whose time is not known do not."""
        x, y, z = np.asarray(equatorial_vectors(self.ra_rad, self.dec_rad)).tolist()
        dot = _TABLE.sky_x * x + _TABLE.sky_y * y + _TABLE.sky_z * z
        # The dot product of directions that are a second of arc apart differs from 1 in its last digits only.
        slack = 1e-15
        return [
            # For an index: a disc is never outside of its band of declinations.
            _TABLE.dec_rad.between(
                self.dec_rad - self.radius_rad - _ROUNDING_RAD, self.dec_rad + self.radius_rad + _ROUNDING_RAD
            ),
            dot >= math.cos(self.radius_rad) - slack,
        ]


@dataclass(frozen=True, slots=True)
class Selection:
    """Reconstructions for which everything that is set holds."""

    detector: str = ""
    run_id: int | None = None
    start_unix_ns: int | None = None
    end_unix_ns: int | None = None
    cone: Cone | None = None
    model: str = ""
    model_version: str = ""
    max_radius90_rad: float | None = None
    min_kappa: float | None = None
    kinds: frozenset[EventKind] = frozenset()

    def conditions(self) -> list[ColumnElement[bool]]:
        """What a row must fulfil, all of it."""
        found = [*self._names(), *self._times(), *(self.cone.conditions() if self.cone else ())]
        if self.max_radius90_rad is not None:
            found.append(_TABLE.radius90_rad <= self.max_radius90_rad)
        if self.min_kappa is not None:
            found.append(_TABLE.kappa >= self.min_kappa)
        if self.kinds:
            found.append(_TABLE.kind.in_(sorted(kind.value for kind in self.kinds)))
        return found

    def _names(self) -> list[ColumnElement[bool]]:
        wanted = {
            _TABLE.detector: self.detector,
            _TABLE.model: self.model,
            _TABLE.model_version: self.model_version,
        }
        found: list[ColumnElement[bool]] = [column == name for column, name in wanted.items() if name]
        return found if self.run_id is None else [*found, _TABLE.run_id == self.run_id]

    def _times(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        # The day says nothing new, but spares PostgreSQL the partitions of other days.
        if self.start_unix_ns is not None:
            found += [
                _TABLE.start_unix_ns >= self.start_unix_ns,
                _TABLE.event_day >= day_of(self.start_unix_ns),
            ]
        if self.end_unix_ns is not None:
            found += [
                _TABLE.start_unix_ns < self.end_unix_ns,
                _TABLE.event_day <= day_of(self.end_unix_ns),
            ]
        return found
