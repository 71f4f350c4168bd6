"""The ring between a file and a device, over a link that is slow and out of step with the readers."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from anyvit import staging  # noqa: E402
from anyvit.containers import open_checkpoint, save  # noqa: E402
from anyvit.errors import FileError  # noqa: E402
from anyvit.lazy import Lazy, computed, concat, from_array, split  # noqa: E402


class SlowLink:
    """A device in another thread: copies start late and in order, as on a stream."""

    def __init__(self, delay: float = 0.002) -> None:
        self.delay, self.jobs, self.made, self.taken = delay, queue.SimpleQueue(), 0, 0
        self.lock, self.joined = threading.Lock(), []
        threading.Thread(target=self._work, daemon=True).start()

    def rooms(self, count: int, size: int) -> list[torch.Tensor]:
        self.made = count
        return list(torch.full((count * size,), 171, dtype=torch.uint8).split(size))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.full(shape, 77, dtype=torch.uint8).to(dtype) if 0 in shape else torch.empty(shape, dtype=dtype)

    def copy(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> _Done:
        done = _Done()
        self.jobs.put((pairs, done))
        return done

    def join(self, mark: _Done) -> None:
        self.joined.append(mark)

    def _work(self) -> None:
        while True:
            pairs, done = self.jobs.get()
            time.sleep(self.delay)
            for there, here in pairs:
                there.copy_(here)
            done.event.set()


class _Done:
    def __init__(self) -> None:
        self.event = threading.Event()

    def synchronize(self) -> None:
        assert self.event.wait(10)


def staged(tensors: dict[str, Lazy], link: SlowLink, **options: int) -> dict[str, torch.Tensor]:
    found = dict(staging.stage(tensors, link, **options))
    for mark in link.joined:
        mark.synchronize()
    return found


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, Lazy]:
    """Of a file: whole, split, joined again, computed; and of memory, empty and without axes."""
    draw = np.random.default_rng(0)
    arrays = {f"t{i}": draw.standard_normal(n).astype("float32") for i, n in enumerate([1, 37, 1000, 3, 5000, 64])}
    save({n: from_array(a, n) for n, a in arrays.items()}, tmp_path / "a.safetensors")
    found = dict(open_checkpoint(tmp_path / "a.safetensors").tensors)
    first, second = split(found["t2"], [300, 700])
    turned = computed((5000,), "float32", lambda a: a[::-1], [found["t4"]])
    return {
        **found, "second": second, "swapped": concat([second, first]), "turned": turned,
        "here": from_array(np.arange(7, dtype="int64")), "none": from_array(np.zeros((0, 4), "float32")),
        "scalar": from_array(np.array(2.5, "float16")),
    }  # fmt: skip


@pytest.mark.parametrize(("rooms", "chunk"), [(1, 64), (2, 1000), (3, 4096), (16, 1 << 20)])
def test_every_byte_arrives(tensors: dict[str, Lazy], rooms: int, chunk: int) -> None:
    found = staged(tensors, SlowLink(0.0003), rooms=rooms, chunk=chunk, readers=3)
    assert set(found) == set(tensors)
    for name, lazy in tensors.items():
        assert tuple(found[name].shape) == lazy.shape and str(found[name].dtype) == f"torch.{lazy.dtype}"
        np.testing.assert_array_equal(found[name].numpy(), lazy.read(), err_msg=name)


def test_a_buffer_is_not_filled_again_before_it_was_taken(tensors: dict[str, Lazy]) -> None:
    """With a device that lags far behind, only waiting for its marks keeps the bytes right."""
    found = staged(tensors, SlowLink(0.01), rooms=2, chunk=4096, readers=2)
    np.testing.assert_array_equal(found["t4"].numpy(), tensors["t4"].read())


def test_no_more_buffers_than_there_are_loads(tensors: dict[str, Lazy]) -> None:
    link = SlowLink()
    staged({"t1": tensors["t1"]}, link)
    assert link.made == 1


def test_neighbours_in_the_file_are_read_in_one_go(tmp_path: Path) -> None:
    arrays = {f"t{i:02}": from_array(np.full(10, i, "float32")) for i in range(40)}
    save(arrays, tmp_path / "a.safetensors")
    (load,) = staging.plan(open_checkpoint(tmp_path / "a.safetensors").tensors, 1 << 20)
    assert len(load.parts) == 40 and len(load.reads) == 1


def test_a_computed_tensor_is_computed_once(tensors: dict[str, Lazy]) -> None:
    calls = []
    slow = computed((4000,), "float32", lambda: calls.append(1) or np.arange(4000.0))
    found = staged({"a": slow}, SlowLink(0), chunk=512, rooms=4, readers=4)
    assert len(calls) == 1 and found["a"][-1] == 3999


def test_a_file_that_was_cut_raises(tmp_path: Path) -> None:
    save({"a": from_array(np.ones(10_000, "float32"))}, tmp_path / "a.safetensors")
    opened = open_checkpoint(tmp_path / "a.safetensors").tensors
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:20_000])
    with pytest.raises(FileError, match="ends too early"):
        staged(dict(opened), SlowLink(0), chunk=1024)


def test_nothing_to_move() -> None:
    assert staged({}, SlowLink(0)) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tensors: dict[str, Lazy]) -> None:
    found = dict(staging.to_cuda(tensors, torch.device("cuda")))
    for name, lazy in tensors.items():
        np.testing.assert_array_equal(found[name].cpu().numpy(), lazy.read(), err_msg=name)
