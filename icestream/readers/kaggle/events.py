"""Joins a batch's meta rows with its pulses into events."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icestream.errors import InvalidEvent, Violation
from icestream.physics.events import Event, EventId, EventKind, Pulses, Truth
from icestream.readers.kaggle.meta import BatchMeta
from icestream.readers.kaggle.pulses import NO_ROWS, PulseRows, pulse_columns, pulse_rows
from icestream.readers.kaggle.tables import NULL, Int64Array, open_table
from icestream.readers.unreadable import UnreadableEvent

MAX_GATHERED_PULSES = 1_000_000
"""A damaged meta row may span its whole file; no more rows than this are held for one event."""

_MAX_SENSOR_ID = np.iinfo(np.uint16).max
_KINDS = {kind.value: kind for kind in EventKind}


@dataclass(frozen=True, slots=True, eq=False)
class _ReadPlan:
    """Which pulse rows the events of a batch need, in the order of the rows; columns of length (n,)."""

    meta: BatchMeta
    n_rows: int
    """Of the batch file."""
    is_sound: NDArray[np.bool_]
    """The event's row of the meta table can be right."""
    starts: Int64Array
    ends: Int64Array
    """Row after an event's last; equal to its start where there is nothing to read."""
    needs_from: Int64Array
    """The first pulse row that this event or a later one needs."""
    needs_until: Int64Array
    """Row after the last that this event or an earlier one needs."""

    def __len__(self) -> int:
        return len(self.meta)


def read_batch_events(path: Path, meta: BatchMeta, detector: str) -> Iterator[Event | UnreadableEvent]:
    """Read a batch's events in the order of their pulses.

    Args:
        path: The batch file.
        meta: Its events, or some of them, in the order of their pulses.
        detector: Name of the detector that the sensor ids belong to.

    Raises:
        InvalidDataset: The file is missing, damaged or lacks a column.
    """
    with open_table(path) as table:
        names = pulse_columns(table)
        plan = _plan(meta, table.n_rows)
        position = 0
        held = NO_ROWS
        is_read = plan.ends > plan.starts
        for chunk in table.stream(list(names.values()), plan.starts[is_read], plan.ends[is_read]):
            if plan.needs_from[position] >= chunk.end_row:
                continue
            held = held.followed_by(pulse_rows(chunk.first_row, chunk.columns, names))
            complete = int(np.searchsorted(plan.needs_until, held.end_row, side="right"))
            yield from _events(plan, position, complete, held, detector)
            if complete == len(plan):
                return
            position = complete
            held = held.from_row(int(plan.needs_from[position]))
        # Only events without rows are left.
        yield from _events(plan, position, len(plan), held, detector)


def _plan(meta: BatchMeta, n_rows: int) -> _ReadPlan:
    first, last = meta.first_row, meta.last_row
    # Infinite row numbers end up as NaN, which fails every comparison.
    with np.errstate(invalid="ignore"):
        is_inside = (first >= 0) & (last < n_rows) & (first % 1 == 0) & (last % 1 == 0)
        is_range = is_inside & (first <= last) & (last - first < MAX_GATHERED_PULSES)
    is_empty = (np.isnan(first) & np.isnan(last)) | (is_inside & (last == first - 1))
    is_sound = (is_empty | is_range) & ~meta.is_repeated & (meta.event_id >= 0)
    is_read = is_sound & is_range
    starts = np.where(is_read, first, 0).astype(np.int64)
    ends = np.where(is_read, last + 1, 0).astype(np.int64)
    needs_from = np.minimum.accumulate(np.where(is_read, starts, n_rows)[::-1])[::-1]
    needs_until = np.maximum.accumulate(ends)
    return _ReadPlan(meta, n_rows, is_sound, starts, ends, needs_from, needs_until)


def _events(
    plan: _ReadPlan, begin: int, end: int, rows: PulseRows, detector: str
) -> Iterator[Event | UnreadableEvent]:
    """Cut the events begin..end-1 out of rows that hold all of theirs."""
    chosen = slice(begin, end)
    meta = plan.meta.take(chosen)
    is_read = plan.ends[chosen] > plan.starts[chosen]
    starts = np.where(is_read, plan.starts[chosen] - rows.first_row, 0)
    ends = np.where(is_read, plan.ends[chosen] - rows.first_row, 0)
    problems = {i: _meta_problem(plan, begin + i) for i in np.flatnonzero(~plan.is_sound[chosen]).tolist()}
    for i in np.flatnonzero(~_is_readable(rows, starts, ends, meta.event_id)).tolist():
        problems[i] = _pulse_problem(rows, slice(int(starts[i]), int(ends[i])), int(meta.event_id[i]))

    truths, start_unix_ns = _truths(meta), meta.start_unix_ns.tolist()
    spans = zip(meta.event_id.tolist(), starts.tolist(), ends.tolist(), strict=True)
    for i, (event_id, start, stop) in enumerate(spans):
        name = EventId(meta.batch_id, event_id)
        if i in problems:
            yield UnreadableEvent(name, InvalidEvent(str(name), [problems[i]]))
        else:
            yield Event(name, detector, start_unix_ns[i], _pulses(rows, start, stop), truths[i])


def _meta_problem(plan: _ReadPlan, i: int) -> Violation:
    """What is wrong with an event's row of the meta table."""
    event_id, first, last = int(plan.meta.event_id[i]), plan.meta.first_row[i], plan.meta.last_row[i]
    if event_id < 0:
        problem = f"{'null' if event_id == NULL else event_id} in the meta table; expected 0 or above"
        return Violation("id.event_id", problem)
    if plan.meta.is_repeated[i]:
        problem = f"{event_id} is in batch {plan.meta.batch_id} more than once; expected unique ids"
        return Violation("id.event_id", problem)
    span = f"first_pulse_index {first:.16g}, last_pulse_index {last:.16g}"
    if 0 <= first <= last < plan.n_rows and last - first >= MAX_GATHERED_PULSES:
        return Violation(
            "pulses", f"{span}: {last - first + 1:.0f} pulses; at most {MAX_GATHERED_PULSES} are read"
        )
    right = f"expected whole numbers with 0 <= first <= last < {plan.n_rows}, the rows of the batch file"
    return Violation("pulses", f"{span}; {right}")


def _is_readable(
    rows: PulseRows, starts: Int64Array, ends: Int64Array, event_id: Int64Array
) -> NDArray[np.bool_]:
    """Which events' rows are their own and hold what an event can hold."""
    readable = np.ones(len(starts), np.bool_)
    (filled,) = np.nonzero(ends > starts)
    first, last = starts[filled], ends[filled] - 1
    # An event's rows have one owner if, from its first to its last, no row begins another's.
    begins_other = np.flatnonzero(rows.event_id[1:] != rows.event_id[:-1]) + 1
    n_owners_before = np.searchsorted(begins_other, [first, last], side="right")
    is_own = (rows.event_id[first] == event_id[filled]) & (n_owners_before[0] == n_owners_before[1])
    unfit = np.flatnonzero(_is_unfit(rows))
    is_fit = np.searchsorted(unfit, first) == np.searchsorted(unfit, last, side="right")
    readable[filled] = is_own & is_fit
    return readable


def _is_unfit(rows: PulseRows) -> NDArray[np.bool_]:
    """Which rows hold values that an event has no place for."""
    return ~(_is_sensor(rows.sensor_id) & _is_flag(rows.auxiliary))


def _is_sensor(sensor_id: Int64Array) -> NDArray[np.bool_]:
    return (sensor_id >= 0) & (sensor_id <= _MAX_SENSOR_ID)


def _is_flag(auxiliary: Int64Array) -> NDArray[np.bool_]:
    return (auxiliary >= 0) & (auxiliary <= 1)


def _pulse_problem(rows: PulseRows, own: slice, event_id: int) -> Violation:
    """The first thing that is wrong with an event's rows."""

    def first_wrong(values: Int64Array, is_right: NDArray[np.bool_]) -> str:
        i = int(np.argmin(is_right))
        value = "null" if values[i] == NULL else str(values[i])
        return f"{value} in row {rows.first_row + own.start + i} of the batch file"

    owner, sensor_id, auxiliary = rows.event_id[own], rows.sensor_id[own], rows.auxiliary[own]
    if not (is_own := owner == event_id).all():
        problem = f"event_id {first_wrong(owner, is_own)}, which the meta table counts to event {event_id}"
        return Violation("pulses", problem)
    if not (is_sensor := _is_sensor(sensor_id)).all():
        problem = f"{first_wrong(sensor_id, is_sensor)}; expected 0..{_MAX_SENSOR_ID}"
        return Violation("pulses.sensor_id", problem)
    problem = f"auxiliary {first_wrong(auxiliary, _is_flag(auxiliary))}; expected true or false, 1 or 0"
    return Violation("pulses.flags", problem)


def _truths(meta: BatchMeta) -> list[Truth | None]:
    is_known = np.isfinite(meta.azimuth_rad) & np.isfinite(meta.zenith_rad)
    columns = (is_known, meta.azimuth_rad, meta.zenith_rad, meta.energy_gev, meta.kind)
    return [
        # Only NaN differs from itself: the energy is not known.
        Truth(azimuth, zenith, energy if energy == energy else None, _KINDS.get(kind, EventKind.UNKNOWN))  # noqa: PLR0124
        if known
        else None
        for known, azimuth, zenith, energy, kind in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _pulses(rows: PulseRows, start: int, stop: int) -> Pulses:
    # Copies, because a view of one kept event would keep the whole chunk in memory.
    return Pulses(
        rows.sensor_id[start:stop].astype(np.uint16),
        rows.time_ns[start:stop].copy(),
        rows.charge_pe[start:stop].copy(),
        rows.flags[start:stop].copy(),
    )
