"""Kills writing processes at random moments and looks at what is left.

Each child writes one of two models to the same target, over and over; it is killed (SIGKILL) after a random time. The
targets are a file of each container, a Hugging Face folder of shards, a timm folder of one file and its configuration,
and the state of a fine-tuning run.
Afterwards the target is the whole file or folder of one of the two, or (before the first was ready) is not there, and
nothing lies beside it but hidden temporary files.

    python scripts/kill_writers.py FOLDER --kills 1000
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

import anyvit

DIM, DEPTH = 192, 4
TARGETS = ("x.safetensors", "x.pth", "x.npz", "folder", "hub", "training_state.pt")


def state(seed: int) -> dict[str, np.ndarray]:
    """A ViT of random weights in DINO's names, about 7 MB."""
    draw = np.random.default_rng(seed)
    shapes = {"cls_token": (1, 1, DIM), "pos_embed": (1, 17, DIM), "patch_embed.proj.weight": (DIM, 3, 4, 4)}
    shapes |= {"patch_embed.proj.bias": (DIM,), "norm.weight": (DIM,), "norm.bias": (DIM,)}
    for i in range(DEPTH):
        for name, shape in (
            ("norm1.weight", (DIM,)), ("norm1.bias", (DIM,)), ("norm2.weight", (DIM,)), ("norm2.bias", (DIM,)),
            ("attn.qkv.weight", (3 * DIM, DIM)), ("attn.qkv.bias", (3 * DIM,)), ("attn.proj.weight", (DIM, DIM)),
            ("attn.proj.bias", (DIM,)), ("mlp.fc1.weight", (4 * DIM, DIM)), ("mlp.fc1.bias", (4 * DIM,)),
            ("mlp.fc2.weight", (DIM, 4 * DIM)), ("mlp.fc2.bias", (DIM,)),
        ):  # fmt: skip
            shapes[f"blocks.{i}.{name}"] = shape
    return {name: draw.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def convert(weights: dict[str, np.ndarray], target: Path) -> None:
    """Writes one model as its target's name says."""
    if target.name.endswith("training_state.pt"):
        import torch

        from anyvit.training.state import save

        return save(target, {"step": 1, "model": {name: torch.from_numpy(value) for name, value in weights.items()}})
    to = "timm" if target.name.endswith("hub") else "hf-vit"
    anyvit.convert(weights, target, to, heads=3, shard_size=2_000_000 if target.name.endswith("folder") else None)


def content(target: Path) -> bytes | None:
    """What lies under the target's name; None for nothing."""
    if target.is_dir():
        return b"".join(path.name.encode() + path.read_bytes() for path in sorted(target.iterdir()))
    return target.read_bytes() if target.exists() else None


def tidy(folder: Path, target: Path) -> bool:
    """Whether a kill left something; only hidden names of the target may be left, and they are removed."""
    left = [path for path in folder.iterdir() if path.name not in TARGETS and not path.name.startswith("sound")]
    for path in left:
        assert path.name.startswith(f".{target.name}.") and path.name.endswith(".tmp"), path
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return bool(left)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, models = random.Random(args.seed), [state(0), state(1)]
    sound: dict[str, list[bytes | None]] = {}
    times: dict[str, float] = {}
    for name in TARGETS:
        sound[name] = []
        for seed, weights in enumerate(models):
            other = args.folder / f"sound{seed}-{name}"
            start = time.perf_counter()
            convert(weights, other)
            times[name] = time.perf_counter() - start
            sound[name].append(content(other))
    left: Counter[str] = Counter()
    seen: dict[str, bytes] = {}
    changed = unfinished = 0
    for kill in range(args.kills):
        target = args.folder / TARGETS[kill % len(TARGETS)]
        child = os.fork()
        if child == 0:
            while True:
                convert(models[0], target)
                convert(models[1], target)
        time.sleep(draw.random() * 3 * times[target.name])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = content(target)
        if found is None:
            left["nothing yet"] += 1
        elif found in sound[target.name]:
            left["one of the two, whole"] += 1
        else:
            print(f"kill {kill}: {target} is neither of the two")
            return 1
        if found is not None and found != seen.get(target.name):
            changed, seen[target.name] = changed + 1, found
        unfinished += tidy(args.folder, target)
    print(f"the target changed hands {changed} times; {unfinished} kills left a hidden temporary file or folder")
    print(f"{args.kills} kills: " + ", ".join(f"{count} × {what}" for what, count in left.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
