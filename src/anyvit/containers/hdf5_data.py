"""Where the arrays of an HDF5 file lie, and reading them without the HDF5 library."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
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
TEXT_LIMIT = 32 << 20
"""Longest text in bytes that is read; Keras keeps a model's whole configuration in one."""


@dataclass(frozen=True)
class Window:
    """A part of a file, which is an HDF5 file."""

    file: LocalFile
    start: int
    size: int

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

    @classmethod
    def of(cls, plain: Mapping[str, Any], source: Window, path: str, name: str) -> Array:
        """An array as `hdf5_tree` tells of it, its places looked at.

        Raises:
            UnsafeError: it lies outside the file, or its blocks overlap.
        """
        shape, kind = tuple(plain["shape"]), (plain["dtype"], plain["swapped"])
        if "held" in plain:
            return cls(shape, *kind, held=bytes.fromhex(plain["held"]))
        if "pieces" in plain:
            return cls(shape, *kind, tuple(source.piece(at, size, path, name) for at, size in plain["pieces"]))
        block, filters = tuple(plain["block"]), tuple(plain["filters"])
        chunks = [Chunk(tuple(at), source.piece(o, n, path, name), mask) for at, o, n, mask in plain["chunks"]]
        places = {chunk.at for chunk in chunks}
        axes = [(at, size, n) for place in places for at, size, n in zip(place, shape, block, strict=True)]
        count = prod(-(-size // n) for size, n in zip(shape, block, strict=True))
        if not len(places) == len(chunks) == count or not all(0 <= at < size and not at % n for at, size, n in axes):
            raise UnsafeError(f"{path}: the blocks of an array overlap or lie outside it", names=[name])
        return cls(shape, *kind, chunks=tuple(chunks), block=block, filters=filters)

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
