"""The writer of torch files, read back by torch itself."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.torch_files import DTYPES, same, saved

from anyvit.containers import stream, torch_file
from anyvit.errors import BadArgument, FileError
from anyvit.lazy import Lazy, concat, from_array, split


@pytest.mark.parametrize("mmap", [False, True])
def test_every_element_type(mmap: bool, tmp_path: Path) -> None:
    state = {}
    for dtype in DTYPES:
        bits = torch.randint(0, 2 if dtype is torch.bool else 256, (3, 5, 16), dtype=torch.uint8).view(dtype)
        state |= {f"{dtype}": bits, f"{dtype}.zero_d": bits[0, 0, 0].clone(), f"{dtype}.empty": bits[:0].clone()}
    opened = saved(state, tmp_path / "a")
    torch_file.write(opened.tensors, tmp_path / "b.pth")
    loaded = torch.load(tmp_path / "b.pth", weights_only=True, mmap=mmap)
    assert type(loaded) is OrderedDict and list(loaded) == list(state)
    for name, tensor in loaded.items():
        assert tensor.dtype == state[name].dtype and tensor.shape == state[name].shape
        assert same(opened.tensors[name], tensor), name
    again = torch_file.read(tmp_path / "b.pth")
    assert all(same(again.tensors[name], tensor) for name, tensor in state.items()) and again.notes == ()
    assert again.verify is not None and list(again.verify()) == []


def test_nested_with_extras(tmp_path: Path) -> None:
    extras = {"epoch": 3, "lr": 1e-3, "args": {"arch": "vit", "size": (224, 224), "deep": [None, True, {5: -7}]},
              "big": 1 << 80, "low": -(1 << 33), "text": "größe"}  # fmt: skip
    tensors = {"cls_token": from_array(np.ones((1, 1, 4), "float32"))}
    torch_file.write(tensors, tmp_path / "a", nest=("teacher", "backbone"), extras=extras)
    loaded = torch.load(tmp_path / "a", weights_only=True)
    assert torch.equal(loaded.pop("teacher")["backbone"]["cls_token"], torch.ones(1, 1, 4))
    assert loaded == extras
    assert list(torch_file.read(tmp_path / "a").tensors) == ["teacher.backbone.cls_token"]
    torch_file.write(tensors, tmp_path / "a", extras={"epoch": 1})
    assert torch.load(tmp_path / "a", weights_only=True)["epoch"] == 1


def test_tied_tensors_share_their_storage(tmp_path: Path) -> None:
    weight = torch.randn(6, 4)
    opened = saved({"a": weight, "b": weight, "c": weight.clone()}, tmp_path / "a")
    torch_file.write(opened.tensors, tmp_path / "b")
    loaded = torch.load(tmp_path / "b", weights_only=True)
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr() != loaded["c"].data_ptr()
    assert torch_file.read(tmp_path / "b").aliases == {"b": "a"}


def test_split_and_joined_byte_ranges(tmp_path: Path) -> None:
    weight = torch.randn(6, 4)
    lazy = saved({"a": weight}, tmp_path / "a").tensors["a"]
    q, k, v = split(lazy, [2, 2, 2])
    torch_file.write({"k": k, "vq": concat([v, q]), "t": Lazy((2,), "int64", lambda: np.arange(2))}, tmp_path / "b")
    loaded = torch.load(tmp_path / "b", weights_only=True)
    assert torch.equal(loaded["k"], weight[2:4]) and torch.equal(loaded["vq"], weight[[4, 5, 0, 1]])
    assert loaded["t"].tolist() == [0, 1]


def test_same_tensors_give_the_same_bytes_anywhere(tmp_path: Path) -> None:
    tensors = {"w": from_array(np.arange(9.0)), "v": from_array(np.arange(3))}
    digests = set()
    for name in ("a.pth", "other.ckpt"):
        torch_file.write(tensors, tmp_path / name, extras={"epoch": 1})
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_storages_are_aligned(tmp_path: Path) -> None:
    torch_file.write({f"w{i}": from_array(np.arange(float(i + 1))) for i in range(9)}, tmp_path / "a")
    pieces = [lazy.pieces for lazy in torch_file.read(tmp_path / "a").tensors.values()]
    assert all(piece and piece[0].offset % 64 == 0 for piece in pieces)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    tensors = {"w": from_array(np.ones(2))}
    with pytest.raises(BadArgument, match=r"extras\.a\.1"):
        torch_file.write(tensors, tmp_path / "a", extras={"a": [1, object()]})
    with pytest.raises(BadArgument, match="w"):
        torch_file.write(tensors, tmp_path / "a", extras={"w": 1})
    with pytest.raises(BadArgument, match="model"):
        torch_file.write(tensors, tmp_path / "a", nest=("model",), extras={"model": 1})
    with pytest.raises(FileError):
        torch_file.write(tensors, tmp_path / "missing" / "a")
    assert list(tmp_path.iterdir()) == []


class Counting:
    """A source that remembers the largest read."""

    name = "counting"

    def __init__(self) -> None:
        self.largest = 0

    def read(self, offset: int, size: int) -> bytes:
        self.largest = max(self.largest, size)
        return bytes(size)

    def view(self, offset: int, size: int) -> memoryview | None:
        raise AssertionError("a byte range is mapped as a whole")


def test_large_tensors_are_never_whole_in_memory(tmp_path: Path) -> None:
    from anyvit.lazy import Piece, from_pieces

    source = Counting()
    size = 3 * stream.STEP + 4
    torch_file.write({"w": from_pieces((size // 4,), "float32", [Piece(source, 0, size)], ["w"])}, tmp_path / "a")
    assert source.largest <= 8 << 20
    assert (tmp_path / "a").stat().st_size > size


NAMES = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), unique=True, max_size=6)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(names=NAMES, shape=st.lists(st.integers(0, 4), max_size=4))
def test_any_name_and_shape(names: list[str], shape: list[int], tmp_path: Path) -> None:
    torch_file.write({name: from_array(np.ones(shape, "float16")) for name in names}, tmp_path / "a")
    loaded = torch.load(tmp_path / "a", weights_only=True)
    assert list(loaded) == names and all(list(tensor.shape) == shape for tensor in loaded.values())
    assert all(tensor.is_contiguous() for tensor in loaded.values())


def test_a_failing_tensor_leaves_the_old_file(tmp_path: Path) -> None:
    torch_file.write({"w": from_array(np.ones(2))}, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()

    def fail() -> Iterator[None]:
        raise FileError("the source is gone")

    with pytest.raises(FileError, match="gone"):
        torch_file.write({"w": Lazy((2,), "float64", fail)}, tmp_path / "a")  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
