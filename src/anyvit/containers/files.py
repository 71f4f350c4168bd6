"""Local files as byte sources, and atomic writes."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from anyvit.errors import FileError


class LocalFile:
    """A regular file, read by position (safe from many threads) or mapped.

    Arguments:
        path: an existing regular file.

    Raises:
        FileError: when it cannot be opened; the OSError is the cause.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
            self.size = os.fstat(self._fd).st_size
        except OSError as error:
            raise unreadable(path, error) from error
        self._map: mmap.mmap | None = None

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`."""
        parts = []
        while size:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                raise unreadable(self.name, error) from error
            if not part:
                raise FileError(
                    f"{self.name} ends too early",
                    found=f"{self.size} bytes",
                    expected=f"at least {offset + size} bytes",
                    usual="a download or copy that was cut",
                )
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def view(self, offset: int, size: int) -> memoryview | None:
        """The bytes mapped copy-on-write: writable, private, shared with the page cache until written."""
        if offset + size > self.size:
            self.read(offset, size)
        if self._map is None:
            try:
                self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError):
                return None
        return memoryview(self._map)[offset : offset + size]

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._fd)


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

    The temporary file lies in the same folder; on any error it is removed and the old file stays as it was.

    Arguments:
        path: the file to write.
        durable: flush to the disk before the rename (survives a power cut; a rename alone survives a killed process).

    Raises:
        FileError: disk full, no permission, missing folder; the OSError is the cause.
    """
    import tempfile

    path = Path(path)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        with open(descriptor, "wb", buffering=0) as file:
            yield file
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise FileError(f"{path} cannot be written ({error.strerror or error}); it is as it was before") from error
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that appears under its name only when the block ends well; one that exists is given as it is.

    Arguments:
        path: the folder to make.

    Raises:
        FileError: no permission, disk full, …; the OSError is the cause.
    """
    import shutil
    import tempfile

    if path.exists():
        yield path
        return
    temporary = None
    try:
        temporary = tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        yield Path(temporary)
        os.chmod(temporary, 0o777 & ~_umask())
        os.rename(temporary, path)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise FileError(f"the folder {path} cannot be written ({error.strerror or error})") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
