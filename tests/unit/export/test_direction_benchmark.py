import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks.direction_model import (
    BATCH_SIZES,
    Contender,
    angles_deg,
    draw,
    model_contenders,
    model_file,
    race,
)
from export.evaluation.card import latest_version
from export.to_onnx import MODEL_NAME
from icestream.runtime.local_stack import CHECKOUT
from tests.unit.export.export_cases import random_events

ANGLES = {"all": {"median": 2.0, "mean": 3.0}}


class Work:
    """Takes as many seconds as its turn says, and notes whose turn it was."""

    def __init__(self, name: str, seconds: list[float], turns: list[str]) -> None:
        self.contender = Contender(name, 1, ANGLES, self.run)
        self.total_s = 0.0
        self._name, self._seconds, self._turns = name, iter(seconds), turns

    def run(self) -> None:
        self.total_s += next(self._seconds)
        self._turns.append(self._name)


def test_contenders_take_turns_and_the_first_time_does_not_count() -> None:
    turns: list[str] = []
    works = [Work("a", [99, 1, 2, 4], turns), Work("b", [99, 10, 10, 10], turns)]
    clock = lambda: sum(work.total_s for work in works)  # noqa: E731
    first, second = race([work.contender for work in works], 8, 3, clock)
    assert turns == ["a", "b"] * 4
    assert first.events_per_s == (2, 4, 8)
    assert second.events_per_s == pytest.approx((0.8, 0.8, 0.8))


def test_shipped_model_runs_in_batches_of_both_sizes(tmp_path: Path) -> None:
    path = model_file(str(latest_version(CHECKOUT / "model_repository" / MODEL_NAME)))
    results = race(model_contenders(path, random_events(1, 40)), 40, 2)
    assert tuple(result.batch_size for result in results) == BATCH_SIZES
    for result in results:
        least, median, most = result.events_per_s
        assert 0 < least <= median <= most
        assert 0 < result.angles_deg["all"]["median"] < 180
    draw(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_angles_are_between_directions_and_truth() -> None:
    events = random_events(1, 30)
    assert angles_deg(-events.directions, events)["all"] == pytest.approx({"median": 180, "mean": 180})
    assert angles_deg(events.directions, events)["all"] == pytest.approx({"median": 0, "mean": 0}, abs=1e-3)
    assert np.isfinite(angles_deg(np.roll(events.directions, 1, 0), events)["all"]["mean"])


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"model\.onnx: no such file"):
        model_file(str(tmp_path))
