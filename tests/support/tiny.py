"""Tiny Vision Transformers of random weights as state dicts in numpy, and what is done to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anyvit.containers import save
from anyvit.lazy import from_array

State = dict[str, np.ndarray]
DIM, DEPTH, PATCH, GRID = 64, 3, 4, 4


def timm_state(seed: int = 0, *, dim: int = DIM, depth: int = DEPTH, classes: int = 5) -> State:
    """A plain ViT in timm's names: every value random, none constant."""
    draw = np.random.default_rng(seed)

    def new(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) * (0.5 / np.sqrt(shape[-1] if len(shape) == 2 else 4))).astype("float32")

    state = {
        "cls_token": new(1, 1, dim),
        "pos_embed": new(1, GRID * GRID + 1, dim),
        "patch_embed.proj.weight": new(dim, 3, PATCH, PATCH) * 0.3,
        "patch_embed.proj.bias": new(dim),
    }
    for i in range(depth):
        block = f"blocks.{i}."
        state |= {
            block + "norm1.weight": 1 + new(dim),
            block + "norm1.bias": new(dim),
            block + "attn.qkv.weight": new(3 * dim, dim) * 3,
            block + "attn.qkv.bias": new(3 * dim),
            block + "attn.proj.weight": new(dim, dim),
            block + "attn.proj.bias": new(dim),
            block + "norm2.weight": 1 + new(dim),
            block + "norm2.bias": new(dim),
            block + "mlp.fc1.weight": new(4 * dim, dim),
            block + "mlp.fc1.bias": new(4 * dim),
            block + "mlp.fc2.weight": new(dim, 4 * dim),
            block + "mlp.fc2.bias": new(dim),
        }
    state |= {"norm.weight": 1 + new(dim), "norm.bias": new(dim)}
    if classes:
        state |= {"head.weight": new(classes, dim), "head.bias": new(classes)}
    return state


def renamed(state: Mapping[str, np.ndarray], rename: Callable[[str], str]) -> State:
    """The same tensors under other names."""
    return {rename(name): value for name, value in state.items()}


def write(state: Mapping[str, np.ndarray], path: Path, **options: Any) -> Path:
    """A state dict as a file of the container that the suffix names."""
    save({name: from_array(np.ascontiguousarray(value), name) for name, value in state.items()}, path, **options)
    return path


def offset_of(path: Path, name: str) -> int:
    """Where a tensor's bytes begin in a file."""
    from anyvit.containers import open_checkpoint

    pieces = open_checkpoint(path).tensors[name].pieces
    assert pieces is not None
    return pieces[0].offset


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Turns one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def spoilt(name: str, value: float, at: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    """The small model with one value of a tensor put in, at a place or everywhere."""
    state = timm_state()
    state[name][... if at is None else at] = value
    return state
