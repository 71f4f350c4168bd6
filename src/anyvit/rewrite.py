"""Exact identities: canonical tensors → canonical tensors that compute the same function.

What a dialect cannot say is removed by one of these, each named and always in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyvit.lazy import Lazy, computed
from anyvit.report import Finding, fold

if TYPE_CHECKING:
    import numpy as np

Tensors = Mapping[str, Lazy]


@dataclass(frozen=True)
class Rewrite:
    """An identity.

    Arguments:
        name: what it does, in words.
        apply: gives the rewritten tensors, or None where it does not apply.
        exact: whether the function stays the same to the last bit (else to rounding).
    """

    name: str
    apply: Callable[[Tensors], dict[str, Lazy] | None]
    exact: bool


def block_numbers(tensors: Tensors) -> Sequence[int]:
    """The block numbers that are present."""
    from anyvit.conform import depth_of

    return depth_of(tensors)


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


def zeros(shape: Sequence[int], dtype: str) -> Lazy:
    """A tensor of zeros, made of no source.

    Example:
        >>> zeros((2,), "float32").read().tolist()
        [0.0, 0.0]
    """

    def make() -> np.ndarray:
        import numpy as np

        return np.zeros(tuple(shape), "float32")

    return computed(shape, dtype, make)


def zero_key_bias(tensors: Tensors) -> dict[str, Lazy] | None:
    """A key bias of zeros beside query and value biases, for layouts with one fused bias.

    A key bias shifts all logits of a query alike, and softmax does not see it; a bias of zeros shifts nothing at all.
    """
    out = dict(tensors)
    for i in block_numbers(tensors):
        query, key = f"blocks.{i}.attn.q.bias", f"blocks.{i}.attn.k.bias"
        if query in tensors and key not in tensors:
            weight = tensors[f"blocks.{i}.attn.k.weight"]
            out[key] = zeros(weight.shape[:1], tensors[query].dtype)
    return out if len(out) > len(tensors) else None


def fold_layer_scale(tensors: Tensors) -> dict[str, Lazy] | None:
    """LayerScale multiplied into the rows of the matrices before it: ls · (W x + b) = (ls · W) x + ls · b."""
    if "blocks.0.ls1" not in tensors:
        return None
    out = dict(tensors)
    for i in block_numbers(tensors):
        last = "mlp.fc2" if f"blocks.{i}.mlp.fc2.weight" in tensors else "mlp.down"
        for scale, branch in (("ls1", "attn.out"), ("ls2", last)):
            factor = out.pop(f"blocks.{i}.{scale}", None)
            for part in ("weight", "bias"):
                name = f"blocks.{i}.{branch}.{part}"
                if factor is not None and name in out:
                    out[name] = _scaled(out[name], factor)
    return out


def _scaled(tensor: Lazy, factor: Lazy) -> Lazy:
    def scale(values: np.ndarray, by: np.ndarray) -> np.ndarray:
        by = by.astype("float32").reshape(-1, *(1,) * (values.ndim - 1))
        return (values.astype("float32") * by).astype(values.dtype)

    return computed(tensor.shape, tensor.dtype, scale, [tensor, factor])


def fold_patch_bias(tensors: Tensors) -> dict[str, Lazy] | None:
    """The patch bias added to every position: (W x + b) + p = W x + (p + b)."""
    if "embed.patch.bias" not in tensors or "embed.pos" not in tensors or "embed.patch_norm.weight" in tensors:
        return None
    out = dict(tensors)
    bias, table = out.pop("embed.patch.bias"), out["embed.pos"]
    out["embed.pos"] = _added(table, bias)
    return out


def fold_prefix_positions(tensors: Tensors) -> dict[str, Lazy] | None:
    """The prefix rows of the position table added to the tokens they belong to: cls, then dist, then registers."""
    if "embed.pos_prefix" not in tensors:
        return None
    out = dict(tensors)
    rows, start = out.pop("embed.pos_prefix"), 0
    for name in ("embed.cls", "embed.dist", "embed.reg"):
        if name in out and start < rows.shape[0]:
            token = out[name]
            count = 1 if len(token.shape) == 1 else token.shape[0]
            out[name] = _added_rows(token, rows, start, count)
            start += count
    return out


def unfold_prefix_positions(tensors: Tensors) -> dict[str, Lazy] | None:
    """Prefix rows of zeros for a layout whose table has a row for each class token."""
    if "embed.pos_prefix" in tensors or "embed.pos" not in tensors or "embed.cls" not in tensors:
        return None
    count = tensors["embed.cls"].shape[0] + int("embed.dist" in tensors)
    table = tensors["embed.pos"]
    return {**tensors, "embed.pos_prefix": zeros((count, table.shape[1]), table.dtype)}


def _added(table: Lazy, row: Lazy) -> Lazy:
    return computed(
        table.shape, table.dtype, lambda a, b: (a.astype("float32") + b.astype("float32")).astype(a.dtype), [table, row]
    )


def _added_rows(token: Lazy, rows: Lazy, start: int, count: int) -> Lazy:
    def add(values: np.ndarray, table: np.ndarray) -> np.ndarray:
        part = table[start : start + count].astype("float32").reshape(values.shape)
        return (values.astype("float32") + part).astype(values.dtype)

    return computed(token.shape, token.dtype, add, [token, rows])


REWRITES: tuple[Rewrite, ...] = (
    Rewrite("a key bias of zeros was added", zero_key_bias, True),
    Rewrite("LayerScale was folded into the matrices before it", fold_layer_scale, False),
    Rewrite("the prefix rows of the position table were added to their tokens", fold_prefix_positions, False),
    Rewrite("prefix rows of zeros were added to the position table", unfold_prefix_positions, True),
    Rewrite("the patch bias was folded into the position table", fold_patch_bias, False),
)
