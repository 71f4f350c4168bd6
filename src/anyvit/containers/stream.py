"""The bytes of a tensor, piecewise: what every writer pulls, so that no tensor that is only moved is ever in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from anyvit.containers.files import LocalFile
from anyvit.dtypes import np_dtype
from anyvit.lazy import Lazy, contiguous

if TYPE_CHECKING:
    import numpy as np

    from anyvit.witness import Witness

Part = bytes | memoryview
Seal = Callable[[], Mapping[str, str]]
"""What a writer calls when all tensors are written, before the file takes its name; gives metadata known only then."""
STEP = 2 << 20
"""Bytes handed on at a time: few enough to stay in the processor's cache between reading and writing, and so many that
threads seldom wait for the interpreter."""
PANEL = 4 << 20
"""Bytes of a computed tensor that are put in order at a time; in smaller ones a transposed matrix moves slower."""


def room(tensors: Iterable[Lazy], step: int = STEP) -> memoryview:
    """A buffer that all tensors of a pass share: new memory costs as much as what is read into it."""
    sizes = (piece.size for lazy in tensors for piece in lazy.pieces or ())
    return memoryview(bytearray(min(step, max(sizes, default=0))))


def chunks(
    lazy: Lazy, step: int = STEP, buffer: memoryview | None = None, witness: Witness | None = None
) -> Iterator[Part]:
    """The tensor as little-endian bytes in C order, at most `step` bytes at a time.

    A tensor made of byte ranges is read range by range; only one whose values must be computed is held as a whole.
    A part is valid until the next one is asked for.

    Arguments:
        lazy: the tensor.
        step: most bytes of a part.
        buffer: `step` writable bytes or more to read into, used again and again; None makes some.
        witness: is shown the byte ranges.

    Example:
        >>> import numpy as np
        >>> from anyvit.lazy import from_array
        >>> [bytes(part) for part in chunks(from_array(np.array([1, 2, 3], "uint8")), step=2)]
        [b'\\x01\\x02', b'\\x03']
    """
    if lazy.pieces is None:
        yield from panels(lazy.load(), lazy, step=step)
        return
    if buffer is None:
        buffer = room([lazy], step)
    for piece, take in witness.spans(lazy.pieces) if witness else ((piece, None) for piece in lazy.pieces):
        at, end = piece.offset, piece.offset + piece.size
        while at < end:
            size = min(step, end - at)
            if isinstance(piece.source, LocalFile):
                part = buffer[:size]
                piece.source.read_into(at, part)
            else:
                part = piece.source.read(at, size)
            if take:
                take(part)
            yield part
            at += size


def panels(array: np.ndarray, lazy: Lazy, panel: np.ndarray | None = None, step: int = STEP) -> Iterator[memoryview]:
    """The values of a tensor as `chunks` gives them, put in order a few rows at a time.

    Arguments:
        array: in any order.
        lazy: what it is the values of.
        panel: memory to put rows in order in, where they are not; None makes some for every panel.
        step: most bytes of a part.
    """
    import numpy as np

    assert array.shape == lazy.shape, (lazy.origin, array.shape, lazy.shape)
    array = np.asarray(array, np_dtype(lazy.dtype))
    if not array.size:
        return
    if array.flags.c_contiguous:
        yield from _stepped(_bytes(array), step)
        return
    for rows in _rows(array):
        fits = panel is not None and rows.nbytes <= panel.nbytes
        out = panel[: rows.nbytes].view(rows.dtype).reshape(rows.shape) if panel is not None and fits else None
        yield from _stepped(_bytes(contiguous(rows, out)), step)


def _rows(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array cut along its first axes into parts of `PANEL` bytes at most, or of one row."""
    each = array.nbytes // len(array)
    if each > PANEL and array.ndim > 1:
        for part in array:
            yield from _rows(part)
        return
    count = max(1, PANEL // max(1, each))
    for start in range(0, len(array), count):
        yield array[start : start + count]


def _bytes(array: np.ndarray) -> memoryview:
    # bfloat16 and float8 arrays export no buffer of their own
    return array.reshape(-1).view("uint8").data


def _stepped(panel: memoryview, step: int) -> Iterator[memoryview]:
    for at in range(0, len(panel), step):
        yield panel[at : at + step]
