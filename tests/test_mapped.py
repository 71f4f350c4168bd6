"""Files that change under a model: replaced, cut or written into while its weights are mapped from them."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import timm_state, write

import anyvit
from anyvit.containers import open_checkpoint
from anyvit.errors import FileError

PIXELS = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype("float32"))


def load(path: Path, **options: Any) -> anyvit.ViT:
    return anyvit.load(path, heads=4, **options)


def changed(path: Path, keep: int) -> None:
    """Writes into a file as cp does: its number stays, its bytes are others from `keep` on."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(keep)
        file.write(bytes(size - keep))
    stamp = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(stamp, stamp))  # however coarse the clock is


@pytest.fixture(params=["safetensors", "pth", "npz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(timm_state(), tmp_path / f"a.{request.param}")


def test_a_file_that_is_replaced_changes_nothing(path: Path) -> None:
    vit = load(path, check="now")
    before = vit(PIXELS).tokens
    write(timm_state(1), path)
    assert torch.equal(vit(PIXELS).tokens, before)
    path.unlink()
    assert torch.equal(vit(PIXELS).tokens, before)


@pytest.mark.parametrize("check", ["now", "beside"])
def test_a_file_that_is_written_into_is_named(path: Path, check: str) -> None:
    vit = load(path, check=check)
    vit(PIXELS)
    changed(path, path.stat().st_size - 40_000)
    for use in (lambda: vit(PIXELS), vit.state_dict, lambda: vit.layers(PIXELS, [1])):
        with pytest.raises(FileError, match="written into while weights were mapped"):
            use()


def test_another_time_alone_is_no_other_file(path: Path) -> None:
    vit = load(path, check="now")
    before = vit(PIXELS).tokens
    os.utime(path, ns=(1, 1))
    assert torch.equal(vit(PIXELS).tokens, before)
    assert all(file.now() == stamp for file, stamp in vit._mapped.files.items())  # type: ignore[union-attr]


CUT = """
import sys, torch, anyvit
from anyvit.errors import FileError
path = sys.argv[1]
vits = [anyvit.load(path, heads=4, check=check) for check in ("now", "off")]
x = torch.zeros(1, 3, 16, 16)
with open(path, "r+b") as file:
    file.truncate(5000)
for use in (use for vit in vits for use in (lambda: vit(x), vit.state_dict)):
    try:
        use()
    except FileError as error:
        assert "was cut while weights were mapped" in str(error), error
    else:
        raise SystemExit("nothing was said")
print("named")
"""


def test_a_file_that_is_cut_is_named_and_the_process_lives(tmp_path: Path) -> None:
    path = write(timm_state(depth=6), tmp_path / "a.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(Path(anyvit.__file__).parents[1])}
    command = [sys.executable, "-c", CUT, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "named\n"), done.stderr


def test_models_with_memory_of_their_own_do_not_mind(path: Path) -> None:
    vit = load(path, check="now")
    twins = (copy.deepcopy(vit), pickle.loads(pickle.dumps(vit)), load(path, dtype=torch.float64, check="now"))
    vit.state_dict()
    changed(path, path.stat().st_size - 40_000)
    for model in (vit, *twins):
        assert model(PIXELS.to(model.norm.bias.dtype)).tokens.isfinite().all()


def test_weights_that_were_read_and_not_mapped_do_not_mind(tmp_path: Path) -> None:
    """torch's older layout puts tensors at odd places; half precision is widened; packed members are unpacked."""
    state = {n: torch.from_numpy(v) for n, v in timm_state().items()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    write({n: v.astype("float16") for n, v in timm_state().items()}, tmp_path / "half.safetensors")
    np.savez_compressed(tmp_path / "packed.npz", **timm_state())
    for path in (tmp_path / "old.pth", tmp_path / "half.safetensors", tmp_path / "packed.npz"):
        vit = load(path, check="now")
        before = vit(PIXELS).tokens
        changed(path, path.stat().st_size // 2)
        assert vit._mapped is None and torch.equal(vit(PIXELS).tokens, before)


def test_reading_on_from_a_file_that_is_cut_raises(path: Path) -> None:
    opened = open_checkpoint(path).tensors
    with path.open("r+b") as file:
        file.truncate(2_000)
    with pytest.raises(FileError, match="ends too early"):
        for tensor in opened.values():
            tensor.read()


def test_parts_of_a_distributed_checkpoint_are_watched_too(tmp_path: Path) -> None:
    import warnings

    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({n: torch.from_numpy(v) for n, v in timm_state().items()}, checkpoint_id=tmp_path / "a", no_dist=True)
    vit = load(tmp_path / "a", check="now")
    (part,) = (tmp_path / "a").glob("*.distcp")
    assert [Path(file.name).name for file in vit._mapped.files] == [part.name]  # type: ignore[union-attr]
    changed(part, part.stat().st_size // 2)
    with pytest.raises(FileError, match="written into"):
        vit(PIXELS)
