"""Paths that a file names lead nowhere but into its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyvit.containers.inside import inside
from anyvit.errors import UnsafeError


@pytest.mark.parametrize("name", ["a.bin", "deep/a.bin", "..a", "a..b/c"])
def test_names_inside(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name, "m") == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", "..", "../a", "a/../../b", "/etc/passwd", "C:\\a", "\\\\host\\a", "..\\a", "a\0b", 3, None]
)
def test_names_that_lead_out(tmp_path: Path, name: object) -> None:
    with pytest.raises(UnsafeError, match="the list names a file that does not lie beside it"):
        inside(tmp_path, name, "the list")


def test_links(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "real").write_bytes(b"")
    (tmp_path / "outside").write_bytes(b"")
    (tmp_path / "home" / "in").symlink_to("real")
    (tmp_path / "home" / "out").symlink_to("../outside")
    assert inside(tmp_path / "home", "in", "m").exists()
    with pytest.raises(UnsafeError, match="a link that leads out"):
        inside(tmp_path / "home", "out", "m")


def test_the_hub_keeps_its_files_apart(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    (snapshot / "onnx").mkdir(parents=True)
    blob = tmp_path / "models--a--b" / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_bytes(b"")
    (snapshot / "onnx" / "m.data").symlink_to("../../../blobs/abc")
    assert inside(snapshot / "onnx", "m.data", "m.onnx").resolve() == blob
    (tmp_path / "secret").write_bytes(b"")
    (snapshot / "onnx" / "bad").symlink_to("../../../../secret")
    with pytest.raises(UnsafeError):
        inside(snapshot / "onnx", "bad", "m.onnx")
