"""Which reconstructions somebody asks for, as SQL."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from icestream.physics.celestial import equatorial_vectors
from icestream.physics.events import EventKind
from services.recorder.reconstruction_rows import day_of
from services.recorder.schema import RECONSTRUCTIONS

_TABLE = RECONSTRUCTIONS.c
_ROUNDING_RAD = 1e-9
_WIDE_BAND = 0.05
"""Share of the sky from which on the index of declinations is slower than the rows in their order."""


class _Unindexed(FunctionElement[str]):
    """A column that SQLite looks up in no index; PostgreSQL has statistics, and knows better."""

    inherit_cache = True
    type = Text()


@compiles(_Unindexed)
def _as_it_is(element: _Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_Unindexed, "sqlite")
def _behind_a_plus(element: _Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


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
        return [*self._band(), dot >= math.cos(self.radius_rad) - slack]

    def _band(self) -> list[ColumnElement[bool]]:
        """For an index: a disc is never outside of its band of declinations."""
        reach_rad = self.radius_rad + _ROUNDING_RAD
        lowest_rad, highest_rad = self.dec_rad - reach_rad, self.dec_rad + reach_rad
        heights = np.sin(np.clip([lowest_rad, highest_rad], -math.pi / 2, math.pi / 2))
        return [] if np.ptp(heights) / 2 > _WIDE_BAND else [_TABLE.dec_rad.between(lowest_rad, highest_rad)]


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
        # A run is found by the primary key. A detector alone has too many rows there, in another order than asked for.
        detector = _Unindexed(_TABLE.detector) if self.run_id is None else _TABLE.detector
        wanted: list[tuple[ColumnElement[str], str]] = [
            (detector, self.detector),
            (_TABLE.model, self.model),
            (_TABLE.model_version, self.model_version),
        ]
        found = [column == name for column, name in wanted if name]
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
