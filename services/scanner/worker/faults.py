"""What each failure means for the batch that it befell, and for the worker."""

import random
from enum import Enum

from icestream import errors
from icestream.errors import IceStreamError
from icestream.runtime.faults import meaning_of


class Disposition(Enum):
    """What becomes of a batch that failed."""

    POSTPONE = "given back with a delay, and never blamed for it"
    TRY_ELSEWHERE = "given back for another worker; halved when it failed too often"
    SPLIT = "halved; of a single fit a dead letter"
    GIVE_UP = "a dead letter: no part of it can ever work"


DISPOSITIONS: dict[type[IceStreamError], Disposition] = {
    errors.InvalidInput: Disposition.GIVE_UP,
    # Another worker, or another model server, may have it.
    errors.UnknownReco: Disposition.POSTPONE,
    errors.UnknownModel: Disposition.POSTPONE,
    errors.Misconfigured: Disposition.POSTPONE,
    errors.Unavailable: Disposition.POSTPONE,
    errors.Overloaded: Disposition.POSTPONE,
    errors.DeadlineExceeded: Disposition.POSTPONE,
    errors.ModelFailed: Disposition.SPLIT,
    errors.TooManyDeliveries: Disposition.SPLIT,
}

_FIRST_POSTPONEMENT_S = 0.25
_LONGEST_POSTPONEMENT_S = 30.0


def disposition_of(error: Exception) -> Disposition:
    """What a failure means; whatever is not in our tree is a mistake in the reco or in us."""
    if isinstance(error, IceStreamError):
        return meaning_of(type(error), DISPOSITIONS)
    return Disposition.TRY_ELSEWHERE


def reason_of(error: Exception) -> str:
    """The kind of failure, for labels and dead letters."""
    if isinstance(error, IceStreamError):
        return error.reason
    return "fit_timeout" if isinstance(error, TimeoutError) else "unexpected"


def is_own_fault(error: Exception) -> bool:
    """Whether a failure may mean that this worker is sick.

    A dependency that is away is not, nor is a batch that ended other workers or that was never right.
    """
    return disposition_of(error) is Disposition.TRY_ELSEWHERE or isinstance(error, errors.ModelFailed)


def postponement_s(n_times: int) -> float:
    """How long to wait the n-th time: 0.25 s, doubling, to 30 s."""
    longest_s = min(_FIRST_POSTPONEMENT_S * 2.0 ** min(n_times - 1, 10), _LONGEST_POSTPONEMENT_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311
