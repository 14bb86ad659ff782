"""Finds the versions of a model and reads and completes their cards."""

import json
from pathlib import Path
from typing import Any

from export.checkpoint import replace_file
from export.presets import CPU_BATCH_EVENTS
from export.to_onnx import CARD_FILE, next_version

Card = dict[str, Any]


def latest_version(model_folder: Path) -> Path:
    """The folder of the highest version that holds a model."""
    return model_folder / str(next_version(model_folder) - 1)


def batch_events(card: Card) -> int:
    """Events of a batch in which a version is served on a CPU."""
    # The cards of `direction` 2 and before do not say.
    return int(card.get("batch_events", CPU_BATCH_EVENTS))


def read_card(version_folder: Path) -> Card:
    """Say where a version comes from and what it is worth."""
    card: Card = json.loads((version_folder / CARD_FILE).read_text())
    return card


def add_evaluation(version_folder: Path, evaluation: dict[str, Any]) -> Card:
    """Put an evaluation into a version's card and return it."""
    card = {**read_card(version_folder), "evaluation": evaluation}
    replace_file(version_folder / CARD_FILE, (json.dumps(card, indent=1) + "\n").encode())
    return card
