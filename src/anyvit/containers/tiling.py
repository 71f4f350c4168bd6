"""A tensor from its parts: boxes that must fill it exactly, whichever axes it was cut along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Protocol

from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import Bytes, Lazy, Piece, from_pieces

if TYPE_CHECKING:
    import numpy as np

IRREGULAR_LIMIT = 1_000
"""Most parts of a tensor that is not cut by a grid; each pair of them is compared."""

Sizes = tuple[int, ...]


class Box(Bytes, Protocol):
    """The values of a part: as bytes, and as an array."""

    def array(self) -> np.ndarray:
        """The values."""
        ...


def assembled(name: str, shape: Sizes, dtype: str, parts: Sequence[tuple[Sizes, Sizes, Box]]) -> Lazy:
    """A tensor made of parts.

    Arguments:
        name: its name.
        shape: its axes.
        dtype: its element type.
        parts: of each the offsets, the sizes and the values; parts without elements count for nothing.

    Returns:
        The tensor; byte ranges where the parts follow each other in it.

    Raises:
        FileError: parts that leave a gap, overlap or reach beyond the tensor.
    """
    solid = sorted((begin, sizes, box) for begin, sizes, box in parts if prod(sizes)) if prod(shape) else []
    check(name, shape, [(begin, sizes) for begin, sizes, _ in solid])
    if _in_order(shape, [sizes for _, sizes, _ in solid]):
        item = ITEMSIZE[dtype]
        return from_pieces(shape, dtype, [Piece(box, 0, prod(sizes) * item) for _, sizes, box in solid], (name,))
    return Lazy(shape, dtype, _joined(shape, dtype, solid), (name,))


def check(name: str, shape: Sizes, parts: Sequence[tuple[Sizes, Sizes]]) -> None:
    """That boxes fill a tensor exactly.

    Arguments:
        parts: of each the offsets and the sizes, none of them empty.

    Raises:
        FileError: they do not.

    Example:
        >>> check("a", (3, 4), [((0, 0), (2, 4)), ((2, 0), (1, 4))])
    """
    for begin, sizes in parts:
        if any(b + s > n for b, s, n in zip(begin, sizes, shape, strict=True)):
            raise _wrong(name, "reach beyond the tensor", f"{sizes} at {begin}", shape)
    volume = sum(prod(sizes) for _, sizes in parts)
    if volume != prod(shape):
        what = "leave a gap" if volume < prod(shape) else "overlap"
        raise _wrong(name, what, f"{volume} elements in {len(parts)} parts", f"{prod(shape)} elements, {shape}")
    if parts and not _is_grid(shape, parts):
        _check_apart(name, shape, parts)


def _is_grid(shape: Sizes, parts: Sequence[tuple[Sizes, Sizes]]) -> bool:
    """Whether the parts are all the cells of one cut along each axis."""
    cells = 1
    for axis, size in enumerate(shape):
        cuts = sorted({(begin[axis], sizes[axis]) for begin, sizes in parts})
        end = 0
        for begin, length in cuts:
            if begin != end:
                return False
            end += length
        if end != size:
            return False
        cells *= len(cuts)
    return cells == len(parts) == len({begin for begin, _ in parts})


def _check_apart(name: str, shape: Sizes, parts: Sequence[tuple[Sizes, Sizes]]) -> None:
    if len(parts) > IRREGULAR_LIMIT:
        raise UnsafeError("a tensor is cut into implausibly many irregular parts", names=[name], found=len(parts))
    for i, (begin, sizes) in enumerate(parts):
        for other, others in parts[:i]:
            if all(b < o + t and o < b + s for b, s, o, t in zip(begin, sizes, other, others, strict=True)):
                raise _wrong(name, "overlap", f"{sizes} at {begin} and {others} at {other}", shape)


def _wrong(name: str, what: str, found: str, expected: object) -> FileError:
    return FileError(
        f"the parts of a tensor {what}",
        names=[name],
        found=found,
        expected=str(expected),
        usual="a save that some ranks did not finish, or files of two saves in one folder",
    )


def _in_order(shape: Sizes, parts: Sequence[Sizes]) -> bool:
    """Whether the parts, sorted by their offsets, follow each other in C order.

    So it is where there is at most one axis that is cut, and all axes before it have length one.
    """
    cut = {axis for sizes in parts for axis, size in enumerate(sizes) if size != shape[axis]}
    return len(cut) <= 1 and all(size == 1 for axis in cut for size in shape[:axis])


def _joined(shape: Sizes, dtype: str, parts: Sequence[tuple[Sizes, Sizes, Box]]) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        import numpy as np

        whole = np.empty(shape, np_dtype(dtype))
        for begin, sizes, box in parts:
            whole[tuple(slice(b, b + s) for b, s in zip(begin, sizes, strict=True))] = box.array()
        return whole

    return load
