"""Takes plain data out of pickles without ever unpickling: no opcode that could call or import anything is followed."""

import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from icestream.readers.realtime.cursor import Place

MAX_OPCODES = 100_000
"""A real message takes 300; each may make an object."""
MAX_FRAME_OPCODES = 1_000
"""A real frame takes 24."""

_SCALARS = frozenset(("BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "LONG1", "SHORT_BINUNICODE"))
_CONSTANTS: dict[str, bool | None] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))


class _Mark:
    """Stands on the stack where a list or a dict's items begin."""


_MARK = _Mark()


def read_plain_pickle(data: bytes, place: Place) -> object:
    """Read a pickle of dicts with text as keys, lists, texts, numbers, booleans and None.

    Python's own unpickler is not used: even with every global refused, some opcodes make it allocate gigabytes.

    Raises:
        InvalidRealtimeMessage: The pickle is damaged, or holds anything else.
    """
    machine = _Machine()
    for name, argument, offset in _opcodes(data, place, MAX_OPCODES):
        try:
            machine.follow(name, argument)
        except _NotPlain as error:
            raise place.error(f"{error}; expected a pickle of plain data", offset) from error
    return machine.result(place)


def lift_bytes(data: bytes, magic: bytes, place: Place) -> tuple[bytes, int]:
    """Find the one argument of a pickle's opcodes that begins with these bytes.

    Text stands for bytes of the same numbers: pickles of protocol 2 have no bytes of their own.

    Returns:
        The bytes, and at which offset of the pickle their opcode stands.

    Raises:
        InvalidRealtimeMessage: The pickle is damaged, or there is no such argument, or there are several.
    """
    text_magic = magic.decode("latin-1")
    found = []
    for _, argument, offset in _opcodes(data, place, MAX_FRAME_OPCODES):
        if isinstance(argument, str) and argument.startswith(text_magic):
            try:
                found.append((argument.encode("latin-1"), offset))
            except UnicodeEncodeError as error:
                raise place.error("the frame in the pickle holds more than bytes", offset) from error
        elif isinstance(argument, bytes | bytearray) and argument.startswith(magic):
            found.append((bytes(argument), offset))
    if len(found) != 1:
        raise place.error(f"the pickle holds {len(found)} frames; expected one that begins with {text_magic}")
    return found[0]


def _opcodes(data: bytes, place: Place, limit: int) -> Iterator[tuple[str, Any, int]]:
    """The opcodes with their arguments and offsets, up to STOP, which must be the last byte."""
    stopped_at = -1
    try:
        for n, (opcode, argument, offset) in enumerate(pickletools.genops(data)):
            if n == limit:
                raise place.error(f"the pickle has more than {limit} opcodes", offset)
            stopped_at = offset or 0
            yield opcode.name, argument, stopped_at
    except ValueError as error:
        raise place.error(f"the pickle is damaged: {error}", max(stopped_at, 0)) from error
    if stopped_at != len(data) - 1:
        raise place.error("there is something behind the pickle's end", stopped_at + 1)


class _NotPlain(Exception):
    """An opcode that plain data does not need, or that finds something else than it needs on the stack."""


class _Machine:
    """Follows the opcodes of plain data; one that imports, calls or builds objects is unknown to it."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._actions: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "SETITEM": lambda _: self._set_items([self._pop(), self._pop()][::-1]),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            "APPEND": lambda _: self._append([self._pop()]),
            "APPENDS": lambda _: self._append(self._pop_to_mark()),
            "BINPUT": self._memoize,
            "LONG_BINPUT": self._memoize,
            "MEMOIZE": lambda _: self._memoize(len(self._memo)),
            "BINGET": self._recall,
            "LONG_BINGET": self._recall,
        }

    def follow(self, name: str, argument: object) -> None:
        """Take one step."""
        if name in _SCALARS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in self._actions:
            self._actions[name](argument)
        elif name not in _IGNORED:
            raise _NotPlain(f"the pickle uses opcode {name}")

    def result(self, place: Place) -> object:
        """What the pickle holds."""
        if len(self._stack) != 1 or self._stack[0] is _MARK:
            raise place.error("the pickle is damaged: it does not end with one value")
        return self._stack[0]

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise _NotPlain("an opcode of the pickle finds no value")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while self._stack and self._stack[-1] is not _MARK:
            items.append(self._stack.pop())
        if not self._stack:
            raise _NotPlain("an opcode of the pickle finds no mark")
        self._stack.pop()
        return items[::-1]

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise _NotPlain(f"an opcode of the pickle finds no {kind.__name__}")
        return self._stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        keys, values = items[::2], items[1::2]
        # Only texts: the hash of deeply nested keys overflows Python's stack.
        if len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise _NotPlain("a dict of the pickle has a key that is not text")
        target.update(zip(keys, values, strict=True))

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _memoize(self, index: int) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise _NotPlain("an opcode of the pickle finds no value")
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise _NotPlain("an opcode of the pickle refers to a value that is not there")
        self._stack.append(self._memo[index])
