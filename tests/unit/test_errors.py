import inspect
import re

import pytest

from icestream import errors
from icestream.errors import (
    DeadlineExceeded,
    IceStreamError,
    InvalidDataset,
    InvalidEvent,
    MessageTooLarge,
    ModelOverloaded,
    Overloaded,
    StreamFull,
    TooManyDeliveries,
    Unavailable,
    UnknownModel,
    Violation,
)

CLASSES = [
    each
    for each in vars(errors).values()
    if inspect.isclass(each) and issubclass(each, IceStreamError) and each.__module__ == errors.__name__
]
VIOLATIONS = [Violation("pulses", "none"), Violation("detector", "unknown")]
MAY_SUCCEED_LATER = (Unavailable, Overloaded, DeadlineExceeded)


def drawn_tree() -> dict[str, str]:
    """The parent of each class, as the module's docstring draws it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if drawn := re.match(r"    ((?:[|` ]   )*)(?:[|`]-- )?([A-Z]\w+)", line):
            depth = drawn.start(2) // 4 - 1
            path[depth:] = [drawn[2]]
            if depth:
                parents[drawn[2]] = path[depth - 1]
    return parents


def test_the_drawn_tree_is_the_tree_of_the_classes() -> None:
    actual = {each.__name__: each.__bases__[0].__name__ for each in CLASSES if each is not IceStreamError}
    assert drawn_tree() == actual


def test_each_class_has_one_parent_and_a_docstring() -> None:
    for each in CLASSES:
        assert len(each.__bases__) == 1, each
        assert each.__doc__, each


def test_reasons_are_unique_and_lower_case() -> None:
    reasons = [each.reason.fget(each.__new__(each)) for each in CLASSES]  # type: ignore[attr-defined]
    assert len(set(reasons)) == len(reasons)
    for reason in reasons:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason)


def test_a_reason_is_the_name_of_the_class() -> None:
    assert InvalidEvent("1.2.0", []).reason == "invalid_event"
    assert TooManyDeliveries(21).reason == "too_many_deliveries"


def test_only_what_may_pass_is_retryable() -> None:
    assert {each for each in CLASSES if each.retryable} == {
        each for each in CLASSES if issubclass(each, MAY_SUCCEED_LATER)
    }


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidEvent("1.2.0", VIOLATIONS), "1.2.0 is invalid: pulses: none; detector: unknown"),
        (MessageTooLarge(10, None, subject="a.b"), "the stream's limit"),
        (MessageTooLarge(10, 9, subject="a.b"), "the broker's 9 bytes"),
        (InvalidDataset("/data", "no meta table"), "/data: no meta table"),
        (UnknownModel("energy", ["direction"]), "'energy' is not served here; available: direction"),
        (UnknownModel("energy", []), "available: none"),
        (StreamFull("EVENTS", "maximum bytes exceeded"), "stream EVENTS is full: maximum bytes exceeded"),
        (TooManyDeliveries(21), "21 times"),
    ],
)
def test_the_text_says_what_is_wrong(error: IceStreamError, text: str) -> None:
    assert text in str(error)


def test_overload_says_when_to_come_back() -> None:
    assert ModelOverloaded("queue is full").retry_after_s == 0.1
    assert StreamFull("EVENTS", "full", retry_after_s=2.0).retry_after_s == 2.0
