"""Checksums that are written with tensors: every flipped bit is named, and nobody else is accused."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import flip, offset_of

from anyvit.containers import checksums, open_checkpoint
from anyvit.containers import safetensors as own
from anyvit.errors import FileError
from anyvit.lazy import Lazy, Note, from_array

TENSORS = {"a.weight": from_array(np.arange(12, dtype="float32").reshape(3, 4)), "b": from_array(np.ones(5, "float16"))}


def written(path: Path, **options: Any) -> Path:
    own.write(TENSORS, path, recorded=True, metadata={"anyvit.spec": "{}"}, **options)
    return path


def wrong(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    verify = open_checkpoint(path).verify
    assert verify is not None
    return [(note.kind, note.names) for note in verify()]


def test_what_was_written_is_confirmed_and_read_by_the_reference(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    assert wrong(path) == []
    found = safetensors.numpy.load_file(path)
    assert {name: value.tolist() for name, value in found.items()} == {n: t.read().tolist() for n, t in TENSORS.items()}


@given(st.integers(0, 57), st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_every_flipped_bit_names_its_tensor(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    path = written(tmp_path_factory.mktemp("a") / "a.safetensors")
    flip(path, offset_of(path, "a.weight") + at, bit)
    assert wrong(path) == [("damaged", ("a.weight",) if at < 48 else ("b",))]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b'"shape":[3,4]', b'"shape":[4,3]', [("damaged", ("a.weight",))]),
        (b'"b":{"dtype":"F16"', b'"b":{"dtype":"I16"', [("damaged", ("b",))]),
        (b'"anyvit.spec":"{}"', b'"anyvit.spec":"[]"', [("damaged", ("__metadata__",))]),
    ],
)
def test_a_header_that_was_changed_is_named(
    tmp_path: Path, old: bytes, new: bytes, expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    path = written(tmp_path / "a.safetensors")
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    assert wrong(path) == expected


def test_two_tensors_whose_names_were_swapped(tmp_path: Path) -> None:
    tensors = {name: from_array(np.full(4, i, "float32")) for i, name in enumerate("abcd")}
    path = tmp_path / "a.safetensors"
    own.write(tensors, path, recorded=True)
    head, sep, tail = path.read_bytes().partition(b'"a":{"dtype"')
    mixed = head + (sep + tail).replace(b'"a":{', b'"?":{').replace(b'"b":{', b'"a":{').replace(b'"?":{', b'"b":{')
    path.write_bytes(mixed)
    assert wrong(path) == [("damaged", ("a",)), ("damaged", ("b",))]


def test_a_tool_that_adds_and_drops_tensors_is_not_called_damage(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    edited = {"b": TENSORS["b"].read(), "new": np.zeros(2, "float32")}
    safetensors.numpy.save_file(edited, path, metadata={**metadata, "theirs": "1"})
    assert wrong(path) == [("unchecked", ("new",)), ("unchecked", ("a.weight",))]


def test_only_the_names_asked_for_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    flip(path, offset_of(path, "b"))
    verify = open_checkpoint(path).verify
    assert verify is not None
    assert list(verify(lambda name: name == "a.weight")) == []
    assert [note.names for note in verify(lambda name: name == "b")] == [("b",)]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"algorithm": "crc32"}', '{"tensors": {}}', "[" * 100_000])
def test_a_record_that_cannot_be_read(text: str) -> None:
    check = checksums.verifier(TENSORS, {checksums.KEY: text})
    assert check is not None
    assert [note.kind for note in check()] == ["damaged"]


def test_files_without_a_record_have_nothing_to_verify(tmp_path: Path) -> None:
    own.write(TENSORS, tmp_path / "a.safetensors")
    assert open_checkpoint(tmp_path / "a.safetensors").verify is None


def test_an_algorithm_of_the_future_is_said_not_guessed() -> None:
    record = json.dumps({"algorithm": "xxh9", "metadata": "", "tensors": {"b": "00"}})
    check = checksums.verifier(TENSORS, {checksums.KEY: record})
    assert check is not None
    assert [(note.kind, note.remedy) for note in check()] == [("unchecked", "a newer anyvit")]


def test_without_xxhash_crc32_is_recorded_and_xxh3_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(tmp_path / "before.safetensors")
    without(monkeypatch, "xxhash")
    path = written(tmp_path / "a.safetensors")
    assert json.loads(open_checkpoint(path).metadata[checksums.KEY])["algorithm"] == "crc32"
    assert wrong(path) == []
    flip(path, offset_of(path, "b"))
    assert wrong(path) == [("damaged", ("b",))]
    check = open_checkpoint(before).verify
    assert check is not None
    assert [(n.kind, n.remedy) for n in check()] == [("unchecked", "pip install xxhash")]


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def fake(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", fake)


def test_large_tensors_go_through_the_second_thread_with_the_same_result(tmp_path: Path) -> None:
    value = np.random.default_rng(0).integers(0, 255, 9 << 20, dtype="uint8")
    own.write({"a": from_array(value)}, tmp_path / "a.safetensors", recorded=True)
    record = json.loads(open_checkpoint(tmp_path / "a.safetensors").metadata[checksums.KEY])
    assert record["tensors"]["a"] == checksums.digest(from_array(value), record["algorithm"])


def test_a_seal_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def refuse() -> dict[str, str]:
        raise FileError("no")

    for target in (path, tmp_path / "b.npz", tmp_path / "c.pth"):
        from anyvit.containers import save

        with pytest.raises(FileError, match="no"):
            save(TENSORS, target, seal=refuse)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_seal_that_changes_the_length_is_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        own.write(TENSORS, tmp_path / "a.safetensors", metadata={"k": "12"}, recorded=True, seal=lambda: {"k": "1"})


def test_joined_checksums_do_not_depend_on_order() -> None:
    pairs = {"b": "01", "a": "02"}
    assert checksums.joined(pairs, "crc32") == checksums.joined(dict(sorted(pairs.items())), "crc32")
    assert checksums.joined(pairs, "crc32") != checksums.joined({"b": "02", "a": "01"}, "crc32")


def test_metadata_in_a_torch_file(tmp_path: Path) -> None:
    import torch

    from anyvit.containers import torch_file

    torch_file.write(TENSORS, tmp_path / "a.pth", metadata={"anyvit.spec": "{}"}, seal=lambda: {"more": "1"})
    assert open_checkpoint(tmp_path / "a.pth").metadata == {"anyvit.spec": "{}", "more": "1"}
    for mmap in (False, True):
        found = torch.load(tmp_path / "a.pth", weights_only=True, mmap=mmap)
        assert {name: value.tolist() for name, value in found.items()} == {
            name: tensor.read().tolist() for name, tensor in TENSORS.items()
        }


def test_a_damaged_source_is_named_while_its_checksum_is_taken() -> None:
    def cut() -> np.ndarray:
        raise FileError("cut")

    check = checksums.verifier({"a": Lazy((1,), "float32", cut)}, {checksums.KEY: json.dumps(
        {"algorithm": "crc32", "metadata": checksums._of_metadata({}, "crc32"), "tensors": {"a": "00"}})})  # fmt: skip
    assert check is not None
    with pytest.raises(FileError, match="cut"):
        list[Note](check())
