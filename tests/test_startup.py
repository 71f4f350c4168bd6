"""What the verbs do without: modules that are not imported, bytes that are not read, copies that are not made.

Times depend on the machine, so nothing here is timed; what costs time is counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anyvit import containers
from anyvit.api import convert, inspect, load
from anyvit.containers import stream
from anyvit.containers.files import LocalFile
from anyvit.lazy import Lazy, Piece, from_array, from_pieces, split

WIDTH, DEPTH = 64, 6
HEAVY = {
    "torch",
    "numpy",
    "ml_dtypes",
    "einops",
    "scipy",
    "difflib",
    "tempfile",
    "concurrent",
    "asyncio",
    "onnx",
    "msgpack",
}
"""Modules that listing a checkpoint has no use for."""


def vit_tensors() -> dict[str, Lazy]:
    """A small ViT in timm's names, values drawn anew at every reading."""
    d = WIDTH
    block = {
        "norm1.weight": (d,), "norm1.bias": (d,), "attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,),
        "attn.proj.weight": (d, d), "attn.proj.bias": (d,), "norm2.weight": (d,), "norm2.bias": (d,),
        "mlp.fc1.weight": (4 * d, d), "mlp.fc1.bias": (4 * d,), "mlp.fc2.weight": (d, 4 * d), "mlp.fc2.bias": (d,),
    }  # fmt: skip
    shapes = {
        "cls_token": (1, 1, d), "pos_embed": (1, 17, d), "patch_embed.proj.weight": (d, 3, 8, 8),
        "patch_embed.proj.bias": (d,), "norm.weight": (d,), "norm.bias": (d,),
        **{f"blocks.{i}.{name}": shape for i in range(DEPTH) for name, shape in block.items()},
    }  # fmt: skip
    draw = np.random.default_rng(0)
    return {name: from_array(draw.standard_normal(shape, np.float32), name) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in every container."""
    made = tmp_path_factory.mktemp("files")
    for name in ("vit.safetensors", "vit.pth", "vit.npz"):
        containers.save(vit_tensors(), made / name)
    (made / "shards").mkdir()
    from anyvit.containers import safetensors

    safetensors.write_sharded(vit_tensors(), made / "shards", shard_size=200_000)
    assert len(list((made / "shards").glob("*.safetensors"))) > 2
    return made


FILES = ("vit.safetensors", "vit.pth", "vit.npz", "shards")


def modules_after(script: str, *words: str) -> set[str]:
    """Top-level modules that a fresh process has imported at the end of a script."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    text = f"{script}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", text, *words], env=environment, capture_output=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def idle() -> set[str]:
    """What the interpreter itself imports, with whatever its site packages add."""
    return modules_after("")


def test_import_brings_nothing(idle: set[str]) -> None:
    own = {name for name in modules_after("import anyvit") - idle if name.startswith("anyvit")}
    assert own == {"anyvit"}


@pytest.mark.parametrize("name", FILES)
def test_inspect_imports_nothing_heavy(folder: Path, name: str, idle: set[str]) -> None:
    found = modules_after("import sys, anyvit\nassert anyvit.inspect(sys.argv[1]).ok", str(folder / name)) - idle
    assert not {module.partition(".")[0] for module in found} & HEAVY
    assert not {"anyvit.adapt", "anyvit.resample", "anyvit.export", "anyvit.evidence", "anyvit.model"} & found


def test_the_command_line_imports_nothing_heavy(folder: Path, idle: set[str]) -> None:
    script = "import sys\nfrom anyvit.cli import main\nassert main(['inspect', sys.argv[1]]) == 0"
    found = modules_after(script, str(folder / "vit.pth")) - idle
    assert not {module.partition(".")[0] for module in found} & HEAVY


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("dialect", "out"), [("hf-vit", "x.safetensors"), ("google-npz", "x.npz"), ("hf-vit", "x")])
def test_a_conversion_imports_no_torch(folder: Path, name: str, dialect: str, out: str, tmp_path: Path) -> None:
    script = "import sys, anyvit\nanyvit.convert(*sys.argv[1:4], heads=4)"
    found = modules_after(script, str(folder / name), str(tmp_path / out), dialect)
    assert not {module.partition(".")[0] for module in found} & {"torch", "scipy", "onnx", "h5py"}


class Counter:
    """Bytes read from local files, which must not be mapped."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        read, read_into = LocalFile.read, LocalFile.read_into

        def count(file: LocalFile, offset: int, size: int) -> bytes:
            self.bytes += size
            return read(file, offset, size)

        def count_into(file: LocalFile, offset: int, room: memoryview) -> None:
            self.bytes += len(room)
            read_into(file, offset, room)

        patch.setattr(LocalFile, "read", count)
        patch.setattr(LocalFile, "read_into", count_into)
        patch.setattr(LocalFile, "view", lambda *_: pytest.fail("mapped"))


@pytest.mark.parametrize("name", FILES)
def test_inspect_reads_headers_only(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / name
    files = list(path.iterdir()) if path.is_dir() else [path]
    counter = Counter(monkeypatch)
    assert inspect(path).ok
    # Of each tensor a name, a shape and a place; of each file its head, which tells its format, and an index.
    assert counter.bytes < 600 * len(vit_tensors()) + 8192 * len(files)
    assert counter.bytes < sum(file.stat().st_size for file in files) / 5


@pytest.mark.parametrize("check", ["off", "beside"])
@pytest.mark.parametrize("out", ["x.safetensors", "x.npz", "x.pth", "x"])
@pytest.mark.parametrize("name", ["vit.safetensors", "vit.pth", "vit.npz", "recorded.safetensors", "recorded"])
def test_convert_reads_every_byte_once(
    folder: Path, name: str, out: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write it, to look at its values, for its checksum, for the checksums that the file has of its own."""
    monkeypatch.setattr("anyvit.deep.settle", lambda found, **_: found)  # which looks at a few blocks for their heads
    monkeypatch.setattr("anyvit.deep.odd_blocks", lambda *_: ())
    path, shards = folder / name, {"shard_size": 1 << 16} if out == "x" else {}
    if name.startswith("recorded"):
        path = tmp_path / name
        convert(folder / "vit.npz", path, "timm", heads=4, **({} if path.suffix else {"shard_size": 1 << 17}))
    size = sum(file.stat().st_size for file in ([path] if path.suffix else path.glob("*.safetensors")))
    counter = Counter(monkeypatch)
    dialect = "google-npz" if out == "x.npz" else "hf-vit"
    report = convert(path, tmp_path / f"out-{out}", dialect, heads=4, check=check, **shards)
    assert 0.99 * size <= counter.bytes < 1.15 * size
    assert not report.of("nan")


def test_a_split_is_three_byte_ranges(folder: Path) -> None:
    fused = containers.open_checkpoint(folder / "vit.pth").tensors["blocks.3.attn.qkv.weight"]
    parts = split(fused, [WIDTH] * 3)
    assert [len(part.pieces or ()) for part in parts] == [1, 1, 1]
    assert sum(piece.size for part in parts for piece in part.pieces or ()) == fused.nbytes


def test_parts_share_one_buffer(folder: Path) -> None:
    file = LocalFile(folder / "vit.safetensors")
    tensor = from_pieces((1000,), "uint8", [Piece(file, 8, 400), Piece(file, 1000, 600)], ())
    parts = [(id(part.obj), bytes(part)) for part in stream.chunks(tensor, step=256)]
    assert len({where for where, _ in parts}) == 1 and [len(data) for _, data in parts] == [256, 144, 256, 256, 88]
    assert b"".join(data for _, data in parts) == file.read(8, 400) + file.read(1000, 600)


def test_a_look_at_the_weights_holds_one_block_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyvit import deep

    alive = most = 0

    def noted(lazy: Lazy) -> np.ndarray:
        nonlocal alive, most
        array = lazy.read()
        alive += 1
        most = max(most, alive)
        weakref.finalize(array, gone)
        return array

    def gone() -> None:
        nonlocal alive
        alive -= 1

    monkeypatch.setattr(deep, "floats", noted)
    pytest.importorskip("torch")
    load(folder / "vit.pth", heads=4)
    # Biases stay, of each matrix only its norms; the next is made before the last is let go.
    assert 0 < most <= 2 * DEPTH + 2


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Tensors that must be computed are made when they are written and gone before the next one."""
    alive = most = 0

    def drawn(lazy: Lazy) -> Lazy:
        def load() -> np.ndarray:
            nonlocal alive, most
            array = lazy.read().copy()
            alive += 1
            most = max(most, alive)
            weakref.finalize(array, gone)
            return array

        return Lazy(lazy.shape, lazy.dtype, load, lazy.origin)

    def gone() -> None:
        nonlocal alive
        alive -= 1

    tensors = {name: drawn(lazy) for name, lazy in vit_tensors().items()}
    containers.save(tensors, tmp_path / "out.safetensors")
    assert (alive, most) == (0, 1)


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """First and last address of every part of a file that is mapped."""
    torch = pytest.importorskip("torch")
    found: list[tuple[int, int]] = []
    view = LocalFile.view

    def note(file: LocalFile, offset: int, size: int) -> memoryview | None:
        got = view(file, offset, size)
        if got is not None:
            start = torch.frombuffer(got, dtype=torch.uint8).data_ptr()
            found.append((start, start + size))
        return got

    monkeypatch.setattr(LocalFile, "view", note)
    yield found


@pytest.mark.parametrize("name", ["vit.safetensors", "vit.pth"])
def test_load_maps_fused_layouts(folder: Path, name: str, mapped: list[tuple[int, int]]) -> None:
    import torch

    drawn = torch.get_rng_state()
    vit = load(folder / name, heads=4, check="off")
    copied = [
        key for key, tensor in (*vit.named_parameters(), *vit.named_buffers())
        if not any(start <= tensor.data_ptr() < end for start, end in mapped)
    ]  # fmt: skip
    assert copied == []
    assert torch.equal(torch.get_rng_state(), drawn), "nothing is initialised at random to be overwritten"


def test_writing_to_a_loaded_model_leaves_the_file(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    before = (folder / "vit.safetensors").read_bytes()
    vit = load(folder / "vit.safetensors", heads=4, check="off")
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.zero_()
    assert (folder / "vit.safetensors").read_bytes() == before
