"""Folders: which file is the checkpoint, what to say of the others, and clear refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared

from anyvit.containers import folder, safetensors
from anyvit.errors import Ambiguous, FileError
from anyvit.lazy import from_array


def weights(path: Path, value: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.write({"a": from_array(np.full(2, value, "float32"), "a")}, path)
    else:
        torch.save({"a": torch.full((2,), float(value))}, path)
    return path


def value(path: Path) -> float:
    return float(folder.read(path).tensors["a"].read()[0])


def kinds(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(note.kind, note.names) for note in folder.read(path).notes]


@needs_shared
def test_folders_of_the_wild() -> None:
    found = folder.read(SHARED / "cases/hf-vit-p")
    index = json.loads((SHARED / "cases/hf-vit-p/model.safetensors.index.json").read_text())
    assert set(found.tensors) == set(index["weight_map"])
    assert sum(lazy.nbytes for lazy in found.tensors.values()) == index["metadata"]["total_size"]
    assert found.siblings["config.json"]["model_type"] == "vit"
    assert found.path == str(SHARED / "cases/hf-vit-p") and found.notes == ()
    assert folder.read(SHARED / "cases/dcp-p").container == "dcp"


def test_standard_names_win_in_order(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights(tmp_path / "epoch_9.pth", 5)
    for i, name in reversed([*enumerate(n for n in folder.STANDARD if n.endswith((".safetensors", ".bin")))]):
        weights(tmp_path / name, i)
        assert value(tmp_path) == i
    found = folder.read(tmp_path)
    assert found.siblings == {"config.json": {}}
    [note] = found.notes
    assert note.kind == "preferred" and "model.safetensors was opened" in note.cause
    assert note.names == ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "pytorch_model.bin",
                          "open_clip_pytorch_model.bin")  # fmt: skip


def test_shards_left_beside_a_whole_file_are_noted(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors")
    weights(tmp_path / "model-00001-of-00002.safetensors")
    assert kinds(tmp_path) == [("stray", ("model-00001-of-00002.safetensors",))]


def test_one_file_of_any_name(tmp_path: Path) -> None:
    weights(tmp_path / "vit_base.pth", 3)
    for name in ("optimizer.pt", "scheduler.bin", "training_args.bin", "rng_state_0.pth", "random_states_0.pkl"):
        weights(tmp_path / name, 9)
    (tmp_path / ".hidden.pth").write_bytes(b"")
    assert value(tmp_path) == 3
    weights(tmp_path / "optimal_vit.pth", 4)
    with pytest.raises(Ambiguous, match=r"optimal_vit\.pth, vit_base\.pth"):
        folder.read(tmp_path)


def test_inner_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": "outer"}')
    (tmp_path / "args.yaml").write_text("outer")
    weights(tmp_path / "step/model.safetensors", 1)
    (tmp_path / "step/config.json").write_text('{"a": "inner"}')
    (tmp_path / "logs").mkdir()
    found = folder.read(tmp_path)
    assert found.siblings == {"config.json": {"a": "inner"}, "args.yaml": "outer"}
    assert [(note.kind, note.names) for note in found.notes] == [("nested", ("step",))]
    weights(tmp_path / "step2/model.safetensors", 2)
    with pytest.raises(Ambiguous, match="several checkpoints: step, step2"):
        folder.read(tmp_path)
    weights(tmp_path / "model.safetensors", 3)
    assert value(tmp_path) == 3


def test_the_hubs_cache(tmp_path: Path) -> None:
    weights(tmp_path / "blobs/0123.safetensors", 7).rename(tmp_path / "blobs/0123")
    (tmp_path / "snapshots/rev").mkdir(parents=True)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs/main").write_text("rev")
    (tmp_path / "snapshots/rev/model.safetensors").symlink_to("../../blobs/0123")
    assert value(tmp_path) == 7


def test_distributed_checkpoints_without_their_list(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(FileError, match=r"\.metadata"):
        folder.read(tmp_path)


@needs_shared
def test_a_step_folder_of_dcp(tmp_path: Path) -> None:
    (tmp_path / "199").symlink_to(SHARED / "cases/dcp-p")
    found = folder.read(tmp_path)
    assert found.container == "dcp"
    assert ("nested", ("199",)) in [(note.kind, note.names) for note in found.notes]


def test_orbax_folders_go_to_their_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyvit.containers import orbax

    seen: list[Path] = []

    def read(path: Path) -> None:
        seen.append(path)
        raise FileError("seen")

    monkeypatch.setattr(orbax, "read", read)
    (tmp_path / "100/default").mkdir(parents=True)
    (tmp_path / "100/_CHECKPOINT_METADATA").write_text("{}")
    (tmp_path / "100/default/_METADATA").write_text("{}")
    with pytest.raises(FileError, match="seen"):
        folder.read(tmp_path)
    assert seen == [tmp_path / "100/default"]


def test_deepspeed(tmp_path: Path) -> None:
    weights(tmp_path / "global_step20/mp_rank_00_model_states.pt", 20)
    weights(tmp_path / "global_step20/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", 1)
    assert value(tmp_path) == 20
    assert [kind for kind, _ in kinds(tmp_path)] == ["preferred", "nested"]
    weights(tmp_path / "global_step10/mp_rank_00_model_states.pt", 10)
    with pytest.raises(Ambiguous, match="global_step10, global_step20"):
        folder.read(tmp_path)
    (tmp_path / "latest").write_text("global_step10\n")
    assert value(tmp_path) == 10
    weights(tmp_path / "global_step10/mp_rank_01_model_states.pt")
    with pytest.raises(FileError, match="split over several devices"):
        folder.read(tmp_path)
    weights(tmp_path / "global_step10/zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(FileError, match=r"zero_to_fp32\.py"):
        folder.read(tmp_path)


def test_one_file_a_process(tmp_path: Path) -> None:
    weights(tmp_path / "model_0000999.rank_0.pth", 1)
    assert value(tmp_path) == 1
    weights(tmp_path / "model_0000999.rank_1.pth", 2)
    with pytest.raises(FileError, match=r"FSDP.*\n|one file a process"):
        folder.read(tmp_path)


def test_numbered_shards_without_index(tmp_path: Path) -> None:
    safetensors.write_sharded(
        {name: from_array(np.zeros(2), name) for name in "abc"}, tmp_path, shard_size=16, metadata=None
    )
    (tmp_path / "model.safetensors.index.json").unlink()
    assert set(folder.read(tmp_path).tensors) == set("abc")
    weights(tmp_path / "ema-00001-of-00001.safetensors")
    with pytest.raises(Ambiguous):
        folder.read(tmp_path)


def test_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="empty folder"):
        folder.read(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "logs").mkdir()
    with pytest.raises(FileError, match=r"no checkpoint that is known\n  found: README.md, logs/"):
        folder.read(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(FileError, match="SavedModel"):
        folder.read(tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(FileError, match="damaged HDF5 file"):
        folder.read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir(mode=0)
    with pytest.raises(FileError, match="may not be read"):
        folder.read(tmp_path / "inner")


def test_siblings_of_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}')
    for name, expected in (
        ("model.safetensors", 1), ("model-00001-of-00002.safetensors", 1), ("pytorch_model.bin", 1), ("vit.pth", None)
    ):  # fmt: skip
        path = weights(tmp_path / name)
        opened = folder.beside(path, folder.single.read(path))
        assert opened.siblings.get("config.json", {}).get("a") == expected


def test_a_second_model_beside_the_first_is_said(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors")
    weights(tmp_path / "model_1.safetensors")
    np.savez(tmp_path / "io.npz", x=np.ones(2))
    notes = folder.read(tmp_path).notes
    assert [(note.kind, note.names) for note in notes] == [("stray", ("model_1.safetensors",))]


def test_an_optimizers_folder_is_no_rival(tmp_path: Path) -> None:
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        (tmp_path / name).mkdir()
        weights(tmp_path / name / "model.safetensors")
    assert [note.names for note in folder.read(tmp_path).notes if note.kind == "nested"] == [("pytorch_model_fsdp_0",)]


def test_the_last_step_is_proposed(tmp_path: Path) -> None:
    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        weights(tmp_path / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(Ambiguous, match=r"checkpoint-500, checkpoint-1000\n.*/checkpoint-1000$"):
        folder.read(tmp_path)
