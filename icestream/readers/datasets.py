"""Opens whatever holds events: a data set in the Kaggle format, or realtime messages."""

from collections.abc import Collection
from pathlib import Path

from icestream.errors import InvalidDataset, InvalidInput
from icestream.readers.kaggle import KaggleDataset, Split
from icestream.readers.kaggle.layout import SPLITS, available_splits, meta_path
from icestream.readers.realtime import RealtimeDataset
from icestream.readers.realtime.files import SUFFIXES
from icestream.readers.realtime.reading import DETECTOR as REALTIME_DETECTOR

Dataset = KaggleDataset | RealtimeDataset
"""Both have `detector`, `n_events`, `describe` and `events`, and yield an `UnreadableEvent` for what is damaged."""

_META_FILES = " or ".join(meta_path(Path(), split).name for split in SPLITS)
_EXPECTED = (
    f"the folder of a Kaggle data set, with {_META_FILES}, or realtime messages: "
    f"a file, or a folder of files that end in {', '.join(SUFFIXES)}"
)


def open_dataset(
    path: str | Path,
    *,
    detector: str = "icecube86",
    split: Split | None = None,
    run_ids: Collection[int] | None = None,
    event_ids: Collection[int] | None = None,
) -> Dataset:
    """Find the chosen events, without reading the pulses of a Kaggle data set.

    Args:
        path: A Kaggle data set's folder, a realtime message, or a folder of realtime messages.
        detector: Name of the detector that the sensor ids of a Kaggle data set belong to.
        split: Of a Kaggle data set; by default train, or test where that is all there is.
        run_ids: Read events of these runs only; in a Kaggle data set those are its batches.
        event_ids: Read events of these numbers only.

    Raises:
        InvalidDataset: There is no such thing, or it holds nothing that was chosen.
        InvalidInput: A choice means nothing for what is there.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidDataset(path, f"no such file or folder; expected {_EXPECTED}")
    if path.is_dir() and available_splits(path):
        return KaggleDataset.open(
            path, split=split, detector=detector, batch_ids=run_ids, event_ids=event_ids
        )
    _require_messages(path)
    if split is not None:
        raise InvalidInput(f"{path}: realtime messages have no split {split!r}; leave it out")
    if detector != REALTIME_DETECTOR:
        raise InvalidInput(f"{path}: realtime messages are of {REALTIME_DETECTOR}, not of {detector!r}")
    return RealtimeDataset.open(path, run_ids=run_ids, event_ids=event_ids)


def _require_messages(path: Path) -> None:
    """Leave everything to the reader of messages that may be meant as one, damaged or not."""
    if path.suffix == ".parquet":
        raise InvalidDataset(path, "a single file of a Kaggle data set; name its folder")
    if path.is_dir() and not any(file.suffix in SUFFIXES for file in path.iterdir()):
        raise InvalidDataset(path, f"no events in this folder; expected {_EXPECTED}")
