"""The check of bytes and values at load, load_into and convert, and the proof of a file."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import flip, offset_of, spoilt, timm_state, write

import anyvit
from anyvit import integrity
from anyvit.containers import open_checkpoint
from anyvit.errors import BadArgument, FileError
from anyvit.lazy import Checkpoint, Note, from_array

PIXELS = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype("float32"))
QKV = "blocks.1.attn.qkv.weight"


def load(path: object, **options: object) -> anyvit.ViT:
    return anyvit.load(path, heads=4, **options)  # type: ignore[arg-type]


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    anyvit.convert(write(timm_state(), tmp_path / "source.pth"), tmp_path / "a.safetensors", "timm", heads=4)
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.npz"])
@pytest.mark.parametrize("check", ["now", "beside", None])
def test_a_flipped_bit_raises_and_names_the_tensor(tmp_path: Path, name: str, check: str | None) -> None:
    path = tmp_path / name
    anyvit.convert(write(timm_state(), tmp_path / "source.npz"), path, "timm", heads=4)
    assert load(path, check=check)(PIXELS).tokens.isfinite().all()
    flip(path, offset_of(path, QKV) + 1000)
    with pytest.raises(FileError, match="1 tensor is not what was written") as caught:
        load(path, check=check)(PIXELS)
    assert caught.value.names == (QKV,)
    load(path, check="off")(PIXELS)


def test_beside_raises_at_every_forward_and_tells_the_report(converted: Path) -> None:
    flip(converted, offset_of(converted, QKV))
    vit = load(converted, check="beside")
    for _ in range(2):
        with pytest.raises(FileError, match="damaged"):
            vit(PIXELS)
        with pytest.raises(FileError, match="damaged"):
            vit.layers(PIXELS, [1])
    assert vit.report is not None and not vit.report.ok
    assert [f.names for f in vit.report.of("damaged")] == [(QKV,)]


@pytest.mark.parametrize("check", ["now", "beside"])
def test_a_damaged_file_fills_no_module_and_makes_no_file(tmp_path: Path, converted: Path, check: str) -> None:
    flip(converted, offset_of(converted, QKV))
    module = load(tmp_path / "source.pth", check="off")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        module.norm.weight.add_(1)
    with pytest.raises(FileError, match="damaged"):
        anyvit.load_into(module, converted, heads=4, check=check)
    assert not torch.equal(module.norm.weight, before["norm.weight"])
    listing = sorted(tmp_path.iterdir())
    for target in ("b.safetensors", "b.npz", "b.pth", "folder"):
        with pytest.raises(FileError, match="damaged"):
            anyvit.convert(converted, tmp_path / target, "timm", heads=4, check=check)
    assert sorted(tmp_path.iterdir()) == listing
    anyvit.load_into(module, converted, heads=4, check="off")


def test_damage_elsewhere_in_the_file_does_not_matter(tmp_path: Path) -> None:
    state = timm_state()
    path = write({**{f"model.{n}": v for n, v in state.items()}, "optimizer.state.0.exp_avg": np.ones(99, "f4")},
                 tmp_path / "a.pth")  # fmt: skip
    flip(path, offset_of(path, "optimizer.state.0.exp_avg"))
    load(path, check="now")
    with pytest.raises(FileError):
        flip(path, offset_of(path, f"model.{QKV}"))
        load(path, check="now")


@pytest.mark.parametrize("verb", ["load", "load_into", "convert"])
def test_another_word_is_refused(tmp_path: Path, verb: str) -> None:
    path = write(timm_state(), tmp_path / "a.npz")
    calls = {
        "load": lambda: load(path, check="later"),
        "load_into": lambda: anyvit.load_into(load(path), path, heads=4, check="later"),
        "convert": lambda: anyvit.convert(path, tmp_path / "b.npz", "timm", heads=4, check="later"),
    }
    with pytest.raises(BadArgument, match="now or beside or off"):
        calls[verb]()


class Slow:
    """A source whose checksums take their time."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()

    def verify(self, names: object = None) -> Iterator[Note]:
        self.started.set()
        self.gate.wait(20)
        yield Note("unchecked", (), "late")


def slow_check() -> tuple[Slow, integrity.Check]:
    slow = Slow()
    tensor = from_array(np.ones((2, 2), "float32"), "a")
    checkpoint = Checkpoint({"a": tensor}, "memory", verify=slow.verify)
    return slow, integrity.begin(checkpoint, {"embed.cls": tensor}, "beside")


def test_the_first_forward_waits_and_the_load_does_not(tmp_path: Path) -> None:
    vit = load(write(timm_state(), tmp_path / "a.npz"), check="off")
    slow, vit._check = slow_check()
    done: list[str] = []
    forward = threading.Thread(target=lambda: (vit(PIXELS), done.append("forward")))
    forward.start()
    assert slow.started.wait(20)
    time.sleep(0.05)
    assert done == []
    slow.gate.set()
    forward.join(20)
    assert done == ["forward"]
    assert vit.report is not None and [f.cause for f in vit.report.of("unchecked")] == ["late"]


def test_an_unexpected_error_of_the_thread_is_not_lost() -> None:
    def verify(names: object = None) -> Iterator[Note]:
        raise MemoryError("no room")

    tensor = from_array(np.ones((2, 2), "float32"), "a")
    check = integrity.begin(Checkpoint({"a": tensor}, "memory", verify=verify), {"embed.cls": tensor}, "beside")
    with pytest.raises(MemoryError, match="no room"):
        check.findings()


def test_copies_and_pickles_of_a_model_that_is_still_checked(tmp_path: Path) -> None:
    vit = load(write(spoilt(QKV, np.nan, (0, 0)), tmp_path / "a.npz"), check="beside")
    for twin in (copy.deepcopy(vit), pickle.loads(pickle.dumps(vit))):
        assert [f.kind for f in twin.report.of("nan")] == ["nan"]


def test_a_compiled_model_waits_while_it_is_traced(converted: Path) -> None:
    flip(converted, offset_of(converted, QKV))
    vit = load(converted, check="beside")
    with pytest.raises(Exception, match="1 tensor is not what was written"):
        torch.compile(vit, backend="eager", fullgraph=True)(PIXELS)


END = """
import sys, threading, time
sys.path[:0] = {paths!r}
import anyvit
from anyvit import integrity
real = integrity.look
def slow(*given):
    time.sleep(5)
    return real(*given)
integrity.look = slow
vit = anyvit.load({path!r}, heads=4, check="beside")
assert any(thread.name == "anyvit-check" for thread in threading.enumerate())
print("loaded", flush=True)
"""


def test_the_end_of_the_process_is_not_delayed(converted: Path) -> None:
    source = str(Path(anyvit.__file__).parents[1])
    code = END.format(paths=[source], path=str(converted))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    with process:
        assert process.stdout.readline() == "loaded\n"
        # The check would take 40 tensors of 5 s.
        assert process.wait(60) == 0 and process.stderr.read() == ""


def test_small_files_are_checked_at_once_and_large_ones_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(spoilt(QKV, np.nan, (0, 0)), tmp_path / "a.npz")
    started: list[str] = []
    monkeypatch.setattr(integrity.Check, "start", lambda self: started.append("beside"))
    load(path)
    assert started == []
    monkeypatch.setattr(integrity, "SMALL", 1000)
    load(path)
    assert started == ["beside"]


def kinds(found: list[anyvit.Finding]) -> list[str]:
    return [finding.kind for finding in found]


def test_the_proof_of_a_file(tmp_path: Path, converted: Path) -> None:
    source = tmp_path / "source.pth"
    assert kinds(integrity.prove(converted, source)) == ["checked", "checked"]
    other = write(timm_state(1), tmp_path / "other.pth")
    assert [f.fatal for f in integrity.prove(converted, other) if f.kind == "damaged"] == [True]
    flip(converted, offset_of(converted, QKV) + 3, 6)
    found = integrity.prove(converted)
    assert [(f.kind, f.names, f.fatal) for f in found if f.fatal] == [("damaged", (QKV,), True)]


@pytest.mark.parametrize("name", ["a.pth", "a.npz", "a.safetensors", "folder"])
def test_the_proof_of_every_container(tmp_path: Path, name: str) -> None:
    source = write(timm_state(), tmp_path / "source.npz")
    report = anyvit.convert(source, tmp_path / name, "timm", heads=4)
    found = integrity.prove(tmp_path / name, source)
    assert kinds(found) == (["checked", "unchecked"] if name == "a.npz" else ["checked", "checked"])
    assert [f.kind for f in report.findings if "npz has no place" in f.cause] == ["note"] * (name == "a.npz")


def test_the_proof_leaves_out_nothing_but_what_is_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that hold no tensor (a pickled leaf, a text) have checksums too."""
    opened, asked = open_checkpoint(write(timm_state(), tmp_path / "a.npz")), []

    def verify(wanted: Callable[[str], bool]) -> Iterator[Note]:
        asked.append((wanted(QKV), wanted("epoch")))
        yield from ()

    monkeypatch.setattr(integrity.containers, "open_checkpoint", lambda path: replace(opened, verify=verify))
    assert kinds(integrity.prove("a")) == ["checked"] and asked == [(False, True)]


def test_the_proof_of_shards(tmp_path: Path) -> None:
    source = write(timm_state(), tmp_path / "source.npz")
    anyvit.convert(source, tmp_path / "folder", "hf-vit", heads=4, shard_size=200_000)
    shards = sorted((tmp_path / "folder").glob("*.safetensors"))
    assert len(shards) > 2 and kinds(integrity.prove(tmp_path / "folder")) == ["checked"]
    name = next(iter(open_checkpoint(shards[1]).tensors))
    flip(shards[1], offset_of(shards[1], name))
    assert [(f.kind, f.names) for f in integrity.prove(tmp_path / "folder") if f.fatal] == [("damaged", (name,))]


def test_files_of_others_have_nothing_to_compare_with_but_values_are_seen(tmp_path: Path) -> None:
    path = write({**timm_state(), "norm.bias": np.full(64, np.nan, "float32")}, tmp_path / "a.safetensors")
    found = integrity.prove(path)
    assert kinds(found) == ["unchecked", "nan"] and anyvit.inspect(path).provenance == {}


def test_a_record_that_was_tampered_with(converted: Path) -> None:
    data = converted.read_bytes()
    assert data.count(b'\\"num_heads\\":4') == 1
    converted.write_bytes(data.replace(b'\\"num_heads\\":4', b'\\"num_heads\\":2'))
    with pytest.raises(FileError, match="metadata is another"):
        anyvit.load(converted)
    assert "damaged" in kinds(integrity.prove(converted))


def test_a_check_that_has_run_holds_nothing_of_its_source() -> None:
    """A state dict in memory goes when the caller lets it go; a model's own copy stays."""
    import gc
    import weakref

    state = {name: torch.from_numpy(value) for name, value in timm_state().items()}
    watched = weakref.ref(state[QKV])
    vit = load(state, check="now")
    del state
    gc.collect()
    assert watched() is None and vit(PIXELS).tokens.isfinite().all()
