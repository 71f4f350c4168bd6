"""The process of the HDF5 library: whatever becomes of it, this one goes on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="HDF5 files are made with h5py")

from anyvit.containers import hdf5, hdf5_apart, open_checkpoint  # noqa: E402
from anyvit.containers.files import LocalFile  # noqa: E402
from anyvit.containers.hdf5_apart import Walker  # noqa: E402
from anyvit.containers.hdf5_data import Window  # noqa: E402
from anyvit.errors import FileError, UnsafeError  # noqa: E402

START = "import sys; from anyvit.containers.hdf5_apart import *; out = sys.stdout.buffer; "
"""What the other process begins with in these tests, instead of its own code."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with an attribute of variable length, whose text lies in a heap."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.ones(3, "float32")
        file.attrs["model_config"] = '{"class_name": "ViT"}'
    return tmp_path / "a.h5"


def becoming(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(hdf5_apart, "CODE", "import sys; sys.path[:] = {path!r}; " + START + code)


def test_a_heap_in_a_circle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of -16 bytes: the HDF5 library goes round it for ever."""
    monkeypatch.setattr(hdf5_apart, "SILENCE", 2.0)
    assert open_checkpoint(path).extras == {"model_config": {"class_name": "ViT"}}
    data = bytearray(path.read_bytes())
    size = data.index(b"GCOL") + 24  # 16 bytes of the collection, 8 of the first object
    assert data[size : size + 8] == (21).to_bytes(8, "little")
    data[size : size + 8] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(FileError, match="library was lost in it") as caught:
        open_checkpoint(path)
    assert "2 seconds" in str(caught.value)
    assert not any(thread.name == "anyvit-hdf5" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "library was lost in it"),
        ("raise SystemExit(3)", "ended with 3"),
        ("out.write(b'nonsense' * 99)", "library was lost in it"),
        ("out.write(HEAD.pack(TOLD, 0, 9) + b'[1, 2, 3 '); out.flush()", "library was lost in it"),
        ("out.write(HEAD.pack(ASKED, 1 << 40, 9)); out.flush(); sys.stdin.read()", "read over and over"),
        ("out.write(HEAD.pack(TOLD, 0, 1 << 50)); out.flush(); sys.stdin.read()", "implausibly many"),
    ],
)
def test_whatever_comes_of_it(path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    becoming(monkeypatch, code)
    with pytest.raises(FileError, match=said):
        hdf5.read(path)


def test_who_asks_for_ever_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_apart, "READ", 1 << 20)
    becoming(
        monkeypatch, "\nwhile True:\n out.write(HEAD.pack(ASKED, 0, 512)); out.flush(); sys.stdin.buffer.read(512)"
    )
    with pytest.raises(UnsafeError, match="read over and over"):
        hdf5.read(path)


def test_who_never_begins_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_apart, "START", 0.3)
    becoming(monkeypatch, "import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(FileError, match="library was lost in it"):
        hdf5.read(path)
    assert time.monotonic() - began < 30


def test_no_process_can_be_had(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_apart.sys, "executable", "")
    with pytest.raises(FileError, match="could not be started"):
        hdf5.read(path)


def test_its_memory_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource", reason="the system has no limit for memory")
    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not say how large a process is")
    code = "from anyvit.containers import hdf5_tree; hdf5_tree._bounded()\ntry: bytearray(2 << 30)\nexcept MemoryError: sys.exit(7)"
    becoming(monkeypatch, code)
    with pytest.raises(FileError, match="ended with 7"):
        hdf5.read(path)


def test_one_process_walks_many_files_and_comes_back_after_a_lost_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LocalFile(path)
    with Walker() as walker:
        first = walker.walk(Window(file, 0, file.size), "a")
        child = walker._child
        assert child is not None and walker.walk(Window(file, 0, file.size), "a") == first and walker._child is child
        child.kill()
        child.wait()
        assert walker.walk(Window(file, 0, file.size), "a") == first and walker._child is not child
        last = walker._child
    assert last is not None and last.poll() is not None and first["arrays"]["a"]["shape"] == [3]


def test_a_file_that_is_cut_while_it_is_walked(path: Path) -> None:
    file = LocalFile(path)
    path.write_bytes(path.read_bytes()[:100])
    with Walker() as walker, pytest.raises(FileError, match="ends too early"):
        walker.walk(Window(file, 0, file.size), "a")


def test_a_slow_disk_is_no_silence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_apart, "SILENCE", 0.5)
    file, read = LocalFile(path), LocalFile.read
    monkeypatch.setattr(LocalFile, "read", lambda self, *where: (time.sleep(1.0), read(self, *where))[1])
    with Walker() as walker:
        assert "a" in walker.walk(Window(file, 0, file.size), "a")["arrays"]
