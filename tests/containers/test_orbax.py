"""Folders of Orbax, laid out here as orbax-checkpoint 0.12 does: a tree in JSON, arrays by tensorstore."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anyvit.containers import open_checkpoint, orbax
from anyvit.errors import FileError, MissingExtra, UnsafeError

TREE: dict[tuple[str, ...], Any] = {
    ("params", "block_0", "kernel"): np.arange(35, dtype="float32").reshape(5, 7),
    ("params", "block_0", "half"): np.ones((2, 3), ml_dtypes.bfloat16),
    ("params", "count"): np.array(5, "int32"),
    ("opt", "1", "mu"): np.zeros((0, 3), "float32"),
    ("step",): 7,
    ("rate",): 0.5,
    ("name",): "vit",
    ("none",): None,
    ("opt", "0"): {},
}


def kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return "np.ndarray"
    return {int: "scalar", float: "scalar", str: "string", dict: "Dict"}.get(type(value), "None")


def write(
    folder: Path, tree: dict[tuple[str, ...], Any], *, ocdbt: bool = True, zarr3: bool = False, whole: bool = True
) -> Path:
    ts = pytest.importorskip("tensorstore", reason="Orbax folders are read by tensorstore")
    folder.mkdir(parents=True)
    listed, texts = {}, {}
    for keys, value in tree.items():
        described = {"value_type": kind(value), "skip_deserialize": value is None}
        listed[str(keys)] = {"key_metadata": [{"key": k, "key_type": 2} for k in keys], "value_metadata": described}
        if isinstance(value, str):
            texts[".".join(keys)] = value
        if not isinstance(value, np.ndarray | int | float):
            continue
        array = np.asarray(value)
        file = {"driver": "file", "path": f"{folder}/"}
        store = {"driver": "ocdbt", "base": file} if ocdbt else file
        store["path"] = f"{'' if ocdbt else f'{folder}/'}{'.'.join(keys)}/"
        spec = {"driver": "zarr3" if zarr3 else "zarr", "kvstore": store, "create": True, "dtype": array.dtype.name}
        spec["store_data_equal_to_fill_value"] = whole
        ts.open(spec, shape=array.shape).result().write(array).result()
    metadata = {"tree_metadata": listed, "use_ocdbt": ocdbt, "use_zarr3": zarr3, orbax.WHOLE: whole}
    (folder / "_METADATA").write_text(json.dumps(metadata))
    (folder / "_strings.json").write_text(json.dumps(texts))
    return folder


@pytest.mark.parametrize(("ocdbt", "zarr3"), [(True, False), (True, True), (False, False), (False, True)])
def test_every_layout(tmp_path: Path, ocdbt: bool, zarr3: bool) -> None:
    found = open_checkpoint(write(tmp_path / "a", TREE, ocdbt=ocdbt, zarr3=zarr3))
    arrays = {".".join(keys): value for keys, value in TREE.items() if isinstance(value, np.ndarray)}
    assert found.container == "orbax" and set(found.tensors) == set(arrays)
    for name, value in arrays.items():
        lazy = found.tensors[name]
        assert (lazy.shape, lazy.dtype, lazy.origin) == (value.shape, value.dtype.name, (name,))
        assert lazy.read().tobytes() == value.tobytes()
    assert found.extras == {"step": 7, "rate": 0.5, "name": "vit", "none": None, "opt": {"0": {}}}
    assert found.notes == ()


def test_the_step_of_a_manager(tmp_path: Path) -> None:
    write(tmp_path / "7" / "default", TREE)
    assert "params.block_0.kernel" in open_checkpoint(tmp_path).tensors


def test_without_tensorstore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {"tree_metadata": {}, "use_ocdbt": True}
    (tmp_path / "_METADATA").write_text(json.dumps(metadata))
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(MissingExtra, match=r"a folder of Orbax\n.*anyvit\[orbax\].*numpy\.savez"):
        orbax.read(tmp_path)


def test_damaged_folders(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", TREE)
    shutil.copytree(folder, tmp_path / "b")
    for data in (tmp_path / "b" / "d").iterdir():
        data.unlink()
    with pytest.raises(FileError, match="cannot be read"):
        for lazy in orbax.read(tmp_path / "b").tensors.values():
            lazy.read()
    for text, message in (("{", "no JSON"), ("[]", "holds no tree"), ('{"tree_metadata": {"a": 1}}', "damaged")):
        (folder / "_METADATA").write_text(text)
        with pytest.raises(FileError, match=message):
            orbax.read(folder)
    (folder / "_METADATA").unlink()
    with pytest.raises(FileError, match="without _METADATA"):
        orbax.read(folder)


@pytest.mark.parametrize("zarr3", [False, True])
def test_a_missing_chunk_is_damage_unless_zeros_are_left_out(zarr3: bool, tmp_path: Path) -> None:
    tree = {("full",): np.ones((2, 3), "float32"), ("zero",): np.zeros((2, 3), "float32")}
    for whole in (True, False):
        folder = write(tmp_path / str(whole), tree, ocdbt=False, zarr3=zarr3, whole=whole)
        assert not orbax.read(folder).tensors["zero"].read().any()
    chunk = next(path for path in (tmp_path / "True" / "full").rglob("*") if path.name in ("0.0", "0"))
    (chunk if chunk.is_file() else chunk / "0").unlink()
    with pytest.raises(FileError, match="cannot be read"):
        orbax.read(tmp_path / "True").tensors["full"].read()


def test_arrays_elsewhere_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", TREE, ocdbt=False)
    metadata = json.loads((folder / "_METADATA").read_text())
    described = {"key_metadata": [{"key": "../secret"}], "value_metadata": {"value_type": "np.ndarray"}}
    (folder / "_METADATA").write_text(json.dumps({**metadata, "tree_metadata": {"x": described}}))
    with pytest.raises(UnsafeError, match="does not lie beside it"):
        orbax.read(folder)


def test_a_number_above_the_limit_is_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orbax, "SCALARS_LIMIT", 1)
    found = orbax.read(write(tmp_path / "a", {("a",): 1, ("b",): 2}))
    assert found.extras == {"a": 1} and found.tensors["b"].read() == 2
