"""The bytes of a tensor, piecewise: what every writer pulls, so that no tensor that is only moved is ever in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from anyvit.containers.files import LocalFile
from anyvit.dtypes import np_dtype
from anyvit.lazy import Lazy, contiguous, read_pieces

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    import numpy as np

Part = bytes | memoryview
Seal = Callable[[], Mapping[str, str]]
"""What a writer calls when all tensors are written, before the file takes its name; gives metadata known only then."""
STEP = 1 << 20
"""Bytes handed on at a time: few enough to stay in the processor's cache between reading and writing."""
PANEL = 4 << 20
"""Bytes of a computed tensor that are put in order at a time; in smaller ones a transposed matrix moves slower."""


def room(size: int = STEP) -> memoryview:
    """A buffer that every tensor of a pass shares: new memory costs as much as what is read into it."""
    return memoryview(bytearray(size))


def chunks(lazy: Lazy, step: int = STEP, buffer: memoryview | None = None) -> Iterator[Part]:
    """The tensor as little-endian bytes in C order, at most `step` bytes at a time.

    A tensor made of byte ranges is read range by range; only one whose values must be computed is held as a whole.
    A part is valid until the next one is asked for.

    Arguments:
        lazy: the tensor.
        step: most bytes of a part.
        buffer: `step` writable bytes or more to read into, used again and again; None makes some.

    Example:
        >>> import numpy as np
        >>> from anyvit.lazy import from_array
        >>> [bytes(part) for part in chunks(from_array(np.array([1, 2, 3], "uint8")), step=2)]
        [b'\\x01\\x02', b'\\x03']
    """
    if lazy.pieces is None:
        for panel in _panels(lazy.load(), lazy, [None]):
            yield from _stepped(panel, step)
        return
    if buffer is None:
        buffer = room(min(step, max((piece.size for piece in lazy.pieces), default=0)))
    for piece in lazy.pieces:
        at, end = piece.offset, piece.offset + piece.size
        while at < end:
            size = min(step, end - at)
            if isinstance(piece.source, LocalFile):
                part = buffer[:size]
                piece.source.read_into(at, part)
                yield part
            else:
                yield piece.source.read(at, size)
            at += size


class Feed:
    """The bytes of many tensors, one tensor after another; those that must be computed are computed a panel ahead.

    A second thread reads and moves while the first one writes, into memory that all tensors share.

    Arguments:
        tensors: in the order in which they will be asked for.
    """

    def __init__(self, tensors: Iterable[Lazy]) -> None:
        self._computed = [lazy for lazy in tensors if lazy.pieces is None and lazy.nbytes >= STEP]
        self._buffer = room()
        self._pool: ThreadPoolExecutor | None = None
        self._ready: deque[Future[memoryview | None]] = deque()

    def __enter__(self) -> Feed:
        if self._computed:
            from concurrent.futures import ThreadPoolExecutor

            self._pool, self._panels = ThreadPoolExecutor(1, "anyvit-panels"), _all_panels(self._computed)
            self._ask()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _ask(self) -> None:
        assert self._pool is not None
        self._ready.append(self._pool.submit(next, self._panels, None))

    def parts(self, lazy: Lazy) -> Iterator[Part]:
        """The bytes of the next tensor, as `chunks` gives them."""
        if lazy.pieces is not None or lazy.nbytes < STEP:
            yield from chunks(lazy, buffer=self._buffer)
            return
        while (panel := self._ready.popleft().result()) is not None:
            self._ask()
            yield from _stepped(panel, STEP)
        self._ask()


def _all_panels(tensors: Iterable[Lazy]) -> Iterator[memoryview | None]:
    """The panels of tensors, None behind each tensor; a panel is valid until the next but one is asked for."""
    import numpy as np

    rooms: list[np.ndarray | None] = [np.empty(PANEL, np.uint8) for _ in range(2)]
    source = bytearray()
    for lazy in tensors:
        function, inputs = lazy.made or (None, ())
        if function is not None and len(inputs) == 1 and (pieces := inputs[0].pieces) is not None:
            if len(source) < inputs[0].nbytes:
                source = bytearray(inputs[0].nbytes)
            size = read_pieces(pieces, memoryview(source))
            whole = np.frombuffer(source, np.uint8, size).view(np_dtype(inputs[0].dtype))
            array = function(whole.reshape(inputs[0].shape))
        else:
            array = lazy.load()
        yield from _panels(array, lazy, rooms)
        del array
        yield None


def _panels(array: np.ndarray, lazy: Lazy, rooms: list[np.ndarray | None]) -> Iterator[memoryview]:
    """An array as little-endian bytes in C order, a few rows at a time.

    Arguments:
        array: in any order.
        lazy: what it is the values of.
        rooms: memory to put rows in order in, by turns, where they are not; the last part that it was given for is
            then overwritten. None makes new memory.
    """
    import numpy as np

    assert array.shape == lazy.shape, (lazy.origin, array.shape, lazy.shape)
    array = np.asarray(array, np_dtype(lazy.dtype))
    if not array.size:
        return
    if array.flags.c_contiguous:
        yield _bytes(array)
        return
    for rows in _rows(array):
        place = rooms.pop(0)
        rooms.append(place)
        fits = place is not None and rows.nbytes <= place.nbytes
        out = place[: rows.nbytes].view(rows.dtype).reshape(rows.shape) if place is not None and fits else None
        yield _bytes(contiguous(rows, out))


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
