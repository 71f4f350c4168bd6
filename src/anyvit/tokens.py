"""Registers added to or taken from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvit import init
from anyvit.adapted import Adapted, Tensors, whole
from anyvit.errors import BadArgument
from anyvit.lazy import Lazy, astype, computed, concat
from anyvit.report import Finding
from anyvit.spec import Spec

if TYPE_CHECKING:
    import numpy as np


def registers(tensors: Tensors, spec: Spec, new: int, seed: int = 0) -> Adapted:
    """Another number of register tokens; new ones are drawn from a truncated normal distribution.

    This is never exact: every token attends to the registers.

    Arguments:
        tensors, spec: the model.
        new: register tokens wanted.
        seed: of the random numbers.

    Raises:
        BadArgument: no such number, or attention that has no place for further tokens.

    Source: facebookresearch/dinov2@b8931f7: dinov2/models/vision_transformer.py init_weights
    (standard deviation 1e-6 there, which leaves registers alike; 0.02 here, as its position table starts)
    """
    new, old = whole("registers", new, 0), spec.num_registers
    if new == old:
        return Adapted(tensors, spec)
    _refuse(spec)
    out = dict(tensors)
    kept = _cut(tensors["embed.reg"], min(new, old)) if old and new else None
    if new > old:
        model = next(tensors[n] for n in ("embed.reg", "embed.cls", "embed.patch.weight") if n in tensors)
        drawn = init.new("embed.reg", (new, spec.embed_dim), "trunc_normal", seed=seed)
        fresh = astype(computed((new - old, spec.embed_dim), "float32", lambda rows: rows[old:], [drawn]), model.dtype)
        kept = fresh if kept is None else concat([kept, fresh])
        names: tuple[str, ...] = ("embed.reg",)
        cause = f"{new - old} registers are new, drawn from a truncated normal distribution (0.02, seed {seed})"
        finding = Finding("new", names, f"{cause}; the function changes", "train before you trust the features")
    else:
        names = tensors["embed.reg"].origin
        cause = f"{old - new} of {old} registers were removed as asked; the function changes"
        finding = Finding("ignored", names, cause)
    out.pop("embed.reg", None)
    if kept is not None:
        out["embed.reg"] = kept
    changes = {"num_registers": new, **_prefix_rows(out, spec, new)}
    return Adapted(out, spec.with_facts("given", "the argument registers=", **changes), (finding,))


def _refuse(spec: Spec) -> None:
    kinds = set(spec.pos_embed.split("+"))
    if spec.window or kinds & {"relpos", "relpos_shared", "relpos_decomposed"}:
        raise BadArgument(
            "relative position tables and windows have no place for registers", found=f"pos_embed={spec.pos_embed!r}"
        )


def _prefix_rows(tensors: dict[str, Lazy], spec: Spec, new: int) -> dict[str, int]:
    """Rows of the position table that belonged to removed registers go with them; `tensors` is changed."""
    prefix = tensors.get("embed.pos_prefix")
    most = spec.num_cls + int(spec.dist_token) + new
    if prefix is None or prefix.shape[0] <= most:
        return {}
    tensors.pop("embed.pos_prefix")
    if most:
        tensors["embed.pos_prefix"] = _cut(prefix, most)
    return {"pos_prefix": most}


def _cut(table: Lazy, rows: int) -> Lazy:
    if rows == table.shape[0]:
        return table

    def first(values: np.ndarray) -> np.ndarray:
        return values[:rows]

    return computed((rows, *table.shape[1:]), table.dtype, first, [table])
