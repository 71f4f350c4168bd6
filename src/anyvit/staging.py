"""From a file to a GPU: a few threads read into a ring of page-locked buffers while a side stream copies them on.

One thread reads slower than the link to a GPU moves, and a copy from ordinary memory makes the driver copy once more.
Here every byte is read once, into memory that the GPU reads by itself, and reading and moving overlap.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor

from anyvit.dtypes import np_dtype
from anyvit.lazy import Bytes, Lazy, Piece, cut, read_into
from anyvit.torch_io import torch_dtype

CHUNK = 16 << 20
"""Bytes of one buffer: handing one over costs about as long as copying half of it, see docs/performance.md."""
ROOMS = 16
"""Buffers of the ring."""
READERS = 12
"""Threads that read."""


class Mark(Protocol):
    """A place in the order of copies."""

    def synchronize(self) -> None:
        """Waits until all copies before it are done."""


class Link(Protocol):
    """The way to a device; `CudaLink` is the real one."""

    def rooms(self, count: int, size: int) -> list[Tensor]:
        """Buffers on this side, uint8 of `size` bytes each."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory on the other side."""
        ...

    def copy(self, pairs: list[tuple[Tensor, Tensor]]) -> Mark:
        """Starts copies (there, here), in the order of the calls, and does not wait for them."""
        ...

    def join(self, mark: Mark) -> None:
        """Lets what is computed on the device from now on wait for the copies before a mark."""


class CudaLink:
    """The link to a CUDA device: page-locked buffers, copies on a stream of their own.

    Arguments:
        device: of CUDA.
        total: bytes that will be asked for; they are reserved in one piece, since many small requests cost more than
            the copies.
    """

    def __init__(self, device: torch.device, total: int = 0) -> None:
        self.device = device
        self.side = torch.cuda.Stream(device)
        with contextlib.suppress(torch.OutOfMemoryError):  # in parts it may fit
            torch.empty(
                total, dtype=torch.uint8, device=device
            )  # freed at once into torch's cache, which parts are cut from

    def rooms(self, count: int, size: int) -> list[Tensor]:
        return list(torch.empty(count * size, dtype=torch.uint8, pin_memory=True).split(size))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def copy(self, pairs: list[tuple[Tensor, Tensor]]) -> Mark:
        # Memory that was freed on the caller's stream may still be in use there.
        self.side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.side):
            for there, here in pairs:
                there.copy_(here, non_blocking=True)
            mark = torch.cuda.Event(blocking=True)
            mark.record(self.side)
        return mark

    def join(self, mark: Any) -> None:
        torch.cuda.current_stream(self.device).wait_event(mark)


@dataclass(frozen=True)
class Part:
    """`size` bytes of tensor `name` from byte `at`, at byte `room` of a buffer."""

    name: str
    at: int
    room: int
    size: int


@dataclass
class Load:
    """What one buffer holds: which bytes of which tensors, and how they are read."""

    parts: list[Part] = field(default_factory=list)
    reads: list[Callable[[memoryview], None]] = field(default_factory=list)
    size: int = 0

    def fill(self, room: memoryview, free: Mark | None) -> None:
        """Reads everything into a buffer, when the device has taken what was in it before."""
        if free is not None:
            free.synchronize()
        for read in self.reads:
            read(room)


class _Values:
    """The bytes of a tensor that must be computed: once, by the first thread that asks; let go after the last."""

    def __init__(self, lazy: Lazy) -> None:
        self.lazy, self.left, self.lock = lazy, lazy.nbytes, Lock()
        self.data: memoryview | None = None

    def read(self, at: int, place: int, size: int, room: memoryview) -> None:
        import numpy as np

        with self.lock:
            if self.data is None:
                array = np.ascontiguousarray(self.lazy.read(), np_dtype(self.lazy.dtype))
                self.data = array.reshape(-1).view("uint8").data
        room[place : place + size] = self.data[at : at + size]
        with self.lock:
            self.left -= size
            self.data = self.data if self.left else None


@dataclass
class _Range:
    """Bytes of a file, and where in a buffer they go."""

    source: Bytes
    offset: int
    place: int
    size: int

    def read(self, room: memoryview) -> None:
        read_into(self.source, self.offset, room[self.place : self.place + self.size])


def plan(tensors: Mapping[str, Lazy], size: int) -> Iterator[Load]:
    """All bytes in loads of at most `size`: first what must be computed, then what lies in files, in their order.

    Example:
        >>> import numpy as np
        >>> from anyvit.lazy import from_array
        >>> loads = list(plan({"a": from_array(np.zeros(5, "uint8")), "b": from_array(np.ones(2, "uint8"))}, 4))
        >>> [(part.name, part.at, part.size) for load in loads for part in load.parts]
        [('a', 0, 4), ('a', 4, 1), ('b', 0, 2)]
    """
    load, last = Load(), None
    for name in sorted(tensors, key=lambda name: _place(tensors[name])):
        lazy, at = tensors[name], 0
        values = _Values(lazy) if lazy.pieces is None else None
        while at < lazy.nbytes:
            count = min(size - load.size, lazy.nbytes - at)
            load.parts.append(Part(name, at, load.size, count))
            if values is not None:
                load.reads.append(partial(values.read, at, load.size, count))
                last = None
            else:
                last = _ranges(load, list(cut(lazy.pieces or (), at, count)), last)
            at, load.size = at + count, load.size + count
            if load.size == size:
                yield load
                load, last = Load(), None
    if load.size:
        yield load


def _place(lazy: Lazy) -> tuple[str, int]:
    return (lazy.pieces[0].source.name, lazy.pieces[0].offset) if lazy.pieces else ("", 0)


def _ranges(load: Load, pieces: Sequence[Piece], last: _Range | None) -> _Range | None:
    """Adds reads to a load; one that begins where the last ended, continues it. Returns the last."""
    place = load.size
    for piece in pieces:
        if last is not None and piece.source is last.source and piece.offset == last.offset + last.size:
            last.size += piece.size
        else:
            last = _Range(piece.source, piece.offset, place, piece.size)
            load.reads.append(last.read)
        place += piece.size
    return last


def stage(
    tensors: Mapping[str, Lazy], link: Link, *, readers: int = READERS, rooms: int = ROOMS, chunk: int = CHUNK
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor on the device in its stored element type, as soon as its copies have been started.

    What the caller computes from it on the device's current stream waits for the copies by itself.

    Arguments:
        tensors: name → tensor.
        link: to the device.
        readers: threads that read.
        rooms: buffers of the ring.
        chunk: bytes of a buffer.

    Raises:
        FileError: a file cannot be read.
    """
    for name, lazy in tensors.items():
        if not lazy.nbytes:
            yield name, link.empty(lazy.shape, torch_dtype(lazy.dtype))
    chunk = max(1, min(chunk, sum(lazy.nbytes for lazy in tensors.values())))
    loads = list(plan(tensors, chunk))
    if not loads:
        return
    ring = _Ring(tensors, link, min(rooms, len(loads)), chunk)
    flying: deque[tuple[Load, int, Future[None]]] = deque()
    with ThreadPoolExecutor(min(readers, len(loads)), "anyvit-stage") as pool:
        for number, load in enumerate(loads):
            if len(flying) == len(ring.rooms):
                yield from ring.send(*flying.popleft())
            slot = number % len(ring.rooms)
            flying.append((load, slot, pool.submit(load.fill, ring.views[slot], ring.marks[slot])))
        while flying:
            yield from ring.send(*flying.popleft())


class _Ring:
    """The buffers, when each is free again, and the tensors that are on their way."""

    def __init__(self, tensors: Mapping[str, Lazy], link: Link, count: int, size: int) -> None:
        self.tensors, self.link = tensors, link
        self.rooms = link.rooms(count, size)
        self.views = [room.numpy().data for room in self.rooms]
        self.marks: list[Mark | None] = [None] * count
        self.targets: dict[str, Tensor] = {}

    def send(self, load: Load, slot: int, filled: Future[None]) -> Iterator[tuple[str, Tensor]]:
        """Starts the copies of a buffer when it is filled; gives the tensors that are complete with it."""
        pairs, room = [], self.rooms[slot]
        for part in load.parts:
            if part.name not in self.targets:
                lazy = self.tensors[part.name]
                self.targets[part.name] = self.link.empty(lazy.shape, torch_dtype(lazy.dtype))
            there = self.targets[part.name].reshape(-1).view(torch.uint8)
            pairs.append((there[part.at : part.at + part.size], room[part.room : part.room + part.size]))
        filled.result()
        mark = self.marks[slot] = self.link.copy(pairs)
        self.link.join(mark)
        for part in load.parts:
            if part.at + part.size == self.tensors[part.name].nbytes:
                yield part.name, self.targets.pop(part.name)


def to_cuda(tensors: Mapping[str, Lazy], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """`stage` over the link to a CUDA device."""
    return stage(tensors, CudaLink(device, sum(lazy.nbytes for lazy in tensors.values())))
