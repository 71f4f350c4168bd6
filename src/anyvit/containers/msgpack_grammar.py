"""The msgpack grammar, read value by value from a file; long byte strings stay where they are.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from anyvit.containers.cursor import Cursor
from anyvit.containers.files import LocalFile
from anyvit.errors import FileError, UnsafeError

DEPTH_LIMIT = 100
"""Deepest nesting; an optimizer's state within a training state has about 15."""
VALUE_LIMIT = 10_000_000
"""Most values in a file; a checkpoint of 10,000 tensors with Adam's moments has about 200,000."""
TEXT_LIMIT = 1 << 20
"""Longest text in bytes."""

_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
    0xD3: ">q",
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class Span(NamedTuple):
    """A byte string left in the file: its first byte and its size, both in bytes."""

    offset: int
    size: int


class Extension(NamedTuple):
    """A value of an application's own type: its number, and where its bytes lie."""

    code: int
    offset: int
    size: int


class Values(Cursor):
    """Reads values from a part of a file.

    Arguments:
        file: the file.
        start: first byte.
        end: one after the last byte.
    """

    def __init__(self, file: LocalFile, start: int, end: int) -> None:
        super().__init__(file, start, end)
        self.count = 0

    def value(self, depth: int = 0) -> Any:
        """The next value: None, bool, int, float, str, list, dict, `Span` or `Extension`.

        Raises:
            FileError: cut, or a byte that means nothing.
            UnsafeError: nested or filled implausibly.
        """
        self.count += 1
        if depth > DEPTH_LIMIT or self.count > VALUE_LIMIT:
            raise UnsafeError(
                f"{self.file.name} is nested deeper or holds more values than any checkpoint",
                expected=f"at most {DEPTH_LIMIT} levels and {VALUE_LIMIT} values",
                usual="a forged file",
            )
        code = self.take(1)[0]
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if (form := _NUMBERS.get(code)) is not None:
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return self._sized(code, depth)

    def _sized(self, code: int, depth: int) -> Any:
        if code <= 0x8F:
            return self._map(code & 0x0F, depth)
        if code <= 0x9F:
            return self._list(code & 0x0F, depth)
        if code <= 0xBF:
            return self._text(code & 0x1F)
        if 0xC4 <= code <= 0xC6:
            return Span(*self.skip(self._length(code - 0xC4)))
        if 0xC7 <= code <= 0xC9:
            return self._extension(self._length(code - 0xC7))
        if 0xD4 <= code <= 0xD8:
            return self._extension(1 << (code - 0xD4))
        if 0xD9 <= code <= 0xDB:
            return self._text(self._length(code - 0xD9))
        if code in (0xDC, 0xDD):
            return self._list(self._length(code - 0xDB), depth)
        if code in (0xDE, 0xDF):
            return self._map(self._length(code - 0xDD), depth)
        raise self.damaged(f"the byte {code:#04x} at {self.at - 1} begins no value")

    def damaged(self, found: str) -> FileError:
        """The error of bytes that are no such value."""
        return FileError(
            f"{self.file.name} is no sound msgpack file",
            found=found,
            usual="a damaged file, or another format",
            remedy="fetch the file again",
        )

    def _length(self, power: int) -> int:
        return int.from_bytes(self.take(1 << power), "big")

    def _text(self, size: int) -> str:
        if size > TEXT_LIMIT:
            self.room(size)
            raise UnsafeError(f"{self.file.name} holds an implausibly long text", found=f"{size} bytes")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"a text at {self.at - size} that is none") from error

    def _extension(self, size: int) -> Extension:
        code = struct.unpack("b", self.take(1))[0]
        return Extension(code, *self.skip(size))

    def _list(self, count: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in self._keys(count, depth):
            if key in found:
                raise self.damaged(f"two entries called {key[:80]!r}")
            found[key] = self.value(depth + 1)
        return found

    def _keys(self, count: int, depth: int) -> Iterator[str]:
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str | int | float | bool | None):
                raise self.damaged(f"a {type(key).__name__} as a key before byte {self.at}")
            yield str(key)
