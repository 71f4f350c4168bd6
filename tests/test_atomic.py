"""Writing is all or nothing: whatever fails at whatever moment, the old file or the new one is there, nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.faults import ERRORS, Trap
from support.tiny import timm_state, write

import anyvit
from anyvit.containers import files, open_checkpoint, swap
from anyvit.errors import AnyvitError, FileError
from anyvit.lazy import Lazy

TARGETS = ["x.safetensors", "x.npz", "x.pth", "folder", "shards"]


def convert(source: Any, target: Path, **options: Any) -> None:
    size = 100_000 if target.name == "shards" else None
    anyvit.convert(source, target, "hf-vit", heads=4, shard_size=size, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("what", ["disk full", "Ctrl-C"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("old", [True, False])
def test_a_failure_at_every_step(tmp_path: Path, target: str, what: str, old: bool) -> None:
    room = tmp_path / "room"
    room.mkdir()
    source = {"timm": timm_state(depth=1, classes=0)}
    if old:
        convert({"timm": timm_state(1, depth=1, classes=0)}, room / target)
    before = contents(room)
    (tmp_path / "sound").mkdir()
    convert(source, tmp_path / "sound" / target)
    new = contents(tmp_path / "sound")
    count = Trap(0, ERRORS[what])
    with pytest.MonkeyPatch.context() as patch:
        count.install(patch)
        convert(source, room / target, durable=True)
    restore(room, target, old)
    last = range(max(1, count.steps - 7), count.steps + 1)  # where files and folders take their names
    for step in sorted({1, 2, 3, 5, 8, *range(12, count.steps, 25), *last}):
        trap = Trap(step, ERRORS[what])
        with pytest.MonkeyPatch.context() as patch:
            trap.install(patch)
            try:
                convert(source, room / target, durable=True)
            except (FileError, KeyboardInterrupt) as error:
                assert isinstance(error, KeyboardInterrupt) == (what == "Ctrl-C")
                assert what == "Ctrl-C" or isinstance(error.__cause__, OSError)
        after = contents(room)
        assert after in (before, new) and not [path for path in room.iterdir() if path.name.endswith(".tmp")]
        if after != before:
            restore(room, target, old)
            assert contents(room) == before
    assert count.steps > 8


def restore(room: Path, target: str, old: bool) -> None:
    shutil.rmtree(room)
    room.mkdir()
    if old:
        convert({"timm": timm_state(1, depth=1, classes=0)}, room / target)


@pytest.mark.parametrize("what", ["disk full", "Ctrl-C"])
def test_where_folders_cannot_change_places_no_mixture_is_read(tmp_path: Path, what: str) -> None:
    """Files then take their names one by one; between two of them lies no sound checkpoint of both conversions."""
    folder = tmp_path / "shards"
    for step in range(1, 60, 3):
        shutil.rmtree(folder, ignore_errors=True)
        convert({"timm": timm_state(1, depth=1, classes=0)}, folder)
        before = contents(folder)
        trap = Trap(step, ERRORS[what])
        with pytest.MonkeyPatch.context() as patch:
            trap.install(patch)
            patch.setattr(swap, "_exchanger", lambda: None)
            with contextlib.suppress(FileError, KeyboardInterrupt):
                convert({"timm": timm_state(depth=1, classes=0)}, folder)
        after = contents(folder)
        assert sorted(after) == sorted(before)
        changed = [name for name in after if name.endswith(".safetensors") and after[name] != before[name]]
        if 0 < len(changed) < sum(name.endswith(".safetensors") for name in after):
            with pytest.raises(FileError, match="two conversions"):
                open_checkpoint(folder)
        else:
            open_checkpoint(folder)


def test_what_else_lies_in_a_folder_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    convert({"timm": timm_state(depth=1, classes=0)}, folder)
    (folder / "README.md").write_text("mine")
    (folder / "logs").mkdir()
    (folder / "logs" / "1.txt").write_text("one")
    (folder / "link").symlink_to("logs/1.txt")
    folder.chmod(0o710)
    anyvit.convert({"timm": timm_state(1, depth=1, classes=0)}, folder, "dino", heads=4, shard_size=100_000)
    names = {path.name for path in folder.iterdir()}
    # The configuration described the earlier model; readers would apply it to this one.
    assert names >= {"README.md", "logs", "link", "model.safetensors.index.json"} and "config.json" not in names
    assert "model.safetensors" not in names and stat.S_IMODE(folder.stat().st_mode) == 0o710
    assert (folder / "README.md").read_text() == "mine" and (folder / "link").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_comes_into_a_folder_meanwhile_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    convert({"timm": timm_state(depth=1, classes=0)}, folder)
    with swap.atomic_folder(folder, ("model.safetensors",)) as new:
        assert new.parent == folder.parent and new != folder
        (new / "model.safetensors").write_bytes(b"new")
        (folder / "log.txt").write_text("written meanwhile")
        (folder / "model.safetensors").write_bytes(b"of another writer")
    assert (folder / "log.txt").read_text() == "written meanwhile"
    assert (folder / "model.safetensors").read_bytes() == b"new"


def test_what_comes_into_a_folder_meanwhile_stays_when_the_end_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between the exchange of the folders and the end, when the old one is thrown away."""
    folder = tmp_path / "model"
    convert({"timm": timm_state(depth=1, classes=0)}, folder)
    real = swap._moved

    def interrupted(*paths: Path) -> bool:
        moved.append(real(*paths))
        return moved[-1]

    def flush(path: Path) -> None:
        if moved:
            raise KeyboardInterrupt

    moved: list[bool] = []
    monkeypatch.setattr(swap, "_moved", interrupted)
    monkeypatch.setattr(swap, "flush_folder", flush)
    with pytest.raises(KeyboardInterrupt), swap.atomic_folder(folder, ("model.safetensors",), durable=True) as new:
        (new / "model.safetensors").write_bytes(b"new")
        (folder / "log.txt").write_text("written meanwhile")
    assert moved == [True] and (folder / "model.safetensors").read_bytes() == b"new"
    assert (folder / "log.txt").read_text() == "written meanwhile"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_link_to_a_folder_and_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "real"
    home.mkdir()
    (tmp_path / "link").symlink_to("real")
    convert({"timm": timm_state(depth=1, classes=0)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (home / "config.json").exists()
    monkeypatch.chdir(home)
    number = home.stat().st_ino
    convert({"timm": timm_state(1, depth=1, classes=0)}, home)
    assert home.stat().st_ino == number and Path("config.json").exists()


class Faults(RuleBasedStateMachine):
    """Conversions of changing sources into one file, with faults at random steps."""

    @initialize(name=st.sampled_from(TARGETS), way=st.sampled_from(["plain", "linked", "alone"]))
    def begin(self, name: str, way: str) -> None:
        import tempfile

        self.room = Path(tempfile.mkdtemp())
        self.home = self.room / "home"
        self.home.mkdir()
        self.target = self.home / name
        self.sound: dict[int, dict[str, bytes]] = {}
        self.now: dict[str, bytes] = {}
        if way == "linked" and self.target.suffix:  # a link is replaced itself; what it points to stays
            (self.room / "elsewhere").write_bytes(b"mine")
            self.target.symlink_to(self.room / "elsewhere")
            self.now = {name: b"mine"}

    def expected(self, seed: int) -> dict[str, bytes]:
        if seed not in self.sound:
            other = self.room / f"sound{seed}"
            other.mkdir()
            convert({"timm": timm_state(seed, depth=1, classes=0)}, other / self.target.name)
            self.sound[seed] = contents(other)
        return self.sound[seed]

    @precondition(lambda self: self.now and b"mine" not in self.now.values())
    @rule(step=st.integers(1, 40), what=st.sampled_from(sorted(ERRORS)))
    def onto_itself_fails(self, step: int, what: str) -> None:
        """Source and target are one; the next fault finds the old one whole."""
        trap = Trap(step, ERRORS[what])
        with pytest.MonkeyPatch.context() as patch:
            trap.install(patch)
            try:
                anyvit.convert(self.target, self.target, "hf-vit", heads=4, dtype="float16", shard_size=self.size())
                self.now = contents(self.home)
                assert open_checkpoint(self.target).tensors
            except (FileError, KeyboardInterrupt):
                assert trap.steps >= step

    def size(self) -> int | None:
        return 100_000 if self.target.name == "shards" else None

    @rule(seeds=st.permutations([0, 1, 2]))
    def writers_at_the_same_time(self, seeds: list[int]) -> None:
        work = [threading.Thread(target=self.all_goes_well, args=(seed,)) for seed in seeds[:2]]
        sound = [self.expected(seed) for seed in seeds[:2]]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        self.now = contents(self.home)
        assert self.now in sound

    @rule(seed=st.integers(0, 2))
    def all_goes_well(self, seed: int) -> None:
        convert({"timm": timm_state(seed, depth=1, classes=0)}, self.target)
        self.now = self.expected(seed)

    @rule(seed=st.integers(0, 2), step=st.integers(1, 60), what=st.sampled_from(sorted(ERRORS)), durable=st.booleans())
    def writing_fails(self, seed: int, step: int, what: str, durable: bool) -> None:
        trap = Trap(step, ERRORS[what])
        new = self.expected(seed)
        with pytest.MonkeyPatch.context() as patch:
            trap.install(patch)
            try:
                convert({"timm": timm_state(seed, depth=1, classes=0)}, self.target, durable=durable)
                self.now = new
            except (FileError, KeyboardInterrupt):
                assert trap.steps >= step
                # A flush that fails after the exchange finds the new one in its place.
                if contents(self.home) == new:
                    self.now = new

    @rule(seed=st.integers(0, 2), tensor=st.integers(0, 15), what=st.sampled_from(["short", "error", "interrupt"]))
    def reading_fails(self, seed: int, tensor: int, what: str) -> None:
        state: dict[str, Any] = dict(timm_state(seed, depth=1, classes=0))
        name = sorted(state)[tensor % len(state)]
        value = state[name]

        def load() -> np.ndarray:
            if what == "short":
                return value.reshape(-1)[:-1]
            raise KeyboardInterrupt if what == "interrupt" else FileError("the source is cut")

        state[name] = Lazy(value.shape, "float32", load, (name,))
        with pytest.raises((AnyvitError, KeyboardInterrupt, AssertionError)):
            convert(state, self.target, check="off")

    @invariant()
    def old_or_new_and_nothing_else(self) -> None:
        if hasattr(self, "target"):
            assert contents(self.home) == self.now
            assert not [path for path in self.home.rglob("*") if path.name.endswith(".tmp")]
            linked = self.room / "elsewhere"
            assert not linked.exists() or linked.read_bytes() == b"mine"

    def teardown(self) -> None:
        if hasattr(self, "room"):
            shutil.rmtree(self.room)


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=12, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Not permitted"), OSError(errno.EROFS, "Read-only")])
@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_that_may_not_be_written_to(
    tmp_path: Path, target: str, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(files.os, "mkdir", refuse)
    real = os.open
    monkeypatch.setattr(files.os, "open", lambda p, f, *m: refuse() if f & os.O_CREAT else real(p, f, *m))
    with pytest.raises(FileError, match=error.strerror) as caught:
        convert({"timm": timm_state(depth=1, classes=0)}, tmp_path / target)
    assert caught.value.__cause__ is error and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_real_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FileError, match="Permission denied"):
            convert({"timm": timm_state(depth=1, classes=0)}, tmp_path / "x.npz")
    finally:
        tmp_path.chmod(0o700)


def test_permissions_follow_the_umask_and_then_the_old_file(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        for target in ("x.safetensors", "folder"):
            convert({"timm": timm_state(depth=1, classes=0)}, tmp_path / target)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
    (tmp_path / "x.safetensors").chmod(0o600)
    convert({"timm": timm_state(1, depth=1, classes=0)}, tmp_path / "x.safetensors")
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o600


def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    for name in ("ä" * 120 + ".npz", "𝕏" * 62 + ".pth"):
        convert({"timm": timm_state(depth=1, classes=0)}, tmp_path / name)
        assert open_checkpoint(tmp_path / name).tensors


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pth"])
@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_source_and_target_are_one_file(tmp_path: Path, suffix: str, link: str) -> None:
    source = write(timm_state(depth=2), tmp_path / f"a.{suffix}")
    target = source
    if link != "same":
        target = tmp_path / f"b.{suffix}"
        os.symlink(source, target) if link == "symbolic" else os.link(source, target)
    before = open_checkpoint(source).tensors["blocks.1.attn.qkv.weight"].read()
    vit = anyvit.load(source, heads=4)
    weights = vit.blocks[1].attn.qkv.weight.detach()
    anyvit.convert(source, target, "dino", heads=4, dtype="float16")
    assert not target.is_symlink()
    stored = open_checkpoint(target).tensors["blocks.1.attn.qkv.weight"]
    assert stored.dtype == "float16" and np.array_equal(stored.read(), before.astype("float16"))
    assert np.array_equal(weights.numpy(), before)
    if link != "same":
        assert np.array_equal(open_checkpoint(source).tensors["blocks.1.attn.qkv.weight"].read(), before)


SAVE = """
import sys, torch, anyvit
for path in sys.argv[1:]:
    vit = anyvit.load(path, heads=4)
    wrapped = torch.nn.Sequential(vit)
    before = {n: p.sum().item() for n, p in vit.named_parameters() if n == "norm.bias"}
    state = vit.state_dict() if "bare" in path else {n[2:]: v for n, v in wrapped.state_dict().items()}
    torch.save(state, path)
    assert torch.load(open(path, "rb"))["blocks.1.attn.qkv.weight"].shape == (192, 64)
    assert {n: p.sum().item() for n, p in anyvit.load(path, heads=4).named_parameters() if n == "norm.bias"} == before
print("saved")
"""


def test_a_state_dict_may_be_saved_over_the_file_it_came_from(tmp_path: Path) -> None:
    names = [f"{how}.{suffix}" for how in ("bare", "wrapped") for suffix in ("safetensors", "pth")]
    paths = [str(write(timm_state(), tmp_path / name)) for name in names]
    environment = {**os.environ, "PYTHONPATH": str(Path(anyvit.__file__).parents[1])}
    command = [sys.executable, "-c", SAVE, *paths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "saved\n"), done.stderr


def test_parameters_stay_the_same_objects_when_their_values_leave_the_file(tmp_path: Path) -> None:
    vit = anyvit.load(write(timm_state(), tmp_path / "a.safetensors"), heads=4)
    weight = vit.blocks[0].attn.qkv.weight
    mapped = weight.data_ptr()
    vit.state_dict(keep_vars=True)
    assert weight.data_ptr() == mapped
    vit.state_dict()
    own = weight.data_ptr()
    assert own != mapped and vit.blocks[0].attn.qkv.weight is weight
    vit.state_dict()
    assert weight.data_ptr() == own


def test_a_folder_is_converted_in_place(tmp_path: Path) -> None:
    out = tmp_path / "model"
    convert({"timm": timm_state(depth=2)}, out)
    anyvit.convert(out, out, "hf-vit", image_size=24)
    assert anyvit.load(out).spec.image_size in (24, (24, 24))
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pth"])
def test_writers_at_the_same_time_do_not_mix(tmp_path: Path, suffix: str) -> None:
    states = [timm_state(seed, depth=1, classes=0) for seed in range(3)]
    target, sound = tmp_path / f"x.{suffix}", set()
    for state in states:
        convert({"timm": state}, target)
        sound.add(target.read_bytes())
    seen: set[bytes] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(target.read_bytes())

    def work(state: Any) -> None:
        for _ in range(6):
            convert({"timm": state}, target)

    threads = [threading.Thread(target=work, args=(state,)) for state in states]
    watcher = threading.Thread(target=watch)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    assert seen <= sound and [p.name for p in tmp_path.iterdir()] == [target.name]


WRITE = """
import sys, anyvit
sys.path.insert(0, sys.argv[2])
from support.tiny import timm_state
states = [timm_state(seed, depth=1, classes=0) for seed in (0, 1)]
size = 100_000 if sys.argv[1].endswith("shards") else None
print("begun", flush=True)
while True:
    for state in states:
        anyvit.convert({"timm": state}, sys.argv[1], "timm", heads=4, shard_size=size)
"""


@pytest.mark.parametrize("target", ["x.safetensors", "x.pth", "shards"])
def test_what_is_read_while_other_processes_write_it_is_one_model(tmp_path: Path, target: str) -> None:
    """Each reading is one of the two models, whole; of a folder it may be an error, but never some of each."""
    path, both = tmp_path / target, [timm_state(seed, depth=1, classes=0) for seed in (0, 1)]
    environment = {**os.environ, "PYTHONPATH": str(Path(anyvit.__file__).parents[1])}
    command = [sys.executable, "-c", WRITE, str(path), str(Path(__file__).parent)]
    writers = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == "begun\n"
        seen: list[int] = []
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(FileError):
                found = {name: tensor.read() for name, tensor in open_checkpoint(path).tensors.items()}
                (which,) = (i for i in (0, 1) if all(np.array_equal(found[n], v) for n, v in both[i].items()))
                seen.append(which)
            if len(seen) >= 60 and len(set(seen)) == 2:
                break
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert set(seen) == {0, 1} and len(seen) >= 60


def test_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    path = write(timm_state(), tmp_path / "a.npz")
    opened, expected = open_checkpoint(path), timm_state()["norm.bias"]
    convert(path, path)
    assert np.array_equal(opened.tensors["norm.bias"].read(), expected)
    assert list(opened.verify()) == []  # type: ignore[misc]


@pytest.fixture
def kills() -> Iterator[Path]:
    script = Path(__file__).parents[1] / "scripts" / "kill_writers.py"
    if not script.exists() or not hasattr(os, "fork"):
        pytest.skip("no script, or a system without fork")
    yield script


def test_killed_writers_leave_the_old_file_or_the_new_one(tmp_path: Path, kills: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(anyvit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(kills), str(tmp_path), "--kills", "20"], env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 kills" in done.stdout
