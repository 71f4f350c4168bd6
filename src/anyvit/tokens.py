"""Registers and class tokens added to or taken from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def cls_token(tensors: Tensors, spec: Spec, wanted: bool, seed: int = 0) -> Adapted:
    """The class token taken away, or one added; never exact, for every token attends to it.

    Without it, what pooled it pools the mean of the patches. A new one is drawn from a truncated normal distribution
    and has no position; what is pooled stays the same.

    Arguments:
        tensors, spec: the model.
        wanted: whether there is to be one.
        seed: of the random numbers.

    Raises:
        BadArgument: a head that reads the class token beside others, or windows, which have no place for one.
    """
    if wanted == bool(spec.num_cls):
        return Adapted(tensors, spec)
    return _with_cls(tensors, spec, seed) if wanted else _without_cls(tensors, spec)


ARGUMENT = "the argument cls_token="


def _without_cls(tensors: Tensors, spec: Spec) -> Adapted:
    headed = [n for n in ("head.weight", "pre_logits.weight", "proj.weight", "proj.fc1.weight") if n in tensors]
    reads = spec.embed_dim * (spec.num_cls if spec.summary is None else len(spec.summary))
    if spec.dist_token or (headed and (spec.pool == "cls+avg" or (spec.pool == "cls" and reads != spec.embed_dim))):
        found = f"pool={spec.pool!r}, {', '.join(headed) or 'a distillation token'}"
        remedy = None if spec.dist_token or headed != ["head.weight"] else "num_classes=0 drops that head"
        raise BadArgument("a head reads the class token beside others", found=found, remedy=remedy)
    out = dict(tensors)
    gone, lost = [out.pop("embed.cls")], min(spec.pos_prefix, spec.num_cls)
    changes: dict[str, Any] = {"num_cls": 0, "summary": None}
    rows = out.pop("embed.pos_prefix", None)
    if rows is not None and rows.shape[0] > lost:
        out["embed.pos_prefix"] = _after(rows, lost)
    changes["pos_prefix"] = spec.pos_prefix - lost
    for name in [n for n in out if n.endswith(".rel_pos")]:
        out[name] = _cut(out[name], out[name].shape[0] - 3)
    if spec.cls_norm and not spec.num_registers:
        gone += [out.pop(n) for n in ("cls_norm.weight", "cls_norm.bias") if n in out]
        changes["cls_norm"] = False
    what = "the class token was removed as asked"
    if spec.pool in ("cls", "cls+avg"):
        changes |= {"pool": "avg", "pool_layers": 1}
        what += "; the mean of the patches is pooled instead"
    origins = tuple(dict.fromkeys(o for tensor in gone for o in tensor.origin))
    finding = Finding("ignored", origins, f"{what}; the function changes: every token attended to it", TRAIN)
    return Adapted(out, spec.with_facts("given", ARGUMENT, **changes), (finding,))


TRAIN = "train before you trust the features"


def _with_cls(tensors: Tensors, spec: Spec, seed: int) -> Adapted:
    if spec.window:
        raise BadArgument("windows have no place for a class token", found=f"window={spec.window}")
    out, dtype = dict(tensors), tensors["embed.patch.weight"].dtype
    out["embed.cls"] = astype(init.new("embed.cls", (1, spec.embed_dim), "trunc_normal", seed=seed), dtype)
    changes: dict[str, Any] = {"num_cls": 1}
    if "embed.pos_prefix" in out:  # its rows belong to the first prefix tokens, which move up by one
        out["embed.pos_prefix"] = concat([_zeros(1, out["embed.pos_prefix"]), out["embed.pos_prefix"]])
        changes["pos_prefix"] = spec.pos_prefix + 1
    for name in [n for n in out if n.endswith(".rel_pos")]:
        out[name] = concat([out[name], _zeros(3, out[name])])
    cause = f"a class token is new, drawn from a truncated normal distribution (0.02, seed {seed})"
    cause += f"; the function changes: every token attends to it; {spec.pool} is pooled as before"
    spec = spec.with_facts("given", ARGUMENT, **changes)
    return Adapted(out, spec, (Finding("new", ("embed.cls",), cause, TRAIN),))


def _zeros(rows: int, like: Lazy) -> Lazy:
    return astype(init.new("zeros", (rows, *like.shape[1:])), like.dtype)


def _after(table: Lazy, rows: int) -> Lazy:
    def last(values: np.ndarray) -> np.ndarray:
        return values[rows:]

    return computed((table.shape[0] - rows, *table.shape[1:]), table.dtype, last, [table])


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
