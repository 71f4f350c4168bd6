"""How cost grows: with tensors, bytes, tokens and threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.files import SIZES, filled, hollow, make, shapes
from benchmarks.process import Row, python


def measure(folder: Path, count: int) -> list[Row]:
    """Four curves, each figure a median."""
    return [*tensors(count), *size(folder, count), *tokens(folder, count), *threads(folder, count)]


def _median(call: Callable[[], Any], count: int) -> float:
    call()
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _curve(job: str, points: dict[Any, float], count: int) -> list[Row]:
    first = next(iter(points))
    return [Row(job, str(n), {"job": t}, {"job": t / points[first]}, str(first), count) for n, t in points.items()]


def tensors(count: int) -> list[Row]:
    """Recognising a file, by the number of its tensors."""
    from anyvit.lazy import Checkpoint
    from anyvit.reading import understand

    points = {}
    for depth in (7, 71, 357, 714):
        named = hollow(shapes(SIZES["l14"], depth))
        points[len(named)] = _median(lambda named=named: understand(Checkpoint(named, "safetensors")).report(), count)
    return _curve("understand a mapping, by tensors", points, count)


def size(folder: Path, count: int) -> list[Row]:
    """Converting timm → hf-dinov2, by the bytes of the file."""
    from anyvit import containers
    from anyvit.api import convert

    points = {}
    for depth in (2, 8, 24):
        source, out = folder / f"grow{depth}.safetensors", folder / "grow-out.safetensors"
        if not source.exists():
            containers.save(filled(shapes(SIZES["l14"], depth)), source)

        def job(source: Path = source, out: Path = out) -> None:
            out.unlink(missing_ok=True)
            convert(source, out, "hf-dinov2", heads=16)

        points[f"{source.stat().st_size / 1e6:.0f} MB"] = _median(job, count)
        out.unlink()
    return _curve("convert timm → hf-dinov2, by bytes", points, count)


def tokens(folder: Path, count: int) -> list[Row]:
    """A forward pass of ViT-B/16, by the tokens of one picture."""
    import torch

    import anyvit

    vit = anyvit.accelerate(anyvit.load(make(folder, "b16.safetensors"), check="off"))
    points = {}
    with torch.inference_mode():
        for side in (14, 28, 56, 112):
            pixels = torch.randn(1, 3, 16 * side, 16 * side)
            points[side * side] = _median(lambda pixels=pixels: vit(pixels), max(1, min(count, 56 // side)))
    return _curve("forward ViT-B/16 accelerated, by tokens", points, count)


def threads(folder: Path, count: int) -> list[Row]:
    """A forward pass of ViT-B/16, by threads, in fresh processes."""
    script = (
        "import sys, torch, anyvit\ntorch.set_num_threads(int(sys.argv[2]))\n"
        "vit = anyvit.accelerate(anyvit.load(sys.argv[1], check='off'))\nx = torch.randn(1, 3, 224, 224)\n"
        "with torch.inference_mode():\n    best = []\n    for _ in range(6):\n        s = _t(); vit(x); best.append(_t() - s)\n"
        "print(json.dumps({'job': sorted(best)[2]}))"
    )
    path = make(folder, "b16.safetensors")
    counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= (os.cpu_count() or 1)]
    points = {n: median(python(script, path, n)().inside["job"] for _ in range(count)) for n in counts}
    return _curve("forward ViT-B/16 accelerated, by threads", points, count)
