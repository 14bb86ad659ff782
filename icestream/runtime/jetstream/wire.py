"""What NATS' broker and client write to each other, read and written without detours.

The client library tries eight regular expressions on every command, and a message costs it an object, a place
in a queue and a task's turn. Here a message is cut out of what was read and handed over at once.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol

from nats.errors import ProtocolError

from icestream.errors import InvalidInput

Listener = Callable[[bytes, bytes, bytes, bytes], None]
"""Told of a message: its subject, where an answer goes, its header block (empty without one) and its payload."""

_N_WORDS_HMSG = 6
"""HMSG <subject> <subscription> <reply> <header bytes> <bytes>"""
_N_WORDS_MSG = 5
"""MSG <subject> <subscription> <reply> <bytes>"""
_N_WORDS = {b"HMSG": _N_WORDS_HMSG, b"MSG": _N_WORDS_MSG}
"""With a reply; without one it is one word less."""
_END = b"\r\n"
_VERSION = b"NATS/1.0"
_MAX_LINE_BYTES = 1 << 16
_MAX_KNOWN = 1024
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BLANKS = " \t\r\n\v\f"
_SEPARATORS = re.compile(r"[ \t\r\n]")
_LINE_BREAKS = str.maketrans("\r\n", "  ")


class Peer(Protocol):
    """Who acts on what the broker says, beside the listeners: the client library's connection."""

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None: ...
    async def _process_err(self, err_msg: str) -> None: ...
    async def _process_ping(self) -> None: ...
    async def _process_pong(self) -> None: ...
    async def _process_info(self, info: dict[str, Any]) -> None: ...
    async def on_listener_error(self, error: Exception) -> None:
        """A listener failed on a message."""


class Parser:
    """Reads the broker's commands from a connection, in pieces of any size.

    Attributes:
        listeners: Who is told of messages at once, by the number of the subscription as the broker writes it.
            All other messages go to the peer.
    """

    def __init__(self, peer: Peer) -> None:
        self.listeners: dict[bytes, Listener] = {}
        self._peer = peer
        self._n_resets = 0
        self.reset()

    def reset(self) -> None:
        """Forget a command that is not complete: what is read next comes over a new connection."""
        self._n_resets += 1
        self._pieces: list[bytes] = []
        self._n_missing = 0

    async def parse(self, data: bytes = b"") -> None:
        """Act on every command that is complete now.

        Raises:
            ProtocolError: The broker does not speak as it should.
        """
        data = self._continued(data)
        at, size, n_resets = 0, len(data), self._n_resets
        # The peer may give up the connection while it acts on a command.
        while at < size and n_resets == self._n_resets:
            line_end = data.find(_END, at)
            if line_end < 0:
                self._wait_for(1, data[at:])
                if size - at > _MAX_LINE_BYTES:
                    raise ProtocolError
                return
            words = data[at:line_end].split()
            n_words, start = len(words), line_end + 2
            n_with_reply = _N_WORDS.get(words[0]) if words else None
            if n_with_reply is None:
                await self._obey(data[at:line_end])
                at = start
                continue
            try:
                header_end = start + int(words[-2]) if n_with_reply == _N_WORDS_HMSG else start
                end = start + int(words[-1])
            except (ValueError, IndexError) as error:
                raise ProtocolError from error
            if not (n_with_reply - 1 <= n_words <= n_with_reply and start <= header_end <= end):
                raise ProtocolError
            if end + 2 > size:
                self._wait_for(end + 2 - size, data[at:])
                return
            at = end + 2
            reply = words[3] if n_words == n_with_reply else b""
            listener = self.listeners.get(words[2])
            if listener is None:
                await self._pass_on(words, reply, data[start:header_end], data[header_end:end])
                continue
            try:
                listener(words[1], reply, data[start:header_end], data[header_end:end])
            except Exception as error:
                # One message must not end the reading of all others.
                await self._peer.on_listener_error(error)

    def _continued(self, data: bytes) -> bytes:
        """What was read, after what was kept; nothing while the command that it belongs to is incomplete."""
        if not self._pieces:
            return data
        # Put together once, not with every piece: a payload of a megabyte comes in dozens of them.
        self._pieces.append(data)
        self._n_missing -= len(data)
        if self._n_missing > 0:
            return b""
        data = b"".join(self._pieces)
        self._pieces = []
        return data

    def _wait_for(self, n_bytes: int, incomplete: bytes) -> None:
        self._pieces, self._n_missing = [incomplete], n_bytes

    async def _pass_on(self, words: list[bytes], reply: bytes, header: bytes, payload: bytes) -> None:
        try:
            sid = int(words[2])
        except ValueError as error:
            raise ProtocolError from error
        await self._peer._process_msg(sid, words[1], reply, payload, header)

    async def _obey(self, line: bytes) -> None:
        kind, _, rest = line.strip().partition(b" ")
        if kind == b"PING":
            await self._peer._process_ping()
        elif kind == b"PONG":
            await self._peer._process_pong()
        elif kind == b"-ERR":
            await self._peer._process_err(_complaint(rest))
        elif kind == b"INFO":
            await self._peer._process_info(_info(rest))
        elif kind != b"+OK":
            raise ProtocolError


def _complaint(text: bytes) -> str:
    if not text.startswith(b"'"):
        raise ProtocolError
    return text.decode(errors="replace").lower()


def _info(line: bytes) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise ProtocolError from error
    return info


def read_headers(block: bytes) -> dict[str, str] | None:
    """The headers of a message; of names that come twice the last. None where there is no header.

    A status of the broker (`NATS/1.0 408 Request Timeout`) is given as `Status` and `Description`.
    """
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers = _status(first) if len(first) > len(_VERSION) else {}
    for line in lines:
        raw_name, colon, value = line.partition(":")
        if colon and (name := _read_name(raw_name)):
            headers[name] = value.strip(_BLANKS)
    return headers or None


@lru_cache(_MAX_KNOWN)
def _read_name(text: str) -> str:
    """Empty where the text is no name."""
    name = text.strip(_BLANKS)
    return name if name.isascii() and len(name.split()) == 1 else ""


def _status(line: str) -> dict[str, str]:
    status, _, description = line[len(_VERSION) :].strip().partition(" ")
    headers = {"Status": status} if status.isdigit() else {}
    return headers | {"Description": description} if description else headers


def header_block(headers: Mapping[str, str]) -> bytes:
    """Headers as NATS writes them before a payload; line breaks in a value become spaces.

    Raises:
        InvalidInput: NATS does not know such a name.
    """
    block = "NATS/1.0\r\n"
    for name, value in headers.items():
        line = value.translate(_LINE_BREAKS) if "\n" in value or "\r" in value else value
        block += f"{_header_name(name)}: {line.strip()}\r\n"
    return (block + "\r\n").encode()


@lru_cache(_MAX_KNOWN)
def _header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise InvalidInput(f"NATS takes no header {name!r}; a name consists of letters, digits, - and _")
    return name


@lru_cache(_MAX_KNOWN)
def one_word(subject: str) -> str:
    """The subject, which is about to become a word of a command.

    Raises:
        InvalidInput: It is empty, or would be more than one word.
    """
    if not subject or _SEPARATORS.search(subject):
        raise InvalidInput(f"NATS takes no subject {subject!r}; a subject is not empty and has no spaces")
    return subject
