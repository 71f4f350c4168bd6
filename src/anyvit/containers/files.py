"""Local files as byte sources, and atomic writes."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from anyvit.errors import FileError


class LocalFile:
    """A regular file, read by position (safe from many threads) or mapped.

    Arguments:
        path: an existing regular file; an `Address` gives a `RemoteFile`.

    Raises:
        FileError: when it cannot be opened; the OSError is the cause.
    """

    def __new__(cls, path: Any, *_: Any) -> LocalFile:
        if cls is LocalFile and not isinstance(path, (str, os.PathLike)):
            from anyvit.containers.remote import RemoteFile

            return object.__new__(RemoteFile)
        return object.__new__(cls)

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
            self.stamp = self.now()
        except OSError as error:
            raise unreadable(path, error) from error
        self.size = self.stamp[0]
        self._map: mmap.mmap | None = None

    def now(self) -> tuple[int, int]:
        """Its length in bytes and the time of its last change in nanoseconds."""
        found = os.fstat(self._fd)
        return found.st_size, found.st_mtime_ns

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`."""
        parts = []
        while size:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                raise unreadable(self.name, error) from error
            if not part:
                raise self._cut(offset + size)
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, offset: int, room: memoryview) -> None:
        """Fills `room` with the bytes from `offset`; a room used again costs no new memory."""
        if not hasattr(os, "preadv"):
            room[:] = self.read(offset, len(room))
            return
        while room:
            try:
                count = os.preadv(self._fd, [room], offset)
            except OSError as error:
                raise unreadable(self.name, error) from error
            if not count:
                raise self._cut(offset + len(room))
            offset, room = offset + count, room[count:]

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Says which (offset, size) will be read next; of use only where each would be waited for."""

    def _cut(self, wanted: int) -> FileError:
        return FileError(
            f"{self.name} ends too early",
            found=f"{self.size} bytes",
            expected=f"at least {wanted} bytes",
            usual="a download or copy that was cut",
        )

    def view(self, offset: int, size: int) -> memoryview | None:
        """The bytes mapped copy-on-write: writable, private, shared with the page cache until written."""
        if self._map is None:
            try:
                self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError):
                return None
        # The file may have been cut after it was opened.
        if offset + size > len(self._map):
            self.read(offset, size)
        return memoryview(self._map)[offset : offset + size]

    def holds(self, address: int) -> bool:
        """Whether an address in memory lies in the mapping of this file."""
        there = getattr(self, "_map", None)
        if there is None:
            return False
        import numpy as np

        first = np.frombuffer(there, "u1").ctypes.data
        return first <= address < first + len(there)

    def __del__(self) -> None:
        try:  # noqa: SIM105 (at the interpreter's end contextlib may be gone)
            os.close(self._fd)
        except (AttributeError, OSError, TypeError):  # never opened
            pass


def unreadable(path: str | Path, error: OSError) -> FileError:
    """The error of a path that the operating system refuses."""
    reason = {
        FileNotFoundError: "does not exist",
        PermissionError: "may not be read",
        IsADirectoryError: "is a folder",
    }.get(type(error), f"cannot be read ({error.strerror})")
    return FileError(f"{path} {reason}", remedy="check the path" if isinstance(error, FileNotFoundError) else None)


@contextlib.contextmanager
def atomic(path: str | Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` only when the block ends well.

    The temporary file lies in the same folder; on any error it is removed and the old file stays as it was. A file that
    is replaced hands on its permissions; a link is replaced itself, not what it points to.

    Arguments:
        path: the file to write.
        durable: flush to the disk before the rename (survives a power cut; a rename alone survives a killed process).

    Raises:
        FileError: disk full, no permission, missing folder; the OSError is the cause.
    """
    path = Path(path)
    temporary = beside(path)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(temporary, flags, 0o666), "wb", buffering=0) as file:
            yield file
            with contextlib.suppress(OSError):
                os.chmod(temporary, path.stat().st_mode & 0o777)
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise FileError(f"{path} cannot be written ({error.strerror or error}); it is as it was before") from error
        raise


WRITTEN = 1 << 19
"""Bytes written at a time. Linux keeps the bytes of one call in one run of memory: the longer, the fewer steps, but runs of
a megabyte are slow to be had where memory that was set free has been given back to the host of a virtual machine."""


def write_at(file: IO[bytes], part: bytes | memoryview, offset: int) -> None:
    """Writes every byte of `part` from `offset` of a file on, whatever its position is; by one thread at a time.

    Arguments:
        file: a file of the system, or any that can be sought in.
        part: bytes, or a memoryview of format "B".
        offset: where they go; a file that is shorter grows.
    """
    whole, done = memoryview(part), 0
    pwrite = getattr(os, "pwrite", None)
    while done < len(whole):
        some = whole[done : done + WRITTEN]
        if pwrite is not None:
            done += pwrite(file.fileno(), some, offset + done)
        else:
            file.seek(offset + done)
            done += file.write(some)


def write_all(file: IO[bytes], part: bytes | memoryview) -> None:
    """Writes every byte; an unbuffered file may take fewer than it was given.

    Arguments:
        part: bytes, or a memoryview of format "B".
    """
    done = file.write(part)
    while done < len(part):
        done += file.write(memoryview(part)[done:])


RESERVED = 1 << 20
"""Bytes from which room is reserved: smaller files are written faster than asked about."""
_KEEP_SIZE = 1


def reserve(file: IO[bytes], size: int) -> None:
    """Room on the disk for a file that is about to be written; its length stays what it is.

    Blocks that are there already are written to a third faster. Where the system cannot do it, or the disk seems too
    full, nothing is done: a call that fails would take all that is left from everybody before it says so.

    Arguments:
        file: open for writing.
        size: bytes that will be written, or fewer.

    Source: fallocate(2), FALLOC_FL_KEEP_SIZE, Linux 2.6.23.
    """
    if size < RESERVED or not sys.platform.startswith("linux"):
        return
    import ctypes

    disk = os.fstatvfs(file.fileno())
    # Not os.posix_fallocate, which writes into every block where the file system cannot reserve.
    call = getattr(ctypes.CDLL(None), "fallocate64", None)
    if call is not None and size < disk.f_bavail * disk.f_frsize:
        call(file.fileno(), _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size))


def beside(path: Path) -> Path:
    """A name in the same folder that nobody else has, known before anything is made under it."""
    return path.parent / f".{path.name[:20]}.{os.urandom(8).hex()}.tmp"


def flush_folder(folder: Path) -> None:
    """Puts a folder's list of names onto the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
