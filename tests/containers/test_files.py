"""Room on the disk is reserved without changing the file, and never more than there is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from anyvit import containers
from anyvit.containers import files
from anyvit.lazy import from_array

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reserves room")
SIZE = 8 << 20


def reserves(folder: Path) -> bool:
    """Whether the file system of a folder can reserve room."""
    with (folder / "probe").open("wb", buffering=0) as file:
        files.reserve(file, SIZE)
        return os.fstat(file.fileno()).st_blocks * 512 >= SIZE


@linux
def test_room_is_reserved_and_the_length_stays(tmp_path: Path) -> None:
    if not reserves(tmp_path):
        pytest.skip("this file system reserves no room")
    with (tmp_path / "a").open("wb", buffering=0) as file:
        files.reserve(file, SIZE)
        assert os.fstat(file.fileno()).st_size == 0
    with (tmp_path / "b").open("wb", buffering=0) as file:
        files.reserve(file, files.RESERVED - 1)
        assert os.fstat(file.fileno()).st_blocks == 0


@linux
def test_nothing_is_reserved_of_a_disk_that_is_too_small(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb", buffering=0) as file:
        disk = os.fstatvfs(file.fileno())
        files.reserve(file, disk.f_blocks * disk.f_frsize + 1)
        assert os.fstat(file.fileno()).st_blocks == 0


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pth"])
def test_files_end_where_their_bytes_end(tmp_path: Path, suffix: str) -> None:
    values = np.arange(1 << 19, dtype="float32")
    path = tmp_path / f"x.{suffix}"
    containers.save({"a": from_array(values), "b": from_array(values[:3])}, path)
    found = path.stat()
    assert values.nbytes < found.st_size < values.nbytes + 4096
    assert found.st_blocks * 512 < found.st_size + (1 << 16)
    assert (containers.open_checkpoint(path).tensors["a"].read() == values).all()
