"""Exact identities: canonical tensors → canonical tensors that compute the same function.

What a target cannot say is removed by one of these, what it wants is made by one; `fit` names them and says so in the
report. Each gives the rewritten tensors, or None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from anyvit.errors import AnyvitError
from anyvit.lazy import Lazy, astype, computed, concat
from anyvit.report import Finding, fold

if TYPE_CHECKING:
    import numpy as np

Tensors = Mapping[str, Lazy]


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


def ones(shape: Sequence[int], dtype: str) -> Lazy:
    """A tensor of ones, made of no source.

    Example:
        >>> ones((2,), "float32").read().tolist()
        [1.0, 1.0]
    """

    def make() -> np.ndarray:
        import numpy as np

        return np.ones(tuple(shape), "float32")

    return computed(shape, dtype, make)


SMALL = 1 << 20
"""Most elements of a tensor that is read to prove something of it."""


def is_zero(tensor: Lazy) -> bool:
    """Whether a small tensor was read and holds nothing but zeros; False where it cannot be read.

    Example:
        >>> is_zero(zeros((3,), "float32")), is_zero(ones((3,), "float32"))
        (True, False)
    """
    try:
        return bool(prod(tensor.shape) <= SMALL and not tensor.read().astype("float32").any())
    except AnyvitError:
        return False


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


MLP_LAST = {True: "blocks.{i}.mlp.fc2.bias", False: "blocks.{i}.mlp.down.bias"}
"""The last bias of a plain and of a gated MLP."""
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


def spread_relative_positions(tensors: Tensors) -> dict[str, Lazy] | None:
    """A relative position table that all blocks share, given to each of them."""
    table = tensors.get("embed.rel_pos")
    if table is None:
        return None
    out = {n: t for n, t in tensors.items() if n != "embed.rel_pos"}
    return {**out, **{f"blocks.{i}.attn.rel_pos": table for i in block_numbers(tensors)}}


def zero_mask_token(tensors: Tensors) -> dict[str, Lazy] | None:
    """A mask token of zeros, which features do not use."""
    if "embed.mask" in tensors:
        return None
    norm = tensors["blocks.0.norm1.weight"]
    return {**tensors, "embed.mask": zeros(norm.shape, norm.dtype)}


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
