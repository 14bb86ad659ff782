import dataclasses
import itertools
import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from export.checkpoint import METRICS_FILE, RunSettings, TrainingState, open_run
from export.dataset import Chunk, batches
from export.presets import PRESETS, Preset, TrainingPlan
from export.train import Budget, rate_factor, train
from tests.unit.export.export_cases import SMALL, random_events

CPU = torch.device("cpu")
SETTINGS = RunSettings("small-test", seed=5)
BUDGET = Budget(total_s=12, report_every_s=1, checkpoint_every_s=4)
PLAN = TrainingPlan(step_events=12, batch_events=4, peak_learning_rate=1e-2)


class KilledError(Exception):
    """Stands for a kill."""


@dataclass(frozen=True)
class RandomChunks:
    """Chunks that are a function of their index, and the kill that comes with one of them."""

    killed_at: int | None = None

    def chunks(self, first: int) -> Generator[Chunk, None, None]:
        for index in itertools.count(first):
            if index == self.killed_at:
                raise KilledError
            yield tuple(batches(random_events(index, PLAN.step_events), PLAN.batch_events))


@pytest.fixture(autouse=True)
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, SETTINGS.preset_name, Preset("small-test", SMALL, PLAN))


def one_second_a_step(state: TrainingState) -> Callable[[], float]:
    """A clock by which every step takes a second, whatever else happens."""
    return lambda: float(state.n_steps)


def run_training(run: Path, chunks: RandomChunks) -> TrainingState:
    state = open_run(run, SETTINGS, CPU)
    train(state, SETTINGS, chunks, random_events(999, 8), BUDGET, run, one_second_a_step(state))
    return state


def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    undisturbed = run_training(tmp_path / "a", RandomChunks())
    with pytest.raises(KilledError):
        run_training(tmp_path / "b", RandomChunks(killed_at=7))
    resumed = run_training(tmp_path / "b", RandomChunks())
    assert (resumed.n_steps, resumed.n_events, resumed.elapsed_s) == (12, 144, 12.0)
    assert (undisturbed.n_steps, undisturbed.n_events) == (resumed.n_steps, resumed.n_events)
    for name in ("network", "average"):
        expected, actual = getattr(undisturbed, name).state_dict(), getattr(resumed, name).state_dict()
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_steps_taken_twice_are_reported_once(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run_training(tmp_path, RandomChunks(killed_at=7))
    run_training(tmp_path, RandomChunks())
    steps = [json.loads(line)["step"] for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, 13))
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_training_lowers_the_loss_on_what_it_sees(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class SameChunk:
        def chunks(self, first: int) -> Generator[Chunk, None, None]:
            for _ in itertools.count(first):
                yield tuple(batches(random_events(1, 12), 12))

    state = open_run(tmp_path, SETTINGS, CPU)
    budget = Budget(total_s=60, report_every_s=1, checkpoint_every_s=100)
    train(state, SETTINGS, SameChunk(), random_events(999, 8), budget, tmp_path, one_second_a_step(state))
    losses = [json.loads(line).get("loss") for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert losses[40] < losses[0]


def test_a_run_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    open_run(tmp_path, SETTINGS, CPU)
    with pytest.raises(ValueError, match="another --out"):
        open_run(tmp_path, dataclasses.replace(SETTINGS, seed=6), CPU)


def test_learning_rate_rises_then_falls() -> None:
    factors = [rate_factor(progress / 100) for progress in range(101)]
    assert max(factors) == pytest.approx(1, abs=0.01)
    assert factors[0] < 0.1
    assert factors[-1] == pytest.approx(0.01)
    assert factors[3:] == sorted(factors[3:], reverse=True)
