import re
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError

from icestream.errors import InvalidInput
from icestream.runtime.jetstream.wire import Parser, header_block, one_word, read_headers

HEADERS = b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n"
EVERYTHING = (
    b'INFO {"server_id":"A"}\r\n'
    b"MSG to.listener 7 5\r\nhello\r\n"
    b"PING\r\n"
    b"MSG to.listener 7 answer.here 6\r\nMSG\r\n1\r\n"
    b"+OK\r\n"
    b"HMSG to.listener 7 %d %d\r\n%b\r\n"
    b"HMSG to.listener 7 answer.here %d %d\r\n%bpayload\r\n"
    b"MSG to.others 12 0\r\n\r\n"
    b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n"
    b"HMSG to.others 12 answer.here %d %d\r\n%b\r\n\r\n"
    b"PONG\r\n"
) % (len(HEADERS), len(HEADERS), HEADERS, len(HEADERS), len(HEADERS) + 7, HEADERS, len(HEADERS),
     len(HEADERS) + 2, HEADERS)  # fmt: skip
MEANT = [
    ("info", {"server_id": "A"}),
    ("listener", b"to.listener", b"", b"", b"hello"),
    ("ping",),
    ("listener", b"to.listener", b"answer.here", b"", b"MSG\r\n1"),
    ("listener", b"to.listener", b"", HEADERS, b""),
    ("listener", b"to.listener", b"answer.here", HEADERS, b"payload"),
    ("message", 12, b"to.others", b"", b"", b""),
    ("error", "'permissions violation for publish to \"a\"'"),
    ("message", 12, b"to.others", b"answer.here", b"\r\n", HEADERS),
    ("pong",),
]


class Recorder:
    """A peer, and the listener to subscription 7, that write down what they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.parser = Parser(self)
        self.parser.listeners[b"7"] = self.listen
        self.error_resets = False

    def listen(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        if payload == b"bad":
            raise ValueError("a bad message")
        self.told.append(("listener", subject, reply, header, payload))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.told.append(("message", sid, subject, reply, data, headers))

    async def _process_err(self, err_msg: str) -> None:
        self.told.append(("error", err_msg))
        if self.error_resets:
            self.parser.reset()

    async def _process_ping(self) -> None:
        self.told.append(("ping",))

    async def _process_pong(self) -> None:
        self.told.append(("pong",))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.told.append(("info", info))

    async def on_listener_error(self, error: Exception) -> None:
        self.told.append(("failed", str(error)))


def told(*pieces: bytes) -> list[tuple[Any, ...]]:
    """What is said of a stream that comes in these pieces."""
    recorder = Recorder()
    for piece in pieces:
        # Nobody here waits for anything, so that there is no need of an event loop.
        with suppress(StopIteration):
            recorder.parser.parse(piece).send(None)
    return recorder.told


def test_every_command_reaches_whom_it_concerns() -> None:
    assert told(EVERYTHING) == MEANT


async def test_it_does_not_matter_where_the_stream_is_cut() -> None:
    for cut in range(len(EVERYTHING)):
        recorder = Recorder()
        await recorder.parser.parse(EVERYTHING[:cut])
        await recorder.parser.parse(EVERYTHING[cut:])
        assert recorder.told == MEANT, f"cut at {cut}"


@given(st.lists(st.integers(1, len(EVERYTHING)), max_size=40))
def test_it_does_not_matter_into_how_many_pieces_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(EVERYTHING)]
    pieces = [EVERYTHING[start:end] for start, end in pairwise(edges)]
    assert told(*pieces) == MEANT


def test_a_stream_that_comes_byte_by_byte_is_understood() -> None:
    assert told(*(EVERYTHING[i : i + 1] for i in range(len(EVERYTHING)))) == MEANT


@given(st.binary(max_size=200), st.booleans())
def test_a_message_is_told_as_it_was_sent_whatever_is_in_it(payload: bytes, has_headers: bool) -> None:
    header = HEADERS if has_headers else b""
    if has_headers:
        line = b"HMSG to.listener 7 answer.here %d %d" % (len(header), len(header) + len(payload))
    else:
        line = b"MSG to.listener 7 answer.here %d" % len(payload)
    heard = ("listener", b"to.listener", b"answer.here", header, payload)
    assert told(line + b"\r\n" + header + payload + b"\r\nPING\r\n") == (
        [("failed", "a bad message")] if payload == b"bad" else [heard]
    ) + [("ping",)]


async def test_pieces_of_a_large_message_are_put_together_once() -> None:
    payload = bytes(1 << 20)
    stream = b"MSG to.listener 7 %d\r\n%b\r\nPONG\r\n" % (len(payload), payload)
    recorder = Recorder()
    for start in range(0, len(stream), 1 << 15):
        await recorder.parser.parse(stream[start : start + (1 << 15)])
        # Each as it was read, none copied into the one before.
        assert all(len(piece) <= 1 << 15 for piece in recorder.parser._pieces)
    assert recorder.told == [("listener", b"to.listener", b"", b"", payload), ("pong",)]


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n",
        b"\r\n",
        b"MSG\r\n",
        b"HMSG\r\n",
        b"MSG subject 7\r\n",
        b"MSG subject 7 reply more 5\r\n",
        b"MSG subject 7 five\r\n",
        b"MSG subject 7 -5\r\n",
        b"MSG subject seven 0\r\n\r\n",
        b"HMSG subject 7 reply 10 5\r\n",
        b"HMSG subject 7 reply -1 5\r\n",
        b"HMSG subject 7 5\r\n",
        b"msg subject 7 0\r\n\r\n",
        b"-ERR\r\n",
        b"INFO {broken\r\n",
        b"MSG " + b"x" * (1 << 17),
    ],
    ids=repr,
)
async def test_junk_is_a_protocol_error(junk: bytes) -> None:
    recorder = Recorder()
    with pytest.raises(ProtocolError):
        await recorder.parser.parse(b"PING\r\n" + junk)
    assert recorder.told == [("ping",)]


async def test_after_a_reset_half_a_command_is_forgotten() -> None:
    recorder = Recorder()
    await recorder.parser.parse(b"MSG to.listener 7 100\r\nhalf of")
    recorder.parser.reset()
    await recorder.parser.parse(b"PING\r\n")
    assert recorder.told == [("ping",)]


async def test_nothing_is_read_on_when_the_peer_gives_up_the_connection() -> None:
    recorder = Recorder()
    recorder.error_resets = True
    await recorder.parser.parse(b"PING\r\n-ERR 'Stale Connection'\r\nPONG\r\nPO")
    await recorder.parser.parse(b"PING\r\n")
    assert recorder.told == [("ping",), ("error", "'stale connection'"), ("ping",)]


def test_a_listener_that_fails_on_one_message_hears_the_next() -> None:
    assert told(b"MSG s 7 3\r\nbad\r\nMSG s 7 4\r\ngood\r\n") == [
        ("failed", "a bad message"),
        ("listener", b"s", b"", b"", b"good"),
    ]


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"", None),
        (b"NATS/1.0\r\n\r\n", None),
        (b"NATS/1.0\r\na: b\r\nc:d\r\na:  e \r\n\r\n", {"a": "e", "c": "d"}),
        (b"NATS/1.0\r\ntime: 12:30\r\nno colon\r\n\r\n", {"time": "12:30"}),
        (b"NATS/1.0\r\ntwo words: x\r\n: y\r\nN\xc3\xa4me: z\r\n\r\n", None),
        (b"NATS/1.0\r\nk: caf\xc3\xa9 \xff\r\n\r\n", {"k": "café \ufffd"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (
            b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n",
            {"Status": "408", "Description": "Request Timeout", "Nats-Pending-Messages": "3"},
        ),
    ],
    ids=repr,
)
def test_headers_are_read(block: bytes, headers: dict[str, str] | None) -> None:
    assert read_headers(block) == headers


names = st.from_regex(re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"), fullmatch=True)


@given(st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]))))
def test_what_is_written_reads_as_the_client_library_reads_it(headers: dict[str, str]) -> None:
    block = header_block(headers)
    theirs = Client._parse_header_lines(block.partition(b"\r\n")[2])
    assert (read_headers(block) or {}) == theirs
    assert list(theirs) == list(headers)


def test_a_value_cannot_begin_another_line() -> None:
    assert header_block({"a": " b\r\nc: d\n"}) == b"NATS/1.0\r\na: b  c: d\r\n\r\n"


@pytest.mark.parametrize("name", ["", "two words", "a:b", "a\r\nb", "Näme"])
def test_a_header_that_nats_does_not_know_is_invalid(name: str) -> None:
    with pytest.raises(InvalidInput, match="NATS takes no header"):
        header_block({name: "value"})


@pytest.mark.parametrize("subject", ["", "two words", "a\r\nPUB b 0\r\n\r\n", "a\tb"])
def test_a_subject_that_is_not_one_word_is_invalid(subject: str) -> None:
    with pytest.raises(InvalidInput, match="NATS takes no subject"):
        one_word(subject)
