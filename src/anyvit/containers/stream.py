"""The bytes of a tensor, piecewise: what every writer pulls, so that no tensor that is only moved is ever in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle

from anyvit.containers.files import LocalFile
from anyvit.dtypes import np_dtype
from anyvit.lazy import Lazy

Seal = Callable[[], Mapping[str, str]]
"""What a writer calls when all tensors are written, before the file takes its name; gives metadata known only then."""
STEP = 1 << 20
"""Bytes handed on at a time: few enough to stay in the processor's cache between reading and writing."""


def chunks(lazy: Lazy, step: int = STEP, rooms: int = 1) -> Iterator[bytes | memoryview]:
    """The tensor as little-endian bytes in C order, at most `step` bytes at a time.

    A tensor made of byte ranges is read range by range; only one whose values must be computed is held as a whole.
    A part is valid until `rooms` more are asked for: they share that many buffers.

    Example:
        >>> import numpy as np
        >>> from anyvit.lazy import from_array
        >>> [bytes(part) for part in chunks(from_array(np.array([1, 2, 3], "uint8")), step=2)]
        [b'\\x01\\x02', b'\\x03']
    """
    if lazy.pieces is None:
        yield from _from_memory(lazy, step)
        return
    longest = min(step, max((piece.size for piece in lazy.pieces), default=0))
    parts = sum(-(-piece.size // step) for piece in lazy.pieces)
    ring = cycle([memoryview(bytearray(longest)) for _ in range(min(rooms, parts))])
    for piece in lazy.pieces:
        at, end = piece.offset, piece.offset + piece.size
        while at < end:
            size = min(step, end - at)
            if isinstance(piece.source, LocalFile):
                room = next(ring)[:size]
                piece.source.read_into(at, room)
                yield room
            else:
                yield piece.source.read(at, size)
            at += size


def _from_memory(lazy: Lazy, step: int) -> Iterator[memoryview]:
    import numpy as np

    array = np.ascontiguousarray(lazy.read(), np_dtype(lazy.dtype))
    if not array.size:
        return
    # bfloat16 and float8 arrays export no buffer of their own.
    data = array.reshape(-1).view("uint8").data
    for at in range(0, len(data), step):
        yield data[at : at + step]
