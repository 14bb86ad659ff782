"""Pulses of realtime messages as a Parquet table, written message by message.

Columns that name the event stand in each row. What is the same for a whole message is in the file's metadata, as JSON
under the key `icestream.events`, a list in the order of the row groups; units are in the metadata of the columns.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icestream.cli.event_facts import cleaned_rows
from icestream.cli.json_values import finite
from icestream.errors import InvalidInput
from icestream.physics.detector import Detector, icecube86
from icestream.physics.icecube86 import MODULES_PER_STRING
from icestream.readers.realtime import RealtimeDataset, RealtimeEvent
from icestream.readers.unreadable import UnreadableEvent
from icestream.skymaps.partial import partial_file

METADATA_KEY = "icestream.events"
_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "run_id": (pa.int64(), ""),
    "event_id": (pa.int64(), ""),
    "sub_event": (pa.int32(), ""),
    "string": (pa.int16(), "counted from 1"),
    "om": (pa.int16(), "counted from 1"),
    "sensor_id": (pa.uint16(), "(string - 1) * 60 + om - 1"),
    "x_m": (pa.float64(), "m"),
    "y_m": (pa.float64(), "m"),
    "z_m": (pa.float64(), "m, up"),
    "time_ns": (pa.float64(), "ns after readout_start_unix_ns of the event"),
    "charge_pe": (pa.float32(), "photo-electrons"),
    "width_ns": (pa.float32(), "ns"),
    "flags": (pa.uint8(), "bits of IceTray: 1 hard local coincidence, 2 ATWD, 4 FADC"),
    "is_hlc": (pa.bool_(), "hard local coincidence"),
    "is_cleaned": (pa.bool_(), "kept by the online cleaning, DeepCore included"),
}
SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False, metadata={"unit": unit} if unit else None)
        for name, (kind, unit) in _COLUMNS.items()
    ]
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    n_events: int
    n_pulses: int


def export_messages(messages: RealtimeDataset, path: Path, say: Callable[[str], None]) -> Exported:
    """Write all pulses of all messages that can be read; the file appears whole or not at all.

    Args:
        messages: One row group each.
        path: The Parquet file.
        say: Told what cannot be read.

    Raises:
        InvalidInput: The file cannot be written, or there is nothing to write.
    """
    detector = icecube86()
    events: list[dict[str, Any]] = []
    n_pulses = 0
    try:
        with partial_file(path) as partial:
            with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as file:
                for message in messages.messages():
                    if isinstance(message, UnreadableEvent):
                        say(str(message.error))
                        continue
                    file.write_table(_table(message, detector))
                    events.append(_event(message))
                    n_pulses += len(message.event.pulses)
                file.add_key_value_metadata({METADATA_KEY: json.dumps(events, allow_nan=False)})
            if not events:
                raise InvalidInput(f"{messages.path}: none of {messages.n_events} messages can be read")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error}") from error
    return Exported(len(events), n_pulses)


def _table(message: RealtimeEvent, detector: Detector) -> pa.Table:
    event, pulses = message.event, message.event.pulses
    sensor_id = pulses.sensor_id.astype(np.int64)
    x_m, y_m, z_m = detector.positions_m[sensor_id].T
    columns = {
        "run_id": np.full(len(pulses), event.id.run_id),
        "event_id": np.full(len(pulses), event.id.event_id),
        "sub_event": np.full(len(pulses), event.id.sub_event),
        "string": sensor_id // MODULES_PER_STRING + 1,
        "om": sensor_id % MODULES_PER_STRING + 1,
        "sensor_id": pulses.sensor_id,
        "x_m": x_m,
        "y_m": y_m,
        "z_m": z_m,
        "time_ns": pulses.time_ns,
        "charge_pe": pulses.charge_pe,
        "width_ns": message.width_ns,
        "flags": message.icetray_flags,
        "is_hlc": pulses.is_hlc,
        "is_cleaned": cleaned_rows(pulses, detector),
    }
    arrays = [pa.array(columns[name], kind) for name, (kind, _) in _COLUMNS.items()]
    return pa.table(arrays, schema=SCHEMA)


def _event(message: RealtimeEvent) -> dict[str, Any]:
    """What is the same for all pulses of a message."""
    event = message.event
    content = {
        "id": str(event.id),
        "source": Path(message.source).name,
        "detector": event.detector,
        "utc": str(np.datetime64(event.start_unix_ns, "ns")),
        "mjd": message.mjd,
        "start_unix_ns": event.start_unix_ns,
        "readout_start_unix_ns": message.readout_start_unix_ns,
        "format_version": message.format_version,
        "series": message.series,
        "event_type": message.event_type,
        "n_pulses": len(event.pulses),
        "online_track": None if message.online_track is None else message.online_track.name,
        "online_directions": [
            {
                "name": each.name,
                "origin": each.origin,
                "azimuth_deg": math.degrees(each.azimuth_rad),
                "zenith_deg": math.degrees(each.zenith_rad),
            }
            for each in message.reconstructions
        ],
    }
    return {key: finite(value) for key, value in content.items()}
