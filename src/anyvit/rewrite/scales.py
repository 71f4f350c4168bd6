"""LayerScale and norms multiplied into the matrices beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvit.lazy import Lazy, computed
from anyvit.rewrite.basics import Tensors, block_numbers, ones, zeros

if TYPE_CHECKING:
    import numpy as np


BRANCHES = (("ls1", "attn.out", "norm1"), ("ls2", "mlp.fc2", "norm2"), ("ls2", "mlp.down", "norm2"))
"""LayerScale, the matrix before it, and a norm of its length."""


def fold_layer_scale(tensors: Tensors, *, post: bool = False) -> dict[str, Lazy] | None:
    """LayerScale multiplied into the rows of the matrices before it: ls · (W x + b) = (ls · W) x + ls · b.

    Attention and MLP side by side behind one norm share one LayerScale, which goes into both.

    Arguments:
        tensors: canonical name → tensor.
        post: whether a norm stands between the matrices and LayerScale, which then goes into its scale and shift.
    """
    out = dict(tensors)
    for i in block_numbers(tensors):
        block = f"blocks.{i}."
        shared = block + "norm2.weight" not in tensors and block + "ls2" not in tensors
        for scale, branch, norm in BRANCHES:
            factor = tensors.get(block + ("ls1" if shared else scale))
            if factor is None or f"{block}{branch}.weight" not in tensors:
                continue
            for part in ("weight", "bias"):
                name = f"{block}{norm if post else branch}.{part}"
                if name in out:
                    out[name] = _scaled(out[name], factor)
        for scale in ("ls1", "ls2"):
            out.pop(block + scale, None)
    return out if len(out) < len(tensors) else None


def unit_layer_scale(tensors: Tensors) -> dict[str, Lazy] | None:
    """LayerScale of ones where there is none."""
    out = dict(tensors)
    for i in block_numbers(tensors):
        for scale, _, like in BRANCHES[:2]:
            norm = tensors.get(f"blocks.{i}.{like}.weight")
            if norm is not None and f"blocks.{i}.{scale}" not in out:
                out[f"blocks.{i}.{scale}"] = ones(norm.shape, norm.dtype)
    return out if len(out) > len(tensors) else None


def _scaled(tensor: Lazy, factor: Lazy) -> Lazy:
    def scale(values: np.ndarray, by: np.ndarray) -> np.ndarray:
        by = by.astype("float32").reshape(-1, *(1,) * (values.ndim - 1))
        return (values.astype("float32") * by).astype(values.dtype)

    return computed(tensor.shape, tensor.dtype, scale, [tensor, factor])


READERS = (("norm1", ("attn.q", "attn.k", "attn.v")), ("norm2", ("mlp.fc1", "mlp.gate", "mlp.up")))
"""A norm before a branch, and the matrices that read it."""


def fold_norms(tensors: Tensors) -> dict[str, Lazy] | None:
    """Scales and shifts of the norms multiplied into the matrices behind: W (g · x + s) + b = (W · g) x + (W s + b).

    The norms stay, with scales of one and shifts of zero. A matrix without a bias gets one where there are shifts.
    """
    out = dict(tensors)
    for i in block_numbers(tensors):
        for norm, readers in READERS:
            scale, shift = (tensors.get(f"blocks.{i}.{norm}.{part}") for part in ("weight", "bias"))
            if scale is None:
                continue
            for name in [f"blocks.{i}.{reader}" for reader in readers if f"blocks.{i}.{reader}.weight" in tensors]:
                weight, bias = tensors[name + ".weight"], tensors.get(name + ".bias")
                out[name + ".weight"] = _scaled_columns(weight, scale)
                if shift is not None:
                    out[name + ".bias"] = _shifted(weight, shift, bias)
            out[f"blocks.{i}.{norm}.weight"] = ones(scale.shape, scale.dtype)
            if shift is not None:
                out[f"blocks.{i}.{norm}.bias"] = zeros(shift.shape, shift.dtype)
    return out if any(out[n] is not t for n, t in tensors.items()) else None


def _scaled_columns(weight: Lazy, scale: Lazy) -> Lazy:
    def times(values: np.ndarray, by: np.ndarray) -> np.ndarray:
        return (values.astype("float32") * by.astype("float32")).astype(values.dtype)

    return computed(weight.shape, weight.dtype, times, [weight, scale])


def _shifted(weight: Lazy, shift: Lazy, bias: Lazy | None) -> Lazy:
    def plus(w: np.ndarray, s: np.ndarray, *b: np.ndarray) -> np.ndarray:
        moved = w.astype("float64") @ s.astype("float64")
        return (moved + b[0].astype("float64") if b else moved).astype(w.dtype)

    return computed(weight.shape[:1], weight.dtype, plus, [weight, shift, *([bias] if bias is not None else [])])
