"""What each failure means on each face of the router: the stream, and gRPC."""

from enum import Enum
from typing import TypeVar

import grpc

from icestream import errors
from icestream.errors import IceStreamError

Meaning = TypeVar("Meaning")


class Disposition(Enum):
    """What becomes of a stream message whose event failed."""

    DEAD_LETTER = "dead letter, then terminate"
    POSTPONE = "negative acknowledgement with a delay; take no more until the dependency is back"


DISPOSITIONS: dict[type[IceStreamError], Disposition] = {
    errors.InvalidInput: Disposition.DEAD_LETTER,
    errors.ModelFailed: Disposition.DEAD_LETTER,
    errors.TooManyDeliveries: Disposition.DEAD_LETTER,
    # A model that is not there yet is the operator's mistake, not the event's.
    errors.UnknownModel: Disposition.POSTPONE,
    errors.Misconfigured: Disposition.POSTPONE,
    errors.Unavailable: Disposition.POSTPONE,
    errors.Overloaded: Disposition.POSTPONE,
    errors.DeadlineExceeded: Disposition.POSTPONE,
}

STATUS_CODES: dict[type[IceStreamError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.Misconfigured: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ModelFailed: grpc.StatusCode.INTERNAL,
    errors.TooManyDeliveries: grpc.StatusCode.ABORTED,
}


def meaning_of(failure: type[IceStreamError], table: dict[type[IceStreamError], Meaning]) -> Meaning:
    """The table's entry for a failure or for the nearest kind above it in the tree.

    Raises:
        LookupError: The table says nothing about this part of the tree.
    """
    for kind in failure.__mro__:
        if kind in table:
            return table[kind]
    raise LookupError(f"no entry for {failure.__name__}")
