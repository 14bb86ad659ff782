import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export import evaluate, to_onnx, train
from export.checkpoint import METRICS_FILE
from icestream.cli.app import app
from icestream.readers.kaggle import KaggleDataset

N_EVENTS = 800
N_HELD_OUT = 40
"""One of twenty; as many are kept for the test."""

Command = Callable[..., None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls a module's `main` as `python -m` does."""

    def run(main: Callable[[], None], *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["python -m", *map(str, arguments)])
        main()

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `icestream simulate` writes."""
    folder = tmp_path_factory.mktemp("data") / "set"
    result = CliRunner().invoke(app, ["simulate", "--events", str(N_EVENTS), "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert KaggleDataset.open(folder).n_events == N_EVENTS
    return folder


def test_a_data_set_trains_resumes_exports_and_scores_a_model(
    command: Command, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, repository, out = tmp_path / "run", tmp_path / "repository", tmp_path / "evaluation"
    training = ("--preset", "tiny", "--data", data, "--out", run, "--device", "cpu", "--threads", 1)
    command(train.main, *training, "--minutes", 0.005)
    first = metrics(run)
    command(train.main, *training, "--minutes", 0.06)
    resumed = metrics(run)
    assert resumed[: len(first)] == first
    assert resumed[-1]["step"] > first[-1]["step"]
    assert f"{first[-1]['events']} events seen" in capsys.readouterr().out

    command(to_onnx.main, run, "--repository", repository)
    card = json.loads((repository / "direction/1/model_card.json").read_text())
    assert card["training"]["data"] == str(data)
    assert card["training"]["events_seen"] == resumed[-1]["events"]
    assert card["calibration"]["n_events"] == N_HELD_OUT

    command(evaluate.main, "--data", data, "--model", repository / "direction/1", "--out", out)
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["n_events"] == N_HELD_OUT
    assert evaluation["data"] == f"{data}, the part kept for tests"


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]


def test_a_wrong_folder_ends_an_evaluation_with_a_plain_word(command: Command, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*expected train_meta\.parquet or test_meta\.parquet"):
        command(evaluate.main, "--data", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
