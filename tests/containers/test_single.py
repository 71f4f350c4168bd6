"""One file by its content, and files that only look like one."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared

from anyvit.containers import safetensors, single
from anyvit.errors import FileError
from anyvit.lazy import from_array


def test_each_container_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.weights"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(2))
    assert single.read(path).container == "npz"
    safetensors.write({"a": from_array(np.zeros(2))}, path)
    assert single.read(str(path)).container == "safetensors"
    torch.save({"a": torch.zeros(2)}, path)
    assert single.read(path).container == "torch"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    assert list(single.read(path).tensors) == ["a"]


@needs_shared
def test_readers_of_the_wild() -> None:
    names = {"google-vit-r/checkpoint_20": "msgpack", "onnx-p/model.onnx": "onnx"}
    for name, container in names.items():
        assert single.read(SHARED / "cases" / name).container == container


def test_archives_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    cases = (
        ("docs/readme.txt", "zip archive of other files: docs/readme.txt"),
        ("model.weights.h5", "damaged HDF5 file"),
    )
    for name, words in cases:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(FileError, match=words):
            single.read(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(FileError, match="empty archive"):
        single.read(path)


def test_an_npz_whose_first_member_is_no_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(2))
    data = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive, zipfile.ZipFile(path) as source:
        archive.writestr("README", b"x")
        archive.writestr("a.npy", source.read("a.npy"))
    assert list(single.read(tmp_path / "b.npz").tensors) == ["a"]
    path.write_bytes(data[:-30])
    with pytest.raises(FileError, match="end of the zip archive"):
        single.read(path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / "gone", "does not exist"),
        (Path("https://example.com/a.pth"), "download it first"),
        (Path("hf-hub:/a/b"), "download it first"),
        (Path("a\0b"), "is no path"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(FileError, match=words):
            single.read(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(FileError, match="may not be read"):
        single.read(path)


def test_shard_names() -> None:
    [note] = single.shard_note(Path("/m/model-00001-of-00002.safetensors"))
    assert (note.kind, note.names) == ("shard", ("model-00001-of-00002.safetensors",))
    assert "one shard of 2" in note.cause and note.remedy is not None and "/m" in note.remedy
    assert single.shard_note(Path("model-00001-of-00001.safetensors")) == ()
    assert single.shard_note(Path("model.safetensors")) == ()
