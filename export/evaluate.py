"""Compares the served model with line fits on the same events: `python -m export.evaluate --out EVALUATION`.

The test set is simulated from a fixed seed that no training may use, or read from a data set in the Kaggle format
whose directions are known. All numbers come from the exported file, run as it is served.
"""

import argparse
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from export.command import plain_errors
from export.dataset import TEST_SEED
from export.evaluation.card import Card, add_evaluation, batch_events, latest_version, read_card
from export.evaluation.document import document, plot_file
from export.evaluation.plots import draw
from export.evaluation.report import show
from export.evaluation.sample import N_TEST, Sample, read_sample, simulated_sample
from export.evaluation.scores import score, summarise
from export.labelled_dataset import LabelledDataset, Part
from export.to_onnx import MODEL_FILE, MODEL_NAME

EVALUATION_FILE = "evaluation.json"

Report = dict[str, Any]


@plain_errors()
def main() -> None:
    """Evaluate by the command line."""
    arguments = _parser().parse_args()
    folder = arguments.model or latest_version(Path("model_repository") / MODEL_NAME)
    card = read_card(folder)
    sample, source = _sample(arguments, card)
    scores = score(folder / MODEL_FILE, sample, batch_events(card))
    plots = draw(sample.events, scores)
    report = {"data": source, **summarise(sample.events, scores), "plots": list(plots)}
    show(report, f"{folder} on {len(sample.events)} events ({source})")
    write_evaluation(report, plots, arguments.out)
    if arguments.document:
        write_document(add_evaluation(folder, report), plots, arguments.document)


def write_evaluation(report: Report, plots: Mapping[str, bytes], folder: Path) -> None:
    """Write the numbers and the plots of an evaluation into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVALUATION_FILE).write_text(json.dumps(report, indent=1) + "\n")
    for name, png in plots.items():
        (folder / f"{name}.png").write_bytes(png)


def write_document(card: Card, plots: Mapping[str, bytes], path: Path) -> None:
    """Describe a version for people: Markdown, with its plots beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(card), encoding="utf-8")
    for name, png in plots.items():
        (path.parent / plot_file(card, name)).write_bytes(png)


def parts_to_score(card: Card, data: Path) -> Collection[Part]:
    """Which events of a data set may test a model: all, or one part where it was trained on the others."""
    return (Part.TEST,) if card["training"]["data"] == str(data.resolve()) else tuple(Part)


def _sample(arguments: argparse.Namespace, card: Card) -> tuple[Sample, str]:
    """The events to compare on, and where they come from."""
    if arguments.data is None:
        return simulated_sample(arguments.events, arguments.workers), f"simulation, seed {TEST_SEED}"
    parts = parts_to_score(card, arguments.data)
    sample = read_sample(LabelledDataset.open(arguments.data), arguments.events, parts)
    return sample, str(arguments.data) + (", the part kept for tests" if len(parts) == 1 else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.evaluate", description="Compare the model with line fits."
    )
    parser.add_argument(
        "--model", type=Path, help="folder of a version; the newest of model_repository/direction without it"
    )
    parser.add_argument("--data", type=Path, help="data set in the Kaggle format instead of simulated events")
    parser.add_argument(
        "--document",
        type=Path,
        help="also add the result to the version's model card and describe the version in this Markdown file",
    )
    parser.add_argument("--events", type=int, default=N_TEST)
    parser.add_argument("--out", type=Path, required=True, help="folder for evaluation.json and the plots")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that simulate")
    return parser


if __name__ == "__main__":
    main()
