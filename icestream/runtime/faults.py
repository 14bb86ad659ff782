"""Reading the tables that say what a failure means on a face of a service."""

from typing import TypeVar

from icestream.errors import IceStreamError

Meaning = TypeVar("Meaning")


def meaning_of(failure: type[IceStreamError], table: dict[type[IceStreamError], Meaning]) -> Meaning:
    """The table's entry for a failure or for the nearest kind above it in the tree.

    Raises:
        LookupError: The table says nothing about this part of the tree.
    """
    for kind in failure.__mro__:
        if kind in table:
            return table[kind]
    raise LookupError(f"no entry for {failure.__name__}")
