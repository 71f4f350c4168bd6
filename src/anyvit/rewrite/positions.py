"""Position tables, their prefix rows, and positions that follow from a few numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvit.errors import AnyvitError
from anyvit.lazy import Lazy, astype, computed, concat
from anyvit.rewrite.basics import Tensors, block_numbers, zeros

if TYPE_CHECKING:
    import numpy as np


def fold_patch_bias(tensors: Tensors) -> dict[str, Lazy] | None:
    """The patch bias added to every position: (W x + b) + p = W x + (p + b)."""
    if "embed.patch.bias" not in tensors or "embed.pos" not in tensors or "embed.patch_norm.weight" in tensors:
        return None
    out = dict(tensors)
    bias, table = out.pop("embed.patch.bias"), out["embed.pos"]
    out["embed.pos"] = _added(table, bias)
    return out


def prefix_rows(tensors: Tensors, count: int) -> dict[str, Lazy] | None:
    """A position table with another number of prefix rows (cls, then dist, then registers).

    Rows that are missing are zeros; where there are too many, all are added to the tokens they belong to.

    Arguments:
        tensors: canonical name → tensor.
        count: rows before those of the patches.
    """
    rows, table = tensors.get("embed.pos_prefix"), tensors.get("embed.pos")
    have = rows.shape[0] if rows is not None else 0
    if table is None or have == count:
        return None
    out = dict(tensors)
    if rows is not None and have > count:
        out, rows, have = _without_prefix_rows(out), None, 0
    if count > have:
        more = zeros((count - have, table.shape[1]), table.dtype)
        out["embed.pos_prefix"] = more if rows is None else concat([rows, astype(more, rows.dtype)])
    return out


def _without_prefix_rows(tensors: dict[str, Lazy]) -> dict[str, Lazy]:
    out = dict(tensors)
    rows, start = out.pop("embed.pos_prefix"), 0
    for name in ("embed.cls", "embed.dist", "embed.reg"):
        if name in out and start < rows.shape[0]:
            token = out[name]
            count = min(rows.shape[0] - start, 1 if len(token.shape) == 1 else token.shape[0])
            out[name] = _added_rows(token, rows, start, count)
            start += count
    return out


def _added(table: Lazy, row: Lazy) -> Lazy:
    def add(values: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (values.astype("float32") + other.astype("float32")).astype(values.dtype)

    return computed(table.shape, table.dtype, add, [table, row])


def _added_rows(token: Lazy, rows: Lazy, start: int, count: int) -> Lazy:
    def add(values: np.ndarray, table: np.ndarray) -> np.ndarray:
        out = values.astype("float32").reshape(-1, values.shape[-1])
        out[:count] += table[start : start + count].astype("float32")
        return out.reshape(values.shape).astype(values.dtype)

    return computed(token.shape, token.dtype, add, [token, rows])


def spread_relative_positions(tensors: Tensors) -> dict[str, Lazy] | None:
    """A relative position table that all blocks share, given to each of them."""
    table = tensors.get("embed.rel_pos")
    if table is None:
        return None
    out = {n: t for n, t in tensors.items() if n != "embed.rel_pos"}
    return {**out, **{f"blocks.{i}.attn.rel_pos": table for i in block_numbers(tensors)}}


def sincos_table(tensors: Tensors, grid: tuple[int, int]) -> dict[str, Lazy] | None:
    """The sine-cosine positions that big_vision computes and does not store, as a table.

    Arguments:
        tensors: canonical name → tensor.
        grid: rows and columns of the table, in tokens.

    Source: google-research/big_vision big_vision/models/vit.py posemb_sincos_2d
    """
    if "embed.pos" in tensors:
        return None
    kernel = tensors["embed.patch.weight"]

    def table() -> np.ndarray:
        from anyvit.relpos import sincos2d

        return sincos2d(*grid, kernel.shape[0], kind="big_vision")

    return {**tensors, "embed.pos": computed((grid[0] * grid[1], kernel.shape[0]), kernel.dtype, table)}


def rope_periods(tensors: Tensors, base: float, count: int) -> dict[str, Lazy] | None:
    """The periods of DINOv3's rotary embedding, computed from its base.

    Arguments:
        tensors: canonical name → tensor.
        base: the base of the frequencies.
        count: a quarter of a head's channels.
    """
    if "rope.periods" in tensors:
        return None
    return {**tensors, "rope.periods": computed((count,), "float32", lambda: _periods(base, count))}


def drop_rope_periods(tensors: Tensors, base: float) -> dict[str, Lazy] | None:
    """No stored periods, where they are those that follow from the base, which is read."""
    import numpy as np

    stored = tensors.get("rope.periods")
    if stored is None:
        return None
    try:
        values = stored.read().astype("float32")
    except AnyvitError:
        return None
    # DINOv3 keeps them in bfloat16, whose rounding is 2^-9
    if not np.allclose(values, _periods(base, len(values)), rtol=2**-8):
        return None
    return {n: t for n, t in tensors.items() if n != "rope.periods"}


def _periods(base: float, count: int) -> np.ndarray:
    import numpy as np

    return (base ** (np.arange(count, dtype="float32") / count)).astype("float32")
