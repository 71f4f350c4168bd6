"""The parts of a distributed checkpoint: byte sources that open the torch file they lie in when they are first read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anyvit.containers import torch_file
from anyvit.containers.files import LocalFile
from anyvit.containers.inside import inside
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError
from anyvit.lazy import Checkpoint, Lazy, Note, every

if TYPE_CHECKING:
    import numpy as np

OPEN_LIMIT = 64
"""Most files held open; a process may hold about a thousand, a checkpoint may have more."""


class Place(NamedTuple):
    """Where a part lies: file name, first byte and length in bytes, and what was done to the bytes (compression)."""

    file: str
    offset: int
    length: int
    transforms: tuple[str, ...]


class Window(LocalFile):
    """A range of a file that is a file of its own.

    Arguments:
        file: the file around it.
        start: its first byte there.
        size: its length in bytes.
    """

    def __init__(self, file: LocalFile, start: int, size: int) -> None:
        self.name, self.size = file.name, size
        self.file, self._start = file, start
        self._map = None

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset` of the range."""
        self._check(offset, size)
        return self.file.read(self._start + offset, size)

    def read_into(self, offset: int, room: memoryview) -> None:
        """Fills `room` with the bytes from `offset` of the range."""
        self._check(offset, len(room))
        self.file.read_into(self._start + offset, room)

    def view(self, offset: int, size: int) -> memoryview | None:
        """The same bytes mapped."""
        self._check(offset, size)
        return self.file.view(self._start + offset, size)

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or offset + size > self.size:
            raise FileError(
                f"a part of {self.name} ends too early",
                found=f"{self.size} bytes",
                expected=f"at least {offset + size}",
                usual="a damaged list of parts, or files of two saves mixed",
            )


class Raw(NamedTuple):
    """Where the plain bytes of a part begin in its file."""

    start: int


class Part:
    """The values of one part as little-endian bytes in C order.

    Arguments:
        home: the folder that knows how to open files.
        tensor: name of the tensor it is a part of.
        place: where its torch file lies.
        shape: its axes.
        dtype: its element type.
    """

    __slots__ = ("_found", "dtype", "home", "place", "shape", "tensor")

    def __init__(self, home: Parts, tensor: str, place: Place, shape: tuple[int, ...], dtype: str) -> None:
        self.home, self.tensor, self.place, self.shape, self.dtype = home, tensor, place, shape, dtype
        self._found: Raw | Lazy | None = None

    @property
    def name(self) -> str:
        """The path of its file."""
        return str(self.home.home / self.place.file)

    @property
    def file(self) -> LocalFile:
        """The file that it lies in."""
        return self.home.file(self.place.file)

    @property
    def nbytes(self) -> int:
        """Size of its values in bytes."""
        return prod(self.shape) * ITEMSIZE[self.dtype]

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset` of its values."""
        found = self._open()
        if isinstance(found, Raw):
            return self.home.file(self.place.file).read(found.start + offset, size)
        return self.home.gathered(self, found)[offset : offset + size]

    def view(self, offset: int, size: int) -> memoryview | None:
        """The same bytes mapped, or None where their order is another in the file."""
        found = self._open()
        return self.home.file(self.place.file).view(found.start + offset, size) if isinstance(found, Raw) else None

    def array(self) -> np.ndarray:
        """Its values."""
        import numpy as np

        return np.frombuffer(self.read(0, self.nbytes), np_dtype(self.dtype)).reshape(self.shape)

    def _open(self) -> Raw | Lazy:
        if self._found is None:
            self._found = self._parsed()
        return self._found

    def _parsed(self) -> Raw | Lazy:
        tensors = self.home.opened(self.tensor, self.place).tensors
        lazy = next(iter(tensors.values()), None)
        if lazy is None or len(tensors) > 1 or lazy.shape != self.shape or lazy.dtype != self.dtype:
            raise FileError(
                "a part of a tensor is another than the list of the checkpoint says",
                names=[self.tensor],
                found=f"{lazy.dtype} {lazy.shape}" if lazy and len(tensors) == 1 else f"{len(tensors)} tensors",
                expected=f"{self.dtype} {self.shape}",
                usual="files of two saves in one folder",
            )
        if lazy.pieces is not None and len(lazy.pieces) == 1:
            return Raw(self.place.offset + lazy.pieces[0].offset)
        return replace(lazy, origin=(self.tensor,))


class Parts:
    """The parts of one folder; holds its files open, the latest used ones.

    Arguments:
        home: the folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._files: OrderedDict[str, LocalFile] = OrderedDict()
        self._made: list[Part] = []
        self._gathered: tuple[Part, bytes] | None = None

    def part(self, tensor: str, place: Place, shape: tuple[int, ...], dtype: str) -> Part:
        """A part that is opened when it is read."""
        part = Part(self, tensor, place, shape, dtype)
        self._made.append(part)
        return part

    def file(self, name: str) -> LocalFile:
        """The open file of a name in the folder."""
        file = self._files.pop(name, None) or LocalFile(inside(self.home, name, str(self.home)))
        self._files[name] = file
        if len(self._files) > OPEN_LIMIT:
            self._files.popitem(last=False)
        return file

    def opened(self, tensor: str, place: Place) -> Checkpoint:
        """The torch file at a place.

        Raises:
            FileError: compressed or encrypted by an extension, or no torch file.
        """
        if place.transforms:
            raise FileError(
                "a part of a distributed checkpoint was transformed as it was written",
                names=[tensor],
                found=", ".join(place.transforms),
                expected="plain parts",
                remedy="load it with torch.distributed.checkpoint and save it again without extensions",
            )
        window = Window(self.file(place.file), place.offset, place.length)
        head = window.read(0, min(4, window.size))
        if head != b"PK\3\4":
            raise FileError(
                "a part of a distributed checkpoint is no torch file",
                names=[tensor, window.name],
                found=f"bytes {head.hex(' ')} at {place.offset}",
                usual="a damaged file, or files of two saves in one folder",
            )
        return torch_file._zip(window)

    def gathered(self, part: Part, lazy: Lazy) -> bytes:
        """The bytes of a part that lie in another order in its file; the last one is kept."""
        if self._gathered is None or self._gathered[0] is not part:
            self._gathered = (part, lazy.read().tobytes())
        return self._gathered[1]

    def leaf(self, name: str, place: Place) -> Any:
        """The object that was pickled under a name, as plain data."""
        extras = self.opened(name, place).extras
        return extras["value"] if list(extras) == ["value"] else extras

    def verify(self, wanted: Callable[[str], bool] = every) -> Iterator[Note]:
        """Reads every part (of some tensors) and yields what does not fit its checksum."""
        for part in self._made:
            if not wanted(part.tensor):
                continue
            check = self.opened(part.tensor, part.place).verify
            for note in check() if check else ():
                yield replace(note, names=(part.tensor,))
