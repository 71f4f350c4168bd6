"""Where the arrays of an HDF5 file lie, and reading them without the HDF5 library."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from anyvit.containers.files import LocalFile
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import Lazy, Piece, from_pieces

if TYPE_CHECKING:
    import numpy as np

DEFLATE, SHUFFLE = 1, 2
"""Filters that are undone here. Source: HDF5 H5Zpublic.h."""
COMPACT_LIMIT = 1 << 16
"""Most bytes of an array that lies in its own header."""
AXES_LIMIT = 32


def library() -> Any:
    """h5py, whose low-level modules have no types."""
    import h5py  # pyright: ignore[reportMissingImports]

    return h5py


@dataclass(frozen=True)
class Window:
    """A part of a file, which is an HDF5 file."""

    file: LocalFile
    start: int
    size: int

    def stream(self) -> io.BufferedReader:
        """The part as a file object for h5py."""
        return io.BufferedReader(_Raw(self), 1 << 16)

    def piece(self, offset: int, size: int, path: str, name: str) -> Piece:
        """Bytes of it.

        Raises:
            UnsafeError: they lie outside.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise UnsafeError(
                f"{path}: an array lies outside the file", names=[name], found=f"bytes {offset} to {offset + size}",
                expected=f"within {self.size}", usual="a download or copy that was cut, or a forged file",
            )  # fmt: skip
        return Piece(self.file, self.start + offset, size)


class _Raw(io.RawIOBase):
    def __init__(self, window: Window) -> None:
        self._window, self._at = window, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._window.size}[whence]
        return self._at

    def readinto(self, room: Any) -> int:
        size = max(0, min(len(room), self._window.size - self._at))
        room[:size] = self._window.file.read(self._window.start + self._at, size)
        self._at += size
        return size


@dataclass(frozen=True)
class Chunk:
    """A block of an array: its first element's place on every axis, its bytes, the filters that were left out."""

    at: tuple[int, ...]
    piece: Piece
    skipped: int


@dataclass(frozen=True)
class Array:
    """An array in the file.

    Arguments:
        shape: its axes.
        dtype: its element type.
        swapped: whether it is big-endian.
        pieces: its bytes in order; None where it lies in blocks.
        held: its bytes, where it lies in its header.
        chunks: its blocks.
        block: the axes of a block.
        filters: the filters that a block went through, in order.
    """

    shape: tuple[int, ...]
    dtype: str
    swapped: bool
    pieces: tuple[Piece, ...] | None = None
    held: bytes | None = None
    chunks: tuple[Chunk, ...] = ()
    block: tuple[int, ...] = ()
    filters: tuple[int, ...] = ()

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ITEMSIZE[self.dtype]

    @property
    def chunk(self) -> int:
        """Bytes of a block once unpacked, 0 where there are none."""
        return prod(self.block) * self.itemsize if self.block else 0

    def lazy(self, name: str) -> Lazy:
        """The array, read when it is asked for."""
        if self.pieces is not None:
            found = from_pieces(self.shape, self.dtype, self.pieces, (name,))
            return Lazy(self.shape, self.dtype, lambda: found.read().byteswap(), (name,)) if self.swapped else found
        return Lazy(self.shape, self.dtype, lambda: self._read(name), (name,))

    def _read(self, name: str) -> np.ndarray:
        import numpy as np

        kind = np_dtype(self.dtype)
        if self.held is not None:
            array = np.frombuffer(bytearray(self.held), kind).reshape(self.shape)
        else:
            array = np.empty(self.shape, kind)
            for chunk in self.chunks:
                part = np.frombuffer(self._unpacked(chunk, name), kind).reshape(self.block)
                room = tuple(min(n, size - at) for n, size, at in zip(self.block, self.shape, chunk.at, strict=True))
                place = tuple(slice(at, at + n) for at, n in zip(chunk.at, room, strict=True))
                array[place] = part[tuple(slice(n) for n in room)]
        return array.byteswap() if self.swapped else array

    def _unpacked(self, chunk: Chunk, name: str) -> bytes:
        """The bytes of a block, the filters undone from the last to the first."""
        import numpy as np

        data = chunk.piece.source.read(chunk.piece.offset, chunk.piece.size)
        for number, code in reversed(list(enumerate(self.filters))):
            if chunk.skipped >> number & 1:
                continue
            if code == DEFLATE:
                data = _inflated(data, self.chunk, chunk, name)
            elif len(data) == self.chunk:
                data = np.frombuffer(data, np.uint8).reshape(self.itemsize, -1).T.tobytes()
        if len(data) != self.chunk:
            raise _damaged(chunk, name, f"{len(data)} bytes of a block of {self.chunk}")
        return data


def _inflated(data: bytes, size: int, chunk: Chunk, name: str) -> bytes:
    """At most one byte more than a block has."""
    try:
        return zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise _damaged(chunk, name, str(error)) from error


def _damaged(chunk: Chunk, name: str, found: str) -> FileError:
    return FileError(
        f"{chunk.piece.source.name}: a block of an array is damaged", names=[name], found=found,
        usual="a flipped bit or a copy that went wrong", remedy="fetch the file again",
    )  # fmt: skip


def located(item: Any, source: Window, path: str, name: str) -> Array | str:
    """Where a dataset lies; or, in words, why it is not read.

    Raises:
        UnsafeError: it lies in another file or outside this one, or claims what cannot be.
    """
    h5d = library().h5d
    kind = element(item.get_type().encode())
    shape = item.get_space().shape
    if kind is None:
        return "values that are no numbers of a known type"
    if shape is None:
        return "arrays without axes and values"
    dtype, swapped = kind
    plist = item.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL or (layout == h5d.CONTIGUOUS and plist.get_external_count()):
        raise UnsafeError(
            f"{path}: an array whose data lie in other files", names=[name], usual="a virtual data set, or a forged file",
            remedy="copy it into one file: h5repack",
        )  # fmt: skip
    size = prod(shape) * ITEMSIZE[dtype]
    if len(shape) > AXES_LIMIT or size > 1 << 62:
        raise UnsafeError(f"{path}: an array of an implausible shape", names=[name], found=shape)
    if layout == h5d.COMPACT:
        return _held(item, shape, dtype, swapped, size)
    if layout == h5d.CHUNKED:
        return _blocks(item, plist, source, (path, name), (shape, dtype, swapped))
    if not size:
        return Array(shape, dtype, swapped, ())
    offset = item.get_offset()
    if offset is None:
        return "arrays that were never written"
    if item.get_storage_size() != size:
        raise UnsafeError(
            f"{path}: an array has another size than its shape says", names=[name],
            found=f"{item.get_storage_size()} bytes", expected=f"{size} bytes", usual="a damaged or a forged file",
        )  # fmt: skip
    return Array(shape, dtype, swapped, (source.piece(offset, size, path, name),))


def _held(item: Any, shape: Sequence[int], dtype: str, swapped: bool, size: int) -> Array | str:
    import numpy as np

    h5s = library().h5s
    if size > COMPACT_LIMIT:
        return "arrays that do not fit into their header"
    room = np.empty(tuple(shape), f"V{ITEMSIZE[dtype]}")
    if size:
        item.read(h5s.ALL, h5s.ALL, room, item.get_type())
    return Array(tuple(shape), dtype, swapped, held=room.tobytes())


def _blocks(
    item: Any, plist: Any, source: Window, where: tuple[str, str], kind: tuple[tuple[int, ...], str, bool]
) -> Array | str:
    shape, dtype, swapped = kind
    block = plist.get_chunk()
    filters = tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))
    if not set(filters) <= {DEFLATE, SHUFFLE}:
        return "arrays packed otherwise than with gzip"
    count = prod(-(-size // n) for size, n in zip(shape, block, strict=True))
    if item.get_num_chunks() != count:
        return "arrays that were not written to their end"
    chunks: list[Chunk] = []

    def take(info: Any) -> None:
        piece = source.piece(info.byte_offset, info.size, *where)
        chunks.append(Chunk(tuple(info.chunk_offset), piece, info.filter_mask))

    item.chunk_iter(take)
    inside = all(0 <= at < size and not at % n for c in chunks for at, size, n in zip(c.at, shape, block, strict=True))
    if not inside or len({chunk.at for chunk in chunks}) != count:
        raise UnsafeError(f"{where[0]}: the blocks of an array overlap or lie outside it", names=[where[1]])
    return Array(shape, dtype, swapped, chunks=tuple(chunks), block=tuple(block), filters=filters)


@lru_cache(maxsize=256)
def element(encoded: bytes) -> tuple[str, bool] | None:
    """An HDF5 type as an element type and whether it is big-endian; None for what is no plain number.

    Two opaque bytes are a bfloat16, which numpy and so Keras write as void.
    """
    h5t = library().h5t
    kind = h5t.decode(encoded)
    if kind.get_class() == h5t.OPAQUE:
        return ("bfloat16", False) if kind.get_size() == 2 else None
    for dtype, code in _CODES.items():
        for order in ("LE", "BE"):
            if kind.equal(getattr(h5t, f"{code}{order}")):
                return dtype, order == "BE" and ITEMSIZE[dtype] > 1
    return None


_CODES = {
    "float32": "IEEE_F32", "float16": "IEEE_F16", "float64": "IEEE_F64", "int64": "STD_I64", "int32": "STD_I32",
    "int16": "STD_I16", "int8": "STD_I8", "uint8": "STD_U8", "uint16": "STD_U16", "uint32": "STD_U32",
    "uint64": "STD_U64",
}  # fmt: skip
"""Element type → h5py's name of it, without the byte order."""
