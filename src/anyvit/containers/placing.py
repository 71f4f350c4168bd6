"""Tensors written to the places that a layout gave them, by several threads.

A writer first says where everything goes, then the bytes follow in any order. Each thread takes a tensor and reads,
checks and writes it a piece at a time, so that the bytes are touched once, while they are in the processor's cache, and
nothing is handed from thread to thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from anyvit.containers.checksums import Hasher
from anyvit.containers.files import write_at
from anyvit.containers.stream import PANEL, STEP, Part, chunks, panels, room
from anyvit.dtypes import np_dtype
from anyvit.errors import FileError
from anyvit.lazy import Lazy, read_pieces
from anyvit.side_by_side import mapped

if TYPE_CHECKING:
    from threading import Lock

    import numpy as np

LARGE = 32 << 20
"""Bytes of a tensor that is computed as a whole from which only one is in memory at a time."""
SMALL = 2 * STEP
"""Bytes up to which a computed tensor needs no memory that is kept."""


@dataclass(frozen=True)
class Place:
    """Where a tensor goes.

    Arguments:
        name: what it is called, for messages.
        lazy: the tensor.
        offset: the byte of the target at which it begins.
        taker: is given its bytes in order, for a checksum.
    """

    name: str
    lazy: Lazy
    offset: int
    taker: Hasher | None = None


def put(file: IO[bytes], places: Sequence[Place]) -> None:
    """Writes every tensor to its place.

    Arguments:
        file: the target, open for writing.
        places: what goes where; begun in this order.

    Raises:
        OSError: of the target.
        FileError: a source cannot be read, or gives another number of bytes than its shape says.
    """
    from threading import Lock

    desks: list[_Desk] = []
    turn, one_large = Lock(), Lock()
    large = _Desk(turn)

    def work(place: Place) -> None:
        if place.lazy.pieces is None and place.lazy.nbytes >= LARGE:
            with one_large:
                large.put(file, place)
            return
        desk = desks.pop() if desks else _Desk(turn)
        desk.put(file, place)
        desks.append(desk)

    mapped(work, places, sum(place.lazy.nbytes for place in places))


class _Desk:
    """The memory of one thread, shared by all tensors that it writes.

    Arguments:
        turn: held while something is written: the system lets one thread at a time write to a file, and the others would
            use up their processors in waiting.
    """

    def __init__(self, turn: Lock) -> None:
        self.turn = turn
        self.buffer = room()
        self.source = bytearray()
        self.panel: np.ndarray | None = None

    def put(self, file: IO[bytes], place: Place) -> None:
        """Reads a tensor and writes it."""
        done = 0
        for part in self.parts(place.lazy):
            if place.taker is not None:
                place.taker.update(part)
            with self.turn:
                write_at(file, part, place.offset + done)
            done += len(part)
        if done != place.lazy.nbytes:
            raise FileError(
                "a tensor gave another number of bytes than its shape says", names=[place.name],
                found=f"{done} bytes", expected=f"{place.lazy.nbytes} bytes",
            )  # fmt: skip

    def parts(self, lazy: Lazy) -> Iterator[Part]:
        """The bytes of a tensor as `chunks` gives them."""
        if lazy.pieces is not None:
            yield from chunks(lazy, buffer=self.buffer)
            return
        if self.panel is None and lazy.nbytes > SMALL:
            import numpy as np

            self.panel = np.empty(PANEL, np.uint8)
        yield from panels(self.values(lazy), lazy, self.panel)

    def values(self, lazy: Lazy) -> np.ndarray:
        """The values of a tensor that is computed, in any order; what it is made of is read into memory used again."""
        function, inputs = lazy.made or (None, ())
        if function is None or len(inputs) != 1 or (pieces := inputs[0].pieces) is None:
            return lazy.load()
        import numpy as np

        if len(self.source) < inputs[0].nbytes:
            self.source = bytearray(inputs[0].nbytes)
        size = read_pieces(pieces, memoryview(self.source))
        whole = np.frombuffer(self.source, np.uint8, size).view(np_dtype(inputs[0].dtype))
        return function(whole.reshape(inputs[0].shape))
