"""How cost grows: with tensors, bytes, tokens and threads; beside what bounds it, measured in the same minute."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.files import SIZES, filled, hollow, make, shapes
from benchmarks.machine import full_cache
from benchmarks.process import Row, python

FLOPS_TOKEN = 2 * 12 * (3 + 1 + 8) * 768**2
"""Of ViT-B's matrices, a token: 2 × multiplications."""
FLOPS_PAIR = 2 * 12 * 2 * 768
"""Of its attention, a pair of tokens."""
BIG = 1 << 31
"""Bytes from which one round is enough: the disk decides."""


def measure(folder: Path, count: int) -> list[Row]:
    """Four curves, each figure a median."""
    return [*tensors(count), *size(folder, count), *tokens(folder, count), *threads(folder, count)]


def _median(call: Callable[[], Any], count: int) -> float:
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _curve(job: str, points: dict[Any, dict[str, float]], count: int) -> list[Row]:
    first = next(iter(points))
    base = points[first]["job"]
    return [
        Row(job, str(n), dict(found), {"job": found["job"] / base}, str(first), count) for n, found in points.items()
    ]


def tensors(count: int) -> list[Row]:
    """Recognising a file, by the number of its tensors: bound by Python, so the figure beside it is time a tensor."""
    from anyvit.lazy import Checkpoint
    from anyvit.reading import understand

    points = {}
    for depth in (7, 71, 357, 714):
        named = hollow(shapes(SIZES["l14"], depth))
        call = lambda named=named: understand(Checkpoint(named, "safetensors")).report()  # noqa: E731
        call()
        taken = _median(call, count)
        points[len(named)] = {"job": taken, "µs a tensor": taken / len(named) * 1e6}
    return _curve("understand a mapping, by tensors", points, count)


def size(folder: Path, count: int) -> list[Row]:
    """Converting timm → hf-dinov2, by the bytes of the file: bound by copying, so beside a copy in the same round."""
    from anyvit.api import convert

    points = {}
    for name, many in (("0.1 GB", 2), ("0.8 GB", 16), ("2.5 GB", 50), ("8 GB", 160)):
        source, out = _grown(folder, name, many), folder / "grow-out.safetensors"
        few = 1 if source.stat().st_size > BIG else count
        pairs = []
        with full_cache(folder) as fill:
            for _ in range(few):
                copied = _median(lambda source=source, out=out: _copy(source, out), 1)
                out.unlink()
                fill()
                taken = _median(lambda source=source, out=out: convert(source, out, "hf-dinov2", heads=16), 1)
                out.unlink()
                fill()
                pairs.append((taken, copied))
        done = median(taken for taken, _ in pairs)
        share = median(copied / taken for taken, copied in pairs)
        speed = source.stat().st_size / done / 1e9
        points[name] = {"job": done, "GB/s": speed, "share of a copy's speed": share}
        source.unlink()
    return _curve("convert timm → hf-dinov2, by bytes", points, count)


def _copy(source: Path, out: Path) -> None:
    """Reads and writes every byte; `shutil.copyfile` would leave holes as they are."""
    with source.open("rb", buffering=0) as one, out.open("wb", buffering=0) as two:
        shutil.copyfileobj(one, two, 1 << 20)


def _grown(folder: Path, name: str, depth: int) -> Path:
    """A ViT-L of another depth."""
    from anyvit import containers

    path = folder / f"grow-{name.replace(' ', '')}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    containers.save(filled(shapes(SIZES["l14"], depth)), path)
    return path


def tokens(folder: Path, count: int) -> list[Row]:
    """A forward pass of ViT-B/16, by the tokens of one picture: bound by matrix products."""
    import torch

    import anyvit

    vit = anyvit.accelerate(anyvit.load(make(folder, "b16.safetensors"), check="off"))
    points: dict[int, dict[str, float]] = {}
    with torch.inference_mode():
        for side in (14, 28, 56, 128):
            pixels = torch.randn(1, 3, 16 * side, 16 * side)
            if side < 56:
                vit(pixels)
            n, limit = side * side + 1, matmul(256)
            taken = _median(lambda pixels=pixels: vit(pixels), max(1, min(count, 56 // side)))
            speed = (n * FLOPS_TOKEN + n * n * FLOPS_PAIR) / taken / 1e9
            points[side * side] = {"job": taken, "GFLOP/s": speed, "share of packed products": speed / limit}
    return _curve("forward ViT-B/16 accelerated, by tokens", points, count)


def matmul(rows: int, repeats: int = 9) -> float:
    """GFLOP/s of a layer of ViT-B's size alone, packed as `accelerate` packs it, or plain where that is not possible."""
    import torch
    from torch import nn

    from anyvit.acceleration import accelerate

    layer = accelerate(nn.Sequential(nn.Linear(768, 3072)).eval())
    x = torch.randn(rows, 768)
    with torch.inference_mode():
        layer(x)
        best = min(_median(lambda: layer(x), 1) for _ in range(repeats))
    return 2 * rows * 768 * 3072 / best / 1e9


THREADS = (
    "import sys, torch, anyvit\ntorch.set_num_threads(int(sys.argv[2]))\n"
    "from benchmarks.growth import matmul\n"
    "vit = anyvit.accelerate(anyvit.load(sys.argv[1], check='off'))\nx = torch.randn(1, 3, 224, 224)\n"
    "with torch.inference_mode():\n    taken = []\n    for _ in range(6):\n        s = _t(); vit(x); taken.append(_t() - s)\n"
    "print(json.dumps({'job': sorted(taken)[2], 'limit': matmul(256)}))"
)


def threads(folder: Path, count: int) -> list[Row]:
    """A forward pass of ViT-B/16, by threads, in three fresh processes each: bound by matrix products."""
    path, n = make(folder, "b16.safetensors"), 197
    points = {}
    for number in [n for n in (1, 2, 4, 8, 16, 32) if n <= (os.cpu_count() or 1)]:
        found = [python(THREADS, path, number)().inside for _ in range(min(count, 3))]
        taken = median(run["job"] for run in found)
        speeds: Sequence[float] = [(n * FLOPS_TOKEN + n * n * FLOPS_PAIR) / run["job"] / 1e9 for run in found]
        share = median(speed / run["limit"] for speed, run in zip(speeds, found, strict=True))
        points[number] = {"job": taken, "GFLOP/s": median(speeds), "share of packed products": share}
    return _curve("forward ViT-B/16 accelerated, by threads", points, count)
