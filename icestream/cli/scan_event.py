"""Which event is meant: one of a data set, a realtime message, or one that was published."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from icestream.errors import InvalidInput
from icestream.physics.detector import Detector, icecube86
from icestream.physics.events import Event, EventId
from icestream.readers.datasets import Dataset, open_dataset
from icestream.readers.geometry import read_sensor_geometry
from icestream.readers.realtime import RealtimeDataset, RealtimeEvent
from icestream.readers.unreadable import UnreadableEvent

_EVENT_NAME = re.compile(r"(?P<detector>[^/]+)/(?P<id>[0-9]{1,18}\.[0-9]{1,18}(\.[0-9]{1,9})?)")
_ID_IN_DATASET = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An event in the stream EVENTS."""

    detector: str
    id: EventId

    def __str__(self) -> str:
        return f"{self.detector}/{self.id}"


@dataclass(frozen=True, slots=True, eq=False)
class DatasetEvent:
    """An event of a data set, or of a realtime message."""

    event: Event
    dataset: Dataset
    was_chosen: bool
    """Whether somebody said which one; else it is the first of several."""
    message: RealtimeEvent | None = None
    """The whole message, where the event is of one."""

    def __str__(self) -> str:
        return f"{self.event.detector}/{self.event.id}"

    def read_detector(self) -> Detector:
        """Where the event's sensors are: IceCube's, unless the data set has another geometry.

        Raises:
            InvalidInput: The detector is not known, or the data set's file of it is damaged.
        """
        icecube, path, name = icecube86(), self.dataset.geometry_path, self.event.detector
        own = None if path is None else read_sensor_geometry(path, name)
        # Data sets of IceCube bring its positions too, though not which of its modules see more.
        if name == icecube.name and (own is None or _are_same(own, icecube)):
            return icecube
        if own is None:
            raise InvalidInput(
                f"detector {name!r} is not known here, and {self.dataset.folder} has no sensor_geometry.csv"
            )
        return own

    def say_if_not_chosen(self, verb: str) -> None:
        """Tell people which one of several events this is, where they did not say."""
        if not self.was_chosen:
            Console(stderr=True).print(
                f"{verb} {self}, the first of {self.dataset.n_events} events; --event-id chooses another",
                markup=False,
                soft_wrap=True,
            )


def choose_event(
    text: str, *, detector: str, event_index: int | None, event_id: str | None
) -> DatasetEvent | PublishedEvent:
    """Find an event.

    Args:
        text: Folder of a data set, a realtime message or a folder of them, or
            `<detector>/<run>.<event>[.<sub-event>]` of a published event.
        detector: Name of the detector of data sets.
        event_index: Which event of a data set, counted from 0 in its own order.
        event_id: The same, as `<event>` or `<run>.<event>`.

    Raises:
        InvalidInput: There is no such event, or nothing can be made of it.
    """
    name = _EVENT_NAME.fullmatch(text)
    if name is not None and not Path(text).exists():
        if event_index is not None or event_id is not None:
            raise InvalidInput(
                f"{text} is one event already; --event-index and --event-id choose from data sets"
            )
        return PublishedEvent(name["detector"], EventId.parse(name["id"]))
    return event_of_dataset(Path(text), detector=detector, event_index=event_index, event_id=event_id)


def event_of_dataset(
    path: Path, *, detector: str, event_index: int | None, event_id: str | None
) -> DatasetEvent:
    """Find an event of a data set, or of a realtime message; see `choose_event`."""
    if event_index is not None and event_id is not None:
        raise InvalidInput("say which event once: with --event-index or with --event-id")
    if event_id is not None:
        dataset = _with_one_event(path, detector, event_id)
    else:
        dataset = open_dataset(path, detector=detector)
    if (event_index or 0) >= dataset.n_events:
        wanted = (
            f"{event_id}" if event_id is not None else f"at index {event_index or 0} of {dataset.n_events}"
        )
        raise InvalidInput(f"{path} has no event {wanted}")
    was_chosen = dataset.n_events == 1 or event_index is not None
    if isinstance(dataset, RealtimeDataset):
        message = dataset.read(event_index or 0)
        return DatasetEvent(message.event, dataset, was_chosen, message)
    event = next(dataset.events(skip=event_index or 0, limit=1))
    if isinstance(event, UnreadableEvent):
        raise event.error
    return DatasetEvent(event, dataset, was_chosen)


def _with_one_event(path: Path, detector: str, text: str) -> Dataset:
    if _ID_IN_DATASET.fullmatch(text) is None:
        raise InvalidInput(
            f"--event-id {text!r} is not <event> or <run>.<event>; data sets have no sub-events"
        )
    *run, event_id = map(int, text.split("."))
    return open_dataset(path, detector=detector, run_ids=run or None, event_ids=[event_id])


def _are_same(first: Detector, second: Detector) -> bool:
    # Written with a few digits, and read back as single precision.
    return first.n_sensors == second.n_sensors and bool(
        np.allclose(first.positions_m, second.positions_m, atol=0.01)
    )
