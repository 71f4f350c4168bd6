"""Weight maps and shards, checked against each other; nothing outside the folder is opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anyvit.containers import safetensors, shards
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import from_array

A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def shard(path: Path, **values: float) -> None:
    lazies = {name: from_array(np.full(2, value, "float32"), name) for name, value in values.items()}
    safetensors.write(lazies, path, metadata={path.name[:8]: "x"})


def index(folder: Path, where: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": where}))
    return path


def test_a_sound_set(tmp_path: Path) -> None:
    shard(tmp_path / A, a=1, b=2)
    shard(tmp_path / B, c=3)
    found = shards.read_index(index(tmp_path, {"c": B, "b": A, "a": A}))
    assert {name: lazy.read()[0] for name, lazy in found.tensors.items()} == {"a": 1, "b": 2, "c": 3}
    assert list(found.tensors) == ["a", "b", "c"]
    assert (found.container, found.path, found.notes) == ("safetensors", str(tmp_path), ())
    assert found.metadata["format"] == "pt" and found.verify is None


def test_disagreements_are_noted(tmp_path: Path) -> None:
    shard(tmp_path / A, a=1, b=2, extra=9)
    shard(tmp_path / B, b=3, c=4)
    shard(tmp_path / "model-00003-of-00003.safetensors", z=1)
    found = shards.read_index(index(tmp_path, {"a": B, "b": B, "c": B, "gone": A}))
    assert {name: lazy.read()[0] for name, lazy in found.tensors.items()} == {"a": 1, "b": 3, "extra": 9, "c": 4}
    assert {(note.kind, note.names) for note in found.notes} == {
        ("duplicate", ("b",)),
        ("misplaced", ("a",)),
        ("stray", ("extra",)),
        ("missing", ("gone",)),
        ("stray", ("model-00003-of-00003.safetensors",)),
    }


def test_missing_shards_are_named(tmp_path: Path) -> None:
    shard(tmp_path / A, a=1)
    path = index(tmp_path, {"a": A, "c": B})
    found = shards.read_index(path)
    assert set(found.tensors) == {"a"}
    assert [(note.kind, note.names, note.cause) for note in found.notes] == [
        ("absent", ("c",), f"1 of 2 shards are missing: {B}")
    ]
    (tmp_path / A).unlink()
    with pytest.raises(FileError, match="JSON weight map, no tensors"):
        shards.read_index(path)
    with pytest.raises(FileError, match="JSON weight map, no tensors"):
        shards.read_index(index(tmp_path, {}))


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "x/../../a.safetensors", "/etc/passwd", "C:\\a.safetensors", "..\\a.safetensors", "", "a\0b",
     "\\\\host\\share\\a"],
)  # fmt: skip
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "model"
    inner.mkdir()
    shard(tmp_path / "a.safetensors", a=1)
    shard(inner / A, b=1)
    with pytest.raises(UnsafeError, match="does not lie beside it"):
        shards.read_index(index(inner, {"a": name, "b": A}))


def test_links_that_lead_out_are_refused_but_not_those_of_the_hubs_cache(tmp_path: Path) -> None:
    outside, inner = tmp_path / "outside.safetensors", tmp_path / "model"
    inner.mkdir()
    shard(outside, a=1)
    (inner / A).symlink_to(outside)
    with pytest.raises(UnsafeError, match="link that leads out"):
        shards.read_index(index(inner, {"a": A}))
    (inner / B).symlink_to(outside)
    with pytest.raises(UnsafeError, match="link that leads out"):
        shards.read_complete(inner, [A, B])
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    shard(blobs / "f00d", a=1)
    (snapshot / A).symlink_to("../../blobs/f00d")
    index(blobs, {"a": A}).rename(blobs / "cafe")
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/cafe")
    assert list(shards.read_index(snapshot / "model.safetensors.index.json").tensors) == ["a"]


def test_a_folder_that_is_itself_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    shard(tmp_path / "real" / A, a=1)
    index(tmp_path / "real", {"a": A})
    (tmp_path / "link").symlink_to("real")
    assert list(shards.read_index(tmp_path / "link/model.safetensors.index.json").tensors) == ["a"]


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    path = index(tmp_path, {"a": "model.safetensors.index.json"})
    with pytest.raises(FileError, match="JSON file where a shard was expected"):
        shards.read_index(path)
    with pytest.raises(UnsafeError, match="does not map"):
        shards.read_index(index(tmp_path, {"a": 3}))


def test_shards_in_inner_folders_of_the_same_name(tmp_path: Path) -> None:
    for i, name in enumerate("xy"):
        (tmp_path / name).mkdir()
        shard(tmp_path / name / "w.safetensors", **{name: i})
    found = shards.read_index(index(tmp_path, {"x": "x/w.safetensors", "y": "y/w.safetensors"}))
    assert {name: lazy.read()[0] for name, lazy in found.tensors.items()} == {"x": 0, "y": 1}


def test_torch_shards(tmp_path: Path) -> None:
    tied = torch.ones(2)
    torch.save({"a": tied, "again": tied}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    where = {n: f"pytorch_model-0000{i}-of-00002.bin" for n, i in (("a", 1), ("again", 1), ("b", 2))}
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": where}))
    found = shards.read_index(path)
    assert {name: lazy.read().tolist() for name, lazy in found.tensors.items()} == {
        "a": [1, 1], "again": [1, 1], "b": [0, 0]
    }  # fmt: skip
    assert found.aliases == {"again": "a"} and found.container == "torch"
    assert found.verify is not None and list(found.verify()) == []


def test_shards_without_an_index(tmp_path: Path) -> None:
    shard(tmp_path / A, a=1)
    with pytest.raises(FileError, match=f"1 of 2 shards are missing: .*{B}"):
        shards.read_complete(tmp_path, [A])
    shard(tmp_path / B, b=1)
    found = shards.read_complete(tmp_path, [A, B])
    assert set(found.tensors) == {"a", "b"}
    assert [note.kind for note in found.notes] == ["shard"]
