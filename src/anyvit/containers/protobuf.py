"""The wire format of protocol buffers: numbered fields, read one after another from a file.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack
from typing import NamedTuple

from anyvit.containers.cursor import Cursor
from anyvit.containers.files import LocalFile
from anyvit.errors import FileError, UnsafeError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types; 3 and 4 (groups) are in no format that is read here."""
WINDOW = 4096
FIELD_LIMIT = 10_000_000
"""Most fields of a file; a graph of 10,000 nodes with their metadata has about 200,000."""


class Field(NamedTuple):
    """A field of a message: its number, its wire type, and its value.

    For a `VARINT` the value is the number; for the others it is the offset of the bytes, and `size` their count.
    """

    number: int
    wire: int
    value: int
    size: int = 0


class Message(Cursor):
    """The fields of a message that lies in a part of a file.

    Arguments:
        file: the file.
        start: first byte.
        end: one after the last byte.
    """

    def __init__(self, file: LocalFile, start: int, end: int) -> None:
        super().__init__(file, start, end, WINDOW)
        self._left = [FIELD_LIMIT]

    def __iter__(self) -> Iterator[Field]:
        while self.at < self.end:
            self._left[0] -= 1
            if self._left[0] < 0:
                raise UnsafeError(f"{self.file.name} has more fields than any model", expected=f"at most {FIELD_LIMIT}")
            tag = self.varint()
            number, wire = tag >> 3, tag & 7
            if not number or wire not in (VARINT, FIXED64, BYTES, FIXED32):
                raise self.damaged(f"field {number} of wire type {wire}")
            if wire == VARINT:
                yield Field(number, wire, self.varint())
            else:
                size = self.varint() if wire == BYTES else 8 if wire == FIXED64 else 4
                yield Field(number, wire, *self.skip(size))

    def varint(self) -> int:
        """The next number of up to 64 bits, seven of them a byte, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
        raise self.damaged("a number of more than ten bytes")

    def inner(self, field: Field) -> Message:
        """The message inside a field; it reads through the same window, and its fields count for the same file."""
        message = Message(self.file, field.value, field.value + field.size)
        message._from, message._data, message._left = self._from, self._data, self._left
        return message

    def bytes_of(self, field: Field, limit: int = 1 << 20) -> bytes:
        """The bytes of a field."""
        if field.wire != BYTES or field.size > limit:
            raise self.damaged(f"{field.size} bytes in field {field.number}")
        begin = field.value - self._from
        if begin >= 0 and begin + field.size <= len(self._data):
            return self._data[begin : begin + field.size]
        return self.file.read(field.value, field.size)

    def real(self, field: Field) -> float:
        """The 32-bit floating-point number of a field."""
        begin = field.value - self._from
        held = begin >= 0 and begin + 4 <= len(self._data)
        return unpack("<f", self._data[begin : begin + 4] if held else self.file.read(field.value, 4))[0]

    def text(self, field: Field) -> str:
        """The text of a field."""
        try:
            return self.bytes_of(field).decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"a text in field {field.number} that is none") from error

    def numbers(self, field: Field) -> Iterator[int]:
        """The number of a field, or all of them where it is packed."""
        if field.wire == VARINT:
            yield field.value
            return
        if field.wire != BYTES:
            raise self.damaged(f"no numbers in field {field.number}")
        packed = self.inner(field)
        while packed.at < packed.end:
            yield packed.varint()

    def damaged(self, found: str) -> FileError:
        """The error of bytes that are no such message."""
        return FileError(
            f"{self.file.name} is damaged or no ONNX file",
            found=f"{found}, before byte {self.at}",
            usual="a download that was cut, or a file of another format under this suffix",
            remedy="fetch the file again",
        )


def signed(value: int) -> int:
    """A 64-bit number as one with a sign.

    Example:
        >>> signed(0xFFFFFFFFFFFFFFFF)
        -1
    """
    return value - (1 << 64) if value >> 63 else value
