"""Identities that belong to reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from anyvit.lazy import Lazy, computed
from anyvit.report import Finding, fold
from anyvit.rewrite.basics import Tensors, block_numbers

if TYPE_CHECKING:
    import numpy as np


def on_reading(tensors: Tensors, ignored: Mapping[str, str], source: Tensors) -> tuple[dict[str, Lazy], list[Finding]]:
    """Identities that belong to reading: DINOv3's mask of the key bias is applied.

    Arguments:
        tensors: canonical name → tensor.
        ignored: source names that carry nothing by themselves.
        source: the file's tensors.
    """
    masks = [name for name in ignored if name.endswith("bias_mask")]
    out = dict(tensors)
    if not masks:
        return out, []
    for name in [n for n in out if n.endswith("attn.k.bias")]:
        del out[name]
    return out, [Finding("folded", fold(masks), "the mask of the key bias was applied: there is no key bias")]


def repeat_grouped(tensors: Tensors, head_dim: int) -> tuple[dict[str, Lazy], list[Finding]]:
    """Grouped keys and values with their heads repeated: every group of query heads gets its own copy, exactly.

    Arguments:
        tensors: canonical name → tensor.
        head_dim: channels of one head.
    """
    out, names = dict(tensors), []
    for i in block_numbers(tensors):
        query = tensors.get(f"blocks.{i}.attn.q.weight")
        for part in ("k.weight", "k.bias", "v.weight", "v.bias"):
            name = f"blocks.{i}.attn.{part}"
            tensor = tensors.get(name)
            if query is None or tensor is None or tensor.shape[0] >= query.shape[0]:
                continue
            if query.shape[0] % tensor.shape[0] or tensor.shape[0] % head_dim:
                continue
            out[name] = _repeated(tensor, query.shape[0] // tensor.shape[0], head_dim)
            names += tensor.origin
    if not names:
        return out, []
    cause = "grouped-query attention: key and value heads were repeated for every group; the function is unchanged"
    return out, [Finding("folded", fold(names), cause)]


def _repeated(tensor: Lazy, times: int, head_dim: int) -> Lazy:
    rest = tensor.shape[1:]

    def repeat(values: np.ndarray) -> np.ndarray:
        heads = values.reshape(-1, head_dim, *rest)
        return heads.repeat(times, axis=0).reshape(-1, *rest)

    return computed((tensor.shape[0] * times, *rest), tensor.dtype, repeat, [tensor])
