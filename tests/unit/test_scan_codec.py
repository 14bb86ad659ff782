import dataclasses
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from icestream.codec import PulseReference, encode_detached_event
from icestream.errors import InvalidScan, UndecodableMessage
from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId, ModelVersion, Pulses
from icestream.scan_codec import (
    DEFAULT_POINTING_RADIUS_RAD,
    PixelResult,
    PixelWork,
    decode_accepted,
    decode_result,
    decode_startup,
    decode_work,
    encode_accepted,
    encode_result,
    encode_startup,
    encode_work,
    options_from_message,
    options_to_message,
    pointing_frame,
    skymap_from_message,
    skymap_to_message,
)
from icestream.scans.pixels import PixelBatch, PixelFits, TakenRows
from icestream.scans.progression import DEFAULT_PROGRESSION, Progression
from icestream.scans.request import Frame, Pointing, Scalar, ScanOptions, ScanRequest, Seed
from icestream.scans.skymap import Level, Skymap
from icestream.v1 import event_pb2, scan_pb2

int64s = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**31 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
positions = st.tuples(finite, finite, finite)
event_ids = st.builds(EventId, int64s, int64s, st.integers(-(2**31), 2**31 - 1))
progressions = st.sampled_from([DEFAULT_PROGRESSION, Progression.parse("1:0"), Progression.parse("2:0,4:12")])
names = st.text(min_size=1, max_size=5)
models = st.builds(ModelVersion, names, st.from_regex(r"[0-9]{1,3}", fullmatch=True))


@st.composite
def columns(draw: st.DrawFn, n_rows: int, dtype: str, width: int = 1) -> NDArray[Any]:
    """Any bits at all, in the type that they have in memory."""
    n_bytes = n_rows * width * np.dtype(dtype).itemsize
    column = np.frombuffer(draw(st.binary(min_size=n_bytes, max_size=n_bytes)), dtype)
    column = column.astype(np.float64 if dtype == "<f8" else np.int64)
    return column if width == 1 else column.reshape(n_rows, width)


@st.composite
def fits_of(draw: st.DrawFn, n: int) -> PixelFits:
    return PixelFits(
        llh=draw(columns(n, "<f8")),
        position_m=draw(columns(n, "<f8", 3)),
        time_ns=draw(columns(n, "<f8")),
        n_hits=draw(columns(n, "<i4")),
        hypothesis=draw(columns(n, "u1")),
        rival_llh=draw(columns(n, "<f8")),
        energy_inside_gev=draw(columns(n, "<f8")),
        energy_total_gev=draw(columns(n, "<f8")),
    )


@st.composite
def works(draw: st.DrawFn) -> PixelWork:
    n, n_seeds = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    batch = PixelBatch(
        number=draw(int64s),
        nside=draw(st.integers(1, 2**31 - 1)),
        pixel=draw(columns(n, "<i8")),
        variation=draw(columns(n, "<i4")),
        direction=draw(columns(n, "<f8", 3)),
        seeds=draw(columns(n, "<f8", 4 * n_seeds)).reshape(n, n_seeds, 4),
    )
    part = draw(st.text("01", max_size=4))
    return PixelWork(draw(names), draw(st.text()), draw(st.text()), batch, part, draw(counts))


@st.composite
def results(draw: st.DrawFn) -> PixelResult:
    n = draw(st.integers(0, 5))
    failure = draw(st.sampled_from(["", "model_failed: it did"]))
    rows = TakenRows(
        number=draw(int64s),
        first_row=draw(counts),
        nside=draw(counts),
        pixel=draw(columns(n, "<i8")),
        variation=draw(columns(n, "<i4")),
        fits=None if failure else draw(fits_of(n)),
        failure=failure,
        started_unix_ns=draw(int64s),
        worker_s=draw(finite),
    )
    return PixelResult(draw(names), rows, draw(st.text()), tuple(draw(st.lists(models, max_size=2))))


options = st.builds(
    ScanOptions,
    reco=names,
    progression=progressions,
    predictive_threshold=st.floats(0.01, 1.0),
    pointing=st.none() | st.builds(Pointing, finite, st.floats(0, math.pi), st.floats(0.001, 3)),
    priority=st.integers(-(2**31), 2**31 - 1),
    classifiers=st.dictionaries(st.text(max_size=25), st.text(max_size=25), max_size=3),
    offsets_m=st.none() | st.lists(positions, min_size=1, max_size=3).map(tuple),
)
requests = st.builds(
    ScanRequest,
    scan_id=st.text(),
    event_id=event_ids,
    detector=st.text(),
    start_unix_ns=int64s,
    n_pulses=counts,
    options=options,
    frame=st.sampled_from(Frame),
    seed=st.builds(Seed, positions, finite),
    offsets_m=st.lists(positions, max_size=3).map(tuple),
    rotates_offsets=st.booleans(),
    adds_fallback_seed=st.booleans(),
    levels_compare=st.booleans(),
    batch_size=counts,
    created_unix_ns=int64s,
    startup_sha256=st.text(),
    alert_type=st.text(),
    is_real_event=st.booleans(),
)


@st.composite
def levels(draw: st.DrawFn) -> Level:
    n = draw(st.integers(0, 4))
    fits = draw(fits_of(n))
    return Level(
        nside=draw(counts),
        pixel=draw(columns(n, "<i8")),
        is_complete=draw(st.booleans()),
        missing=draw(st.integers(0, 3).flatmap(lambda n_missing: columns(n_missing, "<i8"))),
        **{field.name: getattr(fits, field.name) for field in dataclasses.fields(fits)},
    )


skymaps = st.builds(
    Skymap,
    scan_id=st.text(),
    event_id=event_ids,
    event_type=st.text(min_size=1),
    detector=st.text(),
    start_unix_ns=int64s,
    is_real_event=st.booleans(),
    frame=st.sampled_from(Frame),
    reco=st.text(),
    hypotheses=st.lists(st.text(), max_size=2).map(tuple),
    levels=st.lists(levels(), max_size=2).map(tuple),
    is_complete=st.booleans(),
    levels_compare=st.booleans(),
    notes=st.dictionaries(st.sampled_from(["software", "model"]), st.text()),
)


@st.composite
def startups(draw: st.DrawFn) -> tuple[Event, Detector]:
    n_sensors, n_pulses = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    pulses = Pulses(
        np.arange(n_pulses, dtype=np.uint16),
        np.arange(n_pulses, dtype=np.float64),
        np.ones(n_pulses, np.float32),
        np.ones(n_pulses, np.uint8),
    )
    event = Event(draw(event_ids), draw(st.text()), draw(int64s), pulses)
    positions_m = draw(columns(n_sensors, "<f8", 3))
    return event, Detector(draw(st.text()), positions_m, draw(columns(n_sensors, "<f8")))


def assert_same(decoded: object, original: object) -> None:
    """Field by field, and arrays bit by bit, so that NaN and the shape count as well."""
    assert type(decoded) is type(original)
    if isinstance(original, np.ndarray):
        assert isinstance(decoded, np.ndarray)
        assert (decoded.dtype, decoded.shape) == (original.dtype, original.shape)
        assert decoded.tobytes() == original.tobytes()
    elif dataclasses.is_dataclass(original):
        for field in dataclasses.fields(original):
            assert_same(getattr(decoded, field.name), getattr(original, field.name))
    elif isinstance(original, tuple):
        assert isinstance(decoded, tuple)
        assert len(decoded) == len(original)
        for one, other in zip(decoded, original, strict=True):
            assert_same(one, other)
    elif isinstance(original, float):
        assert decoded == pytest.approx(original, rel=1e-12, abs=1e-15)
    else:
        assert decoded == original


def a_work(n: int = 2) -> PixelWork:
    batch = PixelBatch(7, 8, np.arange(n), np.zeros(n, int), np.ones((n, 3)), np.ones((n, 1, 4)))
    return PixelWork("s1", "dummy", "sha", batch, part="01", first_row=16)


@given(works())
def test_work_survives_the_wire(work: PixelWork) -> None:
    assert_same(decode_work(encode_work(work)), work)


@given(results())
def test_a_result_survives_the_wire(result: PixelResult) -> None:
    assert_same(decode_result(encode_result(result)), result)


@given(startups())
def test_startup_data_survive_the_wire(startup: tuple[Event, Detector]) -> None:
    assert_same(decode_startup(encode_startup(*startup)), startup)


@given(requests)
def test_an_accepted_scan_survives_the_wire(request: ScanRequest) -> None:
    assert_same(decode_accepted(encode_accepted(request)), request)


@given(skymaps)
def test_a_skymap_survives_the_wire(skymap: Skymap) -> None:
    message = scan_pb2.Skymap.FromString(skymap_to_message(skymap).SerializeToString())
    assert_same(skymap_from_message(message), skymap)


@given(options, st.sampled_from(Frame))
def test_options_survive_the_wire_with_the_frame_of_their_pointing(asked: ScanOptions, frame: Frame) -> None:
    message = options_to_message(asked, frame)
    assert_same(options_from_message(message), asked)
    assert pointing_frame(message) == (frame if asked.pointing else None)


def test_work_has_the_same_name_as_its_result() -> None:
    assert a_work().message_id == "s1/7/01"


def test_columns_are_little_endian_on_the_wire() -> None:
    message = scan_pb2.PixelWork.FromString(encode_work(a_work()))
    assert message.pixel == bytes(8) + b"\x01" + bytes(7)
    assert message.variation == bytes(8)
    assert message.direction == (bytes(6) + b"\xf0\x3f") * 6


def test_big_endian_columns_are_turned_round() -> None:
    work = a_work()
    swapped = dataclasses.replace(work.batch, pixel=work.batch.pixel.astype(">i8"))
    assert encode_work(dataclasses.replace(work, batch=swapped)) == encode_work(work)


def test_options_that_say_nothing_mean_the_defaults() -> None:
    asked = options_from_message(scan_pb2.ScanOptions(), default_reco="best")
    assert asked == ScanOptions("best", DEFAULT_PROGRESSION, predictive_threshold=1.0)


def test_a_pointing_without_a_radius_has_the_default_one() -> None:
    message = scan_pb2.ScanOptions(
        pointing=scan_pb2.Pointing(equatorial=scan_pb2.Equatorial(ra_rad=1.0, dec_rad=0.5))
    )
    pointing = options_from_message(message).pointing
    assert pointing == Pointing(1.0, math.pi / 2 - 0.5, DEFAULT_POINTING_RADIUS_RAD)


def test_an_impossible_progression_is_refused() -> None:
    message = scan_pb2.ScanOptions(progression=[scan_pb2.ScanLevel(nside=3)])
    with pytest.raises(InvalidScan, match="power of two"):
        options_from_message(message)


def test_labels_are_text_on_the_wire() -> None:
    labels: dict[str, Scalar] = {"is_test": True, "n": 3, "x": 0.5, "who": "me"}
    asked = ScanOptions("best", DEFAULT_PROGRESSION, classifiers=labels)
    message = options_to_message(asked, Frame.DETECTOR)
    assert dict(message.classifiers) == {"is_test": "true", "n": "3", "x": "0.5", "who": "me"}


def test_a_skymap_carries_what_else_is_known_of_its_scan() -> None:
    skymap = Skymap(
        "s1", EventId(1, 2), "hese", "toy", 5, True, Frame.DETECTOR, "best", (), (), True, True, {}
    )
    message = skymap_to_message(skymap, scan_pb2.Scan(trace_id="abc"))
    assert (message.scan.trace_id, message.scan.scan_id, message.scan.detector) == ("abc", "s1", "toy")


@pytest.mark.parametrize("column", ["variation", "direction", "seeds", "pixel"])
def test_a_column_of_another_length_is_named(column: str) -> None:
    message = scan_pb2.PixelWork.FromString(encode_work(a_work()))
    setattr(message, column, getattr(message, column)[:-1])
    with pytest.raises(
        UndecodableMessage, match=rf"icestream\.v1\.PixelWork\.{column} has \d+ bytes; \d row"
    ):
        decode_work(message.SerializeToString())


def test_the_complaint_says_how_long_the_column_should_be() -> None:
    message = scan_pb2.PixelWork.FromString(encode_work(a_work()))
    message.direction = b"short"
    with pytest.raises(UndecodableMessage, match="direction has 5 bytes; 2 rows of 3 float64 take 48"):
        decode_work(message.SerializeToString())


@pytest.mark.parametrize("change", [{"n_seeds": 0}, {"nside": 0}, {"scan_id": ""}, {"n_seeds": -1}])
def test_impossible_work_is_undecodable(change: dict[str, object]) -> None:
    message = scan_pb2.PixelWork.FromString(encode_work(a_work()))
    for field, value in change.items():
        setattr(message, field, value)
    with pytest.raises(UndecodableMessage):
        decode_work(message.SerializeToString())


def test_work_without_rows_is_undecodable() -> None:
    with pytest.raises(UndecodableMessage, match="no rows"):
        decode_work(encode_work(a_work(0)))


def test_a_result_whose_fits_have_another_length_is_refused() -> None:
    message = scan_pb2.PixelResult(scan_id="s1", pixel=bytes(16), variation=bytes(8), llh=bytes(8))
    with pytest.raises(UndecodableMessage, match=r"PixelResult\.llh has 8 bytes; 2 rows"):
        decode_result(message.SerializeToString())


def test_fits_of_another_length_than_their_rows_are_not_written() -> None:
    nothing = np.full(3, np.nan)
    n = np.zeros(3, int)
    fits = PixelFits(nothing, np.zeros((3, 3)), nothing, n, n, nothing, nothing, nothing)
    result = PixelResult("s1", TakenRows(0, 0, 8, np.arange(2), np.zeros(2, int), fits), "w")
    with pytest.raises(ValueError, match="does not hold 2 rows"):
        encode_result(result)


def test_startup_data_hold_the_pulses_themselves() -> None:
    pulses = Pulses(np.zeros(0, np.uint16), np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.uint8))
    payload = encode_detached_event(
        Event(EventId(1, 2), "toy", 0, pulses), PulseReference("bucket", "name", 1)
    )
    message = scan_pb2.ScanStartup(event=event_pb2.Event.FromString(payload))
    with pytest.raises(UndecodableMessage, match=r"1\.2\.0"):
        decode_startup(message.SerializeToString())


def test_a_damaged_event_makes_startup_data_undecodable() -> None:
    message = scan_pb2.ScanStartup(event=event_pb2.Event(pulses=event_pb2.Pulses(sensor_id=b"abc")))
    with pytest.raises(UndecodableMessage, match="sensor_id"):
        decode_startup(message.SerializeToString())


def test_the_same_scan_has_the_same_startup_data() -> None:
    event = Event(EventId(1, 2), "toy", 0, Pulses(*(np.zeros(2, t) for t in ("u2", "f8", "f4", "u1"))))
    detector = Detector("toy", np.zeros((2, 3)), np.ones(2))
    assert encode_startup(event, detector) == encode_startup(event, detector)


READERS: list[Callable[[bytes], object]] = [decode_work, decode_result, decode_startup, decode_accepted]


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_raises_nothing_else(garbage: bytes) -> None:
    for read in READERS:
        with suppress(UndecodableMessage, InvalidScan):
            read(garbage)


@given(works(), st.data())
def test_damaged_work_is_refused_and_raises_nothing_else(work: PixelWork, data: st.DataObject) -> None:
    payload = bytearray(encode_work(work))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(payload)))
    for damaged in (bytes(payload), bytes(payload[:cut])):
        with suppress(UndecodableMessage):
            decode_work(damaged)
