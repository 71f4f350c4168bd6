"""A place in a file that moves forward: small values are read through a window, long ones are passed over."""

from __future__ import annotations

from anyvit.containers.files import LocalFile
from anyvit.errors import FileError


class Cursor:
    """Reads from a part of a file, a window at a time, so that a tensor's header is read without its data.

    Arguments:
        file: the file.
        start: first byte.
        end: one after the last byte.
        window: bytes read at a time.
    """

    def __init__(self, file: LocalFile, start: int, end: int, window: int = 512) -> None:
        self.file, self.at, self.end, self.window = file, start, end, window
        self._from, self._data = start, b""

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            FileError: there are fewer.
        """
        begin = self.at - self._from
        if begin < 0 or begin + size > len(self._data) or self.at + size > self.end:
            self.room(size)
            self._from, begin = self.at, 0
            self._data = self.file.read(self.at, min(max(size, self.window), self.end - self.at))
        self.at += size
        return self._data[begin : begin + size]

    def skip(self, size: int) -> tuple[int, int]:
        """Passes over bytes without reading them: where they begin, and how many there are.

        Raises:
            FileError: there are fewer.
        """
        self.room(size)
        self.at += size
        return self.at - size, size

    def room(self, size: int) -> None:
        """Checks that so many bytes are left.

        Raises:
            FileError: there are fewer.
        """
        if self.at + size > self.end:
            raise FileError(
                f"{self.file.name} ends inside a value",
                found=f"{self.end} bytes",
                expected=f"at least {self.at + size}",
                usual="a download or copy that was cut",
                remedy="fetch the file again",
            )
