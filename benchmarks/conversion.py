"""Converting a checkpoint, beside copying it."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.files import make
from benchmarks.process import Row, anyvit, python, rounds, rows, run

CONVERT = """
import sys, resource
from anyvit.api import convert, inspect
inspect(sys.argv[1])
idle, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, _t()
convert(*sys.argv[1:4], **json.loads(sys.argv[4]))
print(json.dumps({"job": _t() - start, "idle": idle}))
"""
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
    """ViT-L: byte ranges alone, and transposes."""
    jobs = [
        ("convert ViT-L/14 timm → hf-dinov2", "l14.safetensors", "out.safetensors", "hf-dinov2", True),
        ("convert ViT-L/14 timm .pth → hf-dinov2", "l14.pth", "out.safetensors", "hf-dinov2", True),
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
    return out


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
