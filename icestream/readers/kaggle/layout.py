"""Where the files of a Kaggle data set are."""

import re
from pathlib import Path
from typing import Literal

from icestream.errors import InvalidDataset

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
GEOMETRY_FILE = "sensor_geometry.csv"


def meta_path(folder: Path, split: Split) -> Path:
    """The table of a split's events."""
    return folder / f"{split}_meta.parquet"


def batch_path(folder: Path, split: Split, batch_id: int) -> Path:
    """The table of a batch's pulses."""
    return folder / split / f"batch_{batch_id}.parquet"


def available_splits(folder: Path) -> tuple[Split, ...]:
    """The splits that have a meta file, train first."""
    return tuple(split for split in SPLITS if meta_path(folder, split).is_file())


def choose_split(folder: Path, wanted: Split | None) -> Split:
    """The split asked for, or else train before test.

    Raises:
        InvalidDataset: It is not there; the message says what is.
    """
    if not folder.is_dir():
        raise InvalidDataset(folder, "not a folder; expected a Kaggle data set's folder")
    available = available_splits(folder)
    if not available:
        raise InvalidDataset(folder, "meta file missing; expected train_meta.parquet or test_meta.parquet")
    if wanted is None:
        return available[0]
    if wanted not in available:
        raise InvalidDataset(
            meta_path(folder, wanted), f"no such file; this data set has split={available[0]!r}"
        )
    return wanted


def present_batches(folder: Path, split: Split) -> list[int]:
    """Numbers of the batch files that are there, in ascending order."""
    names = (path.name for path in (folder / split).glob("batch_*.parquet"))
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"batch_(\d+)\.parquet", name)))
