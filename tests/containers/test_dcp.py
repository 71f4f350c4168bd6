"""Folders of torch.distributed.checkpoint, written by torch itself: by one process, by two, and by hand."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as torch_dcp
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint import metadata as said
from torch.distributed.checkpoint.filesystem import _StorageInfo

from anyvit.containers import dcp, open_checkpoint
from anyvit.containers.inert import Inert
from anyvit.errors import Ambiguous, AnyvitError, FileError, UnsafeError
from anyvit.lazy import Lazy

Chunk = tuple[tuple[int, ...], torch.Tensor]


def tree() -> dict[str, Any]:
    torch.manual_seed(0)
    weight = torch.randn(6, 4)
    return {
        "model": {
            "w": weight,
            "half": torch.randn(3, 5).bfloat16(),
            "scalar": torch.tensor(7),
            "none": torch.zeros(0, 3),
        },
        "turned": torch.randn(4, 7).t(),
        "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "view": torch.randn(9, 4)[2:5],
        "optimizer": {"state": {"w": {"exp_avg": torch.randn(6, 4), "step": 3}}, "param_groups": [{"lr": 0.1}]},
        "iteration": 199,
        "args": Namespace(arch="vit_small", patch_size=14),
        "train": {"epoch": 4, "loss": [1.5]},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dcp") / "199"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is one process
        torch_dcp.save(tree(), checkpoint_id=folder, no_dist=True)
    return folder


def pieced(lazy: Lazy) -> bytes:
    assert lazy.pieces is not None
    return b"".join(piece.source.read(piece.offset, piece.size) for piece in lazy.pieces)


def same(lazy: Lazy, tensor: torch.Tensor) -> None:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert (lazy.shape, lazy.dtype) == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    assert np.ascontiguousarray(lazy.read()).tobytes() == raw
    if lazy.pieces is not None:
        assert pieced(lazy) == raw


def test_what_one_process_saved(saved: Path) -> None:
    found = dcp.read(saved)
    made = tree()
    assert found.container == "dcp" and found.path == str(saved)
    expected = {f"model.{name}": value for name, value in made["model"].items()}
    expected |= {name: made[name] for name in ("turned", "last", "view")}
    expected["optimizer.state.w.exp_avg"] = made["optimizer"]["state"]["w"]["exp_avg"]
    assert set(found.tensors) == set(expected)
    for name, tensor in expected.items():
        same(found.tensors[name], tensor)
        assert found.tensors[name].origin == (name,)
    assert found.verify is not None and list(found.verify()) == []


def test_leaves_are_read_when_looked_up(saved: Path) -> None:
    extras = dcp.read(saved).extras
    assert set(extras) == {"optimizer", "iteration", "args", "train"}
    assert extras["iteration"] == 199 and extras["train"] == {"epoch": 4, "loss": [1.5]}
    assert isinstance(extras["args"], Inert) and extras["args"].state["patch_size"] == 14
    assert isinstance(extras["optimizer"], Inert) and extras.get("absent") is None


def test_a_step_inside_a_folder(saved: Path, tmp_path: Path) -> None:
    assert set(dcp.read(saved.parent).tensors) == set(open_checkpoint(saved).tensors)
    for step in ("99", "199"):
        write(tmp_path / step, {"a": [((0,), torch.ones(2))]})
    with pytest.raises(Ambiguous, match=r"99, 199\s+try: .*/199$"):
        dcp.read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"copy \.metadata too"):
        dcp.read(tmp_path / "empty")
    with pytest.raises(FileError, match="does not exist"):
        dcp.read(tmp_path / "nowhere")


TWO = """
import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
torch.manual_seed(0)
even, odd, lone, wide = torch.randn(4, 3), torch.randn(5, 3), torch.randn(1, 6), torch.randn(3, 5)
if rank == 0:
    torch.save({"even": even, "odd": odd, "lone": lone, "wide": wide, "all": even}, f"{folder}/truth.pth")
where = {"even": (even, Shard(0)), "odd": (odd, Shard(0)), "lone": (lone, Shard(0)), "wide": (wide, Shard(1)),
         "all": (even, Replicate())}
dcp.save({k: distribute_tensor(t, mesh, [p]) for k, (t, p) in where.items()}, checkpoint_id=f"{folder}/ckpt")
dist.barrier()
os._exit(0)  # gloo's threads may still wait for each other, which says nothing of what was saved
"""


def test_what_two_processes_saved(tmp_path: Path) -> None:
    ranks = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", TWO, str(r), str(tmp_path)]) for r in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    found = dcp.read(tmp_path / "ckpt")
    assert len(list((tmp_path / "ckpt").glob("*.distcp"))) == 2
    truth = torch.load(tmp_path / "truth.pth")
    assert set(found.tensors) == set(truth)
    for name, tensor in truth.items():
        same(found.tensors[name], tensor)
    ranges = {name: len(lazy.pieces) if lazy.pieces else None for name, lazy in found.tensors.items()}
    assert ranges == {"even": 2, "odd": 2, "lone": 1, "wide": None, "all": 1}


def write(
    folder: Path, tensors: Mapping[str, list[Chunk]], shape: Mapping[str, tuple[int, ...]] = {}, **changes: Any
) -> Path:
    """A folder of one file a tensor, by torch's own classes; `changes` replaces fields of every place."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, places = {}, {}
    for number, (name, chunks) in enumerate(tensors.items()):
        whole = shape.get(name) or tuple(
            max(begin[axis] + part.shape[axis] for begin, part in chunks) for axis in range(chunks[0][1].ndim)
        )
        listed = [said.ChunkStorageMetadata(torch.Size(begin), part.shape) for begin, part in chunks]
        properties = said.TensorProperties(chunks[0][1].dtype)
        entries[name] = said.TensorStorageMetadata(properties, torch.Size(whole), listed)
        file = f"__{number}_0.distcp"
        with (folder / file).open("wb") as stream:
            for begin, part in chunks:
                start = stream.tell()
                buffer = io.BytesIO()
                torch.save(part.clone(), buffer)
                stream.write(buffer.getvalue())
                fields = {"relative_path": file, "offset": start, "length": stream.tell() - start, **changes}
                places[said.MetadataIndex(name, torch.Size(begin))] = _StorageInfo(**fields)
    with (folder / ".metadata").open("wb") as stream:
        pickle.dump(said.Metadata(entries, None, places), stream)
    return folder


def test_parts_in_any_arrangement(tmp_path: Path) -> None:
    whole = torch.arange(7 * 6, dtype=torch.float32).reshape(7, 6)
    rows = [((0, 0), whole[:3]), ((3, 0), whole[3:3]), ((3, 0), whole[3:7]), ((7, 0), whole[7:])]
    grid = [((r, c), whole[r : r + h, c : c + w]) for r, h in ((0, 3), (3, 4)) for c, w in ((0, 1), (1, 5))]
    wheel = [((0, 0), whole[:2, :4]), ((0, 4), whole[:5, 4:]), ((5, 2), whole[5:, 2:]), ((2, 0), whole[2:, :2]),
             ((2, 2), whole[2:5, 2:4])]  # fmt: skip
    batch = [((0, 4, 0), whole[None, 4:]), ((0, 0, 0), whole[None, :4])]
    rows = [rows[0], rows[2], rows[3]]
    found = dcp.read(write(tmp_path, {"rows": rows, "grid": grid, "wheel": wheel, "batch": batch})).tensors
    for name in ("rows", "grid", "wheel"):
        same(found[name], whole)
    same(found["batch"], whole[None])
    assert [name for name in found if found[name].pieces] == ["rows", "batch"]


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    ones = torch.ones
    cases: dict[str, tuple[list[Chunk], str]] = {
        "gap": ([((0, 0), ones(2, 3))], "leave a gap"),
        "overlap": ([((0, 0), ones(3, 3)), ((2, 0), ones(2, 3))], "overlap"),
        "beyond": ([((0, 0), ones(4, 4))], "reach beyond"),
        "both": ([((0, 0), ones(2, 3)), ((1, 0), ones(2, 3))], "overlap"),
    }
    for name, (chunks, message) in cases.items():
        with pytest.raises(FileError, match=f"{message}.*: {name}"):
            dcp.read(write(tmp_path / name, {name: chunks}, {name: (4, 3)}))


def test_ten_thousand_parts_are_listed_from_the_list_alone(tmp_path: Path) -> None:
    write(tmp_path, {"a": [((0,), torch.ones(1))]})
    one = torch.Size([1])
    chunks = [said.ChunkStorageMetadata(torch.Size([i]), one) for i in range(10_000)]
    entry = said.TensorStorageMetadata(said.TensorProperties(torch.float32), torch.Size([10_000]), chunks)
    places = {said.MetadataIndex("a", torch.Size([i])): _StorageInfo("__0_0.distcp", 0, 1000) for i in range(10_000)}
    (tmp_path / ".metadata").write_bytes(pickle.dumps(said.Metadata({"a": entry}, None, places)))
    start = time.process_time()
    found = dcp.read(tmp_path)
    assert time.process_time() - start < 5
    assert found.tensors["a"].shape == (10_000,) and len(found.tensors["a"].pieces or ()) == 10_000
    (tmp_path / "__0_0.distcp").write_bytes(bytes(1000))
    assert dcp.read(tmp_path).tensors["a"].shape == (10_000,)


def test_many_files_are_not_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyvit.containers import dcp_parts

    monkeypatch.setattr(dcp_parts, "OPEN_LIMIT", 2)
    found = dcp.read(write(tmp_path, {f"t{i}": [((0,), torch.full((2,), float(i)))] for i in range(5)}))
    assert [lazy.read()[0] for lazy in found.tensors.values()] == [0, 1, 2, 3, 4]
    source = found.tensors["t0"].pieces[0].source  # type: ignore[index]
    assert isinstance(source, dcp_parts.Part) and len(source.home._files) == 2
    assert found.tensors["t0"].read()[0] == 0


def test_missing_and_cut_files(tmp_path: Path) -> None:
    write(tmp_path, {"a": [((0,), torch.ones(2))], "b": [((0,), torch.ones(2))]})
    metadata = (tmp_path / ".metadata").read_bytes()
    (tmp_path / "__1_0.distcp").rename(tmp_path / "kept")
    with pytest.raises(FileError, match=r"1 of 2 files .* missing: __1_0\.distcp"):
        dcp.read(tmp_path)
    (tmp_path / "__1_0.distcp").write_bytes((tmp_path / "kept").read_bytes()[:-1])
    with pytest.raises(FileError, match=r"is cut: .*__1_0"):
        dcp.read(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "__1_0.distcp")
    for size in (0, 1, len(metadata) // 2, len(metadata) - 1):
        (tmp_path / ".metadata").write_bytes(metadata[:size])
        with pytest.raises(FileError, match=r"\.metadata"):
            dcp.read(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(FileError, match="is no list"):
        dcp.read(tmp_path)


def test_files_elsewhere_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.distcp"
    secret.write_bytes(bytes(2000))
    for name in ("../secret.distcp", str(secret), "..\\secret.distcp", "", "a\0b"):
        with pytest.raises(UnsafeError, match="beside it"):
            dcp.read(write(tmp_path / "ckpt", {"a": [((0,), torch.ones(2))]}, relative_path=name))
    (tmp_path / "ckpt" / "link.distcp").symlink_to(secret)
    with pytest.raises(UnsafeError, match="leads out"):
        dcp.read(write(tmp_path / "ckpt", {"a": [((0,), torch.ones(2))]}, relative_path="link.distcp"))


def test_compressed_parts_are_refused_when_read(tmp_path: Path) -> None:
    found = dcp.read(write(tmp_path, {"a": [((0,), torch.ones(2))]}, transform_descriptors=["stream.zstd/1"]))
    assert found.tensors["a"].shape == (2,)
    with pytest.raises(FileError, match=r"transformed as it was written: a\n.*stream\.zstd/1"):
        found.tensors["a"].read()


def test_parts_of_another_save_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "one", {"a": [((0,), torch.ones(4))]})
    write(tmp_path / "two", {"a": [((0,), torch.ones(3))]})
    (tmp_path / "one" / "__0_0.distcp").write_bytes((tmp_path / "two" / "__0_0.distcp").read_bytes())
    with pytest.raises(FileError, match="another than the list"):
        dcp.read(tmp_path / "one").tensors["a"].read()
    (tmp_path / "one" / "__0_0.distcp").write_bytes(bytes(3000))
    with pytest.raises(FileError, match="no torch file"):
        dcp.read(tmp_path / "one").tensors["a"].read()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    write(tmp_path, {"a": [((0,), torch.ones(64))], "b": [((0,), torch.ones(64))]})
    file = tmp_path / "__1_0.distcp"
    data = bytearray(file.read_bytes())
    data[bytes(data).index(np.ones(8, "float32").tobytes()) + 2] ^= 1
    file.write_bytes(data)
    found = dcp.read(tmp_path)
    assert found.verify is not None
    assert [(note.kind, note.names) for note in found.verify()] == [("damaged", ("b",))]


def test_no_code_of_the_list_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    entries = {"a": said.BytesStorageMetadata()}
    (tmp_path / ".metadata").write_bytes(pickle.dumps(said.Metadata(entries, Evil(), {})))
    assert dcp.read(tmp_path).tensors == {}
    assert not (tmp_path / "ran").exists()


@needs_shared
def test_the_truth_case() -> None:
    folder = SHARED / "cases" / "dcp-p"
    found = dcp.read(folder)
    stored = torch_dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, said.TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_dcp.load(state, checkpoint_id=folder, no_dist=True)
    assert set(found.tensors) == set(state) and json.loads((folder / "case.json").read_text())["family"] == "dcp"
    for name, tensor in state.items():
        same(found.tensors[name], tensor)
        assert found.tensors[name].pieces


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10**6), st.binary(max_size=6))
def test_a_damaged_list_gives_a_checkpoint_or_our_error(saved: Path, at: int, raw: bytes) -> None:
    folder = saved.parent.parent / "damaged"
    if not folder.is_dir():
        folder.mkdir()
        (folder / "__0_0.distcp").write_bytes((saved / "__0_0.distcp").read_bytes())
    data = (saved / ".metadata").read_bytes()
    at %= len(data)
    (folder / ".metadata").write_bytes(data[:at] + raw + data[at + len(raw) :])
    try:
        found = dcp.read(folder)
        for lazy in found.tensors.values():
            lazy.read()
        assert len(dict(found.extras)) == len(found.extras)
    except AnyvitError:
        pass
