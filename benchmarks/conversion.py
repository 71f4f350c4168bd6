"""Converting a checkpoint, beside copying it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.files import make
from benchmarks.machine import full_cache
from benchmarks.process import Row, anyvit, python, rounds, rows, run

CONVERT = """
import sys, tempfile
from pathlib import Path
from anyvit.api import convert, inspect
from anyvit.demo import CHECKPOINT
with tempfile.TemporaryDirectory() as folder:  # a small one first, which imports all that is used
    convert(CHECKPOINT, Path(folder, "first").with_suffix(Path(sys.argv[2]).suffix), sys.argv[3])
inspect(sys.argv[1])
idle, start = _peak(), _t()
convert(*sys.argv[1:4], **json.loads(sys.argv[4]))
print(json.dumps({"job": _t() - start, "MB over idle": _peak() - idle}))
"""
SHARDS = """
import sys
from unittest import mock
from anyvit.api import convert, inspect
from anyvit.containers import safetensors
inspect(sys.argv[1])
idle, fill, done = _peak(), safetensors._fill, []
def few(file, tensors, *rest):
    done.append(sum(t.nbytes for t in tensors.values()))
    return fill(file, tensors, *rest) if len(done) <= 2 else lambda final: None
start = _t()
with mock.patch.object(safetensors, "_fill", few):
    convert(sys.argv[1], sys.argv[2], "hf-dinov3-gated", shard_size=1_000_000_000, check="off")
print(json.dumps({"job": _t() - start, "MB over idle": _peak() - idle, "shards planned": len(done),
                  "GB planned": sum(done) / 1e9, "GB written": sum(done[:2]) / 1e9}))
"""
"""Of a 13 GB model all shards are planned, two are written."""
NAIVE = """
import sys, torch
from safetensors.torch import load_file, save_file
start = _t()
source = load_file(sys.argv[1]) if sys.argv[1].endswith("safetensors") else torch.load(sys.argv[1], weights_only=True)
out = {}
for name, tensor in source.items():
    name = name.replace("blocks.", "encoder.layer.")
    if ".qkv." in name:
        for part, piece in zip(("query", "key", "value"), tensor.chunk(3)):
            out[name.replace("attn.qkv", "attention.attention." + part)] = piece.contiguous()
    else:
        out[name] = tensor
save_file(out, sys.argv[2])
print(json.dumps({"job": _t() - start}))
"""
COPY = """
import sys, shutil
start = _t()
shutil.copyfile(*sys.argv[1:3])
print(json.dumps({"job": _t() - start}))
"""


def measure(folder: Path, count: int) -> list[Row]:
    """ViT-L: byte ranges alone, and transposes; ViT-g; the plan of a 7B model in shards."""
    with full_cache(folder) as fill:
        return _measured(folder, count, fill)


def _measured(folder: Path, count: int, fill: Callable[[], None]) -> list[Row]:
    jobs = [
        ("convert ViT-L/14 timm → hf-dinov2", "l14.safetensors", "out.safetensors", "hf-dinov2", True),
        ("convert ViT-L/14 timm .pth → hf-dinov2", "l14.pth", "out.safetensors", "hf-dinov2", False),
        ("convert ViT-L/16 timm → google-npz", "l16.safetensors", "out.npz", "google-npz", False),
    ]
    out = []
    for job, name, target, dialect, naive in jobs:
        source, result = make(folder, name), folder / target
        ways = {
            "cp": lambda source=source, result=result: run(["cp", str(source), str(result)]),
            "shutil.copyfile": python(COPY, source, result),
            "anyvit.convert": python(CONVERT, source, result, dialect, "{}"),
            "anyvit.convert, check off": python(CONVERT, source, result, dialect, '{"check": "off"}'),
            "anyvit convert": anyvit("convert", source, result, "--to", dialect),
        }
        if naive:
            ways["load, loop, save_file"] = python(NAIVE, source, result)
        found = rounds(ways, count, lambda result=result: _remove(result))
        _remove(result)
        # A process that only copies has no job apart from itself.
        out += rows(job, found, "shutil.copyfile")
    return [*out, *_large(folder, count, fill)]


def _large(folder: Path, count: int, fill: Callable[[], None]) -> list[Row]:
    """Files that the disk has a part in; of the 7B model there are holes alone, and two shards are written."""
    source, result = make(folder, "g14-full.safetensors"), folder / "out.safetensors"
    ways = {
        "shutil.copyfile": python(COPY, source, result),
        "anyvit.convert": python(CONVERT, source, result, "hf-dinov2", "{}"),
        "anyvit.convert, check off": python(CONVERT, source, result, "hf-dinov2", '{"check": "off"}'),
    }
    few = min(count, 3)

    def before() -> None:
        _remove(result)
        fill()

    found = rounds(ways, few, before)
    found = rows("convert ViT-g/14 (4.5 GB) timm → hf-dinov2", found, "shutil.copyfile")
    _remove(result)
    source.unlink()
    source, result = make(folder, "dinov3-7b-shards"), folder / "out"
    ways = {"anyvit.convert": python(SHARDS, source, result)}
    found += rows("convert DINOv3 7B bfloat16 → hf-dinov3-gated", rounds(ways, few, lambda: _remove(result), 0), "")
    _remove(result)
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
