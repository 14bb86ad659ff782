import inspect

import pytest

from icestream import errors
from icestream.errors import IceStreamError, ModelFailed, ModelUnavailable, TooManyDeliveries
from icestream.runtime.faults import meaning_of
from services.scanner.worker.faults import (
    DISPOSITIONS,
    Disposition,
    disposition_of,
    is_own_fault,
    postponement_s,
    reason_of,
)

CLASSES = [
    each
    for each in vars(errors).values()
    if inspect.isclass(each) and issubclass(each, IceStreamError) and each is not IceStreamError
]


@pytest.mark.parametrize("failure", CLASSES)
def test_every_failure_has_a_meaning(failure: type[IceStreamError]) -> None:
    assert isinstance(meaning_of(failure, DISPOSITIONS), Disposition)


def test_the_table_names_only_classes_of_the_tree() -> None:
    assert DISPOSITIONS.keys() <= set(CLASSES)


@pytest.mark.parametrize("failure", [each for each in CLASSES if each.retryable])
def test_what_may_pass_is_postponed(failure: type[IceStreamError]) -> None:
    assert meaning_of(failure, DISPOSITIONS) is Disposition.POSTPONE


@pytest.mark.parametrize(
    ("failure", "disposition", "reason", "own_fault"),
    [
        (ModelUnavailable("gone"), Disposition.POSTPONE, "model_unavailable", False),
        (errors.UnknownReco("x", []), Disposition.POSTPONE, "unknown_reco", False),
        (errors.UnknownModel("x", []), Disposition.POSTPONE, "unknown_model", False),
        (errors.InvalidEvent("1.2.0", []), Disposition.GIVE_UP, "invalid_event", False),
        (ModelFailed("no"), Disposition.SPLIT, "model_failed", True),
        (TooManyDeliveries(5), Disposition.SPLIT, "too_many_deliveries", False),
        (TimeoutError("late"), Disposition.TRY_ELSEWHERE, "fit_timeout", True),
        (ZeroDivisionError(), Disposition.TRY_ELSEWHERE, "unexpected", True),
    ],
)
def test_a_failure_means_what_scans_rely_on(
    failure: Exception, disposition: Disposition, reason: str, *, own_fault: bool
) -> None:
    assert disposition_of(failure) is disposition
    assert reason_of(failure) == reason
    assert is_own_fault(failure) is own_fault


def test_postponements_grow_to_half_a_minute() -> None:
    assert 0.125 <= postponement_s(1) <= 0.25
    assert 15 <= postponement_s(100) <= 30
