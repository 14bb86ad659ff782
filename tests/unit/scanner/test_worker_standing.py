"""When a worker pauses for a dependency; its quarantine is tested with the worker as a whole."""

import pytest

from icestream.errors import ModelUnavailable
from services.scanner.worker.standing import Standing

AWAY = ModelUnavailable("no server at 127.0.0.1:8001")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def standing(clock: Clock) -> Standing:
    return Standing(quarantine_after=3, quarantine_s=60.0, clock=clock)


def test_batches_that_fail_together_are_one_absence(standing: Standing) -> None:
    standing.failed("first", AWAY)
    first_s = standing.remaining_s()
    standing.failed("second", AWAY)

    assert standing.remaining_s() == first_s


def test_each_absence_in_a_row_is_given_more_time(standing: Standing, clock: Clock) -> None:
    pauses_s = []
    for _ in range(3):
        standing.failed("batch", AWAY)
        pauses_s.append(standing.remaining_s())
        clock.now_s += standing.remaining_s()

    assert pauses_s[0] < pauses_s[1] < pauses_s[2]


def test_a_success_forgets_earlier_absences(standing: Standing, clock: Clock) -> None:
    for _ in range(4):
        standing.failed("batch", AWAY)
        long_s = standing.remaining_s()
        clock.now_s += long_s
    standing.succeeded()
    standing.failed("batch", AWAY)

    assert standing.remaining_s() < long_s / 2


def test_an_absence_does_not_shorten_a_quarantine(standing: Standing) -> None:
    for name in "abc":
        standing.failed(name, RuntimeError("disk full"))
    standing.failed("d", AWAY)

    assert standing.remaining_s() == 60.0
    assert "quarantine" in (standing.problem() or "")
