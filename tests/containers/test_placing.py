"""Tensors at the places that a layout gave them: the right bytes, whatever threads write them, in bounded memory."""

from __future__ import annotations

import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from support.faults import ERRORS, Trap

from anyvit import side_by_side
from anyvit.containers import files, placing
from anyvit.containers.checksums import Crc32
from anyvit.containers.files import LocalFile
from anyvit.containers.placing import Place, put
from anyvit.containers.stream import PANEL, STEP, chunks
from anyvit.dtypes import np_dtype
from anyvit.errors import FileError
from anyvit.lazy import Lazy, Piece, computed, from_array, from_pieces


@pytest.fixture(autouse=True, params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every test with one thread and with three, however little there is to do."""
    monkeypatch.setattr(side_by_side, "processors", lambda: request.param)
    monkeypatch.setattr(side_by_side, "EACH", 1)
    return request.param


def transposed(tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str = "float32") -> tuple[Lazy, np.ndarray]:
    """A matrix of a file whose axes are turned round, and its values."""
    values = np.arange(np.prod(shape), dtype="float32").astype(np_dtype(dtype)).reshape(shape)
    (tmp_path / name).write_bytes(values.tobytes())
    stored = from_pieces(shape, dtype, [Piece(LocalFile(tmp_path / name), 0, values.nbytes)], (name,))
    return computed(shape[::-1], dtype, lambda a: a.transpose(), [stored]), values.transpose()


def laid(tensors: list[Lazy], start: int = 5) -> list[Place]:
    """Places one behind another from a byte on, each with a checksum."""
    places, at = [], start
    for number, lazy in enumerate(tensors):
        places.append(Place(str(number), lazy, at, Crc32()))
        at += lazy.nbytes
    return places


def written(path: Path, places: list[Place]) -> bytes:
    with path.open("wb", buffering=0) as file:
        put(file, places)
    return path.read_bytes()[places[0].offset :]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("shape", [(3000, 700), (700, 3000), (5, 900, 600), (2_000_000, 1), (3, 4)])
def test_turned_tensors_and_plain_ones(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    made = [transposed(tmp_path, f"{n}", shape, dtype) for n in range(3)]
    plain = np.arange(7, dtype="uint8")
    source = LocalFile(tmp_path / "0")
    ranges = from_pieces((6,), "uint8", [Piece(source, 4, 2), Piece(source, 0, 4)], ("0",))
    order = [made[0][0], from_array(plain), made[1][0], ranges, made[2][0]]
    raw = (tmp_path / "0").read_bytes()
    expected = [np.ascontiguousarray(values).tobytes() for values in (made[0][1], plain, made[1][1], made[2][1])]
    expected.insert(3, raw[4:6] + raw[:4])
    places = laid(order)
    assert written(tmp_path / "out", places) == b"".join(expected)
    assert [place.taker.value for place in places if isinstance(place.taker, Crc32)] == [
        zlib.crc32(data) for data in expected
    ]
    assert [b"".join(map(bytes, chunks(lazy))) for lazy in order] == expected


def test_what_cannot_be_read_raises_and_no_thread_goes_on(tmp_path: Path) -> None:
    good, _ = transposed(tmp_path, "good", (1024, 512))
    bad, _ = transposed(tmp_path, "bad", (1024, 512))
    (tmp_path / "bad").write_bytes(b"cut")
    with pytest.raises(FileError, match="ends too early"):
        written(tmp_path / "out", laid([good, bad, good]))
    assert not any(thread.name == "anyvit-side" for thread in threading.enumerate())


def test_a_tensor_that_gives_another_number_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    wrong = Lazy((4,), "uint8", lambda: np.zeros(4, "uint8"), ("a",), (Piece(LocalFile(tmp_path / "a"), 0, 3),))
    with pytest.raises(FileError, match="another number of bytes than its shape says: 0"):
        written(tmp_path / "out", laid([wrong]))


def test_memory_does_not_grow_with_the_number_of_tensors(tmp_path: Path, threads: int) -> None:
    lazies = [transposed(tmp_path, str(n), (1024, 2048))[0] for n in range(9)]
    with (tmp_path / "out").open("wb", buffering=0) as file:
        tracemalloc.start()
        try:
            put(file, laid(lazies))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < threads * (lazies[0].nbytes + PANEL + STEP) + (1 << 18), peak


def test_one_large_tensor_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "LARGE", 1 << 20)
    busy, most = [], []

    def turned(array: np.ndarray) -> np.ndarray:
        busy.append(1)
        most.append(len(busy))
        found = array.transpose().copy()
        busy.pop()
        return found

    values = np.arange(512 * 1024, dtype="float32").reshape(512, 1024)
    (tmp_path / "a").write_bytes(values.tobytes())
    stored = from_pieces(values.shape, "float32", [Piece(LocalFile(tmp_path / "a"), 0, values.nbytes)], ("a",))
    many = [computed((1024, 512), "float32", turned, [stored]) for _ in range(6)]
    assert written(tmp_path / "out", laid(many)) == values.transpose().tobytes() * 6 and max(most) == 1


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_disk_that_fills_under_one_thread_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    (tmp_path / "out").write_bytes(b"old")
    lazies = [transposed(tmp_path, str(n), (700, 500))[0] for n in range(12)]
    trap = Trap(step, ERRORS["disk full"])
    with monkeypatch.context() as patch:
        trap.install(patch)
        with pytest.raises(FileError, match="cannot be written"), files.atomic(tmp_path / "out") as file:
            put(file, laid(lazies))
    assert trap.steps >= step and (tmp_path / "out").read_bytes() == b"old"
    assert not list(tmp_path.glob(".*.tmp")) and not any(t.name == "anyvit-side" for t in threading.enumerate())
