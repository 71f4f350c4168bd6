"""A tensor that has not been read yet, and an opened checkpoint: a flat mapping from names to such tensors.

Where the bytes lie contiguously in a file, a `Lazy` knows its byte ranges (`pieces`). Splitting along the first axis,
joining along it and reshaping only rearrange these ranges; so a fused q/k/v that is split and fused again is the
original range, and a converter copies it as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from anyvit.dtypes import ITEMSIZE, np_dtype

if TYPE_CHECKING:
    import numpy as np


class Bytes(Protocol):
    """Where bytes come from: a local file, a remote one, a buffer."""

    @property
    def name(self) -> str:
        """Path or address, for messages."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`; raises FileError when there are fewer."""
        ...

    def view(self, offset: int, size: int) -> memoryview | None:
        """The same bytes mapped copy-on-write (private, writable), or None where that is impossible."""
        ...


def read_into(source: Bytes, offset: int, room: memoryview) -> None:
    """Fills `room` with the bytes of a source from `offset`, without a copy between where the source can do that."""
    direct = getattr(source, "read_into", None)
    if direct is not None:
        direct(offset, room)
    else:
        room[:] = source.read(offset, len(room))


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous run of bytes of one source."""

    source: Bytes
    offset: int
    size: int


def read_pieces(pieces: Sequence[Piece], room: memoryview) -> int:
    """Reads byte ranges one behind another into `room`; gives how many bytes they have."""
    at = 0
    for piece in pieces:
        read_into(piece.source, piece.offset, room[at : at + piece.size])
        at += piece.size
    return at


@dataclass(frozen=True)
class Lazy:
    """A tensor not yet read.

    Arguments:
        shape: its axes.
        dtype: its element type by name ("float32", "bfloat16", …; see `dtypes`).
        load: gives the whole tensor as a numpy array of that shape and type, in whatever order it lies.
        origin: the names in the file that it is made of.
        pieces: the byte ranges (little-endian, C order) it consists of, in order; None where the values must be
            computed.
        made: what is computed, and from which tensors; for readers that bring memory of their own.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]
    origin: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] | None = None
    made: tuple[Callable[..., np.ndarray], tuple[Lazy, ...]] | None = None

    def read(self) -> np.ndarray:
        """The tensor as a C-contiguous numpy array."""
        array = self.load()
        assert array.shape == self.shape, (self.origin, array.shape, self.shape)
        return contiguous(array)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * ITEMSIZE[self.dtype]


def from_array(array: np.ndarray, name: str = "") -> Lazy:
    """A tensor that is in memory already.

    Example:
        >>> import numpy as np
        >>> from_array(np.zeros((2, 3), "float32"), "a").shape
        (2, 3)
    """
    return Lazy(tuple(array.shape), array.dtype.name, lambda: array, (name,) if name else ())


def from_pieces(shape: Sequence[int], dtype: str, pieces: Sequence[Piece], origin: Sequence[str]) -> Lazy:
    """A tensor that consists of byte ranges, which are joined where they touch."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and last.source is piece.source and last.offset + last.size == piece.offset:
            merged[-1] = Piece(last.source, last.offset, last.size + piece.size)
        elif piece.size:
            merged.append(piece)
    ranges = tuple(merged)
    shape = tuple(shape)

    def load() -> np.ndarray:
        import numpy as np

        # Not mapped: pages of a mapped file would stay in memory after the array is gone.
        data = np.empty(sum(piece.size for piece in ranges), np.uint8)
        read_pieces(ranges, data.data)
        return data.view(np_dtype(dtype)).reshape(shape)

    return Lazy(shape, dtype, load, tuple(dict.fromkeys(origin)), ranges)


def reshape(lazy: Lazy, shape: Sequence[int]) -> Lazy:
    """The same elements in the same order under other axes; moves nothing."""
    new = tuple(shape)
    if new == lazy.shape:
        return lazy
    assert prod(new) == prod(lazy.shape), (lazy.origin, lazy.shape, new)
    return replace(lazy, shape=new, load=lambda: lazy.read().reshape(new), made=None)


def split(lazy: Lazy, sizes: Sequence[int]) -> list[Lazy]:
    """Parts along the first axis, in order.

    Example:
        >>> import numpy as np
        >>> [part.read().tolist() for part in split(from_array(np.arange(4)), [1, 3])]
        [[0], [1, 2, 3]]
    """
    assert sum(sizes) == lazy.shape[0], (lazy.origin, lazy.shape, sizes)
    row = prod(lazy.shape[1:]) * ITEMSIZE[lazy.dtype]
    parts, start = [], 0
    for size in sizes:
        shape = (size, *lazy.shape[1:])
        if lazy.pieces is not None:
            ranges = list(cut(lazy.pieces, start * row, size * row))
            parts.append(from_pieces(shape, lazy.dtype, ranges, lazy.origin))
        else:
            parts.append(Lazy(shape, lazy.dtype, _slicer(lazy, start, start + size), lazy.origin))
        start += size
    return parts


def concat(parts: Sequence[Lazy]) -> Lazy:
    """Tensors joined along the first axis."""
    first = parts[0]
    if len(parts) == 1:
        return first
    assert all(p.shape[1:] == first.shape[1:] and p.dtype == first.dtype for p in parts), [p.origin for p in parts]
    shape = (sum(p.shape[0] for p in parts), *first.shape[1:])
    origin = tuple(dict.fromkeys(name for p in parts for name in p.origin))
    if all(p.pieces is not None for p in parts):
        return from_pieces(shape, first.dtype, [piece for p in parts for piece in p.pieces or ()], origin)

    def load() -> np.ndarray:
        import numpy as np

        return np.concatenate([p.read() for p in parts])

    return Lazy(shape, first.dtype, load, origin)


def computed(
    shape: Sequence[int], dtype: str, function: Callable[..., np.ndarray], sources: Sequence[Lazy] = ()
) -> Lazy:
    """A tensor computed from others when it is read; `function` gets their arrays."""

    def made(*arrays: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(function(*arrays), np_dtype(dtype))

    def load() -> np.ndarray:
        return made(*(s.read() for s in sources))

    origin = tuple(dict.fromkeys(name for s in sources for name in s.origin))
    return Lazy(tuple(shape), dtype, load, origin, made=(made, tuple(sources)))


def precise(dtype: str) -> str:
    """The element type that computed values are kept in: 16-bit ones are widened, so that nothing is rounded twice.

    Example:
        >>> precise("bfloat16"), precise("float64")
        ('float32', 'float64')
    """
    return dtype if dtype in ("float32", "float64") else "float32"


TILE = 256
"""Rows and columns of a transposed matrix that are moved together."""
APART = 64
"""Bytes between the rows of such a tile in memory: where rows lie a power of two apart, as those of weights do, a
processor's cache can hold only a few of them. Measured on 4-byte numbers, three times as fast as numpy's own copy."""
FEW = 1 << 12
"""Elements below which numpy's own copy is taken."""


def contiguous(array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The array in C order; where its last axis is not its dense one, moved tile by tile.

    numpy copies a transposed matrix row by row, and meets another page of memory at every element. Tiles are large, for
    numpy lets go of the interpreter at each, and threads that move little at a time wait for one another.

    Arguments:
        array: the array.
        out: an array of its shape and type in C order to move it into; None makes one where one is needed.

    Example:
        >>> import numpy as np
        >>> contiguous(np.arange(6).reshape(2, 3).T).flags.c_contiguous
        True
    """
    import numpy as np

    dense = min(range(array.ndim), key=lambda axis: (array.strides[axis], axis), default=0)
    if array.ndim < 2 or dense == array.ndim - 1 or array.size < FEW:
        if out is None:
            return np.ascontiguousarray(array) if array.ndim else array
        out[...] = array
        return out
    out = np.empty(array.shape, array.dtype) if out is None else out
    source, target = np.moveaxis(array, dense, -1), np.moveaxis(out, dense, -1)
    tile = np.empty((TILE, TILE + APART // array.itemsize), array.dtype)
    for place in np.ndindex(source.shape[:-2]):
        whole, moved = source[place], target[place]  # (rows, columns): dense in the second axis, and in the first
        for i in range(0, whole.shape[0], TILE):
            for j in range(0, whole.shape[1], TILE):
                part = whole[i : i + TILE, j : j + TILE]
                apart = tile[: part.shape[0], : part.shape[1]]
                apart[...] = part
                moved[i : i + TILE, j : j + TILE] = apart
    return out


def astype(lazy: Lazy, dtype: str) -> Lazy:
    """The same numbers in another element type."""
    if lazy.dtype == dtype:
        return lazy
    return computed(lazy.shape, dtype, lambda a: a.astype(np_dtype(dtype)), [lazy])


def cut(pieces: Sequence[Piece], start: int, size: int) -> Iterator[Piece]:
    """The byte ranges that hold `size` bytes from `start` of what `pieces` are together."""
    position = 0
    for piece in pieces:
        low, high = max(start, position), min(start + size, position + piece.size)
        if low < high:
            yield Piece(piece.source, piece.offset + low - position, high - low)
        position += piece.size


def _slicer(lazy: Lazy, start: int, stop: int) -> Callable[[], np.ndarray]:
    return lambda: lazy.read()[start:stop]


@dataclass(frozen=True)
class Note:
    """Something that a container has to say: `kind` is a plain word of the report, e.g. "inert", "duplicate", "cut"."""

    kind: str
    names: tuple[str, ...]
    cause: str
    remedy: str | None = None


class Hasher(Protocol):
    """What hashlib and xxhash share."""

    def update(self, data: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Sum:
    """A checksum that the bytes of a tensor are to have.

    Arguments:
        begun: gives a hasher that is to be given the bytes, little-endian and in C order.
        expected: its digits.
    """

    begun: Callable[[], Hasher]
    expected: str


def every(name: str) -> bool:
    """Any name is wanted."""
    return True


@dataclass(frozen=True)
class Checkpoint:
    """An opened file or folder: flat names, all data unread.

    Arguments:
        tensors: flat name → tensor; nested containers are joined with dots ("teacher.backbone.cls_token").
        container: "safetensors", "torch", "torch-legacy", "torchscript", "npz", "msgpack", "dcp", "onnx", "memory", …
        path: what was opened; "" for a mapping.
        extras: the leaves that are no tensors (epoch, args, config), nested as in the file, unknown objects as inert
            data.
        aliases: name → the first name that has the very same storage, offset, shape and strides (a tied tensor).
        notes: what the reader met (inert globals, …).
        metadata: safetensors' `__metadata__`, or what resembles it.
        siblings: parsed files beside the weights, by file name: "config.json" → dict.
        verify: reads every byte (or, given a function that says of a name whether it is wanted, those of the names that
            are) and yields what does not fit its checksum; None where the file holds no checksums.
        sums: gives name → the checksum that the bytes of a tensor are to have, for those that `verify` need not read
            where somebody else does; None where there are none.
    """

    tensors: Mapping[str, Lazy]
    container: str
    path: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    siblings: Mapping[str, Any] = field(default_factory=dict)
    verify: Callable[..., Iterator[Note]] | None = None
    sums: Callable[[], Mapping[str, Sum]] | None = None
