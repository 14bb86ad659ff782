"""What the command lines of `export` share: a plain word where the input is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

from icestream.errors import IceStreamError


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with the message of an expected failure instead of a traceback; also a decorator."""
    try:
        yield
    except IceStreamError as error:
        raise SystemExit(f"error: {error}") from error
