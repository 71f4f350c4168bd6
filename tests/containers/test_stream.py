"""Bytes of a tensor in pieces: from ranges, from memory, of every element type."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from anyvit.containers.files import LocalFile
from anyvit.containers.stream import chunks
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError
from anyvit.lazy import Lazy, Piece, from_array, from_pieces


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
