"""From the description of a pickled tensor and the place of its bytes to a `Lazy`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from anyvit.containers import zips
from anyvit.containers.files import LocalFile
from anyvit.containers.opcodes import Span
from anyvit.containers.rebuild import Array, Storage, Strided
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import Bytes, Lazy, Piece, from_pieces

if TYPE_CHECKING:
    import numpy as np

EXPAND_LIMIT = 16 << 20
"""Largest tensor in bytes that may be bigger than its storage (strides of zero repeat it)."""
_AXIS_LIMIT = 1 << 48


class Buffer:
    """Bytes in memory that stand for bytes of a file (unpacked, or decoded from text)."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`."""
        return self.data[offset : offset + size]

    def view(self, offset: int, size: int) -> memoryview | None:
        """None: the bytes cannot be written to."""
        return None


@dataclass(frozen=True)
class Place:
    """Where the bytes of a storage lie.

    Arguments:
        source: the file.
        offset: the first byte in it.
        size: how many there are.
        packed: the zip member that must be unpacked to get at them.
        swapped: whether they are big-endian.
    """

    source: Bytes
    offset: int
    size: int
    packed: zips.Member | None = None
    swapped: bool = False

    def read(self, start: int, size: int) -> bytes:
        """Bytes of the storage, unpacked."""
        if self.packed is None:
            return self.source.read(self.offset + start, size)
        assert isinstance(self.source, LocalFile)
        return zips.read(self.source, self.packed)[start : start + size]


def tensor(name: str, ref: Strided | Storage, place: Place | None) -> Lazy:
    """A torch tensor over a storage.

    Raises:
        FileError: the storage is missing or cut, or the tensor reaches beyond it.
    """
    if isinstance(ref, Storage):
        ref = Strided(ref, 0, (ref.size // ITEMSIZE[ref.dtype],), (1,), ref.dtype)
    storage, item = ref.storage, ITEMSIZE[ref.dtype]
    if place is None:
        raise _broken(name, "has no bytes in the file", f"no storage {storage.key!r}", None)
    if place.size < storage.start + storage.size:
        wanted = f"{storage.start + storage.size} bytes"
        raise _broken(name, "is cut", f"{place.size} bytes in storage {storage.key!r}", wanted)
    count, plain = 1, True
    for size, stride in zip(ref.shape[::-1], ref.stride[::-1], strict=True):
        plain = plain and (stride == count or size == 1)
        count *= size
    reach = (ref.offset + count if plain else _reach(ref)) * item if count else 0
    if reach > storage.size or max(ref.shape, default=0) > _AXIS_LIMIT:
        raise _broken(name, "reaches beyond its storage", f"{ref.shape} with strides {ref.stride} from {ref.offset}",
                      f"within {storage.size // item} elements")  # fmt: skip
    start = storage.start + ref.offset * item
    if not count or (plain and not ref.flips and place.packed is None and not (place.swapped and item > 1)):
        return from_pieces(ref.shape, ref.dtype, [Piece(place.source, place.offset + start, count * item)], (name,))
    if count * item > max(storage.size, EXPAND_LIMIT):
        raise UnsafeError("a tensor repeats its storage implausibly often", names=[name], found=ref.shape)
    return Lazy(ref.shape, ref.dtype, _gather(ref, place), (name,))


def _reach(ref: Strided) -> int:
    """One more than the last element of the storage that a tensor looks at; 0 counts as one that it must not have."""
    return ref.offset + 1 + sum((size - 1) * stride for size, stride in zip(ref.shape, ref.stride, strict=True))


def _broken(name: str, what: str, found: str, expected: str | None) -> FileError:
    return FileError(
        f"a tensor {what}",
        names=[name],
        found=found,
        expected=expected,
        usual="a download or copy that was cut, or a damaged file",
        remedy="fetch the file again",
    )


def _gather(ref: Strided, place: Place) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        import numpy as np

        item = ITEMSIZE[ref.dtype]
        start = ref.storage.start + ref.offset * item
        raw = place.read(start, (_reach(ref) - ref.offset) * item)
        flat = _elements(raw, ref.dtype, place.swapped)
        steps = [stride * item for stride in ref.stride]
        # The constructor checks that the strides stay inside the buffer, which as_strided does not.
        array = np.ndarray(ref.shape, flat.dtype, flat.view(np.uint8).data, 0, steps).copy(order="C")
        array = np.conj(array) if "conj" in ref.flips else array
        return np.negative(array) if "neg" in ref.flips else array

    return load


def _elements(raw: bytes, dtype: str, swapped: bool) -> np.ndarray:
    import numpy as np

    if not swapped:
        return np.frombuffer(raw, np_dtype(dtype))
    # Parts of a complex number are swapped one by one.
    unit = ITEMSIZE[dtype] // (2 if dtype.startswith("complex") else 1)
    return np.frombuffer(raw, f"u{unit}").byteswap().view(np_dtype(dtype))


def array(name: str, ref: Array, source: Bytes, base: int) -> Lazy:
    """A numpy array whose bytes lie in the pickle.

    Arguments:
        source: what the pickle lies in.
        base: where the pickle's data begins there, in bytes.

    Raises:
        FileError: the bytes are too few or too many.
    """
    assert ref.kind is not None and ref.kind.dtype is not None
    dtype, data = ref.kind.dtype, ref.data
    size = prod(ref.shape) * ITEMSIZE[dtype]
    have = data.size if isinstance(data, Span) else len(data) if isinstance(data, bytes) else -1
    if have != size or max(ref.shape, default=0) > _AXIS_LIMIT:
        raise _broken(name, "has another size than its shape says", f"{have} bytes for {ref.shape}", f"{size} bytes")
    place = Place(Buffer(data, name), 0, size) if isinstance(data, bytes) else Place(source, base + data.offset, size)  # type: ignore[union-attr]
    swapped = ref.kind.order == ">" and ITEMSIZE[dtype] > 1
    wide = sum(n > 1 for n in ref.shape) > 1
    if isinstance(data, Span) and size and not swapped and not (ref.fortran and wide):
        return from_pieces(ref.shape, dtype, [Piece(place.source, place.offset, size)], (name,))

    def load() -> np.ndarray:
        flat = _elements(place.read(0, size), dtype, swapped)
        return flat.reshape(ref.shape, order="F" if ref.fortran else "C").copy(order="C")

    return Lazy(ref.shape, dtype, load, (name,))
