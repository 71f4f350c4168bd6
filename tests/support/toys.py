"""Small random state dicts in timm's names, and the wrappings that training code puts around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

WIDTH, DEPTH, MLP, PATCH, GRID = 128, 3, 192, 8, 4
"""Width, blocks, MLP width, patch in pixels and grid of the toys: 2 heads of 64 channels, 32 × 32 pixels."""


def shapes(
    *,
    width: int = WIDTH,
    depth: int = DEPTH,
    mlp: int = MLP,
    patch: int | tuple[int, int] = PATCH,
    chans: int = 3,
    rows: int | None = GRID * GRID + 1,
    cls: bool = True,
    dist: bool = False,
    registers: int = 0,
    layer_scale: bool = False,
    classes: int = 0,
    qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:
    """Name → shape of a timm VisionTransformer."""
    sides = (patch, patch) if isinstance(patch, int) else patch
    found: dict[str, tuple[int, ...]] = {}
    if cls:
        found["cls_token"] = (1, 1, width)
    if dist:
        found["dist_token"] = (1, 1, width)
    if registers:
        found["reg_token"] = (1, registers, width)
    if rows:
        found["pos_embed"] = (1, rows, width)
    found["patch_embed.proj.weight"] = (width, chans, *sides)
    found["patch_embed.proj.bias"] = (width,)
    for i in range(depth):
        for name, shape in _block(width, mlp, layer_scale, qkv_bias).items():
            found[f"blocks.{i}.{name}"] = shape
    found.update({"norm.weight": (width,), "norm.bias": (width,)})
    if classes:
        found.update({"head.weight": (classes, width), "head.bias": (classes,)})
        if dist:
            found.update({"head_dist.weight": (classes, width), "head_dist.bias": (classes,)})
    return found


def _block(width: int, mlp: int, layer_scale: bool, qkv_bias: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"norm1.weight": (width,), "norm1.bias": (width,)}
    found["attn.qkv.weight"] = (3 * width, width)
    if qkv_bias:
        found["attn.qkv.bias"] = (3 * width,)
    found.update({"attn.proj.weight": (width, width), "attn.proj.bias": (width,)})
    if layer_scale:
        found["ls1.gamma"] = (width,)
    found.update({"norm2.weight": (width,), "norm2.bias": (width,)})
    found.update({"mlp.fc1.weight": (mlp, width), "mlp.fc1.bias": (mlp,)})
    found.update({"mlp.fc2.weight": (width, mlp), "mlp.fc2.bias": (width,)})
    if layer_scale:
        found["ls2.gamma"] = (width,)
    return found


def toy(seed: int = 0, dtype: str = "float32", **changes: Any) -> dict[str, np.ndarray]:
    """A random state dict; no two values agree but by chance."""
    draw = np.random.default_rng(seed).standard_normal
    return {name: (0.2 * draw(shape)).astype(dtype) for name, shape in shapes(**changes).items()}


def under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The same state dict with something before every name."""
    return {prefix + name: value for name, value in state.items()}
