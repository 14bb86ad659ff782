import dataclasses
from pathlib import Path

import pytest
import torch

from export.checkpoint import (
    RunSettings,
    new_state,
    open_run,
    read_settings,
    read_state,
    save,
    write_settings,
)
from export.presets import PRESETS, NetworkShape, Preset, TrainingPlan
from export.shorten import shorten_run
from tests.unit.export.export_cases import SMALL, random_events

CPU = torch.device("cpu")
LONG = dataclasses.replace(SMALL, n_track_steps=3, n_shower_steps=2)
SHORT = NetworkShape(n_track_steps=2, n_shower_steps=1, n_hidden=SMALL.n_hidden)
PLAN = TrainingPlan(step_events=12, batch_events=4, peak_learning_rate=1e-2)


@pytest.fixture(autouse=True)
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shape in {"long": LONG, "short": SHORT, "wide": dataclasses.replace(SHORT, n_hidden=9)}.items():
        monkeypatch.setitem(PRESETS, name, Preset(name, shape, PLAN))


@pytest.fixture
def long_run(tmp_path: Path) -> Path:
    settings = RunSettings("long", seed=3)
    state = new_state(settings, CPU)
    state.n_steps, state.n_events, state.elapsed_s = 7, 84, 90.0
    write_settings(settings, tmp_path / "long")
    save(state, tmp_path / "long")
    return tmp_path / "long"


@torch.no_grad()
def test_what_is_left_of_a_network_fits_tracks_as_its_first_steps_did(long_run: Path, tmp_path: Path) -> None:
    shorten_run(long_run, "short", tmp_path / "short")
    long, short = read_state(long_run), read_state(tmp_path / "short")
    events = random_events(1, 1)
    question = torch.from_numpy(events.tables[0][None]), torch.from_numpy(events.n_pulses[:, None])
    for which in ("network", "average"):
        expected = getattr(long, which).estimates(*question).flights[:2]
        torch.testing.assert_close(getattr(short, which).estimates(*question).flights, expected)


def test_a_shortened_run_says_what_it_was_and_goes_on_from_there(long_run: Path, tmp_path: Path) -> None:
    shorten_run(long_run, "short", tmp_path / "short")
    settings = read_settings(tmp_path / "short")
    assert settings == RunSettings("short", 3, None, shortened_from="long", shortened_after_min=1.5)
    state = open_run(tmp_path / "short", RunSettings("short", seed=3), CPU)
    assert (state.n_steps, state.n_events, state.elapsed_s) == (7, 84, 90.0)


@pytest.mark.parametrize("preset", ["wide", "long"])
def test_a_network_that_does_not_begin_with_the_other_is_refused(
    long_run: Path, tmp_path: Path, preset: str
) -> None:
    with pytest.raises(ValueError, match=f"does not begin with {preset}"):
        shorten_run(long_run, preset, tmp_path / "short")
    assert not (tmp_path / "short").exists()
