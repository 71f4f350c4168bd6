"""What nothing is written to is named before anything is read or written; what is odd but possible comes out right."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.tiny import timm_state, write

import anyvit
from anyvit import places
from anyvit.containers import open_checkpoint
from anyvit.errors import AnyvitError, BadArgument, FileError

STATE = timm_state(dim=32, depth=1, classes=0)


def convert(out: Any, source: Any = None, **options: Any) -> anyvit.Report:
    return anyvit.convert(STATE if source is None else source, out, "hf-vit", heads=4, **options)


@pytest.mark.parametrize(("out", "says"), [
    ("", "path of a file or a folder"),
    (None, "path of a file or a folder"),
    (b"", "path of a file or a folder"),
    ("https://host/vit.safetensors", "this machine only"),
    ("nothing/vit.safetensors", "mkdir -p"),
    ("a\0b.npz", "no path has a NUL"),
    ("a" * 300 + ".npz", "no path that can be written"),
    ("a" * 300, "no path that can be written"),
    ("vit.onnx", "names no container"),
    ("model-00001-of-00002.safetensors", "one shard of 2"),
    ("file/vit.npz", "does not exist"),
    ("file", "is a file"),
    ("pipe.npz", "no regular file"),
    ("/dev/null", "cannot be written"),
])  # fmt: skip
def test_what_nothing_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Any, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"mine")
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.npz")
    elif out == "pipe.npz":
        pytest.skip("a system without named pipes")
    with pytest.raises(AnyvitError, match=says) as caught:
        convert(out)
    assert len(str(caught.value)) < 2_000 and {p.name for p in tmp_path.iterdir()} <= {"file", "pipe.npz"}
    assert Path("file").read_bytes() == b"mine"


def test_an_empty_path_is_no_source() -> None:
    for verb in (anyvit.inspect, anyvit.load):
        with pytest.raises(BadArgument, match="empty path"):
            verb("")


def test_a_folder_whose_name_looks_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "vit.safetensors").mkdir()
    convert(tmp_path / "vit.safetensors")
    assert (tmp_path / "vit.safetensors" / "config.json").exists() and open_checkpoint(
        tmp_path / "vit.safetensors"
    ).tensors


def test_links_that_lead_round_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    convert(tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"] and open_checkpoint(tmp_path / "a").tensors


def test_a_file_that_may_not_be_written_to_is_replaced_and_stays_so(tmp_path: Path) -> None:
    """The permission of a name is that of its folder, as for mv."""
    path = tmp_path / "vit.safetensors"
    path.write_bytes(b"old")
    path.chmod(0o444)
    convert(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444 and open_checkpoint(path).tensors


def test_into_and_beside_a_folder_of_shards(tmp_path: Path) -> None:
    """The source's own folder as target, a folder and a file in it, and one of its shards."""
    shards = tmp_path / "shards"
    convert(shards, shard_size=20_000)
    first = sorted(shards.glob("*.safetensors"))[0]
    before = {p.name: p.read_bytes() for p in shards.iterdir()}
    with pytest.raises(BadArgument, match="one shard of"):
        convert(first, shards)
    with pytest.raises(AnyvitError, match="shard"):
        convert(shards, first)  # a part of the model as the source
    assert {p.name: p.read_bytes() for p in shards.iterdir()} == before
    assert convert(shards / "inner", shards).ok and convert(shards / "other.npz", shards).ok
    assert len(open_checkpoint(shards).tensors) == len(open_checkpoint(shards / "inner").tensors)
    assert {name: (shards / name).read_bytes() for name in before} == before
    assert convert(shards, shards).ok and not list(shards.glob("model-*"))


def test_a_configuration_that_stays_beside_another_model_is_said(tmp_path: Path) -> None:
    convert(tmp_path / "hub")
    report = convert(tmp_path / "hub" / "model.safetensors", tmp_path / "hub", image_size=24)
    (said,) = (f for f in report.findings if "stays as it was" in f.cause)
    assert "config.json" in said.cause and str(tmp_path / "hub") in (said.remedy or "")
    assert anyvit.inspect(tmp_path / "hub").spec.image_size == 24  # type: ignore[union-attr]
    assert places.described_otherwise(tmp_path / "hub" / "other.safetensors") == ()
    write(STATE, tmp_path / "model.safetensors")
    assert places.described_otherwise(tmp_path / "model.safetensors") == ()


def test_errors_are_of_the_right_kind(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        places.is_folder(tmp_path / ("x" * 300))
    assert isinstance(caught.value.__cause__, OSError)
