"""Tensors of a file that are looked at while somebody reads them for another purpose: no byte is read twice.

Who writes or fills something reads byte ranges, in an order of his own. A `Witness` knows which tensors of the file they
belong to, says which ranges one thread has to read one after another so that a tensor passes by from its first byte to
its last, and is shown them while they are in the processor's cache.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from anyvit.containers import checksums
from anyvit.containers.stream import STEP, Part, chunks
from anyvit.lazy import Lazy, Piece, Sum, read_into
from anyvit.scan import KINDS, PAGE, Look, Seen

Taker = Callable[[Part], None]


class Eye:
    """One tensor looked at, with its checksum.

    Arguments:
        lazy: the tensor.
        algorithm: of the checksum.
        told: the checksum that its file says, if any.
    """

    def __init__(self, lazy: Lazy, algorithm: str, told: Sum | None = None) -> None:
        self.left = lazy.nbytes
        self._look = Look(lazy) if lazy.dtype in KINDS else None
        self._made = checksums.begun(algorithm, lazy)
        self._told = None if told is None else (told.begun(), told.expected)

    def take(self, part: Part) -> None:
        """Is shown the next bytes, `STEP` at most."""
        self.left -= len(part)
        self._made.update(part)
        if self._told is not None:
            self._told[0].update(part)
        if self._look is not None:
            self._look.take(part)

    def done(self) -> Seen:
        """What was met."""
        seen = Seen() if self._look is None else self._look.done()
        proven = self._told is not None and self._told[0].hexdigest() == self._told[1]
        return replace(seen, digest=self._made.hexdigest(), proven=proven)


def look(lazy: Lazy, algorithm: str, told: Sum | None = None, buffer: memoryview | None = None) -> Seen:
    """What is met in a tensor that nobody else reads.

    Arguments:
        lazy: the tensor.
        algorithm: of its checksum.
        told: the checksum that its file says, if any.
        buffer: what to read into, where many tensors are looked at (`stream.room`).
    """
    eye = Eye(lazy, algorithm, told)
    for part in chunks(lazy, STEP, buffer):
        eye.take(part)
    return eye.done()


class Witness:
    """Is shown the bytes of tensors by who reads them.

    Arguments:
        tensors: name → tensor, to be looked at.
        algorithm: of their checksums.
        sums: name → the checksum that the file says, where it does.
    """

    def __init__(self, tensors: Mapping[str, Lazy], algorithm: str, sums: Mapping[str, Sum] | None = None) -> None:
        self.met: dict[str, Seen] = {}
        """Name → what was met, of the tensors that have passed by."""
        self._tensors, self._algorithm, self._sums = tensors, algorithm, sums or {}
        self._ranges = _ranges(tensors)
        self._promised: set[str] = set()
        self._eyes: dict[str, Eye] = {}

    def units(self, readings: Sequence[Sequence[Piece]]) -> list[list[int]]:
        """Which readings one thread does one after another; from now on their bytes are awaited.

        A tensor that would not pass by once and in order, in steps of whole pages, is not awaited.

        Arguments:
            readings: the byte ranges of each.

        Returns:
            Numbers of readings, in the order of those that stand first; each is in one unit.
        """
        order = sorted(range(len(readings)), key=lambda n: [(id(p.source), p.offset) for p in readings[n][:1]])
        passed: dict[str, int] = {}
        readers: dict[str, list[int]] = defaultdict(list)
        for number in order:
            for piece, name, start in self._cut(readings[number]):
                end, whole = start + piece.size, self._tensors[name].nbytes if name else 0
                if name:
                    follows = passed.get(name, 0) == start and (end == whole or end % PAGE == 0)
                    passed[name] = end if follows else -1
                    readers[name].append(number)
        self._promised = {name for name, end in passed.items() if end == self._tensors[name].nbytes}
        return _joined(order, [readers[name] for name in self._promised])

    def spans(self, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Taker | None]]:
        """Byte ranges, cut where a tensor begins or ends, each with what is to be shown its bytes."""
        for piece, name, _ in self._cut(pieces):
            yield piece, partial(self._take, name) if name in self._promised else None

    def read(self, pieces: Sequence[Piece], room: memoryview) -> int:
        """As `lazy.read_pieces`: reads byte ranges one behind another into `room`; gives how many bytes they have."""
        at = 0
        for piece, take in self.spans(pieces):
            step = STEP if take else piece.size
            for low in range(0, piece.size, step):
                part = room[at : at + min(step, piece.size - low)]
                read_into(piece.source, piece.offset + low, part)
                if take:
                    take(part)
                at += len(part)
        return at

    def _take(self, name: str, part: Part) -> None:
        eye = self._eyes.get(name)
        if eye is None:
            eye = self._eyes[name] = Eye(self._tensors[name], self._algorithm, self._sums.get(name))
        eye.take(part)
        if eye.left == 0:
            self.met[name] = self._eyes.pop(name).done()

    def _cut(self, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, str, int]]:
        """Byte ranges within one tensor, its name ("" for none) and the byte of the tensor at which they begin."""
        for piece in pieces:
            starts, there = self._ranges.get(id(piece.source), ((), ()))
            at, end = piece.offset, piece.offset + piece.size
            while at < end:
                number = bisect_right(starts, at)
                name = there[number - 1] if number else ""
                first = starts[number - 1] if number else 0
                stop = first + self._tensors[name].nbytes if name else 0
                if at >= stop:
                    name, stop = "", end
                stop = min(stop, end, starts[number] if number < len(starts) else end)
                yield Piece(piece.source, at, stop - at), name, at - first
                at = stop


def _ranges(tensors: Mapping[str, Lazy]) -> dict[int, tuple[list[int], list[str]]]:
    """Source → where tensors that are one range of it begin, and their names; of those that overlap the first."""
    found: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for name, lazy in tensors.items():
        if lazy.pieces is not None and len(lazy.pieces) == 1:
            piece = lazy.pieces[0]
            found[id(piece.source)].append((piece.offset, piece.offset + piece.size, name))
    out = {}
    for source, ranges in found.items():
        starts, names, last = [], [], 0
        for start, end, name in sorted(ranges):
            if start >= last:
                starts.append(start)
                names.append(name)
                last = end
        out[source] = (starts, names)
    return out


def _joined(order: Sequence[int], groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers in their order, those that a group joins in one list; the lists in the order of their least numbers."""
    lead = {number: number for number in order}

    def head(number: int) -> int:
        while lead[number] != number:
            lead[number] = number = lead[lead[number]]
        return number

    for group in groups:
        for number in group[1:]:
            lead[head(number)] = head(group[0])
    units: dict[int, list[int]] = defaultdict(list)
    for number in order:
        units[head(number)].append(number)
    return sorted(units.values(), key=min)
