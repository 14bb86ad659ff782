import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.codec import (
    DetachedEvent,
    PulseReference,
    decode_event,
    decode_events,
    decode_pulses,
    decode_reconstruction,
    encode_detached_event,
    encode_event,
    encode_pulses,
    event_from_message,
    event_to_message,
    reconstruction_to_message,
    reconstructions_to_messages,
)
from icestream.errors import InvalidEvent, UndecodableMessage
from icestream.physics.events import (
    Estimate,
    Event,
    EventId,
    EventKind,
    ModelVersion,
    Pulses,
    Reconstruction,
    Timings,
    Truth,
)
from icestream.v1 import event_pb2

int64s = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**31 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
float32s = st.floats(allow_nan=False, width=32)
event_ids = st.builds(EventId, int64s, int64s, st.integers(-(2**31), 2**31 - 1))
truths = st.builds(Truth, finite, finite, st.none() | finite, st.sampled_from(EventKind))
references = st.builds(PulseReference, st.text(), st.text(), int64s)
reconstructions = st.builds(
    Reconstruction,
    event_id=event_ids,
    detector=st.text(),
    start_unix_ns=int64s,
    n_pulses=counts,
    truth=st.none() | truths,
    estimate=st.builds(Estimate, st.tuples(finite, finite, finite), float32s, float32s, float32s, counts),
    model=st.builds(ModelVersion, st.text(), st.text()),
    timings=st.builds(Timings, int64s, int64s, int64s),
    trace_id=st.text(),
)


_ROW = np.dtype([("sensor_id", "<u2"), ("time_ns", "<f8"), ("charge_pe", "<f4"), ("flags", "u1")])
_COLUMNS = ("sensor_id", "time_ns", "charge_pe", "flags")


@st.composite
def pulse_columns(draw: st.DrawFn, max_pulses: int = 20) -> Pulses:
    """Any bits at all: the codec carries them, others judge them."""
    n = draw(st.integers(0, max_pulses))
    rows = np.frombuffer(draw(st.binary(min_size=15 * n, max_size=15 * n)), _ROW)
    return Pulses(*(np.ascontiguousarray(rows[name]) for name in _COLUMNS))


events = st.builds(
    Event, event_ids, st.text(), int64s, pulse_columns(), st.none() | truths, st.text(), st.booleans()
)


def an_event(pulses: Pulses | None = None, truth: Truth | None = None) -> Event:
    some = Pulses(
        np.array([1, 515], np.uint16),
        np.array([0.5, -2.0]),
        np.ones(2, np.float32),
        np.array([1, 0], np.uint8),
    )
    return Event(EventId(1, 2, 3), "icecube86", 4, pulses or some, truth)


def a_message(**columns: bytes) -> event_pb2.Event:
    sound = {"sensor_id": bytes(4), "time_ns": bytes(16), "charge_pe": bytes(8), "flags": bytes(2)}
    return event_pb2.Event(run_id=1, event_id=2, pulses=event_pb2.Pulses(**(sound | columns)))


def assert_same_pulses(decoded: Pulses, original: Pulses) -> None:
    for name in _COLUMNS:
        assert getattr(decoded, name).dtype == getattr(original, name).dtype
        # Bit by bit, so that NaN counts as well.
        assert getattr(decoded, name).tobytes() == getattr(original, name).tobytes()


def header(event: Event) -> tuple[object, ...]:
    return event.id, event.detector, event.start_unix_ns, event.truth, event.alert_type, event.is_real


@given(events)
def test_an_event_survives_the_wire(event: Event) -> None:
    for decoded in (decode_event(encode_event(event)), event_from_message(event_to_message(event))):
        assert isinstance(decoded, Event)
        assert header(decoded) == header(event)
        assert_same_pulses(decoded.pulses, event.pulses)


@given(events, references)
def test_a_detached_event_survives_the_wire_and_gets_its_pulses_back(
    event: Event, reference: PulseReference
) -> None:
    decoded = decode_event(encode_detached_event(event, reference))
    assert isinstance(decoded, DetachedEvent)
    assert decoded.reference == reference
    assert len(decoded.event.pulses) == 0
    whole = decoded.attach(decode_pulses(encode_pulses(event.pulses), event.id))
    assert header(whole) == header(event)
    assert_same_pulses(whole.pulses, event.pulses)


@given(reconstructions)
def test_a_reconstruction_survives_the_wire(reconstruction: Reconstruction) -> None:
    payload = reconstruction_to_message(reconstruction).SerializeToString()
    assert decode_reconstruction(payload) == reconstruction


@given(st.lists(reconstructions, max_size=5))
def test_many_reconstructions_are_encoded_as_each_alone(rows: list[Reconstruction]) -> None:
    assert reconstructions_to_messages(rows) == [reconstruction_to_message(row) for row in rows]


@given(reconstructions)
def test_angles_lie_in_their_ranges(reconstruction: Reconstruction) -> None:
    direction = reconstruction_to_message(reconstruction).direction
    assert 0 <= direction.azimuth_rad < 2 * np.pi
    assert 0 <= direction.zenith_rad <= np.pi


@pytest.mark.parametrize(
    ("x", "y", "z", "azimuth_deg", "zenith_deg"),
    [(1, 0, 0, 0, 90), (0, 1, 0, 90, 90), (0, -1, 0, 270, 90), (0, 0, 1, 0, 0), (0, 0, -1, 0, 180)],
)
def test_angles_say_where_the_neutrino_came_from(
    x: float, y: float, z: float, azimuth_deg: float, zenith_deg: float
) -> None:
    row = Reconstruction(
        EventId(1, 2),
        "",
        0,
        1,
        None,
        Estimate((x, y, z), 1, 0.1, 0.2, 1),
        ModelVersion("", ""),
        Timings(0, 0, 0),
    )
    direction = reconstruction_to_message(row).direction
    assert np.degrees(direction.azimuth_rad) == pytest.approx(azimuth_deg)
    assert np.degrees(direction.zenith_rad) == pytest.approx(zenith_deg)


def test_azimuth_just_below_zero_is_not_two_pi() -> None:
    row = Reconstruction(
        EventId(1, 2),
        "",
        0,
        1,
        None,
        Estimate((1.0, -1e-20, 0.0), 1, 0.1, 0.2, 1),
        ModelVersion("", ""),
        Timings(0, 0, 0),
    )
    assert reconstruction_to_message(row).direction.azimuth_rad == 0.0


def test_pulses_are_little_endian_columns_on_the_wire() -> None:
    pulses = event_to_message(an_event()).pulses
    assert pulses.sensor_id == b"\x01\x00\x03\x02"
    assert pulses.time_ns == bytes(6) + b"\xe0\x3f" + bytes(7) + b"\xc0"
    assert pulses.charge_pe == b"\x00\x00\x80\x3f" * 2
    assert pulses.flags == b"\x01\x00"


def test_big_endian_columns_are_turned_round() -> None:
    original = an_event().pulses
    swapped = Pulses(
        original.sensor_id.astype(">u2"),
        original.time_ns.astype(">f8"),
        original.charge_pe.astype(">f4"),
        original.flags,
    )
    assert encode_pulses(swapped) == encode_pulses(original)


def test_an_event_of_another_client_is_understood() -> None:
    message = event_pb2.Event(
        run_id=139_000,
        event_id=17,
        sub_event=2,
        detector="icecube86",
        start_unix_ns=1_700_000_000_000_000_000,
        pulses=event_pb2.Pulses(
            sensor_id=struct.pack("<3H", 0, 60, 5159),
            time_ns=struct.pack("<3d", 0.0, 12.5, -3.0),
            charge_pe=struct.pack("<3f", 0.5, 1.0, 2.0),
            flags=struct.pack("3B", 1, 0, 1),
        ),
        truth=event_pb2.Truth(azimuth_rad=1.0, zenith_rad=0.5, kind=event_pb2.EVENT_KIND_CASCADE),
    )
    event = decode_event(message.SerializeToString())
    assert isinstance(event, Event)
    assert str(event.id) == "139000.17.2"
    assert event.truth == Truth(1.0, 0.5, None, EventKind.CASCADE)
    assert event.pulses.sensor_id.tolist() == [0, 60, 5159]
    assert event.pulses.time_ns.tolist() == [0.0, 12.5, -3.0]
    assert event.pulses.charge_pe.tolist() == [0.5, 1.0, 2.0]
    assert event.pulses.is_hlc.tolist() == [True, False, True]


def test_the_kinds_have_the_numbers_of_the_protobuf() -> None:
    names = {kind.value: f"EVENT_KIND_{kind.name}" for kind in EventKind if kind is not EventKind.UNKNOWN}
    assert {number: name for name, number in event_pb2.EventKind.items()} == names | {
        0: "EVENT_KIND_UNSPECIFIED"
    }


@given(st.integers(4, 2**31 - 1))
def test_a_kind_of_the_future_is_unknown_here(number: int) -> None:
    message = a_message()
    message.truth.kind = number  # type: ignore[assignment]  # as a newer publisher would
    event = decode_event(message.SerializeToString())
    assert isinstance(event, Event)
    assert event.truth is not None
    assert event.truth.kind is EventKind.UNKNOWN


def test_an_energy_of_zero_is_not_an_unknown_energy() -> None:
    known = Truth(1.0, 0.5, energy_gev=0.0)
    event = decode_event(encode_event(an_event(truth=known)))
    assert isinstance(event, Event)
    assert event.truth == known


def test_an_event_without_pulses_or_reference_has_no_pulses() -> None:
    event = decode_event(event_pb2.Event(run_id=1).SerializeToString())
    assert isinstance(event, Event)
    assert len(event.pulses) == 0


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        ({"time_ns": bytes(8)}, ["pulses.time_ns"]),
        ({"charge_pe": bytes(12)}, ["pulses.charge_pe"]),
        ({"flags": b""}, ["pulses.flags"]),
        ({"sensor_id": bytes(3)}, ["pulses.sensor_id", "pulses.time_ns", "pulses.charge_pe", "pulses.flags"]),
        ({"sensor_id": b""}, ["pulses.time_ns", "pulses.charge_pe", "pulses.flags"]),
        ({"time_ns": bytes(17), "flags": bytes(3)}, ["pulses.time_ns", "pulses.flags"]),
    ],
)
def test_columns_of_unequal_length_are_named(columns: dict[str, bytes], fields: list[str]) -> None:
    with pytest.raises(InvalidEvent) as refused:
        decode_event(a_message(**columns).SerializeToString())
    assert refused.value.event_id == "1.2.0"
    assert [violation.field for violation in refused.value.violations] == fields


def test_a_violation_says_how_long_the_column_should_be() -> None:
    with pytest.raises(InvalidEvent, match=r"pulses\.time_ns: 8 bytes; 2 pulses of float64 take 16"):
        event_from_message(a_message(time_ns=bytes(8)))


def test_stored_pulses_of_unequal_length_are_refused() -> None:
    message = a_message(flags=b"").pulses
    with pytest.raises(InvalidEvent, match=r"event 1\.2\.0 .*pulses\.flags"):
        decode_pulses(message.SerializeToString(), EventId(1, 2))


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_raises_nothing_else(garbage: bytes) -> None:
    for read in (decode_event, decode_reconstruction, lambda data: decode_pulses(data, EventId(1, 2))):
        with suppress(UndecodableMessage, InvalidEvent):
            read(garbage)


@given(events, st.data())
def test_a_damaged_event_is_refused_and_raises_nothing_else(event: Event, data: st.DataObject) -> None:
    payload = bytearray(encode_event(replace(event, truth=Truth(1.0, 0.5))))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(payload)))
    for damaged in (bytes(payload), bytes(payload[:cut])):
        with suppress(UndecodableMessage, InvalidEvent):
            decode_event(damaged)


@given(st.lists(events | st.binary(max_size=50), max_size=5))
def test_messages_that_are_read_together_give_what_each_gives_alone(found: list[Event | bytes]) -> None:
    payloads = [encode_event(one) if isinstance(one, Event) else one for one in found]
    together = decode_events(payloads)
    begin = 0
    for payload, event, end in zip(payloads, together.events, together.ends.tolist(), strict=True):
        if event is None:
            assert begin == end
            with suppress(UndecodableMessage, InvalidEvent):
                alone = decode_event(payload)
                assert isinstance(alone, DetachedEvent) or len(alone.pulses) == 0
        else:
            alone = decode_event(payload)
            assert isinstance(alone, Event)
            assert header(event) == header(alone)
            assert_same_pulses(event.pulses, alone.pulses)
            assert_same_pulses(together.pulses[begin:end], alone.pulses)
        begin = end


@pytest.mark.parametrize("garbage", [b"\xff", b'{"run_id": 1}', b"\x22\x02\xff\xfe"])
def test_garbage_is_undecodable(garbage: bytes) -> None:
    with pytest.raises(UndecodableMessage, match="publish serialised Event messages"):
        decode_event(garbage)
    with pytest.raises(UndecodableMessage):
        decode_reconstruction(b"\xff")
    with pytest.raises(UndecodableMessage, match=r"1\.2\.0"):
        decode_pulses(b"\xff", EventId(1, 2))
