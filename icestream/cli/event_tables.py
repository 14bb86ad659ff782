"""The facts of an event for people and for programs."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from icestream.cli.event_facts import GIVEN, Direction, EventFacts, PulseCounts
from icestream.cli.json_values import finite
from icestream.physics.celestial import mjd_utc
from icestream.readers.realtime import AlertSummary, FrameContents, StoredReconstruction

UNKNOWN = "not known"


def facts_table(facts: EventFacts) -> Table:
    """Name, time, pulses and the alert's own figures, a line each."""
    table = Table(show_header=False)
    for name, value in _rows(facts).items():
        table.add_row(name, Text(value))
    return table


def directions_table(directions: Sequence[Direction]) -> Table:
    """A line for each direction; the best online track is bold. The last column is the angle to the one given."""
    is_compared = any(each.off_given_rad is not None for each in directions)
    has_energy = any(each.stored is not None and each.stored.energy_gev is not None for each in directions)
    whole = [Column(name, no_wrap=True) for name in ("direction", "in")]
    angles = [Column(name, justify="right", no_wrap=True) for name in ("azimuth", "zenith", "RA", "Dec")]
    table = Table(*whole, *angles, Column("fitted as", overflow="fold"), box=None, padding=(0, 1, 0, 0))
    if has_energy:
        table.add_column("energy", justify="right", no_wrap=True)
    if is_compared:
        table.add_column("off", justify="right", no_wrap=True)
    for each in directions:
        stored = each.stored
        cells = [
            each.name,
            "" if stored is None else stored.origin,
            _degrees(each.azimuth_rad),
            _degrees(each.zenith_rad),
            _degrees(each.right_ascension_rad),
            _degrees(each.declination_rad, sign="+"),
            "" if stored is None else _fit(stored),
        ]
        if has_energy:
            energy_gev = None if stored is None else stored.energy_gev
            cells.append("" if energy_gev is None else f"{energy_gev:.3g} GeV")
        if is_compared:
            cells.append("" if each.name == GIVEN else _degrees(each.off_given_rad))
        table.add_row(*map(Text, cells), style="bold" if each.is_online_track else None)
    return table


def contents_text(frame: FrameContents) -> Text:
    """Everything in one frame, an object a paragraph: names and types are too long for a table."""
    lines = [
        Text(f"frame {frame.stream}: {len(frame.objects)} objects, {frame.n_bytes} bytes, ", "bold").append(
            f"CRC-32C {frame.crc32c:08x}"
        )
    ]
    for each in frame.objects:
        lines.append(Text.assemble("  ", (each.key, "cyan"), f"  {each.cpp_type}, {each.n_bytes} bytes"))
        if each.value:
            lines.append(Text(f"      {each.value}"))
    return Text("\n").join(lines)


def as_json(facts: EventFacts, contents: Sequence[FrameContents] | None) -> dict[str, Any]:
    """All facts under names that stay the same; what is not known is null."""
    event, message = facts.event, facts.message
    content: dict[str, Any] = {
        "source": facts.source,
        "run_id": event.id.run_id,
        "event_id": event.id.event_id,
        "sub_event": event.id.sub_event,
        "detector": event.detector,
        "start_unix_ns": event.start_unix_ns or None,
        "utc": _utc(event.start_unix_ns),
        "mjd": mjd_utc(event.start_unix_ns) if event.start_unix_ns else None,
        "readout_start_unix_ns": None if message is None else message.readout_start_unix_ns,
        "format_version": None if message is None else message.format_version,
        "series": None if message is None else message.series,
        "event_type": event.alert_type or None,
        "is_real": event.is_real,
        "pulses": asdict(facts.counts),
        "cleaned": asdict(facts.cleaned),
        "cleaned_without_deepcore": asdict(facts.alert_like),
        "alert": None if message is None or message.alert is None else asdict(message.alert),
        "vertex": None if message is None or message.vertex is None else asdict(message.vertex),
        "directions": [_direction_as_json(each) for each in facts.directions],
    }
    if contents is not None:
        content["contents"] = [asdict(frame) for frame in contents]
    return {key: finite(value) for key, value in content.items()}


def _rows(facts: EventFacts) -> dict[str, str]:
    event, message = facts.event, facts.message
    utc = _utc(event.start_unix_ns)
    rows = {
        "from": facts.source,
        "event": f"run {event.id.run_id}, event {event.id.event_id}, sub-event {event.id.sub_event}",
        "time (UTC)": UNKNOWN if utc is None else f"{utc}  (MJD {mjd_utc(event.start_unix_ns)})",
        "detector": f"{event.detector}, {'recorded' if event.is_real else 'simulated, or not known whether'}",
    }
    if message is not None:
        rows["format"] = message.format_version or "of before there were versions (2016, 2017)"
        rows["event type"] = event.alert_type or UNKNOWN
        rows["pulse series"] = message.series
        if (readout_ns := message.readout_start_unix_ns) is not None:
            before_us = (event.start_unix_ns - readout_ns) / 1e3
            rows["readout"] = f"begins {before_us:.3f} µs before the event; pulse times count from there"
    rows["pulses"] = _counts(facts.counts)
    rows["after cleaning"] = _counts(facts.cleaned)
    rows["without DeepCore"] = _counts(facts.alert_like)
    if message is not None and message.alert is not None:
        rows |= _alert_rows(message.alert)
    if message is not None and message.vertex is not None:
        x, y, z = message.vertex.position_m
        rows["vertex"] = f"({x:.1f}, {y:.1f}, {z:.1f}) m at {message.vertex.time_ns:.1f} ns"
    return rows


def _alert_rows(alert: AlertSummary) -> dict[str, str]:
    figures = {
        "alert": alert.unique_id,
        "alert counts": _alert_counts(alert),
        "IceTop triggered": None
        if alert.is_icetop_triggered is None
        else str(alert.is_icetop_triggered).lower(),
        "energies": ", ".join(f"{name} {value:.4g} GeV" for name, value in alert.energies_gev.items()),
        "scores": ", ".join(f"{name} {value:.4g}" for name, value in alert.scores.items()),
    }
    return {name: value for name, value in figures.items() if value}


def _alert_counts(alert: AlertSummary) -> str:
    figures = {
        "modules": alert.n_channels,
        "pulses": alert.n_pulses,
        "p.e.": None if alert.charge_pe is None else round(alert.charge_pe, 2),
    }
    return ", ".join(f"{value} {unit}" for unit, value in figures.items() if value is not None)


def _counts(counts: PulseCounts) -> str:
    text = f"{counts.n_modules} modules, {counts.n_pulses} pulses ({counts.n_hlc} HLC), {counts.charge_pe:.2f} p.e."
    if counts.first_ns is None or counts.last_ns is None:
        return text
    return f"{text}, {counts.first_ns:.0f} to {counts.last_ns:.0f} ns"


def _fit(stored: StoredReconstruction) -> str:
    return stored.shape if stored.fit_status in ("", "OK") else f"{stored.shape}, {stored.fit_status}"


def _direction_as_json(direction: Direction) -> dict[str, Any]:
    stored = direction.stored
    return {
        "name": direction.name,
        "origin": None if stored is None else stored.origin,
        "is_online_track": direction.is_online_track,
        "azimuth_deg": _in_degrees(direction.azimuth_rad),
        "zenith_deg": _in_degrees(direction.zenith_rad),
        "ra_deg": _in_degrees(direction.right_ascension_rad),
        "dec_deg": _in_degrees(direction.declination_rad),
        "shape": None if stored is None else stored.shape or None,
        "fit_status": None if stored is None else stored.fit_status or None,
        "position_m": None if stored is None else stored.position_m,
        "time_ns": None if stored is None else stored.time_ns,
        "energy_gev": None if stored is None else stored.energy_gev,
        "off_given_deg": _in_degrees(direction.off_given_rad),
    }


def _utc(unix_ns: int) -> str | None:
    return str(np.datetime64(unix_ns, "ns")) if unix_ns else None


def _in_degrees(angle_rad: float | None) -> float | None:
    return None if angle_rad is None else math.degrees(angle_rad)


def _degrees(angle_rad: float | None, *, sign: str = "") -> str:
    if angle_rad is None or not math.isfinite(angle_rad):
        return ""
    return f"{math.degrees(angle_rad):{sign}.2f}°"
