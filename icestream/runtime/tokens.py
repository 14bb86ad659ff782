"""Bearer tokens of gRPC callers: a server keeps their hashes alone, in a file that may change while it runs.

The file has one line per token, `NAME SHA256HEX`, where NAME is the caller and SHA256HEX the SHA-256 of the token in
hexadecimal digits. Empty lines and those that begin with # say nothing. A name may have several lines, so that an old
token and its successor work side by side until every caller has the new one.
"""

import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import structlog

from icestream.errors import Misconfigured

_TOKEN_BYTES = 32
_CHECK_EVERY_S = 1.0
_FORMAT = "NAME SHA256HEX (the caller and the SHA-256 of its token as 64 hexadecimal digits)"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HASH = re.compile(r"[0-9a-fA-F]{64}")
# What RFC 6750 lets a bearer token consist of.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")

_log = structlog.get_logger(__name__)


def new_token() -> str:
    """A token that nobody can guess: 256 random bits."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def token_line(name: str, token: str) -> str:
    """What a server's token file says of a token; without the end of the line.

    Raises:
        Misconfigured: The name cannot be one of a caller.
    """
    if _NAME.fullmatch(name) is None:
        raise Misconfigured(
            f"{name!r} is no name of a caller: letters, digits, '.', '_' and '-', at most 63, a letter or digit first"
        )
    return f"{name} {_digest(token).hex()}"


def read_token(path: Path) -> str:
    """The token in a caller's file, which holds it and nothing else.

    Raises:
        Misconfigured: The file cannot be read, or holds no token.
    """
    token = _text_of(path).strip()
    if _TOKEN.fullmatch(token) is None:
        raise Misconfigured(
            f"{path}: expected one line with the token itself, as whoever runs the services gave it to you"
        )
    return token


def parse_tokens(text: str, source: object) -> dict[bytes, str]:
    """The callers by the SHA-256 of their tokens.

    Args:
        text: Of a server's token file.
        source: What errors call it.

    Raises:
        Misconfigured: A line is wrong, or there is none. Lines are never quoted: one may hold a token by mistake.
    """
    callers: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        match fields:
            case [name, digest] if _NAME.fullmatch(name) and _HASH.fullmatch(digest):
                key = bytes.fromhex(digest)
            case _:
                raise Misconfigured(f"{source}, line {number}: expected {_FORMAT}")
        if key in callers:
            raise Misconfigured(
                f"{source}, line {number}: this token is in an earlier line; give each its own"
            )
        callers[key] = name
    if not callers:
        raise Misconfigured(f"{source} has no token, so that nobody could call; expected lines of {_FORMAT}")
    return callers


class TokenFile:
    """A server's token file; it is read again when it changes.

    Raises:
        Misconfigured: The file cannot be used. Where that happens later, what it said before stays in force.
    """

    def __init__(self, path: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now_s = now_s
        self._state = _state_of(path)
        self._callers: Mapping[bytes, str] = parse_tokens(_text_of(path), path)
        self._checked_s = now_s()

    @property
    def names(self) -> list[str]:
        """The callers that have a token."""
        return sorted(set(self._callers.values()))

    def caller_of(self, token: str) -> str | None:
        """Who has this token; None where nobody has."""
        self._read_what_changed()
        digest = _digest(token)
        found = None
        # All of them, at the same pace: how long it takes says nothing about how near a guess came.
        for known, name in self._callers.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _read_what_changed(self) -> None:
        now_s = self._now_s()
        if now_s - self._checked_s < _CHECK_EVERY_S:
            return
        self._checked_s = now_s
        # First the state: what is written in between is found the next time.
        if (state := _state_of(self._path)) == self._state:
            return
        self._state = state
        try:
            self._callers = parse_tokens(_text_of(self._path), self._path)
        except Misconfigured as error:
            _log.error("changed tokens cannot be used; the former ones stay in force", problem=str(error))
        else:
            _log.info("changed tokens are in force", path=str(self._path), callers=self.names)


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _text_of(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # Its cause would quote the bytes.
        raise Misconfigured(f"{path}: expected ASCII text") from None


def _state_of(path: Path) -> tuple[int, ...] | None:
    """What tells one content from another; Kubernetes changes the file behind a symbolic link."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
