"""What a file is, by its bytes; a clear word on each format that is not read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared

from anyvit.containers import safetensors, sniff
from anyvit.errors import FileError
from anyvit.lazy import from_array


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def tar(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return buffer.getvalue()


def test_formats_are_told_whatever_the_name(tmp_path: Path) -> None:
    state = {"a": torch.zeros(3)}
    path = tmp_path / "misleading.npz"
    torch.save(state, path)
    assert sniff.kind(path) == "zip"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert sniff.kind(path) == "pickle"
    for protocol in (2, 3, 4, 5):
        assert sniff.kind(put(path, pickle.dumps({"a": 1}, protocol))) == "pickle"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(2))
    assert sniff.kind(path) == "zip"
    safetensors.write({"a": from_array(np.zeros(2))}, path)
    assert sniff.kind(path) == "safetensors"
    for count in (1, 15, 16, 70_000):
        assert sniff.kind(put(path, msgpack.packb({f"key{i}": i for i in range(count)}))) == "msgpack"
    assert sniff.kind(put(path, msgpack.packb({"k" * 100: 1, "b": 2}))) == "msgpack"
    assert sniff.kind(put(path, b' {"weight_map": {}}')) == "json"
    assert sniff.kind(put(path, b"\x89HDF\r\n\x1a\n" + bytes(50))) == "hdf5"


@needs_shared
def test_formats_in_the_wild() -> None:
    kinds = {path.suffix: set() for path in SHARED.glob("cases/*/*")}
    for path in SHARED.glob("cases/*/*"):
        if path.name not in (".metadata", "README.md"):
            kinds[path.suffix].add(sniff.kind(path))
    assert kinds[".safetensors"] == {"safetensors"} and kinds[".npz"] == {"zip"} and kinds[".onnx"] == {"onnx"}
    assert kinds[".pth"] | kinds[".pt"] | kinds[".tar"] | kinds[".ckpt"] <= {"zip", "pickle"}
    assert sniff.kind(SHARED / "cases/google-vit-r/checkpoint_20") == "msgpack"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 346\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>sign in</html>", "web page"),
        (b"\xef\xbb\xbf\n <HTML>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        (b"GGUF\3\0\0\0" + bytes(50), "GGUF"),
        (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
        (gzip.compress(b"x", mtime=0), "gunzip"),
        (bz2.compress(b"x"), "bunzip2"),
        (lzma.compress(b"x"), "unxz"),
        (b"\x28\xb5\x2f\xfd" + bytes(10), "unzstd"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (tar(["sys_info", "pickle", "storages"]), "before 2017"),
        (tar(["./model.pth", "config.json"]), "tar archive: config.json, model.pth"),
        (bytes(100), "never filled"),
        (b"hello world, this is text", "first bytes 68 65 6c 6c 6f"),
        (b"\x80", "no format that is known"),
        (b"\x81\x01\x02", "no format that is known"),
        (b"\x81\xa5ab", "no format that is known"),
        (b"\x80\xffabc", "no format that is known"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(FileError) as caught:
        sniff.kind(put(tmp_path / "model.bin", data))
    assert words in str(caught.value)
    assert str(tmp_path / "model.bin") in str(caught.value)


def test_npy_and_tensorflow(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(2))
    assert sniff.kind(tmp_path / "a.npy") == "npy"
    with pytest.raises(FileError, match="TensorFlow checkpoint"):
        sniff.kind(put(tmp_path / "model.ckpt-1.data-00000-of-00001", b"\x12\x34" * 20))


def test_the_pointers_size_is_told(tmp_path: Path) -> None:
    path = put(tmp_path / "a", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 346293852\n")
    with pytest.raises(FileError, match="expected: 346293852 bytes"):
        sniff.kind(path)


def test_weight_maps_and_other_json(tmp_path: Path) -> None:
    path = put(tmp_path / "config.json", json.dumps({"hidden_size": 3}).encode())
    with pytest.raises(FileError, match="JSON file, no tensors"):
        sniff.weight_map(path)
    assert sniff.weight_map(put(path, b'{"weight_map": {"a": "b"}}')) == {"weight_map": {"a": "b"}}
    for data in (b"{", b"\xff{}", b"[" * 100_000):
        with pytest.raises(FileError, match="no JSON"):
            sniff.weight_map(put(path, data))
    with pytest.raises(FileError, match="implausibly large"):
        sniff.load_json(put(path, b"[1, 2, 3]"), 5)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist") as caught:
        sniff.kind(tmp_path / "nothing.pth")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_tar_whose_sizes_are_no_octal_numbers(tmp_path: Path) -> None:
    data = bytearray(tar(["pickle", "storages"]))
    data[512 + 124 : 512 + 136] = b"000000000019"
    with pytest.raises(FileError, match="tar"):
        sniff.kind(put(tmp_path / "a.pth", bytes(data)))
