"""A file or a folder of realtime messages, as a stream of events."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from icestream.errors import InvalidDataset, InvalidEvent, InvalidRealtimeMessage, Violation
from icestream.physics.events import Event, EventId
from icestream.readers.realtime.event import RealtimeEvent
from icestream.readers.realtime.files import realtime_files
from icestream.readers.realtime.reading import DETECTOR, read_realtime_event
from icestream.readers.unreadable import UnreadableEvent

UNKNOWN_RUN = 0
"""The run of messages that cannot be read; no run of IceCube's has this number."""


@dataclass(frozen=True, slots=True)
class RealtimeDataset:
    """Events of realtime messages, read as they are asked for; see `open`."""

    path: Path
    """The file or folder."""
    files: tuple[Path, ...]
    """One for each event, in the order in which they are read: that of their names."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        run_ids: Collection[int] | None = None,
        event_ids: Collection[int] | None = None,
    ) -> Self:
        """Find the chosen messages.

        Args:
            path: A message, or a folder of them.
            run_ids: Read events of these runs only; all files are read at once to know which have any.
            event_ids: Read events of these numbers only; likewise.

        Raises:
            InvalidDataset: There is nothing to read, or none of the messages is of a chosen run and number.
        """
        path = Path(path)
        files = realtime_files(path)
        if run_ids is not None or event_ids is not None:
            files = _chosen(path, files, run_ids, event_ids)
        return cls(path, tuple(files))

    @property
    def folder(self) -> Path:
        """Where the messages are: a folder of them, or that of the one."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def detector(self) -> str:
        """Name of the detector that the sensor ids belong to."""
        return DETECTOR

    @property
    def geometry_path(self) -> None:
        """Messages never bring a geometry of their own."""
        return

    @property
    def n_events(self) -> int:
        """How many events there are, readable or not."""
        return len(self.files)

    def describe(self) -> str:
        """What there is, for people and logs."""
        return f"{self.path}: {self.n_events} realtime {'message' if self.n_events == 1 else 'messages'}"

    def __iter__(self) -> Iterator[Event | UnreadableEvent]:
        return self.events()

    def read(self, index: int) -> RealtimeEvent:
        """Read one message, counted from 0.

        Raises:
            IndexError: There are not so many.
            InvalidRealtimeMessage: It cannot be read.
        """
        return read_realtime_event(self.files[index])

    def events(self, *, skip: int = 0, limit: int | None = None) -> Iterator[Event | UnreadableEvent]:
        """Read the events alone; see `messages`."""
        return map(_event, self.messages(skip=skip, limit=limit))

    def messages(
        self, *, skip: int = 0, limit: int | None = None
    ) -> Iterator[RealtimeEvent | UnreadableEvent]:
        """Read whole messages; one that cannot be read does not stop the others.

        Args:
            skip: Leave out so many.
            limit: Then read at most so many; by default all.

        Raises:
            ValueError: `skip` or `limit` is negative.
        """
        if skip < 0:
            raise ValueError(f"skip is {skip}; expected 0 or more events")
        return islice(map(_message, self.files[skip:]), limit)


def _event(message: RealtimeEvent | UnreadableEvent) -> Event | UnreadableEvent:
    return message if isinstance(message, UnreadableEvent) else message.event


def _message(file: Path) -> RealtimeEvent | UnreadableEvent:
    try:
        return read_realtime_event(file)
    except InvalidRealtimeMessage as error:
        name = _name_of_unreadable(file)
        return UnreadableEvent(name, InvalidEvent(str(name), [Violation("message", str(error))]))


def _name_of_unreadable(file: Path) -> EventId:
    """A name for what does not tell its own: different for different files, and the same whenever it is read."""
    digest = hashlib.blake2b(file.name.encode(errors="surrogateescape"), digest_size=8).digest()
    return EventId(UNKNOWN_RUN, int.from_bytes(digest) >> 1)


def _chosen(
    path: Path, files: list[Path], run_ids: Collection[int] | None, event_ids: Collection[int] | None
) -> list[Path]:
    """The files of chosen events."""
    found: dict[Path, EventId] = {}
    n_unreadable = 0
    for file in files:
        match _message(file):
            case RealtimeEvent(event=event):
                found[file] = event.id
            case UnreadableEvent():
                n_unreadable += 1
    chosen = [
        file
        for file, name in found.items()
        if (run_ids is None or name.run_id in run_ids) and (event_ids is None or name.event_id in event_ids)
    ]
    if not chosen:
        there = ", ".join(map(str, sorted(found.values())[:10])) or "none"
        raise InvalidDataset(
            path, f"no event of the chosen run and number; readable are {there}, and {n_unreadable} are not"
        )
    return chosen
