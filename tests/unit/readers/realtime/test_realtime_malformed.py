"""Damaged and hostile messages: always a clear refusal, never another exception, a hang or much memory."""

import json
import pickle
import random
import struct
import subprocess
import sys
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.errors import InvalidRealtimeMessage
from icestream.readers.realtime import RealtimeEvent, list_contents, realtime_event_from_bytes
from icestream.readers.realtime.document import MAX_MESSAGE_BYTES, MAX_UNPACKED_BYTES
from tests.unit.readers.realtime.realtime_messages import (
    ArchiveWriter,
    Message,
    crc32c,
    document,
    frame,
    packed,
    pickled_frame,
    pickled_frame_of_python2,
    size,
    text,
)

FRAMES = {name: frame(name, objects) for name, objects in Message().objects.items()}
HEAD = len("[i3]") + 4


def read(data: bytes) -> RealtimeEvent:
    return realtime_event_from_bytes(data, source="test")


def read_or_refuse(data: bytes) -> RealtimeEvent | InvalidRealtimeMessage:
    """Anything but these two is a failure of the test."""
    try:
        event = read(data)
        list_contents(event)
    except InvalidRealtimeMessage as error:
        return error
    return event


def refusal(data: bytes) -> InvalidRealtimeMessage:
    result = read_or_refuse(data)
    assert isinstance(result, InvalidRealtimeMessage), "the message was read"
    assert str(result).startswith("test")
    return result


def message_with(name: str, content: bytes) -> bytes:
    """The standard message, one frame replaced."""
    frames = [[each, packed(pickled_frame(content if each == name else FRAMES[each]))] for each in FRAMES]
    return json.dumps(document(frames)).encode()


def with_right_crc(content: bytes) -> bytes:
    return content[:-4] + struct.pack("<I", crc32c(content[HEAD:-4]))


def flipped(content: bytes, position: int, bits: int) -> bytes:
    return content[:position] + bytes((content[position] ^ bits,)) + content[position + 1 :]


# Damage.


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_of_a_frame_is_noticed(name: str, bits: int) -> None:
    for position in range(len(FRAMES[name])):
        error = refusal(message_with(name, flipped(FRAMES[name], position, bits)))
        assert "CRC-32C" in error.problem or position < HEAD, error
        assert error.frame == name or position < len("[i3]")


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_flipped_bytes_behind_a_right_checksum_are_refused_or_read(name: str, bits: int) -> None:
    """What a faulty or hostile sender can do."""
    n_refused = 0
    for position in range(HEAD, len(FRAMES[name]) - 4):
        damaged = with_right_crc(flipped(FRAMES[name], position, bits))
        n_refused += isinstance(read_or_refuse(message_with(name, damaged)), InvalidRealtimeMessage)
    assert n_refused > len(FRAMES[name]) / 3


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_short_anywhere_is_refused(name: str) -> None:
    for length in range(len(FRAMES[name])):
        refusal(message_with(name, FRAMES[name][:length]))


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_short_behind_a_right_checksum_is_refused(name: str) -> None:
    for length in range(HEAD + 4, len(FRAMES[name])):
        refusal(message_with(name, with_right_crc(FRAMES[name][:length])))


@pytest.mark.parametrize("data", [Message().as_json(), Message().as_pickle()], ids=["JSON", "pickle"])
def test_a_message_cut_short_anywhere_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        refusal(data[:length])


@pytest.mark.parametrize("data", [Message().as_json(), Message().as_pickle()], ids=["JSON", "pickle"])
@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_of_a_message_changes_no_pulses(data: bytes, bits: int) -> None:
    """It may well be in a name that nobody reads."""
    pulses = read(data).event.pulses
    for position in range(len(data)):
        result = read_or_refuse(flipped(data, position, bits))
        if isinstance(result, RealtimeEvent):
            assert result.event.pulses.time_ns.tolist() == pulses.time_ns.tolist()
            assert result.event.pulses.charge_pe.tolist() == pulses.charge_pe.tolist()


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    refusal(data)


@given(st.binary(max_size=300))
def test_any_pickles_are_refused(data: bytes) -> None:
    refusal(b"\x80\x03" + data)
    frames = [["P", packed(b"\x80\x02" + data)]]
    refusal(json.dumps(document(frames)).encode())


@given(st.binary(max_size=300))
def test_any_frames_are_refused(data: bytes) -> None:
    content = b"[i3]\x06\0\0\0" + data
    refusal(message_with("P", content))
    refusal(message_with("P", with_right_crc(content + bytes(4))))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_refused(content: object) -> None:
    data = json.dumps(content).encode()
    refusal(data)
    refusal(json.dumps({"value": content}).encode())
    refusal(json.dumps({"value": {"data": content}}).encode())
    refusal(json.dumps({"value": {"data": {"frames": content}}}).encode())
    refusal(json.dumps({"value": {"data": {"frames": [["P", content]]}}}).encode())
    refusal(pickle.dumps({"value": {"data": content}}))


@given(json_values)
def test_any_figures_are_read_or_refused(content: object) -> None:
    for name in ("run_id", "nch", "qtot", "it_trig", "reco", "neutrino", "unique_id"):
        read_or_refuse(Message(figures={name: content}).as_json())
    read_or_refuse(Message(figures={"reco": {"splinempe": content, "energy": content}}).as_json())


# Hostility.


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def make_file(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_calls_something_is_refused_and_nothing_is_called(
    tmp_path: Path, protocol: int
) -> None:
    trap = tmp_path / "called"
    content = Message().document()
    content["value"]["trap"] = Calls(make_file, str(trap))
    data = pickle.dumps(content, protocol=protocol)
    pickle.loads(data)  # The trap works.
    trap.unlink()

    error = refusal(data)

    assert "GLOBAL; expected a pickle of plain data" in error.problem
    assert error.offset is not None
    assert not trap.exists()


def test_a_frames_pickle_is_not_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "called"
    content = FRAMES["P"]
    state = pickle.dumps([Calls(make_file, str(trap)), content.decode("latin-1")], protocol=2)
    frames = [["Q", packed(pickled_frame(FRAMES["Q"]))], ["P", packed(state)]]

    assert len(read(json.dumps(document(frames)).encode()).event.pulses) == 6

    assert not trap.exists()
    pickle.loads(state)  # The trap works.
    assert trap.exists()


def test_a_pickle_in_a_pickle_is_no_frame() -> None:
    nested = pickled_frame(FRAMES["P"])
    for _ in range(3):
        nested = pickled_frame(nested)
        frames = [["P", packed(nested)]]
        assert "the pickle holds 0 frames" in refusal(json.dumps(document(frames)).encode()).problem


def test_a_pickle_with_two_frames_is_refused() -> None:
    two = pickle.dumps([FRAMES["P"].decode("latin-1"), FRAMES["Q"].decode("latin-1")], protocol=2)
    error = refusal(json.dumps(document([["P", packed(two)]])).encode())
    assert "the pickle holds 2 frames" in error.problem


def test_a_frame_of_more_than_bytes_is_refused() -> None:
    odd = pickle.dumps("[i3]\u20ac", protocol=2)
    error = refusal(json.dumps(document([["P", packed(odd)]])).encode())
    assert "more than bytes" in error.problem


def test_pickles_that_hold_themselves_are_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    refusal(pickle.dumps({"value": {"data": endless}}))
    loop: dict[str, Any] = {}
    loop["value"] = loop
    loop["data"] = loop
    loop["frames"] = loop
    loop["version"] = "2021a"
    refusal(pickle.dumps(loop))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"[" * 50_000 + b"]" * 50_000, "this is no JSON document of ours", id="deep JSON lists"),
        pytest.param(b'{"value":' * 40_000, "this is no JSON document of ours", id="deep JSON objects"),
        pytest.param(b"[" + b"0," * 100_000 + b"0]", "more than 100000 values", id="many JSON values"),
        pytest.param(
            b'{"value": ' + b"9" * 5000 + b"}", "this is no JSON document of ours", id="long number"
        ),
        pytest.param(b'{"value": "\xff"}', "this is no JSON document of ours", id="no text"),
        pytest.param(b"", "this is no JSON document", id="empty"),
        pytest.param(
            json.dumps({"value": {"data": [], "version": 3}}).encode(),
            "value.version is not text",
            id="version",
        ),
        pytest.param(b"\x80\x03" + b"]" * 200_000, "more than 100000 opcodes", id="many pickle opcodes"),
        pytest.param(
            b"\x80\x03" + b"]" * 90_000 + b"a" * 90_000, "more than 100000 opcodes", id="deep pickle"
        ),
        pytest.param(b"\x80\x03]\x85}\x94.", "opcode TUPLE1", id="tuple"),
        pytest.param(b"\x80\x03}]K\1s.", "a key that is not text", id="list as key"),
        pytest.param(b"\x80\x03}(X\1\0\0\0au.", "a key that is not text", id="key without value"),
        pytest.param(b"\x80\x03}s.", "finds no value", id="item of nothing"),
        pytest.param(b"\x80\x03a.", "finds no value", id="append of nothing"),
        pytest.param(b"\x80\x03]e.", "finds no mark", id="no mark"),
        pytest.param(b"\x80\x03}K\1a.", "finds no list", id="append to a dict"),
        pytest.param(b"\x80\x03h\5.", "a value that is not there", id="unknown memo"),
        pytest.param(b"\x80\x03q\5.", "finds no value", id="memo of nothing"),
        pytest.param(b"\x80\x03(.", "does not end with one value", id="only a mark"),
        pytest.param(b"\x80\x03.", "does not end with one value", id="nothing"),
        pytest.param(b"\x80\x03}}.", "does not end with one value", id="two values"),
        pytest.param(b"\x80\x03}.}.", "something behind the pickle's end", id="two pickles"),
        pytest.param(b"\x80\x03\x96" + struct.pack("<Q", 10**10), "damaged", id="10 GB byte array"),
        pytest.param(b"\x80\x03\x8e" + struct.pack("<Q", 10**10), "damaged", id="10 GB bytes"),
        pytest.param(b"\x80\x03\x8d" + struct.pack("<Q", 10**10), "damaged", id="10 GB text"),
        pytest.param(b"\x80\x03\x8b" + struct.pack("<i", 2**31 - 1), "damaged", id="2 GB integer"),
        pytest.param(b"\x80\x03}r\xff\xff\xff\xff.", "the document has no 'value'", id="memo of 4 billion"),
        pytest.param(bytes(MAX_MESSAGE_BYTES + 1), f"more than {MAX_MESSAGE_BYTES} bytes", id="too large"),
    ],
)
def test_hostile_documents_are_refused(data: bytes, problem: str) -> None:
    assert problem in refusal(data).problem


def zeros(n_bytes: int) -> str:
    """Zlib data of so many zeros, packed into a thousandth of them."""
    deflater = zlib.compressobj()
    megabyte = bytes(1 << 20)
    parts = [deflater.compress(megabyte) for _ in range(-(-n_bytes >> 20))]
    return b64encode(b"".join((*parts, deflater.flush()))).decode()


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        pytest.param([], "not a list of 1 to 100", id="no frames"),
        pytest.param([["P", ""]] * 101, "not a list of 1 to 100", id="many frames"),
        pytest.param([["P", 3]], "frame number 1 is not a pair", id="number"),
        pytest.param([["P", "AAAA", "BBBB"]], "frame number 1 is not a pair", id="triple"),
        pytest.param([["P", "AAA"]], "the frame is not base64", id="no base64"),
        pytest.param([["P", "A\u20ac=="]], "the frame is not base64", id="no ASCII"),
        pytest.param([["P", "AAAA"]], "the frame is not zlib data", id="no zlib"),
        pytest.param([["P", ""]], "the frame's zlib data ends too early", id="empty"),
        pytest.param(
            [["P", b64encode(zlib.compress(b"ab") + b"c").decode()]],
            "something behind the end",
            id="zlib and more",
        ),
        pytest.param([["P", zeros(MAX_UNPACKED_BYTES + 1)]], "inflate to more than", id="large"),
        pytest.param([["P", packed(b"")]], "the pickle is damaged", id="empty pickle"),
        pytest.param([["P", packed(b"N" * 2000)]], "more than 1000 opcodes", id="many opcodes"),
    ],
)
def test_hostile_frames_are_refused(frames: list[list[Any]], problem: str) -> None:
    assert problem in refusal(json.dumps(document(frames)).encode()).problem


def frame_around(*parts: bytes, n_objects: int = 1) -> bytes:
    content = b"\0\0P" + struct.pack("<I", n_objects) + b"".join(parts)
    return b"[i3]\x06\0\0\0" + content + struct.pack("<I", crc32c(content))


LENGTH_10_GB = b"\xff\xff\xff\xff" + struct.pack("<Q", 10 * 10**9)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(frame_around(LENGTH_10_GB), "10000000000 bytes of an object's key do not fit", id="key"),
        pytest.param(
            frame_around(text("a"), LENGTH_10_GB), "bytes of the type of object a do not fit", id="type"
        ),
        pytest.param(
            frame_around(text("a"), text("b"), LENGTH_10_GB), "bytes of object a do not fit", id="object"
        ),
        pytest.param(
            frame_around(n_objects=2**32 - 1), "4294967295 objects; at most 10000 are read", id="objects"
        ),
        pytest.param(
            frame_around(n_objects=9), "an object's key takes 4 bytes, but 0 are left", id="no objects"
        ),
        pytest.param(frame_around(*[text("a"), text("b"), text("")] * 2, n_objects=2), "already", id="twice"),
        pytest.param(frame_around(text("a\n"), text("b"), text("")), "printable", id="name"),
        pytest.param(frame_around(b"\1\0\0\0\xff", text("b"), text("")), "is not text", id="no text"),
        pytest.param(
            FRAMES["P"].replace(b"[i3]\6", b"[i3]\5"), "is of version 5; only 6 is known", id="version"
        ),
        pytest.param(
            with_right_crc(FRAMES["P"].replace(b"\0\0P", b"\0\1P")), "unknown class", id="stream class"
        ),
        pytest.param(
            with_right_crc(FRAMES["P"].replace(b"\0\0P", b"\0\0\7")), "expected a letter", id="stream"
        ),
        pytest.param(b"[i3]\6\0\0\0abc", "ends before its checksum", id="no checksum"),
    ],
)
def test_hostile_frame_contents_are_refused(content: bytes, problem: str) -> None:
    assert problem in refusal(message_with("P", content)).problem


def archive_with(class_name: str, *parts: bytes, version: int = 0) -> bytes:
    return ArchiveWriter(class_name, version).raw(b"".join(parts)).content


BILLION = struct.pack("<I", 10**9)


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        pytest.param(
            archive_with("I3RecoPulseSeriesMap", b"\0\0", BILLION), "1000000000 modules", id="modules"
        ),
        pytest.param(
            archive_with("I3RecoPulseSeriesMap", b"\0\0", LENGTH_10_GB), "10000000000 modules", id="10 GB"
        ),
        pytest.param(
            archive_with(
                "I3RecoPulseSeriesMap",
                *(b"\0\0\1\0\0\0\0\0\1\2\2\0\0\0", struct.pack("<iIB", 1, 1, 0), b"\0\0", BILLION),
            ),
            "1000000000 pulses do not fit",
            id="pulses",
        ),
        pytest.param(
            archive_with("I3RecoPulseSeriesMapMask", LENGTH_10_GB, version=2),
            "bytes of the name of the",
            id="name",
        ),
        pytest.param(
            archive_with("I3RecoPulseSeriesMapMask", text("a"), b"\0\0\0\0\0\0\0", BILLION, version=2),
            "1000000000 masks of modules do not fit",
            id="masks",
        ),
        pytest.param(
            archive_with("I3RecoPulseSeriesMapMask", text("a"), b"\0\0\0\0\x08", version=2),
            "8 of the 0 bits of a mask are unused",
            id="unused bits",
        ),
        pytest.param(
            archive_with("I3RecoPulseSeriesMapMask", text("a"), b"\0\0\1\0\0\1\0\0\0\0\0\0", version=2),
            "the mask has bits for 0 modules, but means 1",
            id="masks missing",
        ),
        pytest.param(
            archive_with("I3SuperDST", b"\0\0\0\0", size(2**60), version=1), "at most 500000", id="stamps"
        ),
        pytest.param(b"\0\1\2\0" + LENGTH_10_GB, "the name of the object's class do not fit", id="class"),
        pytest.param(b"\1\1\2\0", "expected it to begin with 00 01", id="pointer"),
        pytest.param(b"\0\1\2\0" + text("I3SuperDST") + b"\2", "is 2; expected 0 or 1", id="tracking"),
        pytest.param(
            b"\0\1\2\0" + text("I3SuperDST") + b"\1\xff" + struct.pack("<Q", 2**60),
            f"is of version {2**60}; at most 1 is known",
            id="version",
        ),
        pytest.param(b"", "the archive's head takes 2 bytes, but 0 are left", id="empty"),
    ],
)
def test_hostile_objects_are_refused(archive: bytes, problem: str) -> None:
    message = Message().with_objects("P", SplitUncleanedInIcePulses=("I3X", archive))
    error = refusal(message.as_json())
    assert problem in error.problem
    assert (error.frame, error.object_key) == ("P", "SplitUncleanedInIcePulses")


# Memory.

READ_AND_REPORT_PEAK = """
import sys
from pathlib import Path
from icestream.errors import InvalidRealtimeMessage
from icestream.readers.realtime import list_contents, read_realtime_event

def peak_kib():
    # ru_maxrss would tell the parent's peak: it survives fork and exec.
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])

before = peak_kib()
try:
    list_contents(read_realtime_event(sys.argv[1]))
    outcome = "read"
except InvalidRealtimeMessage as error:
    outcome = "refused"
print(outcome, (peak_kib() - before) // 1024)
"""


def large_super_dst(n_stamps: int) -> bytes:
    stamps = struct.pack("<H", 0x0005) * (n_stamps - 1) + struct.pack("<H", 0x8005)
    widths = bytes(0x3 | (n_stamps >> 4 * i & 0xF) << 4 for i in range(5))
    writer = ArchiveWriter("I3SuperDST", 1).enter("stamps").enter("size").raw(size(n_stamps) + stamps)
    return (
        writer.enter("headers")
        .raw(size(1) + b"\x40\0")
        .enter("widths")
        .raw(size(5) + widths + b"\0\0\0\0")
        .content
    )


def large_mask() -> bytes:
    """Masks of 500 000 pulses for each of 250 modules."""
    module = b"\xff\xff\0" + bytes(0xFFFF)
    return archive_with(
        "I3RecoPulseSeriesMapMask", text("a"), b"\0\0", b"\x20\0\x06" + b"\xff" * 32, b"\0\0", struct.pack("<I", 250),
        module * 230, version=2,
    )  # fmt: skip


def one_object(archive: bytes) -> bytes:
    return Message().with_objects("P", SplitUncleanedInIcePulses=("I3X", archive)).as_json()


def nothing_but(content: bytes) -> bytes:
    frames = [["P", packed(pickled_frame_of_python2(content))]]
    return json.dumps(document(frames)).encode()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "zlib bomb": lambda: json.dumps(document([["P", zeros(1 << 30)]])).encode(),
    "many zlib bombs": lambda: json.dumps(document([["P", zeros(MAX_UNPACKED_BYTES)]] * 100)).encode(),
    "many values": lambda: b"[" + b"{}," * (MAX_MESSAGE_BYTES // 3 - 10) + b"{}]",
    "as many values as are read": lambda: b"[" + b"{}," * 49_000 + b"{}]",
    "long text": lambda: b'{"value": "' + b"a" * (MAX_MESSAGE_BYTES - 20) + b'"}',
    "pickled byte array": lambda: b"\x80\x05\x96" + struct.pack("<Q", 10 * 10**9) + b".",
    "pickle memo": lambda: b"\x80\x03}r\xff\xff\xff\x7f.",
    "pickled lists": lambda: b"\x80\x03" + b"]" * (MAX_MESSAGE_BYTES - 10) + b".",
    "many stamps": lambda: one_object(large_super_dst(500_000)),
    "many masks": lambda: one_object(large_mask()),
    "many objects": lambda: nothing_but(
        frame_around(*(text(f"{i}") + text("b") + text("") for i in range(10_000)), n_objects=10_000)
    ),
    "large frame": lambda: nothing_but(b"[i3]\6\0\0\0" + bytes(MAX_UNPACKED_BYTES - 100)),
    "random bytes": lambda: random.Random(1).randbytes(MAX_MESSAGE_BYTES),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", HOSTILE)
def test_no_message_takes_much_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "message"
    path.write_bytes(HOSTILE[name]())
    command = [sys.executable, "-W", "error", "-c", READ_AND_REPORT_PEAK, str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    outcome, peak_growth_mib = output.split()
    assert outcome == ("read" if name == "many stamps" else "refused")
    # 81 when it was written, of the most pulses that are read.
    assert int(peak_growth_mib) < 200
