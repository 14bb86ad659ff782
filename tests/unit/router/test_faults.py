import inspect

import grpc
import pytest

from icestream import errors
from icestream.errors import IceStreamError
from icestream.runtime.faults import meaning_of
from icestream.runtime.grpc_status import STATUS_CODES
from services.router.faults import DISPOSITIONS, Disposition

CLASSES = [
    each
    for each in vars(errors).values()
    if inspect.isclass(each) and issubclass(each, IceStreamError) and each is not IceStreamError
]


@pytest.mark.parametrize("failure", CLASSES)
def test_every_failure_has_a_meaning_on_both_faces(failure: type[IceStreamError]) -> None:
    assert isinstance(meaning_of(failure, DISPOSITIONS), Disposition)
    assert isinstance(meaning_of(failure, STATUS_CODES), grpc.StatusCode)


def test_the_tables_name_only_classes_of_the_tree() -> None:
    assert DISPOSITIONS.keys() | STATUS_CODES.keys() <= set(CLASSES)


def test_a_failure_without_an_entry_is_a_mistake_of_ours() -> None:
    with pytest.raises(LookupError, match="no entry for IceStreamError"):
        meaning_of(IceStreamError, DISPOSITIONS)


@pytest.mark.parametrize("failure", [each for each in CLASSES if each.retryable])
def test_what_may_pass_is_postponed(failure: type[IceStreamError]) -> None:
    assert meaning_of(failure, DISPOSITIONS) is Disposition.POSTPONE


@pytest.mark.parametrize(
    ("failure", "disposition", "code"),
    [
        (errors.InvalidEvent, Disposition.DEAD_LETTER, "INVALID_ARGUMENT"),
        (errors.UndecodableMessage, Disposition.DEAD_LETTER, "INVALID_ARGUMENT"),
        (errors.ModelFailed, Disposition.DEAD_LETTER, "INTERNAL"),
        (errors.TooManyDeliveries, Disposition.DEAD_LETTER, "ABORTED"),
        (errors.UnknownModel, Disposition.POSTPONE, "NOT_FOUND"),
        (errors.ModelUnavailable, Disposition.POSTPONE, "UNAVAILABLE"),
        (errors.BrokerUnavailable, Disposition.POSTPONE, "UNAVAILABLE"),
        (errors.ModelOverloaded, Disposition.POSTPONE, "RESOURCE_EXHAUSTED"),
        (errors.TooManyRequests, Disposition.POSTPONE, "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExceeded, Disposition.POSTPONE, "DEADLINE_EXCEEDED"),
        (errors.Misconfigured, Disposition.POSTPONE, "FAILED_PRECONDITION"),
    ],
)
def test_a_failure_means_what_callers_rely_on(
    failure: type[IceStreamError], disposition: Disposition, code: str
) -> None:
    assert meaning_of(failure, DISPOSITIONS) is disposition
    assert meaning_of(failure, STATUS_CODES).name == code
