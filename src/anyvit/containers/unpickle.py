"""A pickle interpreter that cannot run anything: it knows no import, no call and no attribute of a class.

Every opcode of protocols 0 to 5 is carried out on plain data (see `opcodes`). A global is a name; calling it looks the
name up in a table of builders that the caller passes (see `rebuild`), and what is not there becomes `Inert`. Byte
strings are not copied but remembered as spans, so that arrays inside a pickle can be listed without being read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyvit.containers.inert import Inert
from anyvit.containers.opcodes import TABLE, CutError, Data, Global, Span
from anyvit.errors import AnyvitError, FileError, UnsafeError, clip

OPCODE_LIMIT = 10_000_000
"""Most instructions that are carried out; a checkpoint of 10,000 tensors with Adam's state has about a million."""
NAME_LIMIT = 1024
"""Longest name of a global in characters."""

_STOP = ord(".")
_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}

Builder = Callable[["Machine", tuple[Any, ...]], Any]


class Machine:
    """The stack machine of one pickle.

    Arguments:
        data: the bytes the pickle lies in.
        builders: what becomes of a called global, by its name; None for one that is known but only ever named.
        persistent: what becomes of a persistent id (torch's storages).
        name: path of the file, for messages.

    After `run`, `foreign` holds the unknown globals in the order of their first mention, and `count` how many
    instructions there were.
    """

    __slots__ = (
        "builders",
        "count",
        "data",
        "foreign",
        "globals",
        "memo",
        "name",
        "outer",
        "persistent",
        "room",
        "stack",
    )

    def __init__(
        self,
        data: Data,
        builders: Mapping[str, Builder | None],
        persistent: Callable[[Any], Any] | None = None,
        name: str = "pickle",
    ) -> None:
        self.data, self.builders, self.persistent, self.name = data, builders, persistent, name
        self.foreign: dict[str, None] = {}
        self.count = 0
        self.room = 10_000 + 4 * len(data)
        self.globals: dict[str, Global] = {}
        self._clear()

    def _clear(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, start: int = 0) -> tuple[Any, int]:
        """Carries out one pickle.

        Arguments:
            start: its offset in the data, in bytes.

        Returns:
            Its object, and the offset of the byte after it.

        Raises:
            FileError: damaged, cut, or of an unknown protocol.
            UnsafeError: implausibly long.
        """
        self._clear()
        data, position = self.data, start
        try:
            for count in range(OPCODE_LIMIT):
                opcode = data[position]
                if opcode == _STOP:
                    self.count = count
                    return self.stack.pop(), position + 1
                position = TABLE[opcode](self, position + 1)
        except AnyvitError:
            raise
        except Exception as error:
            # Bytes that mean nothing fail anywhere in the handlers; all of it means the same to the reader.
            raise self._damaged(position, error) from error
        raise UnsafeError(f"{self.name}: the pickle has more than {OPCODE_LIMIT} instructions")

    def _damaged(self, position: int, error: Exception) -> FileError:
        cut = position >= len(self.data) or isinstance(error, CutError)
        what = "the file ends inside of it" if cut else clip(f"{type(error).__name__}: {error}", 200)
        return FileError(
            f"damaged pickle in {self.name}",
            found=f"at byte {position}: {what}",
            usual="a download or copy that was cut" if cut else "a damaged file, or none that torch or pickle wrote",
            remedy="fetch the file again",
        )

    def find(self, module: str, name: str) -> Global:
        """The global of that name; remembered as foreign where the table does not know it."""
        full = f"{_MODULES.get(module, module)}.{name}"
        known = self.globals.get(full)
        if known is None:
            if len(full) > NAME_LIMIT:
                raise ValueError("an implausibly long name")
            known = self.globals[full] = Global(full)
            if full not in self.builders:
                self.foreign[full] = None
        return known

    def call(self, target: Any, args: Any) -> Any:
        """What the pickle would have got by calling a global."""
        if type(args) is not tuple:
            raise TypeError(f"arguments that are a {type(args).__name__}")
        if type(target) is Global:
            builder = self.builders.get(target.type)
            return Inert(target.type, args) if builder is None else builder(self, args)
        if type(target) is Inert:
            return Inert(f"{target.type}()", (target, *args))
        raise TypeError(f"a call of a {type(target).__name__}")

    def charge(self, size: int) -> None:
        """Pays for a copy of something that was written once: a short pickle must not make long ones without end.

        Raises:
            UnsafeError: four times the pickle's own size was copied.
        """
        self.room -= size
        if self.room < 0:
            raise UnsafeError(f"{self.name}: the pickle copies its own parts more often than any checkpoint")

    def marked(self) -> list[Any]:
        """Takes what was pushed since the last mark."""
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def take(self, position: int, size: int) -> Data:
        """Exactly `size` bytes of the data."""
        part = self.data[position : position + size]
        if len(part) != size:
            raise CutError
        return part

    def line(self, position: int) -> tuple[bytes, int]:
        """The text up to the next newline, and the position after it."""
        room = 256
        while True:
            part = bytes(self.data[position : position + room])
            end = part.find(b"\n")
            if end >= 0:
                return part[:end], position + end + 1
            if len(part) < room:
                raise CutError
            room *= 16

    def bytes_of(self, value: Any) -> bytes | Span:
        """A value that stands for bytes, in whatever way the protocol wrote it.

        Raises:
            TypeError: it is none.
        """
        if isinstance(value, bytes | Span):
            return value
        if isinstance(value, str):
            self.charge(len(value))
            return value.encode("latin-1")
        raise TypeError(f"a {type(value).__name__} where bytes belong")
