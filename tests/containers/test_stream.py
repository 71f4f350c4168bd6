"""Bytes of a tensor in pieces: from ranges, from memory, of every element type."""

from __future__ import annotations

import math
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from anyvit.containers.files import LocalFile
from anyvit.containers.stream import PANEL, STEP, Feed, chunks
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError
from anyvit.lazy import Lazy, Piece, computed, from_array, from_pieces


@pytest.mark.parametrize("dtype", ITEMSIZE)
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 7)])
def test_memory(dtype: str, shape: tuple[int, ...]) -> None:
    count = math.prod(shape) * ITEMSIZE[dtype]
    raw = np.random.default_rng(0).integers(0, 2, count, "uint8")
    array = raw.view(np_dtype(dtype)).reshape(shape)
    parts = [bytes(part) for part in chunks(from_array(array), step=3)]
    assert b"".join(parts) == raw.tobytes()
    assert all(len(part) <= 3 for part in parts)


def test_a_transposed_array_is_written_in_c_order() -> None:
    array = np.arange(6, dtype="int16").reshape(2, 3).T
    assert b"".join(chunks(from_array(array))) == np.array([0, 3, 1, 4, 2, 5], "int16").tobytes()


def test_ranges_are_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    file = LocalFile(tmp_path / "a")
    lazy = from_pieces((14,), "uint8", [Piece(file, 50, 10), Piece(file, 3, 4)], ("a",))

    def load() -> np.ndarray:
        raise AssertionError("a byte range was loaded as a whole")

    guarded = Lazy(lazy.shape, lazy.dtype, load, lazy.origin, lazy.pieces)
    assert [bytes(p) for p in chunks(guarded, step=8)] == [bytes(range(50, 58)), b"\x3a\x3b", b"\x03\x04\x05\x06"]


def test_a_buffer_is_used_for_every_part_of_every_tensor(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(1000)
    (tmp_path / "a").write_bytes(data)
    file, buffer = LocalFile(tmp_path / "a"), memoryview(bytearray(16))
    for at in (0, 400):
        lazy = from_pieces((40,), "uint8", [Piece(file, at + 100 * n, 20) for n in range(2)], ("a",))
        read = []
        for part in chunks(lazy, step=16, buffer=buffer):
            assert isinstance(part, memoryview) and part.obj is buffer.obj
            read.append(bytes(part))
        assert read == [data[x : x + n] for x, n in ((at, 16), (at + 16, 4), (at + 100, 16), (at + 116, 4))]


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    lazy = from_pieces((50,), "uint8", [Piece(LocalFile(tmp_path / "a"), 80, 50)], ("a",))
    with pytest.raises(FileError, match="ends too early"):
        list(chunks(lazy))


def transposed(tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str = "float32") -> tuple[Lazy, np.ndarray]:
    """A matrix of a file whose axes are turned round, and its values."""
    values = np.arange(np.prod(shape), dtype="float32").astype(np_dtype(dtype)).reshape(shape)
    (tmp_path / name).write_bytes(values.tobytes())
    stored = from_pieces(shape, dtype, [Piece(LocalFile(tmp_path / name), 0, values.nbytes)], (name,))
    return computed(shape[::-1], dtype, lambda a: a.transpose(), [stored]), values.transpose()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("shape", [(3000, 700), (700, 3000), (5, 900, 600), (2_000_000, 1), (3, 4)])
def test_a_feed_gives_the_bytes_of_turned_tensors(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    made = [transposed(tmp_path, f"{n}", shape, dtype) for n in range(3)]
    plain = from_array(np.arange(7, dtype="uint8"))
    order = [made[0][0], plain, made[1][0], made[2][0]]
    expected = [made[0][1], np.arange(7, dtype="uint8"), made[1][1], made[2][1]]
    with Feed(order) as feed:
        for lazy, values in zip(order, expected, strict=True):
            assert b"".join(bytes(part) for part in feed.parts(lazy)) == np.ascontiguousarray(values).tobytes()
            assert b"".join(bytes(part) for part in chunks(lazy)) == np.ascontiguousarray(values).tobytes()


def test_what_a_feed_cannot_read_raises_where_it_is_asked_for(tmp_path: Path) -> None:
    good, values = transposed(tmp_path, "good", (1024, 512))
    bad, _ = transposed(tmp_path, "bad", (1024, 512))
    (tmp_path / "bad").write_bytes(b"cut")
    with Feed([good, bad]) as feed:
        assert b"".join(bytes(part) for part in feed.parts(good)) == np.ascontiguousarray(values).tobytes()
        with pytest.raises(FileError, match="ends too early"):
            list(feed.parts(bad))
    assert not any(thread.name.startswith("anyvit-panels") for thread in threading.enumerate())


def test_a_feed_takes_the_same_memory_for_any_number_of_tensors(tmp_path: Path) -> None:
    lazies = [transposed(tmp_path, str(n), (1024, 2048))[0] for n in range(6)]
    tracemalloc.start()
    try:
        with Feed(lazies) as feed:
            for lazy in lazies:
                for _ in feed.parts(lazy):
                    pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < lazies[0].nbytes + 2 * PANEL + 2 * STEP, peak
