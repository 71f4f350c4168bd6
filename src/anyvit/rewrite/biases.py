"""Biases that are zero, or that softmax does not see."""

from __future__ import annotations

from collections.abc import Sequence

from anyvit.lazy import Lazy
from anyvit.rewrite.basics import Tensors, block_numbers, is_zero, zeros


def zero_key_bias(tensors: Tensors) -> dict[str, Lazy] | None:
    """A key bias of zeros beside query and value biases, for layouts with one fused bias."""
    out = dict(tensors)
    for i in block_numbers(tensors):
        query, key = f"blocks.{i}.attn.q.bias", f"blocks.{i}.attn.k.bias"
        if query in tensors and key not in tensors:
            weight = tensors[f"blocks.{i}.attn.k.weight"]
            out[key] = zeros(weight.shape[:1], tensors[query].dtype)
    return out if len(out) > len(tensors) else None


def drop_key_bias(tensors: Tensors, *, rotary: bool) -> dict[str, Lazy] | None:
    """No key bias: it adds the same number to all logits of a query, which softmax does not see.

    Where keys are rotated or normed after the bias this does not hold, and only a bias of zeros is dropped.

    Arguments:
        tensors: canonical name → tensor.
        rotary: whether keys are rotated.
    """
    names = [n for i in block_numbers(tensors) if (n := f"blocks.{i}.attn.k.bias") in tensors]
    seen = rotary or any(f"blocks.{i}.attn.k_norm.weight" in tensors for i in block_numbers(tensors))
    if not names or (seen and not all(is_zero(tensors[n]) for n in names)):
        return None
    return {n: t for n, t in tensors.items() if n not in names}


def zero_biases(tensors: Tensors, patterns: Sequence[str]) -> dict[str, Lazy] | None:
    """Biases of zeros beside weights that have none.

    Arguments:
        tensors: canonical name → tensor.
        patterns: canonical names of biases, blocks by `{i}`.
    """
    out = dict(tensors)
    for name in _spelled(tensors, patterns):
        weight = tensors.get(name.removesuffix("bias") + "weight")
        if name not in tensors and weight is not None:
            out[name] = zeros(weight.shape[:1], weight.dtype)
    return out if len(out) > len(tensors) else None


def drop_zero_biases(tensors: Tensors, patterns: Sequence[str]) -> dict[str, Lazy] | None:
    """No biases where all of them are zero, which is read."""
    names = [n for n in _spelled(tensors, patterns) if n in tensors]
    if not names or not all(is_zero(tensors[n]) for n in names):
        return None
    return {n: t for n, t in tensors.items() if n not in names}


def _spelled(tensors: Tensors, patterns: Sequence[str]) -> list[str]:
    """The names of patterns, one a block where they name blocks."""
    numbers = block_numbers(tensors)
    return [p.replace("{i}", str(i)) for p in patterns for i in (numbers if "{i}" in p else (0,))]


MLP_LAST = {True: "blocks.{i}.mlp.fc2.bias", False: "blocks.{i}.mlp.down.bias"}
"""The last bias of a plain and of a gated MLP."""
