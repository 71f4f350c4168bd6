"""Classifiers, projections and tokens that features do not use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvit.errors import AnyvitError
from anyvit.lazy import Lazy, computed
from anyvit.rewrite.basics import Tensors, is_zero, zeros

if TYPE_CHECKING:
    import numpy as np


def projection_as_head(tensors: Tensors) -> dict[str, Lazy] | None:
    """A linear projection into a joint space as a classifier with a bias of zeros, as timm holds CLIP's.

    Source: huggingface/pytorch-image-models v1.0.31 timm/models/vision_transformer.py, _convert_openai_clip.
    """
    weight = tensors.get("proj.weight")
    if weight is None or "head.weight" in tensors or "pre_logits.weight" in tensors:
        return None
    out = {n: t for n, t in tensors.items() if not n.startswith("proj.")}
    bias = tensors.get("proj.bias", zeros(weight.shape[:1], weight.dtype))
    return {**out, "head.weight": weight, "head.bias": bias}


def head_as_projection(tensors: Tensors) -> dict[str, Lazy] | None:
    """A classifier whose bias is zero as a projection into a joint space."""
    weight, bias = tensors.get("head.weight"), tensors.get("head.bias")
    if weight is None or "proj.weight" in tensors or (bias is not None and not is_zero(bias)):
        return None
    out = {n: t for n, t in tensors.items() if n not in ("head.weight", "head.bias")}
    return {**out, "proj.weight": weight}


HEAD_NORM_EPS = 1e-6
"""Source: facebookresearch/mae main_linprobe.py: BatchNorm1d(affine=False, eps=1e-6)."""


def fold_head_norm(tensors: Tensors) -> dict[str, Lazy] | None:
    """A classifier with the norm before it multiplied in: W (x - m) / s + b = (W / s) x + (b - W m / s)."""
    wanted = ("head.weight", "head.bias", "head_norm.mean", "head_norm.var")
    if any(name not in tensors for name in wanted):
        return None
    weight, bias, mean, var = (tensors[name] for name in wanted)

    def scaled(w: np.ndarray, v: np.ndarray) -> np.ndarray:
        return w.astype("float32") / (v.astype("float32") + HEAD_NORM_EPS) ** 0.5

    def shifted(b: np.ndarray, w: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
        return b.astype("float32") - scaled(w, v) @ m.astype("float32")

    out = {n: t for n, t in tensors.items() if not n.startswith("head_norm.")}
    out["head.weight"] = computed(weight.shape, weight.dtype, scaled, [weight, var])
    out["head.bias"] = computed(bias.shape, bias.dtype, shifted, [bias, weight, mean, var])
    return out


def widened_head(tensors: Tensors, pool: str) -> dict[str, Lazy]:
    """A classifier of the class token or of the mean as one of both, side by side.

    Arguments:
        tensors: canonical name → tensor.
        pool: what it is fed, "cls" or "avg".
    """
    head = tensors["head.weight"]

    def widen(values: np.ndarray) -> np.ndarray:
        import numpy as np

        parts = (values, np.zeros_like(values))
        return np.concatenate(parts if pool == "cls" else parts[::-1], 1)

    return {**tensors, "head.weight": computed((head.shape[0], 2 * head.shape[1]), head.dtype, widen, [head])}


def narrowed_head(tensors: Tensors) -> tuple[dict[str, Lazy], str] | None:
    """A classifier of class token and mean of which one half is zero, as one of the other alone, and what it is fed."""
    head = tensors["head.weight"]
    try:
        values = head.read()
    except AnyvitError:
        return None
    width = head.shape[1] // 2
    for pool, zero, kept in (
        ("cls", values[:, width:], slice(None, width)),
        ("avg", values[:, :width], slice(width, None)),
    ):
        if not zero.astype("float32").any():
            half = computed((head.shape[0], width), head.dtype, lambda whole, part=kept: whole[:, part], [head])
            return {**tensors, "head.weight": half}, pool
    return None


def zero_mask_token(tensors: Tensors) -> dict[str, Lazy] | None:
    """A mask token of zeros, which features do not use."""
    if "embed.mask" in tensors:
        return None
    norm = tensors["blocks.0.norm1.weight"]
    return {**tensors, "embed.mask": zeros(norm.shape, norm.dtype)}
