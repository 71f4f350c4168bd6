"""Every writer at every one of its steps: what was there stays whole, or what is new is; nothing else is left."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.faults import ERRORS, Trap
from support.tiny import timm_state

import anyvit
from anyvit.containers import safetensors, save, swap
from anyvit.errors import FileError
from anyvit.lazy import Lazy, from_array

NAMES = ("blocks.0.norm1.weight", "blocks.0.norm1.bias", "norm.weight")


def tensors(seed: int) -> dict[str, Lazy]:
    draw = np.random.default_rng(seed)
    return {name: from_array(draw.standard_normal(40).astype("float32"), name) for name in NAMES}


def state(seed: int) -> dict[str, np.ndarray]:
    return timm_state(seed, dim=16, depth=1, classes=0)


def one_file(name: str) -> Callable[[Path, int], None]:
    def writer(folder: Path, seed: int) -> None:
        said = None if name.endswith("npz") else {"seed": str(seed), "sum": "0"}
        save(tensors(seed), folder / name, metadata=said, durable=True, recorded=name.endswith("safetensors"),
             seal=lambda: {} if said is None else {"sum": "1"})  # fmt: skip

    return writer


def converted(to: str, target: str, **options: Any) -> Callable[[Path, int], None]:
    def writer(folder: Path, seed: int) -> None:
        anyvit.convert(state(seed), folder / target, to, heads=2, durable=True, **options)

    return writer


def run_state(folder: Path, seed: int) -> None:
    """What fine-tuning leaves."""
    torch = pytest.importorskip("torch")
    from anyvit.training.state import save

    save(folder / "training_state.pt", {"step": seed, "model": {"a": torch.full((40,), float(seed))}})


def shards(folder: Path, seed: int) -> None:
    """Two shards, their index and a configuration, as a conversion into a folder writes them."""
    with swap.atomic_folder(folder / "hub", (*safetensors.WEIGHTS, "config.json"), durable=True) as hub:
        safetensors.write_sharded(tensors(seed), hub, shard_size=400, metadata={"seed": str(seed)}, durable=True,
                                  recorded=True, beside={"config.json": str(seed).encode()})  # fmt: skip


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "safetensors": one_file("x.safetensors"),
    "npz": one_file("x.npz"),
    "pth": one_file("x.pth"),
    "training state": run_state,
    "Hugging Face folder": converted("hf-vit", "hub"),
    "shards": shards,
    "timm folder": converted("timm", "hub"),
}
"""Each way of writing, into a folder, of contents that a seed decides."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_step_may_fail(tmp_path: Path, writer: str) -> None:
    make, room = WRITERS[writer], tmp_path / "room"
    room.mkdir()
    make(room, 1)
    if (room / "hub").exists():
        (room / "hub" / "README.md").write_text("mine")
        (room / "hub" / "link").symlink_to("README.md")
    shutil.copytree(room, tmp_path / "old", symlinks=True)
    old = contents(room)
    count = Trap(0, KeyboardInterrupt)
    with pytest.MonkeyPatch.context() as patch:
        count.install(patch)
        make(room, 2)
    new = contents(room)
    assert new.keys() == old.keys() and new != old and count.steps >= 8
    kinds = itertools.cycle(ERRORS)
    for step in range(1, count.steps + 1):
        what = next(kinds)
        shutil.rmtree(room)
        shutil.copytree(tmp_path / "old", room, symlinks=True)
        failed = False
        with pytest.MonkeyPatch.context() as patch:
            Trap(step, ERRORS[what]).install(patch)
            try:
                make(room, 2)
            except (FileError, KeyboardInterrupt) as error:
                failed = True
                assert isinstance(error, KeyboardInterrupt) == (what == "Ctrl-C")
                assert what == "Ctrl-C" or isinstance(error.__cause__, OSError)
        assert contents(room) in ((old, new) if failed else (new,)), (step, what)
        assert not [path for path in room.rglob("*") if path.name.endswith(".tmp")], (step, what)


@pytest.mark.parametrize("writer", WRITERS)
def test_files_that_take_a_part_at_a_time(tmp_path: Path, writer: str) -> None:
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            if folder == "parts":
                Trap(0, KeyboardInterrupt, 0.3).install(patch)
            WRITERS[writer](tmp_path / folder, 1)
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")
