"""The portable binary archive in which IceTray stores an object: boost 1.38's layout with all numbers little-endian.

An archive begins with the class of the pointer that held the object (00 01), a class id, the class's name, and then
holds the object. What stands before each value of a class: at its first use in the archive one byte that says whether
its objects are tracked, and its version; and each time, where they are tracked, the number of the object.
"""

from icestream.readers.realtime.cursor import I16, U8, U32, U64, Cursor
from icestream.readers.realtime.frames import FrameObject

FRAME_OBJECT = "I3FrameObject"
"""Parent of every class whose objects a frame can hold."""

_POINTER_CLASS = b"\0\1"
_VERSION_ESCAPE = 255


class Archive:
    """One object's archive, opened behind the name of its class."""

    def __init__(self, cursor: Cursor) -> None:
        """Read the head.

        Raises:
            InvalidRealtimeMessage: The bytes are no archive.
        """
        self.cursor = cursor
        start = cursor.position
        if cursor.take(len(_POINTER_CLASS), "the archive's head") != _POINTER_CLASS:
            raise cursor.error("this is no archive of an object; expected it to begin with 00 01", start)
        cursor.integer(I16, "the id of the object's class")
        self.class_name = cursor.text("the name of the object's class")
        self._is_tracked: dict[str, bool] = {}
        self._versions: dict[str, int] = {}

    def enter_root(self, newest: int) -> int:
        """Read what stands before the fields of the archive's own object, and of its parent I3FrameObject.

        Args:
            newest: The highest version of the class that the caller can read.

        Returns:
            The version in the archive.

        Raises:
            InvalidRealtimeMessage: The class is of a later version.
        """
        version = self.enter(self.class_name, newest)
        self.enter(FRAME_OBJECT)
        return version

    def enter(self, class_name: str, newest: int = 0) -> int:
        """Read what stands before a value of a class; see `enter_root`."""
        if class_name not in self._is_tracked:
            start = self.cursor.position
            self._is_tracked[class_name] = self.cursor.boolean(f"the tracking of class {class_name}")
            version = self._read_version(class_name)
            if version > newest:
                raise self.cursor.error(
                    f"class {class_name} is of version {version}; at most {newest} is known", start
                )
            self._versions[class_name] = version
        if self._is_tracked[class_name]:
            self.cursor.integer(U32, f"the number of an object of class {class_name}")
        return self._versions[class_name]

    def _read_version(self, class_name: str) -> int:
        version = self.cursor.integer(U8, f"the version of class {class_name}")
        if version == _VERSION_ESCAPE:
            version = self.cursor.integer(U64, f"the version of class {class_name}")
        return version


def open_archive(stored: FrameObject, *class_names: str) -> Archive:
    """Open the archive of an object.

    Args:
        stored: The object.
        class_names: The classes that the caller can read; none for any.

    Raises:
        InvalidRealtimeMessage: It is of another class, or no archive.
    """
    archive = Archive(stored.cursor())
    if class_names and archive.class_name not in class_names:
        raise stored.error(
            f"the object is of class {archive.class_name!r}; expected {' or '.join(class_names)}"
        )
    return archive
