"""Opens data sets in the Kaggle format whose directions are known, to learn from and to be scored on.

Of every `HELD_OUT_PERIOD` event ids one is kept for validation and calibration and one for the test: whoever
trains, calibrates and evaluates on one data set uses every event for one of them only.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Self

from icestream.errors import InvalidDataset, InvalidEvent, Violation
from icestream.physics.detector import Detector, icecube86
from icestream.physics.events import Event, EventId, check_event
from icestream.readers.geometry import read_sensor_geometry
from icestream.readers.kaggle import KaggleDataset
from icestream.readers.unreadable import UnreadableEvent

HELD_OUT_PERIOD = 20


class Part(Enum):
    """What an event of a data set is for; the value is the remainder of its id."""

    CALIBRATION = 0
    TEST = 1
    TRAINING = 2
    """All other remainders as well."""


def part_of(event_id: EventId) -> Part:
    """Say what an event is for."""
    return Part(min(event_id.event_id % HELD_OUT_PERIOD, Part.TRAINING.value))


@dataclass(frozen=True, slots=True)
class LabelledDataset:
    """A data set with known directions and the detector that recorded it."""

    dataset: KaggleDataset
    detector: Detector
    """Of the data set's own `sensor_geometry.csv`; IceCube where it has none."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Find the data set's files, without reading pulses.

        Raises:
            InvalidDataset: The folder is no data set, or one without directions.
            InvalidDetector: Its `sensor_geometry.csv` is damaged.
        """
        dataset = KaggleDataset.open(folder)
        facts = dataset.describe()
        if not facts.has_truth or not facts.n_events:
            problem = "no true directions" if facts.n_events else "no events"
            raise InvalidDataset(
                folder, f"{problem} in split {dataset.split!r}; expected azimuth and zenith of every event"
            )
        geometry = dataset.geometry_path
        return cls(dataset, read_sensor_geometry(geometry) if geometry else icecube86())

    def events(self, parts: Collection[Part]) -> Iterator[Event]:
        """Read the events of some parts, in the order of the files.

        Events without a direction, and those that no reconstruction could use, are passed over.

        Raises:
            InvalidDataset: Not one is left.
        """
        refusal: InvalidEvent | None = None
        is_empty = True
        for item in self.dataset:
            if part_of(item.id) not in parts:
                continue
            try:
                event = self._checked(item)
            except InvalidEvent as error:
                refusal = refusal or error
            else:
                is_empty = False
                yield event
        if is_empty:
            why = f"the first is refused: {refusal}" if refusal else "there are none"
            raise InvalidDataset(self.dataset.folder, f"no events for {_names(parts)}: {why}")

    def training_blocks(self, first: int, size: int) -> Iterator[list[Event]]:
        """Read the data set block by block, again and again, and keep what training may see.

        Block i is made of the `size` events from position i * size on, counted over all passes: it starts at
        once, because the files before it are not read.

        Args:
            first: Block to start with.
            size: Events of a block, before those of other parts and the useless ones are left out.
        """
        items = self._endless(first * size % self.dataset.n_events)
        while True:
            yield list(self._training_events(islice(items, size)))

    def _endless(self, position: int) -> Iterator[Event | UnreadableEvent]:
        while True:
            yield from self.dataset.events(skip=position)
            position = 0

    def _training_events(self, items: Iterator[Event | UnreadableEvent]) -> Iterator[Event]:
        for item in items:
            if part_of(item.id) is Part.TRAINING:
                try:
                    event = self._checked(item)
                except InvalidEvent:
                    continue
                yield event

    def _checked(self, item: Event | UnreadableEvent) -> Event:
        """Pass an event on.

        Raises:
            InvalidEvent: It cannot be read or reconstructed, or its direction is not known.
        """
        if isinstance(item, UnreadableEvent):
            raise item.error
        if item.truth is None:
            raise InvalidEvent(
                str(item.id), [Violation("truth", "no direction; expected azimuth and zenith")]
            )
        check_event(item, self.detector.n_sensors)
        return item


def _names(parts: Collection[Part]) -> str:
    return " or ".join(part.name.lower() for part in parts)
