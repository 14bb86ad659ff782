"""Wire messages of sky scans to physics types and back; as `icestream.codec` does for events.

Whatever comes row by row is a column of little-endian bytes: numpy reads it in place, without a loop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from icestream.codec import DetachedEvent, event_from_message, event_to_message
from icestream.errors import InvalidEvent, UndecodableMessage
from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId, ModelVersion, Pulses
from icestream.scans.pixels import IntArray, PixelBatch, PixelFits, TakenRows
from icestream.scans.progression import DEFAULT_PROGRESSION, Progression
from icestream.scans.request import Frame, Pointing, Scalar, ScanOptions, ScanRequest, Seed
from icestream.scans.skymap import Level, Skymap
from icestream.v1 import scan_pb2

DEFAULT_POINTING_RADIUS_RAD = float(np.radians(3.5))

# Explicitly little-endian: this is the wire, not the machine.
_INT64 = np.dtype("<i8")
_INT32 = np.dtype("<i4")
_UINT8 = np.dtype("u1")
_FLOAT64 = np.dtype("<f8")

_Columns = Mapping[str, tuple[np.dtype[Any], int]]
"""For each column the type of its numbers, and how many of them a row has."""

_FITS: _Columns = {
    "llh": (_FLOAT64, 1),
    "position_m": (_FLOAT64, 3),
    "time_ns": (_FLOAT64, 1),
    "n_hits": (_INT32, 1),
    "hypothesis": (_UINT8, 1),
    "rival_llh": (_FLOAT64, 1),
    "energy_inside_gev": (_FLOAT64, 1),
    "energy_total_gev": (_FLOAT64, 1),
}
_VARIATION: _Columns = {"variation": (_INT32, 1)}
_NO_PULSES = Pulses(np.empty(0, np.uint16), np.empty(0), np.empty(0, np.float32), np.empty(0, np.uint8))

_Message = TypeVar("_Message", bound=Message)


@dataclass(frozen=True, slots=True, eq=False)
class PixelWork:
    """Pixels on their way to a worker: a batch, or a part of one that could not be finished as a whole."""

    scan_id: str
    reco: str
    startup_sha256: str
    """Name of the event and the detector in the object store."""
    batch: PixelBatch
    """The rows of this part, under the number of the whole batch."""
    part: str = ""
    """Which half of which half, as digits 0 and 1; empty for the whole."""
    first_row: int = 0
    """Row of the whole batch with which this part begins."""

    @property
    def message_id(self) -> str:
        """The `Nats-Msg-Id` of this work and of its result, each in its own stream."""
        return f"{self.scan_id}/{self.batch.number}/{self.part}"


@dataclass(frozen=True, slots=True, eq=False)
class PixelResult:
    """What came of a `PixelWork`."""

    scan_id: str
    rows: TakenRows
    worker: str
    """Name of the worker."""
    models: tuple[ModelVersion, ...] = ()
    """Those that answered."""


def encode_work(work: PixelWork) -> bytes:
    """Serialise work for a worker.

    Raises:
        ValueError: A column is not as long as the others.
    """
    batch = work.batch
    n_rows, n_seeds = len(batch), batch.seeds.shape[1]
    message = scan_pb2.PixelWork(
        scan_id=work.scan_id,
        number=batch.number,
        part=work.part,
        first_row=work.first_row,
        reco=work.reco,
        startup_sha256=work.startup_sha256,
        nside=batch.nside,
        pixel=_bytes(batch.pixel, _INT64, n_rows),
        n_seeds=n_seeds,
    )
    _fill(message, batch, _work_columns(n_seeds), n_rows)
    return message.SerializeToString()


def decode_work(payload: bytes) -> PixelWork:
    """Read work.

    Raises:
        UndecodableMessage: The bytes are not an `icestream.v1.PixelWork`, or its columns do not fit together.
    """
    message = _parsed(scan_pb2.PixelWork(), payload)
    if not message.scan_id or message.nside < 1 or message.n_seeds < 1:
        raise UndecodableMessage(
            "a PixelWork names its scan and has an nside and a number of seeds of at least 1; "
            f"this one has {message.scan_id!r}, {message.nside} and {message.n_seeds}"
        )
    pixel = _row_index(message, "pixel")
    if len(pixel) == 0:
        raise UndecodableMessage(f"a PixelWork of scan {message.scan_id} has no rows")
    columns = _read(message, _work_columns(message.n_seeds), len(pixel))
    seeds = columns.pop("seeds").reshape(len(pixel), message.n_seeds, 4)
    return PixelWork(
        scan_id=message.scan_id,
        reco=message.reco,
        startup_sha256=message.startup_sha256,
        batch=PixelBatch(number=message.number, nside=message.nside, pixel=pixel, seeds=seeds, **columns),
        part=message.part,
        first_row=message.first_row,
    )


def encode_result(result: PixelResult) -> bytes:
    """Serialise a result.

    Raises:
        ValueError: A column is not as long as the others.
    """
    rows = result.rows
    message = scan_pb2.PixelResult(
        scan_id=result.scan_id,
        number=rows.number,
        first_row=rows.first_row,
        nside=rows.nside,
        pixel=_bytes(rows.pixel, _INT64, len(rows)),
        failure=rows.failure,
        started_unix_ns=rows.started_unix_ns,
        worker_s=rows.worker_s,
        worker=result.worker,
        models=[f"{model.name}/{model.version}" for model in result.models],
    )
    _fill(message, rows, _VARIATION, len(rows))
    if rows.fits is not None:
        _fill(message, rows.fits, _FITS, len(rows))
    return message.SerializeToString()


def decode_result(payload: bytes) -> PixelResult:
    """Read a result; it has fits unless it has a failure.

    Raises:
        UndecodableMessage: The bytes are not an `icestream.v1.PixelResult`, or its columns do not fit
            together.
    """
    message = _parsed(scan_pb2.PixelResult(), payload)
    pixel = _row_index(message, "pixel")
    variation = _read(message, _VARIATION, len(pixel))["variation"]
    fits = None if message.failure else PixelFits(**_read(message, _FITS, len(pixel)))
    rows = TakenRows(
        number=message.number,
        first_row=message.first_row,
        nside=message.nside,
        pixel=pixel,
        variation=variation,
        fits=fits,
        failure=message.failure,
        started_unix_ns=message.started_unix_ns,
        worker_s=message.worker_s,
    )
    models = tuple(_model_version(text) for text in message.models)
    return PixelResult(message.scan_id, rows, message.worker, models)


def encode_startup(event: Event, detector: Detector) -> bytes:
    """Serialise what workers need to know of a scan; the same event and detector give the same bytes."""
    message = scan_pb2.ScanStartup(
        event=event_to_message(event),
        detector=detector.name,
        positions_m=_bytes(detector.positions_m, _FLOAT64, detector.n_sensors, 3),
        efficiency=_bytes(detector.efficiency, _FLOAT64, detector.n_sensors),
    )
    return message.SerializeToString(deterministic=True)


def decode_startup(payload: bytes) -> tuple[Event, Detector]:
    """Read what workers need to know of a scan.

    Raises:
        UndecodableMessage: The bytes are not an `icestream.v1.ScanStartup` with the event's pulses inside.
    """
    message = _parsed(scan_pb2.ScanStartup(), payload)
    try:
        event = event_from_message(message.event)
    except InvalidEvent as error:
        raise UndecodableMessage(f"the event of a ScanStartup is damaged: {error}") from error
    if isinstance(event, DetachedEvent):
        raise UndecodableMessage(f"a ScanStartup holds its event's pulses; that of {event.event.id} does not")
    n_sensors = len(message.efficiency) // _FLOAT64.itemsize
    columns = _read(message, {"positions_m": (_FLOAT64, 3), "efficiency": (_FLOAT64, 1)}, n_sensors)
    return event, Detector(message.detector, **columns)


def encode_accepted(request: ScanRequest) -> bytes:
    """Serialise the first entry of a scan's log."""
    header = Event(
        request.event_id,
        request.detector,
        request.start_unix_ns,
        _NO_PULSES,
        alert_type=request.alert_type,
        is_real=request.is_real_event,
    )
    message = scan_pb2.ScanAccepted(
        scan_id=request.scan_id,
        event=event_to_message(header),
        n_pulses=request.n_pulses,
        options=options_to_message(request.options, request.frame),
        is_equatorial=request.frame is Frame.EQUATORIAL,
        seed_position=_position_message(request.seed.position_m),
        seed_time_ns=request.seed.time_ns,
        offsets=_position_messages(request.offsets_m),
        rotates_offsets=request.rotates_offsets,
        adds_fallback_seed=request.adds_fallback_seed,
        levels_compare=request.levels_compare,
        batch_size=request.batch_size,
        created_unix_ns=request.created_unix_ns,
        startup_sha256=request.startup_sha256,
    )
    return message.SerializeToString()


def decode_accepted(payload: bytes) -> ScanRequest:
    """Read the first entry of a scan's log.

    Raises:
        UndecodableMessage: The bytes are not an `icestream.v1.ScanAccepted`.
        InvalidScan: Its options break a rule.
    """
    message = _parsed(scan_pb2.ScanAccepted(), payload)
    event = message.event
    return ScanRequest(
        scan_id=message.scan_id,
        event_id=EventId(event.run_id, event.event_id, event.sub_event),
        detector=event.detector,
        start_unix_ns=event.start_unix_ns,
        n_pulses=message.n_pulses,
        options=options_from_message(message.options),
        frame=_frame(is_equatorial=message.is_equatorial),
        seed=Seed(_position(message.seed_position), message.seed_time_ns),
        offsets_m=_positions(message.offsets),
        rotates_offsets=message.rotates_offsets,
        adds_fallback_seed=message.adds_fallback_seed,
        levels_compare=message.levels_compare,
        batch_size=message.batch_size,
        created_unix_ns=message.created_unix_ns,
        startup_sha256=message.startup_sha256,
        alert_type=event.alert_type,
        is_real_event=event.is_real,
    )


def options_to_message(options: ScanOptions, frame: Frame) -> scan_pb2.ScanOptions:
    """The options as a message.

    Args:
        options: Labels that are no text are written as text.
        frame: What the pointing's angles mean.
    """
    return scan_pb2.ScanOptions(
        reco=options.reco,
        progression=[
            scan_pb2.ScanLevel(nside=nside, extension=extension)
            for nside, extension in options.progression.levels
        ],
        predictive_threshold=options.predictive_threshold,
        pointing=None if options.pointing is None else _pointing_message(options.pointing, frame),
        priority=options.priority,
        classifiers={key: _label(value) for key, value in options.classifiers.items()},
        position_variations=_position_messages(options.offsets_m or ()),
    )


def options_from_message(message: scan_pb2.ScanOptions, *, default_reco: str = "") -> ScanOptions:
    """Read options; `pointing_frame` says what the pointing's angles mean.

    Args:
        message: What a client, or the log, says.
        default_reco: Where the message names none.

    Raises:
        InvalidScan: The progression breaks a rule.
    """
    levels = tuple((level.nside, level.extension) for level in message.progression)
    return ScanOptions(
        reco=message.reco or default_reco,
        progression=Progression(levels) if levels else DEFAULT_PROGRESSION,
        predictive_threshold=message.predictive_threshold or 1.0,
        pointing=_pointing(message.pointing) if pointing_frame(message) else None,
        priority=message.priority,
        classifiers=dict(message.classifiers),
        offsets_m=_positions(message.position_variations) or None,
    )


def pointing_frame(message: scan_pb2.ScanOptions) -> Frame | None:
    """In which coordinates the options point somewhere; None where they do not."""
    match message.pointing.WhichOneof("centre"):
        case "equatorial":
            return Frame.EQUATORIAL
        case "horizontal":
            return Frame.DETECTOR
        case _:
            return None


def skymap_to_message(skymap: Skymap, scan: scan_pb2.Scan | None = None) -> scan_pb2.Skymap:
    """The map as a message.

    Args:
        skymap: The map.
        scan: All that is known of the scan; by default only what the map itself knows.
    """
    message = scan_pb2.Skymap(
        scan=scan,
        is_equatorial=skymap.frame is Frame.EQUATORIAL,
        hypotheses=skymap.hypotheses,
        levels=[_level_message(level) for level in skymap.levels],
        is_complete=skymap.is_complete,
        levels_compare=skymap.levels_compare,
        notes=skymap.notes,
        event_type=skymap.event_type,
        is_real_event=skymap.is_real_event,
    )
    header = message.scan
    header.scan_id = skymap.scan_id
    header.run_id = skymap.event_id.run_id
    header.event_id = skymap.event_id.event_id
    header.sub_event = skymap.event_id.sub_event
    header.detector = skymap.detector
    header.start_unix_ns = skymap.start_unix_ns
    header.options.reco = skymap.reco
    return message


def skymap_from_message(message: scan_pb2.Skymap) -> Skymap:
    """Read a map.

    Raises:
        UndecodableMessage: The columns of a level do not fit together.
    """
    scan = message.scan
    return Skymap(
        scan_id=scan.scan_id,
        event_id=EventId(scan.run_id, scan.event_id, scan.sub_event),
        event_type=message.event_type or "none",
        detector=scan.detector,
        start_unix_ns=scan.start_unix_ns,
        is_real_event=message.is_real_event,
        frame=_frame(is_equatorial=message.is_equatorial),
        reco=scan.options.reco,
        hypotheses=tuple(message.hypotheses),
        levels=tuple(_level(level) for level in message.levels),
        is_complete=message.is_complete,
        levels_compare=message.levels_compare,
        notes=dict(message.notes),
    )


def _work_columns(n_seeds: int) -> _Columns:
    return {**_VARIATION, "direction": (_FLOAT64, 3), "seeds": (_FLOAT64, 4 * n_seeds)}


def _level_message(level: Level) -> scan_pb2.SkymapLevel:
    message = scan_pb2.SkymapLevel(
        nside=level.nside,
        pixel=_bytes(level.pixel, _INT64, len(level)),
        is_complete=level.is_complete,
        missing=_bytes(level.missing, _INT64, len(level.missing)),
    )
    _fill(message, level, _FITS, len(level))
    return message


def _level(message: scan_pb2.SkymapLevel) -> Level:
    pixel = _row_index(message, "pixel")
    return Level(
        nside=message.nside,
        pixel=pixel,
        is_complete=message.is_complete,
        missing=_row_index(message, "missing"),
        **_read(message, _FITS, len(pixel)),
    )


def _bytes(values: NDArray[Any], dtype: np.dtype[Any], n_rows: int, width: int = 1) -> bytes:
    if values.size != n_rows * width:
        raise ValueError(f"a column of shape {values.shape} does not hold {n_rows} rows of {width}")
    return values.astype(dtype, copy=False).tobytes()


def _fill(message: Message, source: object, columns: _Columns, n_rows: int) -> None:
    for name, (dtype, width) in columns.items():
        setattr(message, name, _bytes(getattr(source, name), dtype, n_rows, width))


def _read(message: Message, columns: _Columns, n_rows: int) -> dict[str, NDArray[Any]]:
    """The columns in the widest type of their kind; shape (n_rows,), or (n_rows, width)."""
    return {name: _column(message, name, dtype, n_rows, width) for name, (dtype, width) in columns.items()}


def _column(message: Message, name: str, dtype: np.dtype[Any], n_rows: int, width: int) -> NDArray[Any]:
    data: bytes = getattr(message, name)
    n_bytes = n_rows * width * dtype.itemsize
    if len(data) != n_bytes:
        raise UndecodableMessage(
            f"{message.DESCRIPTOR.full_name}.{name} has {len(data)} bytes; "
            f"{n_rows} rows of {width} {dtype.name} take {n_bytes}"
        )
    column = np.frombuffer(data, dtype).astype(np.float64 if dtype.kind == "f" else np.int64, copy=False)
    return column if width == 1 else column.reshape(n_rows, width)


def _row_index(message: Message, name: str) -> IntArray:
    """The column that decides how many rows there are."""
    n_rows = len(getattr(message, name)) // _INT64.itemsize
    return _column(message, name, _INT64, n_rows, 1)


def _parsed(message: _Message, payload: bytes) -> _Message:
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        name = message.DESCRIPTOR.full_name
        raise UndecodableMessage(f"{len(payload)} bytes are not an {name}: {error}") from error
    return message


def _frame(*, is_equatorial: bool) -> Frame:
    return Frame.EQUATORIAL if is_equatorial else Frame.DETECTOR


def _model_version(text: str) -> ModelVersion:
    name, _, version = text.rpartition("/")
    return ModelVersion(name, version)


def _label(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pointing_message(pointing: Pointing, frame: Frame) -> scan_pb2.Pointing:
    if frame is Frame.EQUATORIAL:
        dec_rad = np.pi / 2 - pointing.colatitude_rad
        centre = scan_pb2.Equatorial(ra_rad=pointing.longitude_rad, dec_rad=dec_rad)
        return scan_pb2.Pointing(equatorial=centre, radius_rad=pointing.radius_rad)
    horizontal = scan_pb2.Horizontal(azimuth_rad=pointing.longitude_rad, zenith_rad=pointing.colatitude_rad)
    return scan_pb2.Pointing(horizontal=horizontal, radius_rad=pointing.radius_rad)


def _pointing(message: scan_pb2.Pointing) -> Pointing:
    radius_rad = message.radius_rad or DEFAULT_POINTING_RADIUS_RAD
    if message.HasField("equatorial"):
        colatitude_rad = float(np.pi / 2) - message.equatorial.dec_rad
        return Pointing(message.equatorial.ra_rad, colatitude_rad, radius_rad)
    return Pointing(message.horizontal.azimuth_rad, message.horizontal.zenith_rad, radius_rad)


def _position_message(position_m: tuple[float, float, float]) -> scan_pb2.Position:
    x_m, y_m, z_m = position_m
    return scan_pb2.Position(x_m=x_m, y_m=y_m, z_m=z_m)


def _position_messages(positions_m: Iterable[tuple[float, float, float]]) -> list[scan_pb2.Position]:
    return [_position_message(position_m) for position_m in positions_m]


def _position(message: scan_pb2.Position) -> tuple[float, float, float]:
    return message.x_m, message.y_m, message.z_m


def _positions(messages: Iterable[scan_pb2.Position]) -> tuple[tuple[float, float, float], ...]:
    return tuple(_position(message) for message in messages)
