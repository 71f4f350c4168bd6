"""Attention weights with the laws of trained ones built in, and disguises to put on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anyvit.evidence import Attention


def trained(
    width: int = 128, heads: int = 4, depth: int = 3, seed: int = 0, spread: float = 0.3, groups: int = 1
) -> list[Attention]:
    """Balanced blocks whose heads have scales of their own; `groups` query heads share a key head."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(depth):
        shared = width // groups
        q, out_t = rng.normal(0, 0.02, (2, width, width))
        k, v = rng.normal(0, 0.02, (2, shared, width))
        size = width // heads
        qk, vo = (np.exp(rng.normal(0, spread, shared // size).repeat(size) + rng.normal(0, 0.1, shared)) for _ in "ab")
        wide = [x.reshape(-1, 1, size).repeat(groups, 1).reshape(-1) for x in (qk, vo)]
        found.append(
            Attention(
                *(x.astype("float32") for x in (q * wide[0][:, None], k * qk[:, None], v * vo[:, None])),
                (out_t * wide[1][:, None]).T.astype("float32"),
                name=f"blocks.{index}",
            )
        )
    return found


def random(rng: np.random.Generator, width: int, depth: int, kind: str) -> list[Attention]:
    """Blocks as an initialiser leaves them, or with channel scales that no head explains."""
    found = []
    for _ in range(depth):
        w = rng.uniform(-1, 1, (4, width, width)) if kind == "uniform" else rng.normal(size=(4, width, width))
        if kind == "parts":
            w = w * rng.uniform(0.1, 2, 4)[:, None, None]
        field = {
            "drift": np.linspace(-1, 1, width),
            "step": np.where(np.arange(width) < rng.integers(1, width), -1.0, 1.0),
            "noise": rng.normal(size=width),
            "pairs": rng.normal(size=(width + 1) // 2).repeat(2)[:width],
            "walk": rng.normal(size=width).cumsum() / np.sqrt(width),
        }.get(kind, np.zeros(width))
        scale = np.exp(rng.choice([0.1, 0.5]) * field)
        w = (0.02 * w).astype("float32")
        found.append(Attention(*(x * scale[:, None] for x in w[:3]), w[3] * scale))
    return found


def fused(blocks: Sequence[Attention], axes: str, v: int, turned: bool, heads: int) -> tuple[list, list]:
    """Weights (3·D, D) and outs of blocks laid out another way."""
    weights, outs = [], []
    for b in blocks:
        parts = [b.q, b.k]
        parts.insert(v, b.v)
        w = np.stack(parts)
        if axes == "h 3 d":
            w = w.reshape(3, heads, -1, w.shape[-1]).transpose(1, 0, 2, 3)
        if axes == "h d 3":
            w = w.transpose(1, 0, 2)
        weights.append(np.ascontiguousarray(w).reshape(-1, b.q.shape[1]))
        outs.append(b.out.T if turned else b.out)
    return weights, outs


def split(weight: np.ndarray, out: np.ndarray, name: str = "") -> Attention:
    """A fused tensor read as q, k, v one after the other."""
    return Attention(*np.split(weight.astype("float32"), 3), out.astype("float32"), name=name)


def position_table(prefix: int, h: int, w: int, seed: int = 0, width: int = 64, noise: float = 0.3) -> np.ndarray:
    """A learned-looking table: low frequencies in random directions, noise, and prefix rows of their own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    waves = np.zeros((h * w, width))
    for _ in range(10):
        fy, fx = rng.normal(0, 1.2, 2)
        wave = np.cos(np.pi * (fy * y / h + fx * x / w) + rng.uniform(0, 6))
        waves += wave.reshape(-1, 1) * rng.normal(size=width)
    waves += noise * waves.std() * rng.normal(size=waves.shape)
    return np.concatenate([waves.std() * rng.normal(size=(prefix, width)), waves]).astype("float32")
