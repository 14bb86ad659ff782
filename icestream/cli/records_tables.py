"""Records as tables for people."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Column, Table
from rich.text import Text

from icestream.physics.events import EventId
from icestream.v1 import event_pb2, record_pb2, scan_pb2


def list_table(records: Sequence[record_pb2.RecordedReconstruction]) -> Table:
    """A line for each reconstruction."""
    # Names are there to be copied, so that they stay whole in 80 columns too.
    whole = (Column(name, no_wrap=True, overflow="fold") for name in ("event", "time (UTC)"))
    others = ("model", "direction", "90 % within", "kappa", "off truth")
    table = Table(*whole, *others, box=None, padding=(0, 1, 0, 0))
    for record in records:
        reconstruction = record.reconstruction
        table.add_row(
            Text(event_name(record)),
            _utc(reconstruction.start_unix_ns),
            Text(f"{reconstruction.model} {reconstruction.model_version}"),
            _direction(record),
            _degrees(reconstruction.radius90_rad),
            f"{reconstruction.kappa:.3g}",
            _degrees(record.opening_angle_rad) if record.HasField("opening_angle_rad") else "",
        )
    return table


def facts_table(record: record_pb2.RecordedReconstruction) -> Table:
    """Everything that is known of a reconstruction."""
    reconstruction = record.reconstruction
    direction, timings = reconstruction.direction, reconstruction.timings
    rows = {
        "event": event_name(record),
        "event's time (UTC)": _utc(reconstruction.start_unix_ns) or "not known: no direction in the sky",
        "model": f"{reconstruction.model} {reconstruction.model_version}",
        "in the detector": f"az {_degrees(direction.azimuth_rad)} zen {_degrees(direction.zenith_rad)}",
        "in the sky": _direction(record) if record.HasField("equatorial") else "not known",
        "50 % within": _degrees(reconstruction.radius50_rad),
        "90 % within": _degrees(reconstruction.radius90_rad),
        "kappa": f"{reconstruction.kappa:.4g}",
        "pulses": f"{reconstruction.n_pulses_used} of {reconstruction.n_pulses}",
        "truth": _truth(record),
        "published (UTC)": _utc(timings.published_unix_ns),
        "reconstructed (UTC)": _utc(timings.inferred_unix_ns),
        "recorded (UTC)": _utc(record.recorded_unix_ns),
        "trace": reconstruction.trace_id or "not sampled",
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def quality_table(stats: record_pb2.StatsResponse) -> Table:
    """How each model did with each kind of event."""
    table = Table("model", "version", "events", "reconstructions", "with truth", "median off truth")
    for model in stats.models:
        table.add_row(
            Text(model.model),
            Text(model.model_version),
            kind_name(model.kind),
            str(model.n_reconstructions),
            str(model.n_with_truth),
            _degrees(model.median_opening_angle_rad) if model.HasField("median_opening_angle_rad") else "",
        )
    return table


def dead_letters_table(stats: record_pb2.StatsResponse) -> Table:
    """How often what was given up."""
    table = Table("given up by", "reason", "dead letters")
    for count in stats.dead_letters:
        table.add_row(Text(count.service), Text(count.reason), str(count.n_letters))
    return table


def scans_table(stats: record_pb2.StatsResponse) -> Table:
    """How many scans ended how."""
    table = Table("reco", "ended", "scans")
    for count in stats.scans:
        state = scan_pb2.ScanState.Name(count.state).removeprefix("SCAN_STATE_").lower()
        table.add_row(Text(count.reco), state, str(count.n_scans))
    return table


def event_name(record: record_pb2.RecordedReconstruction) -> str:
    """`<detector>/<run>.<event>.<sub-event>`."""
    reconstruction = record.reconstruction
    event_id = EventId(reconstruction.run_id, reconstruction.event_id, reconstruction.sub_event)
    return f"{reconstruction.detector}/{event_id}"


def kind_name(kind: event_pb2.EventKind) -> str:
    """For people and files, for example `starting_track`."""
    name = event_pb2.EventKind.Name(kind).removeprefix("EVENT_KIND_").lower()
    return "unknown" if name == "unspecified" else name


def _truth(record: record_pb2.RecordedReconstruction) -> str:
    if not record.reconstruction.HasField("truth"):
        return "not known"
    truth = record.reconstruction.truth
    energy = f", {truth.energy_gev:.3g} GeV" if truth.HasField("energy_gev") else ""
    return (
        f"{kind_name(truth.kind)}{energy}, az {_degrees(truth.azimuth_rad)} zen {_degrees(truth.zenith_rad)}; "
        f"{_degrees(record.opening_angle_rad)} off"
    )


def _direction(record: record_pb2.RecordedReconstruction) -> str:
    if record.HasField("equatorial"):
        return f"RA {_degrees(record.equatorial.ra_rad)} Dec {_degrees(record.equatorial.dec_rad)}"
    direction = record.reconstruction.direction
    return f"az {_degrees(direction.azimuth_rad)} zen {_degrees(direction.zenith_rad)}"


def _degrees(angle_rad: float) -> str:
    return f"{math.degrees(angle_rad):.2f}°"


def _utc(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S") if unix_ns else ""
