import math

import pytest

from icestream.errors import InvalidScan
from icestream.scans.milestones import Milestones, shares


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (1.0, (1.0,)),
        (0.9, (0.9, 1.0)),
        (0.95, (0.95, 1.0)),
        (0.7, (0.7, 0.8, 0.9, 1.0)),
        (0.65, (0.65, 0.75, 0.85, 0.95, 1.0)),
    ],
)
def test_milestones_are_ten_percent_apart_up_to_all(first: float, expected: tuple[float, ...]) -> None:
    assert shares(first) == pytest.approx(expected)
    assert shares(first)[-1] == 1.0


@pytest.mark.parametrize("first", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_a_predictive_threshold_that_is_no_share_is_refused(first: float) -> None:
    with pytest.raises(InvalidScan, match="predictive threshold"):
        shares(first)


def test_each_milestone_is_passed_once() -> None:
    milestones = Milestones(shares(0.8))
    assert [milestones.passes(share) for share in (0.5, 0.8, 0.85, 0.95, 0.99, 1.0, 1.0)] == [
        False, True, False, True, False, True, False,
    ]  # fmt: skip


def test_a_level_that_is_set_back_passes_its_milestones_again_and_stays_settled() -> None:
    milestones = Milestones(shares(0.8))
    assert not milestones.is_settled
    assert milestones.passes(1.0)
    milestones.set_back(0.85)
    assert milestones.is_settled
    assert [milestones.passes(share) for share in (0.85, 0.92, 1.0)] == [False, True, True]
