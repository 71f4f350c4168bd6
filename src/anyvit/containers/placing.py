"""Tensors written to the places that a layout gave them, by several threads.

A writer first says where everything goes, then the bytes follow in any order. Each thread takes a tensor and reads,
checks and writes it a piece at a time, so that the bytes are touched once, while they are in the processor's cache, and
nothing is handed from thread to thread. The system lets one thread at a time write to a file; a lock here would cost more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from anyvit.containers.files import write_at
from anyvit.containers.stream import PANEL, STEP, Part, chunks, panels, room
from anyvit.dtypes import np_dtype
from anyvit.errors import FileError
from anyvit.lazy import Hasher, Lazy, Piece, read_pieces
from anyvit.side_by_side import mapped

if TYPE_CHECKING:
    import numpy as np

    from anyvit.witness import Witness

LARGE = 32 << 20
"""Bytes of a tensor that is computed as a whole from which only one is in memory at a time."""
SMALL = STEP
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


def put(file: IO[bytes], places: Sequence[Place], witness: Witness | None = None) -> None:
    """Writes every tensor to its place.

    Arguments:
        file: the target, open for writing.
        places: what goes where; begun in this order.
        witness: is shown what is read.

    Raises:
        OSError: of the target.
        FileError: a source cannot be read, or gives another number of bytes than its shape says.
    """
    from threading import Lock

    tensors = [place.lazy for place in places]
    desks: list[_Desk] = []
    large, one_large = _Desk((), witness), Lock()

    def work(unit: Sequence[int]) -> None:
        desk = desks.pop() if desks else _Desk(tensors, witness)
        for place in (places[number] for number in unit):
            if place.lazy.pieces is None and place.lazy.nbytes >= LARGE:
                with one_large:
                    large.put(file, place)
            else:
                desk.put(file, place)
        desks.append(desk)

    each = [[number] for number in range(len(places))]
    units = witness.units([_ranges(lazy) for lazy in tensors]) if witness else each
    mapped(work, units, sum(lazy.nbytes for lazy in tensors))


def _ranges(lazy: Lazy) -> Sequence[Piece]:
    """The byte ranges that are read for a tensor, as far as a desk reads them itself."""
    if lazy.pieces is not None:
        return lazy.pieces
    _, inputs = lazy.made or (None, ())
    return inputs[0].pieces or () if len(inputs) == 1 else ()


class _Desk:
    """The memory of one thread, shared by all tensors that it writes.

    Arguments:
        tensors: those that may be written.
        witness: is shown what is read.
    """

    def __init__(self, tensors: Iterable[Lazy], witness: Witness | None) -> None:
        self.witness = witness
        self.buffer = room(tensors)
        self.source = bytearray()
        self.panel: np.ndarray | None = None

    def put(self, file: IO[bytes], place: Place) -> None:
        """Reads a tensor and writes it."""
        done = 0
        for part in self.parts(place.lazy):
            if place.taker is not None:
                place.taker.update(part)
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
            yield from chunks(lazy, STEP, self.buffer, self.witness)
            return
        if self.panel is None and lazy.nbytes > SMALL:
            import numpy as np

            self.panel = np.empty(PANEL, np.uint8)
        yield from panels(self.values(lazy), lazy, self.panel)

    def values(self, lazy: Lazy) -> np.ndarray:
        """The values of a tensor that is computed, in any order; what it is made of is read into memory used again."""
        pieces = _ranges(lazy)
        if not pieces or lazy.made is None:
            return lazy.load()
        import numpy as np

        function, (stored,) = lazy.made
        if len(self.source) < stored.nbytes:
            self.source = bytearray(stored.nbytes)
        room = memoryview(self.source)
        size = self.witness.read(pieces, room) if self.witness else read_pieces(pieces, room)
        whole = np.frombuffer(self.source, np.uint8, size).view(np_dtype(stored.dtype))
        return function(whole.reshape(stored.shape))
