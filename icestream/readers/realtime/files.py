"""Which files hold realtime messages, and their bytes."""

from pathlib import Path

from icestream.errors import InvalidDataset
from icestream.readers.realtime.cursor import Place
from icestream.readers.realtime.document import MAX_MESSAGE_BYTES

SUFFIXES = (".json", ".pkl", ".pickle")
"""How the files of a folder end that are taken for messages."""

_HEAD_BYTES = 4096
_PICKLE_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_KEYS = (b"value", b"data")


def is_realtime_file(path: str | Path) -> bool:
    """Whether a file looks like a realtime message; reads its first bytes only."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return head.lstrip().startswith((b"{", *_PICKLE_PROTOCOLS)) and all(key in head for key in _KEYS)


def holds_realtime_files(path: str | Path) -> bool:
    """Whether this is a realtime message, or a folder with at least one."""
    path = Path(path)
    if path.is_dir():
        return any(is_realtime_file(file) for file in _candidates(path))
    return is_realtime_file(path)


def realtime_files(path: str | Path) -> list[Path]:
    """The file itself, or a folder's files that should be realtime messages, by their names, damaged or not.

    Raises:
        InvalidDataset: There is no such file or folder, or the folder has no such files.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise InvalidDataset(
                path, "no such file or folder; expected a realtime message or a folder of them"
            )
        return [path]
    files = _candidates(path)
    if not files:
        raise InvalidDataset(path, f"no realtime messages; expected files that end in {', '.join(SUFFIXES)}")
    return files


def read_message(path: Path) -> bytes:
    """Read a file, unless it is larger than any message.

    Raises:
        InvalidRealtimeMessage: It cannot be read, or is too large.
    """
    place = Place(str(path))
    try:
        if not path.is_file():
            raise place.error("no such file; expected a realtime message, JSON or pickle")
        with path.open("rb") as file:
            data = file.read(MAX_MESSAGE_BYTES + 1)
    except OSError as error:
        raise place.error(f"the file cannot be read: {error.strerror}") from error
    return data


def _candidates(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
