"""Flax's msgpack files: what flax writes is made here with the msgpack package, as flax/serialization.py does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack as packer
import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit.containers import msgpack, open_checkpoint
from anyvit.containers.inert import Inert
from anyvit.errors import AnyvitError, FileError, UnsafeError

BF16 = np.dtype(ml_dtypes.bfloat16)


def array(value: np.ndarray, code: int = 1) -> packer.ExtType:
    """As flax's `_ndarray_to_bytes`."""
    return packer.ExtType(code, packer.packb((value.shape, value.dtype.name, value.tobytes()), use_bin_type=True))


def chunked(value: np.ndarray, size: int) -> dict[str, Any]:
    """As flax's `_chunk`."""
    flat = value.reshape(-1)
    parts = [array(flat[i : i + size]) for i in range(0, flat.size, size)]
    shape = {str(i): n for i, n in enumerate(value.shape)}
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": {str(i): p for i, p in enumerate(parts)}}


def write(path: Path, value: Any) -> Path:
    path.write_bytes(packer.packb(value, use_bin_type=True))
    return path


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "kernel": rng.standard_normal((3, 5, 2)).astype("float32"),
        "half": rng.standard_normal((4, 3)).astype(BF16),
        "ids": np.arange(6, dtype="int64"),
        "flag": np.array([True, False]),
        "none": np.zeros((0, 4), "float16"),
        "zero": np.array(2.5, "float32"),
    }


def test_what_flax_writes(tmp_path: Path) -> None:
    made = arrays()
    tree = {
        "0": {"encoderblock_0": {name: array(value) for name, value in made.items()}},
        "1": {"trace": {"big": chunked(made["kernel"], 7), "empty": {}}},
        "2": 20,
        "rate": array(np.array(0.5, "float32"), 3),
        "mean": array(np.array(1.5, BF16), 3),
        "turn": packer.ExtType(2, packer.packb((1.0, -2.0))),
        "arch": {"name": "ViT", "sizes": [16, 16], "none": None, "on": True},
    }
    found = msgpack.read(write(tmp_path / "checkpoint_20", tree))
    expected = {f"0.encoderblock_0.{name}": value for name, value in made.items()} | {"1.trace.big": made["kernel"]}
    assert set(found.tensors) == set(expected)
    for name, value in expected.items():
        lazy = found.tensors[name]
        assert (lazy.shape, lazy.dtype, lazy.origin) == (value.shape, value.dtype.name, (name,))
        assert lazy.read().tobytes() == value.tobytes()
        assert lazy.pieces is not None
        assert b"".join(p.source.read(p.offset, p.size) for p in lazy.pieces) == value.tobytes()
    assert len(found.tensors["1.trace.big"].pieces or ()) == 5
    assert found.extras == {
        "1": {"trace": {"empty": {}}}, "2": 20, "rate": 0.5, "mean": 1.5, "turn": 1 - 2j,
        "arch": {"name": "ViT", "sizes": [16, 16], "none": None, "on": True},
    }  # fmt: skip
    assert found.container == "msgpack" and found.notes == ()
    assert set(open_checkpoint(tmp_path / "checkpoint_20").tensors) == set(expected)


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.integers(-200, 200) | st.floats(allow_nan=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=40)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


@settings(deadline=None, max_examples=80)
@given(st.dictionaries(st.text(max_size=40), TREES, min_size=1, max_size=4))
def test_the_grammar_agrees_with_the_msgpack_package(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "grammar.msgpack", tree)
    assert msgpack.read(path).extras == tree


@pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_every_width_of_a_length(tmp_path: Path, size: int) -> None:
    text, some = "x" * size, list(range(size))
    tree = {"text": text, "list": some, "map": {str(i): i for i in some}, "raw": b"x" * size}
    found = msgpack.read(write(tmp_path / "a", tree)).extras
    assert (found["text"], found["list"], found["map"]) == (text, some, tree["map"])
    assert isinstance(found["raw"], Inert) and found["raw"].args == (size,)
    values = np.zeros(size, "uint8")
    assert msgpack.read(write(tmp_path / "a", {"a": array(values)})).tensors["a"].shape == (size,)


def test_tensor_bytes_are_not_read_for_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", {f"t{i}": array(np.zeros(100_000, "float32")) for i in range(20)})
    seen: list[int] = []
    plain = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        seen.append(size)
        return plain(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert len(msgpack.read(path).tensors) == 20
    assert sum(seen) < 100_000 < path.stat().st_size / 50


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "a", {"a": array(np.ones(3, "float32")), "n": 2.5, "s": "text"}).read_bytes()
    for size in range(1, len(whole)):
        (tmp_path / "b").write_bytes(whole[:size])
        with pytest.raises(FileError):
            msgpack.read(tmp_path / "b")
    (tmp_path / "b").write_bytes(whole + b"\0")
    with pytest.raises(FileError, match="1 bytes after the end"):
        msgpack.read(tmp_path / "b")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_bytes_give_a_checkpoint_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, at: int
) -> None:
    whole = packer.packb({"a": array(np.ones((2, 3), "float32")), "b": chunked(np.ones(4, "int8"), 3)})
    path = tmp_path_factory.getbasetemp() / "any.msgpack"
    for data in (raw, whole[: at % len(whole)] + raw + whole[at % len(whole) + len(raw) :]):
        path.write_bytes(data)
        try:
            for lazy in msgpack.read(path).tensors.values():
                lazy.read()
        except AnyvitError:
            pass


def bad() -> Iterator[tuple[str, Any, str]]:
    ext, one = packer.ExtType, np.ones(2, "float32")
    yield "few bytes", ext(1, packer.packb(([3], "float32", b"1234"))), "4 bytes for float32"
    yield "negative axis", ext(1, packer.packb(([-1], "float32", b""))), "another content"
    yield "huge axis", ext(1, packer.packb(([1 << 60, 0], "float32", b""))), "another content"
    yield "no shape", ext(1, packer.packb((3, "float32", b""))), "another content"
    yield "two fields", ext(1, packer.packb(([0], "float32"))), "another content"
    yield "more after", ext(1, packer.packb(([0], "float32", b"")) + b"\0"), "another content"
    yield "number with axes", array(one, 3), "a number with the axes"
    yield "half a complex", ext(2, packer.packb((1.0,))), "no complex"
    yield "chunk order", {**chunked(one, 1), "chunks": {"0": array(one[:1]), "2": array(one[1:])}}, "without shape"
    yield (
        "chunk types",
        {**chunked(one, 1), "chunks": {"0": array(one[:1]), "1": array(one.astype("int32")[1:])}},
        ("chunks of the types"),
    )
    yield "chunks too few", {**chunked(one, 1), "chunks": {"0": array(one[:1])}}, "4 bytes for"
    yield "chunk no array", {**chunked(one, 1), "chunks": {"0": 3}}, "a chunk that is no array"


@pytest.mark.parametrize(("value", "message"), [(v, m) for _, v, m in bad()], ids=[n for n, _, _ in bad()])
def test_damaged_arrays_are_named(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(FileError, match=rf"is damaged: a\.b\n  found: .*{message}|{message}"):
        msgpack.read(write(tmp_path / "a", {"a": {"b": value}}))


def test_what_is_not_read_is_noted(tmp_path: Path) -> None:
    odd = packer.ExtType(1, packer.packb(([2], "int4", b"12")))
    found = msgpack.read(write(tmp_path / "a", {"a": odd, "b": packer.ExtType(77, b"?"), "c": array(np.ones(1))}))
    assert list(found.tensors) == ["c"] and set(found.extras) == {"a", "b"}
    assert {(note.kind, note.names) for note in found.notes} == {("unread", ("a",)), ("unread", ("b",))}


def test_names_that_meet(tmp_path: Path) -> None:
    found = msgpack.read(write(tmp_path / "a", {"a": {"b": array(np.ones(1))}, "a.b": array(np.zeros(1))}))
    assert found.tensors["a.b"].read() == 1 and [note.kind for note in found.notes] == ["duplicate"]
    (tmp_path / "a").write_bytes(b"\x82\xa1a\x01\xa1a\x02")
    with pytest.raises(FileError, match="two entries called 'a'"):
        msgpack.read(tmp_path / "a")


def test_forged_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data, kind, message in (
        (b"\x81\xa1a" + b"\x91" * 5000 + b"\0", UnsafeError, "nested deeper"),
        (b"\xdf\xff\xff\xff\xff\xa1a\0", FileError, "ends inside"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", FileError, "ends inside"),
        (b"\x81\xa1a\xc1", FileError, "begins no value"),
        (b"\x81\xa1a\xa2\xff\xff", FileError, "a text"),
        (b"\x81\x90\x01", FileError, "a list as a key"),
        (b"\x05", FileError, "a lone int"),
        (packer.packb({"x" * 2000: array(np.ones(1))}), UnsafeError, "long name"),
        (packer.packb({"a": "x" * (2 << 20)}), UnsafeError, "long text"),
    ):
        path.write_bytes(data)
        with pytest.raises(kind, match=message):
            msgpack.read(path)


@needs_shared
def test_the_truth_case() -> None:
    path = SHARED / "cases" / "google-vit-r" / "checkpoint_20"
    found = msgpack.read(path)
    tree = packer.unpackb(path.read_bytes(), ext_hook=lambda code, data: packer.unpackb(data, raw=True))
    shape, kind, raw = tree["0"]["Transformer"]["encoderblock_2"]["MultiHeadDotProductAttention_0"]["out"]["kernel"]
    lazy = found.tensors["0.Transformer.encoderblock_2.MultiHeadDotProductAttention_0.out.kernel"]
    assert (list(lazy.shape), lazy.dtype, lazy.read().tobytes()) == (shape, kind.decode(), raw)
    assert found.extras["2"] == 20 and found.tensors["1.1.0.trace.head.kernel"].dtype == "bfloat16"
