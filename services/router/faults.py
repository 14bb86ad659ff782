"""What each failure means on the stream's face of the router; `icestream.runtime.grpc_status` has the other one."""

from enum import Enum

from icestream import errors
from icestream.errors import IceStreamError


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
