import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from export.evaluation.card import add_evaluation, latest_version, read_card
from export.evaluation.document import document
from export.evaluation.sample import ROBUST

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = (ROOT / "docs/models/direction.md", ROOT / "docs/models/direction_fast.md")


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def group() -> dict[str, Any]:
    off = {"median": 25.0, "mean": 40.0}
    return {"n": 1000, "angle_deg": {"model": off, ROBUST: off}, "coverage": {"50": 0.5, "90": 0.9}}


def evaluated_card() -> dict[str, Any]:
    """A card as `export.to_onnx` writes it, in little, with an evaluation."""
    return {
        "version": 3,
        "model": "direction",
        "exported_at": "2026-11-21T00:00:00+00:00",
        "preset": "small",
        "n_parameters": 9000,
        "max_pulses": 96,
        "training": {
            "data": "icestream.physics.simulation",
            "seed": 1,
            "events_seen": 80_000,
            "minutes": 42.5,
        },
        "calibration": {
            "n_events": 500,
            "log_kappa": [-1.0, 5.0],
            "log_radii_rad": [[0.1, 0.5], [-3.0, -2.0]],
        },
        "sha256": "ab" * 32,
        "size_bytes": 2_000_000,
        "made_with": {"torch": "2.9", "onnxruntime": "1.22", "opset": 18},
        "evaluation": {
            "data": "simulation, seed 900003",
            "n_events": 2000,
            "events_per_s_one_thread": 600.0,
            "groups": {"all": group(), "cascades": group()},
            "plots": ["cumulative"],
        },
    }


def test_committed_document_describes_the_shipped_model(path: Path) -> None:
    folder = latest_version(ROOT / "model_repository" / path.stem)
    card, text = read_card(folder), path.read_text("utf-8")
    assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() in text
    assert text.startswith(f"# Model `{path.stem}`, version {folder.name}\n")
    assert text == document(card), f"run python -m export.evaluation.document docs/models/{path.name}"


def test_committed_plots_are_there_and_small(path: Path) -> None:
    plots = re.findall(r"!\[.*\]\((.*)\)", path.read_text("utf-8"))
    assert len(plots) == 5
    for plot in plots:
        assert 5_000 < (path.parent / plot).stat().st_size < 150_000


def test_committed_document_links_to_its_card(path: Path) -> None:
    (link,) = re.findall(r"\[model_card\.json\]\((.*)\)", path.read_text("utf-8"))
    assert (path.parent / link).resolve() == latest_version(
        ROOT / "model_repository" / path.stem
    ) / "model_card.json"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("version",), 17),
        (("sha256",), "17" * 32),
        (("n_parameters",), 1717),
        (("training", "events_seen"), 1717),
        (("calibration", "n_events"), 1717),
        (("evaluation", "groups", "all", "angle_deg", "model", "median"), 17.17),
        (("evaluation", "groups", "cascades", "coverage", "90"), 0.1717),
    ],
)
def test_document_shows_what_the_card_says(place: tuple[str, ...], value: object) -> None:
    assert "17" not in document(evaluated_card())
    card = inner = evaluated_card()
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    assert "17" in document(card)


def test_document_of_a_model_trained_on_a_data_set_names_it() -> None:
    card = evaluated_card()
    card["training"]["data"] = "/data/kaggle"
    text = document(card)
    assert "`/data/kaggle`" in text
    assert "python -m export.train --preset small --seed 1 --data DATA_SET" in text
    assert "simulation (seed" not in text


def test_document_of_a_shortened_model_says_what_it_was() -> None:
    card = evaluated_card()
    card["model"], card["preset"], card["batch_events"] = "direction_fast", "fast", 32
    card["training"] |= {"shortened_from": "small", "shortened_after_min": 33.3}
    text = document(card)
    assert "transformer over the pulses" not in text
    assert "32 events a batch" in text
    commands = text.split("```")[1].splitlines()[1:]
    assert commands == [
        "python -m export.train --preset small --seed 1 --minutes 33 --out LONG_RUN",
        "python -m export.shorten LONG_RUN --preset fast --out RUN",
        "# until 80,000 events were seen, on the machine that made this version",
        "python -m export.train --preset fast --seed 1 --minutes 42 --out RUN",
        "python -m export.to_onnx RUN --model direction_fast --version 3   # calibrates as well",
        "python -m export.evaluate --model model_repository/direction_fast/3 --out EVALUATION "
        "--document docs/models/direction_fast.md",
    ]


def test_document_is_markdown_with_whole_tables() -> None:
    text = document(evaluated_card())
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert text.count("```") == 2


def test_evaluation_joins_the_card_and_replaces_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "model_card.json").write_text('{"version": 3}')
    add_evaluation(tmp_path, {"n_events": 1})
    assert add_evaluation(tmp_path, {"n_events": 2}) == {"version": 3, "evaluation": {"n_events": 2}}
    assert read_card(tmp_path) == {"version": 3, "evaluation": {"n_events": 2}}
