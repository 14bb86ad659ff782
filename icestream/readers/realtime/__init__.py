"""Reads IceCube's realtime messages: one event with its pulses, from the South Pole's online system.

A message is a JSON document, or a pickle of one. At `value.data` (2016 and 2017) or `value.data.frames` (later) it has
a list of frames, each a letter and base64 of zlib of a pickled `I3Frame`, whose state is the bytes of an `.i3` frame.
Nothing is unpickled: the bytes are taken out of the stream of opcodes.

    read_realtime_event(path)           one file
    realtime_event_from_bytes(data)     one message from elsewhere
    RealtimeDataset.open(path)          a file or a folder of files, as a stream of events
    list_contents(event)                every object of a message, for people
"""

from icestream.readers.realtime.contents import list_contents
from icestream.readers.realtime.dataset import RealtimeDataset
from icestream.readers.realtime.event import (
    AlertSummary,
    FrameContents,
    ObjectContents,
    RealtimeEvent,
    StoredReconstruction,
    StoredVertex,
)
from icestream.readers.realtime.files import holds_realtime_files, is_realtime_file, realtime_files
from icestream.readers.realtime.reading import read_realtime_event, realtime_event_from_bytes

__all__ = [
    "AlertSummary",
    "FrameContents",
    "ObjectContents",
    "RealtimeDataset",
    "RealtimeEvent",
    "StoredReconstruction",
    "StoredVertex",
    "holds_realtime_files",
    "is_realtime_file",
    "list_contents",
    "read_realtime_event",
    "realtime_event_from_bytes",
    "realtime_files",
]
