"""Files that lie elsewhere, read by ranges: https://, s3://, hf:// and whatever else fsspec knows.

Looking at a checkpoint of any size then costs its headers: some hundred kilobytes.
"""

from __future__ import annotations

import contextlib
import stat
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from functools import cached_property
from threading import Lock
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from anyvit.containers.files import LocalFile
from anyvit.errors import AnyvitError, FileError, needs

if TYPE_CHECKING:
    from anyvit.containers.http import Web

LEAST, MOST = 16 << 10, 8 << 20
"""Bytes asked for at a time: few where single places are looked at, more with each request that goes on from the last."""
TRIES = 3
"""Attempts at one range before giving up."""
KEPT = 16 << 20
"""Bytes that are remembered."""


class Address:
    """What `pathlib.Path` is to local files, as far as readers use it.

    Arguments:
        url: with its scheme; a query stays with it.

    Example:
        >>> a = Address("https://host/vit/model.safetensors?download=true")
        >>> a.name, a.suffix, str(a.parent / "config.json")
        ('model.safetensors', '.safetensors', 'https://host/vit/config.json?download=true')
    """

    def __init__(self, url: str, system: Any = None) -> None:
        self.url, _, self.query = url.partition("?")
        self.url = self.url.rstrip("/")
        self._system = system

    def __str__(self) -> str:
        return self.url + (f"?{self.query}" if self.query else "")

    def __truediv__(self, name: str) -> Address:
        return Address(f"{self.url}/{name}" + (f"?{self.query}" if self.query else ""), self._system)

    @property
    def name(self) -> str:
        """The last component."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The last component from its last dot on."""
        return "." + self.name.rpartition(".")[2] if "." in self.name[1:] else ""

    @property
    def parent(self) -> Address:
        """What holds it."""
        return Address(self.url.rpartition("/")[0] + (f"?{self.query}" if self.query else ""), self._system)

    @property
    def parents(self) -> Sequence[Address]:
        """None that a link could lead to."""
        return ()

    @property
    def system(self) -> Any:
        """The file system of fsspec.

        Raises:
            MissingExtra: fsspec, or what it needs for this scheme, is not installed.
            FileError: nobody knows the scheme.
        """
        if self._system is None:
            try:
                import fsspec  # type: ignore[import-not-found]

                self._system = fsspec.filesystem(self.url.partition("://")[0])
            except ImportError as error:
                raise needs("http", "fsspec (with aiohttp for https)", f"to read {self}") from error
            except ValueError as error:
                raise FileError(f"{self} has a scheme that is not known", remedy="download it first") from error
        return self._system

    @cached_property
    def web(self) -> Web | None:
        """The file on its web server; None for other schemes.

        Raises:
            FileError: it is not there, or cannot be reached.
        """
        if not self.url.startswith(("http://", "https://")):
            return None
        from anyvit.containers import http

        system = self.system
        try:
            return http.Web(system, str(self))
        except Exception as error:  # whatever aiohttp raises
            raise http.refused(str(self), error) from error

    @cached_property
    def info(self) -> dict[str, Any]:
        """Size and kind.

        Raises:
            FileError: it is not there, or cannot be reached.
        """
        if self.web is not None:
            return {"size": self.web.size, "type": "file"}
        try:
            return self.system.info(str(self))
        except AnyvitError:
            raise
        except FileNotFoundError as error:
            raise FileError(f"{self} does not exist", remedy="check the address") from error
        except Exception as error:  # whatever the library behind the scheme raises
            raise unreachable(self, error) from error

    def exists(self) -> bool:
        """Whether it is there."""
        with contextlib.suppress(FileError):
            return bool(self.info)
        return False

    def is_file(self) -> bool:
        """Whether a file is there."""
        return self.exists() and self.info.get("type", "file") == "file"

    def stat(self) -> Any:
        """Size, and that it is a regular file."""
        return SimpleNamespace(st_size=self.info.get("size") or 0, st_mode=stat.S_IFREG | 0o444)

    def iterdir(self) -> Sequence[Address]:
        """What a folder holds; nothing where the scheme has no listings, as a web server has none."""
        if self.url.startswith(("http://", "https://")):
            return ()
        try:
            found = self.system.ls(str(self), detail=False)
        except Exception:  # a web server that lists nothing is no fault of the file's
            return ()
        return [self / str(name).rstrip("/").rpartition("/")[2] for name in found]

    def __lt__(self, other: Address) -> bool:
        return str(self) < str(other)

    def resolve(self) -> Address:
        """Itself: there are no links."""
        return self

    def absolute(self) -> Address:
        """Itself."""
        return self

    def is_relative_to(self, other: object) -> bool:
        """Whether it lies below another."""
        return isinstance(other, Address) and (self.url + "/").startswith(other.url + "/")


class RemoteFile(LocalFile):
    """A file at an address, read by ranges; made by `LocalFile(address)`.

    Arguments:
        path: where.

    Raises:
        FileError: not there, of unknown size, or on a server that sends nothing but whole files.
    """

    def __init__(self, path: Address) -> None:
        self.address, self.name = path, str(path)
        size = path.info.get("size")
        if size is None:
            raise FileError(f"{path}: the server does not say how long it is", remedy="download it first")
        self.size, self._kept = int(size), Kept(KEPT)
        self._ahead, self._last = LEAST, (0, 0)
        if path.web is not None and not path.web.ranges and self.size > 1:
            raise FileError(
                f"{self.name} lies on a server that sends whole files only, no ranges", found=f"{self.size} bytes",
                remedy="download it first",
            )  # fmt: skip

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`."""
        if offset + size > self.size:
            raise self._cut(offset + size)
        found = self._kept.find(offset, size)
        if found is not None:
            return found
        start, end = self._span(offset, size)
        data = self._fetch(start, end)
        self._last = (start, end)
        if len(data) != end - start:
            raise self._cut(end)
        self._kept.add(start, data)
        return data[offset - start : offset - start + size]

    def read_into(self, offset: int, room: memoryview) -> None:
        """Fills `room` with the bytes from `offset`."""
        room[:] = self.read(offset, len(room))

    def view(self, offset: int, size: int) -> memoryview | None:
        """None: what lies elsewhere cannot be mapped."""
        return None

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Asks for many (offset, size) at once, so that reading them one by one does not wait for each."""
        wanted = [(offset, min(offset + size, self.size)) for offset, size in ranges]
        wanted = [(start, end) for start, end in wanted if self._kept.find(start, end - start) is None]
        try:
            if self.address.web is not None:
                found: Sequence[Any] = self.address.web.fetch_all(wanted)
            else:
                starts, ends = [start for start, _ in wanted], [end for _, end in wanted]
                found = self.address.system.cat_ranges([self.name] * len(wanted), starts, ends)
        except Exception as error:
            raise unreachable(self.address, error) from error
        # what did not come stands there as an exception: `read` asks for it again, and says why it does not come
        for (start, end), data in zip(wanted, found, strict=True):
            if isinstance(data, bytes) and len(data) == end - start:
                self._kept.add(start, data)

    def __del__(self) -> None:
        pass

    def _span(self, offset: int, size: int) -> tuple[int, int]:
        """The range to ask for: more than is needed, the more so where reading goes on from the last range."""
        first, last = self._last
        goes_on = last and first <= offset <= last
        self._ahead = min(self._ahead * 2, MOST) if goes_on else LEAST
        if size >= self._ahead:
            return offset, offset + size
        end = min(offset + self._ahead, self.size)
        return max(0, min(offset, end - self._ahead)), end

    def _fetch(self, start: int, end: int) -> bytes:
        if self.address.web is not None:
            from anyvit.containers import http

            try:
                return self.address.web.fetch(start, end)
            except Exception as error:  # whatever aiohttp raises
                raise http.refused(self.name, error) from error
        for left in reversed(range(TRIES)):
            try:
                return self.address.system.cat_file(self.name, start=start, end=end)
            except Exception as error:  # whatever the library behind the scheme raises
                if not left or isinstance(error, FileNotFoundError):
                    raise unreachable(self.address, error) from error
        raise AssertionError


class Kept:
    """Parts of a file that were read: none overlaps another, those that came first go first; safe from many threads.

    Arguments:
        room: bytes to hold; longer parts are not kept.

    Example:
        >>> kept = Kept(100)
        >>> kept.add(10, b"abcd"), kept.add(14, b"ef"), kept.add(8, b"89ab")
        (None, None, None)
        >>> kept.find(9, 6), kept.find(15, 2)
        (b'9abcde', None)
    """

    def __init__(self, room: int) -> None:
        self.room, self.size = room, 0
        self._starts: list[int] = []
        self._parts: dict[int, bytes] = {}
        self._lock = Lock()

    def find(self, offset: int, size: int) -> bytes | None:
        """Exactly these bytes, out of one part or of several that touch; None where one is missing."""
        with self._lock:
            found: list[bytes] = []
            at, end = offset, offset + size
            while at < end:
                before = bisect_right(self._starts, at) - 1
                start = self._starts[before] if before >= 0 else 0
                part = self._parts[start][at - start : end - start] if before >= 0 else b""
                if not part:
                    return None
                found.append(part)
                at += len(part)
        return found[0] if len(found) == 1 else b"".join(found)

    def add(self, start: int, data: bytes) -> None:
        """Keeps what of a part is not there."""
        if len(data) > self.room:
            return
        with self._lock:
            for begin, end in list(self._gaps(start, start + len(data))):
                self._parts[begin] = data if end - begin == len(data) else data[begin - start : end - start]
                insort(self._starts, begin)
                self.size += end - begin
            while self.size > self.room:
                first = next(iter(self._parts))
                self.size -= len(self._parts.pop(first))
                del self._starts[bisect_left(self._starts, first)]

    def _gaps(self, at: int, end: int) -> Iterable[tuple[int, int]]:
        """What of a span is in no part."""
        index = max(0, bisect_right(self._starts, at) - 1)
        for start in self._starts[index : bisect_left(self._starts, end)]:
            if at < start:
                yield at, start
            at = max(at, start + len(self._parts[start]))
        if at < end:
            yield at, end


def unreachable(address: Address, error: Exception) -> FileError:
    """The error of an address that does not answer."""
    return FileError(f"{address} cannot be read", found=f"{type(error).__name__}: {error}", remedy="check the address")
