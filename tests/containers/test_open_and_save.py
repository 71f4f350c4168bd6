"""The two verbs: open anything, save by suffix."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import SHARED, needs_shared

from anyvit.containers import open_checkpoint, save
from anyvit.errors import AnyvitError, BadArgument, FileError
from anyvit.lazy import Lazy, from_array

STATE = {
    "cls_token": np.arange(8, dtype="float32").reshape(1, 1, 8),
    "blocks.0.weight": np.arange(6, dtype="float16").reshape(2, 3),
    "scale": np.array(3.5, "float64"),
    "brain": np.arange(4).astype(ml_dtypes.bfloat16),
    "none": np.zeros((0, 3), "int64"),
}


def lazies() -> dict[str, Lazy]:
    return {name: from_array(array, name) for name, array in STATE.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".PTH"])
def test_what_is_saved_is_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save(lazies(), str(path))
    first = path.read_bytes()
    found = open_checkpoint(str(path))
    assert set(found.tensors) == set(STATE)
    for name, array in STATE.items():
        lazy = found.tensors[name]
        assert (lazy.shape, lazy.dtype, lazy.read().tobytes()) == (array.shape, array.dtype.name, array.tobytes())
    time.sleep(0.01)
    save(found.tensors if suffix != ".safetensors" else lazies(), tmp_path / f"b{suffix}", durable=True)
    assert (tmp_path / f"b{suffix}").read_bytes() == first


def test_other_suffixes(tmp_path: Path) -> None:
    for name in ("a.h5", "a", "a.safetensor"):
        with pytest.raises(BadArgument, match=r"\.safetensors, \.npz, \.pth"):
            save(lazies(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.npz", "a.pth"):
        with pytest.raises(FileError, match="cannot be written"):
            save(lazies(), tmp_path / "gone" / name)


@needs_shared
def test_every_case_opens_without_torch() -> None:
    code = (
        "import json, sys; from pathlib import Path; from anyvit.containers import open_checkpoint\n"
        "for case in sorted(Path(sys.argv[1]).glob('*/case.json')):\n"
        "    found = open_checkpoint(case.parent / json.loads(case.read_text())['path'])\n"
        "    assert len(found.tensors) > 10, case\n"
        "    assert all(lazy.nbytes >= 0 for lazy in found.tensors.values())\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code, str(SHARED / "cases")], check=True)


def test_a_mapping_and_what_is_none(tmp_path: Path) -> None:
    assert open_checkpoint({"a": torch.zeros(2)}).container == "memory"
    for thing in (3, None, b"path", [torch.zeros(2)], torch.nn.Linear(2, 2)):
        with pytest.raises(BadArgument, match="path or a mapping"):
            open_checkpoint(thing)  # type: ignore[arg-type]
    with pytest.raises(FileError, match="does not exist"):
        open_checkpoint(tmp_path / "gone")


def test_a_shard_opened_by_name_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00002.safetensors"
    save(lazies(), path)
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    found = open_checkpoint(path)
    assert [note.kind for note in found.notes] == ["shard"]
    assert found.siblings == {"config.json": {"a": 1}}


def test_an_index_opened_by_name(tmp_path: Path) -> None:
    save(lazies(), tmp_path / "x.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": dict.fromkeys(STATE, "x.safetensors")}))
    assert set(open_checkpoint(path).tensors) == set(STATE)


def test_listing_a_thousand_tensors_is_quick(tmp_path: Path) -> None:
    state = {f"blocks.{i}.attn.weight": torch.zeros(8, 8) for i in range(1000)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    open_checkpoint(tmp_path / "a.safetensors")
    took = []
    for _ in range(5):
        start = time.perf_counter()
        open_checkpoint(tmp_path / "a.safetensors")
        took.append(time.perf_counter() - start)
    assert min(took) < 0.1


def test_saving_holds_only_pieces(tmp_path: Path) -> None:
    """Three times 76 MB pass through a process whose memory may not grow by a third of that."""
    code = (
        "import resource, sys; from anyvit.containers import open_checkpoint, save\n"
        "found = open_checkpoint(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for suffix in ('safetensors', 'npz', 'pth'):\n"
        "    save(found.tensors, sys.argv[2] + suffix)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 25_000, f'{grown} kB more'\n"
        "assert 'numpy' not in sys.modules, 'numpy was imported on a path of plain bytes'"
    )
    big = np.zeros((16, 1 << 20), "float32")
    save({"a": from_array(big, "a"), "b": from_array(big[:3], "b")}, tmp_path / "in.safetensors")
    command = [sys.executable, "-c", code, str(tmp_path / "in.safetensors"), str(tmp_path / "out.")]
    subprocess.run(command, check=True)


def test_errors_are_of_one_family(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    heads = (b"", b"PK\3\4", b"\x80\2", b"\x81\xa1a", b"\x08\x07\x12", b"{", b"\x10" + bytes(7) + b"{", b"\x93NUMPY")
    for i in range(200):
        path.write_bytes(heads[i % len(heads)] + rng.bytes(int(rng.integers(0, 200))))
        try:
            for lazy in open_checkpoint(path).tensors.values():
                lazy.read()
        except AnyvitError as error:
            assert len(str(error)) < 2_000
