"""Files that lie elsewhere, read by ranges: https://, s3://, hf:// and whatever else fsspec knows.

Looking at a checkpoint of any size then costs its headers: some hundred kilobytes.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from anyvit.containers.files import LocalFile
from anyvit.errors import AnyvitError, FileError, needs

LEAST, MOST = 16 << 10, 8 << 20
"""Bytes asked for at a time: few where single places are looked at, more with each request that goes on from the last."""
TRIES = 3
"""Attempts at one range before giving up."""
KEPT = 32
"""Ranges that are remembered."""


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
    def info(self) -> dict[str, Any]:
        """Size and kind.

        Raises:
            FileError: it is not there, or cannot be reached.
        """
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
        """What a folder holds; nothing where the scheme has no listings."""
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
        self.size, self._kept, self._ahead = int(size), [], LEAST
        if self.size > 1:
            self._prove()

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`."""
        if offset + size > self.size:
            raise self._cut(offset + size)
        for start, data in reversed(self._kept):
            if start <= offset and offset + size <= start + len(data):
                return data[offset - start : offset - start + size]
        start, end = self._span(offset, size)
        data = self._fetch(start, end)
        if len(data) != end - start:
            raise self._cut(end)
        self._keep(start, data)
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
        starts, ends = [start for start, _ in wanted], [end for _, end in wanted]
        try:
            found = self.address.system.cat_ranges([self.name] * len(wanted), starts, ends)
        except Exception as error:
            raise unreachable(self.address, error) from error
        # what did not come stands there as an exception: `read` asks for it again, and says why it does not come
        self._kept += [(start, data) for start, data in zip(starts, found, strict=True) if isinstance(data, bytes)]

    def __del__(self) -> None:
        pass

    def _span(self, offset: int, size: int) -> tuple[int, int]:
        """The range to ask for: more than is needed, the more so where reading goes on from the last range."""
        start, data = self._kept[-1] if self._kept else (0, b"")
        goes_on = data and start <= offset <= start + len(data)
        self._ahead = min(self._ahead * 2, MOST) if goes_on else LEAST
        if size >= self._ahead:
            return offset, offset + size
        end = min(offset + self._ahead, self.size)
        return max(0, min(offset, end - self._ahead)), end

    def _keep(self, start: int, data: bytes) -> None:
        small = [kept for kept in self._kept if len(kept[1]) <= LEAST * 16]
        self._kept = [*small[-KEPT:], (start, data)]

    def _fetch(self, start: int, end: int) -> bytes:
        for left in reversed(range(TRIES)):
            try:
                return self.address.system.cat_file(self.name, start=start, end=end)
            except Exception as error:  # whatever the library behind the scheme raises
                if not left or isinstance(error, FileNotFoundError):
                    raise unreachable(self.address, error) from error
        raise AssertionError

    def _prove(self) -> None:
        """Reads one byte behind the first; a server that knows no ranges would send the whole file."""
        try:
            with self.address.system.open(self.name, "rb", block_size=LEAST, cache_type="none") as file:
                file.seek(1)
                file.read(1)
        except AnyvitError:
            raise
        except ValueError as error:
            raise FileError(
                f"{self.name} lies on a server that sends whole files only, no ranges", found=f"{self.size} bytes",
                remedy="download it first",
            ) from error  # fmt: skip
        except Exception as error:
            raise unreachable(self.address, error) from error


def unreachable(address: Address, error: Exception) -> FileError:
    """The error of an address that does not answer."""
    return FileError(f"{address} cannot be read", found=f"{type(error).__name__}: {error}", remedy="check the address")
