"""Lazy tensors as torch tensors: exact in every type, mapped where the bytes allow it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anyvit import containers
from anyvit.dtypes import ITEMSIZE
from anyvit.lazy import Lazy, Piece, from_array, from_pieces, split
from anyvit.torch_io import fill_from, lies_as, to_torch, torch_dtype, widened

TYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
]


def drawn(dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 3
    return values.abs().to(dtype) if not dtype.is_floating_point else values.to(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_every_type_comes_back_bit_for_bit(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    want, path = {"x": torch.zeros(1, dtype=torch.uint8), "y": drawn(dtype)}, tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save(want, path)
    else:
        save_file(want, path)
    lazy = containers.open_checkpoint(path).tensors["y"]
    found = to_torch(lazy)
    assert found.dtype == dtype == torch_dtype(lazy.dtype)
    assert torch.equal(found.view(torch.uint8), want["y"].view(torch.uint8))


def test_mapped_tensors_are_private(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.arange(6.0)}, path)
    before = path.read_bytes()
    lazy = containers.open_checkpoint(path).tensors["x"]
    to_torch(lazy).add_(100)
    assert path.read_bytes() == before
    assert to_torch(containers.open_checkpoint(path).tensors["x"]).tolist() == [0, 1, 2, 3, 4, 5]


class Memory:
    """Bytes at an odd address, mapped copy-on-write as a file would be."""

    name = "memory"

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def view(self, offset: int, size: int) -> memoryview:
        return memoryview(self.data)[offset : offset + size]


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4])
def test_bytes_at_an_odd_place_are_copied(offset: int) -> None:
    """Torch reads unaligned memory as it lies; kernels that load whole vectors from it may not."""
    values = np.arange(7, dtype="float32")
    source = Memory(b"\0" * offset + values.tobytes())
    lazy = from_pieces((7,), "float32", [Piece(source, offset, 28)], ["x"])
    found = to_torch(lazy)
    assert found.tolist() == values.tolist()
    assert found.data_ptr() % ITEMSIZE["float32"] == 0


def test_parts_of_one_tensor_and_empty_ones() -> None:
    whole = from_array(np.arange(12, dtype="float32").reshape(4, 3), "x")
    first, second = (to_torch(part) for part in split(whole, [1, 3]))
    assert first.tolist() == [[0, 1, 2]] and second.shape == (3, 3)
    empty = to_torch(from_array(np.zeros((0, 4), "float16")))
    assert empty.shape == (0, 4) and empty.dtype == torch.float16
    assert to_torch(from_array(np.float32(3).reshape(()))).item() == 3


def test_a_read_only_array_is_copied() -> None:
    array = np.arange(3, dtype="float32")
    array.flags.writeable = False
    tensor = to_torch(Lazy((3,), "float32", lambda: array))
    tensor.add_(1)
    assert array.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("stored", "wanted", "got"),
    [
        ("float16", None, torch.float32), ("bfloat16", None, torch.float32), ("float64", None, torch.float32),
        ("float32", torch.bfloat16, torch.bfloat16), ("int64", None, None), ("int64", torch.bfloat16, None),
        ("float8_e4m3fn", None, torch.float32),
    ],
)  # fmt: skip
def test_what_a_stored_type_becomes(stored: str, wanted: torch.dtype | None, got: torch.dtype | None) -> None:
    assert widened(stored, wanted) == got
    if got is not None:
        lazy = from_array(np.ones(3, "float16"))
        assert to_torch(lazy, got).dtype == got


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_file_is_read_straight_into_a_tensor(dtype: torch.dtype, tmp_path: Path) -> None:
    want = drawn(dtype)
    save_file({"y": want}, tmp_path / "a.safetensors")
    lazy = containers.open_checkpoint(tmp_path / "a.safetensors").tensors["y"]
    place = torch.zeros(3, 5, dtype=dtype)
    pointer, version = place.data_ptr(), place._version
    assert lies_as(lazy, place)
    fill_from(lazy, place)
    assert torch.equal(place.view(torch.uint8), want.view(torch.uint8)) and place.data_ptr() == pointer
    assert place._version > version, "autograd would not see that a saved tensor changed"


def test_what_lies_otherwise_is_not_read_straight(tmp_path: Path) -> None:
    save_file({"y": torch.zeros(4, 6)}, tmp_path / "a.safetensors")
    lazy = containers.open_checkpoint(tmp_path / "a.safetensors").tensors["y"]
    assert lies_as(lazy, torch.nn.Parameter(torch.zeros(4, 6)))
    assert not lies_as(lazy, torch.zeros(6, 4).T)
    assert not lies_as(lazy, torch.zeros(4, 6, dtype=torch.bfloat16))
    assert not lies_as(lazy, torch.zeros(4, 6, device="meta"))
    assert not lies_as(from_array(np.zeros((4, 6), "float32")), torch.zeros(4, 6))
