"""The classifier for other classes: dropped, zeros, or rows of the old one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyvit import init
from anyvit.adapted import Adapted, Tensors, whole
from anyvit.errors import BadArgument
from anyvit.lazy import Lazy, computed
from anyvit.report import Finding
from anyvit.spec import Spec

if TYPE_CHECKING:
    import numpy as np

HEADS = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias", "head_norm.mean", "head_norm.var")
ROWS = HEADS[:4]
"""Tensors with one row a class."""


@dataclass(frozen=True)
class ClassMap:
    """Classes of a new head as rows of the old one.

    Arguments:
        rows: for each new class the number of the old one, from 0; -1 for a new class, which starts at zero.

    Example:
        >>> ClassMap([281, 282, -1]).rows
        (281, 282, -1)
    """

    rows: tuple[int, ...]

    def __init__(self, rows: Sequence[int]) -> None:
        object.__setattr__(self, "rows", tuple(rows))


def num_classes(tensors: Tensors, spec: Spec, new: int | ClassMap) -> Adapted:
    """The classifier dropped (0), replaced by one of zeros, or cut from the old one; one with as many classes stays.

    Arguments:
        tensors, spec: the model.
        new: a number of classes, or a `ClassMap`.

    Raises:
        BadArgument: no such number or class, or nothing is pooled that a head could read.
    """
    if isinstance(new, ClassMap):
        return _mapped(tensors, spec, new)
    new = whole("num_classes", new, 0)
    if new == spec.num_classes:
        return Adapted(tensors, spec)
    dropped = [n for n in HEADS if n in tensors]
    out = {n: t for n, t in tensors.items() if n not in dropped}
    findings = []
    if dropped:
        origins = tuple(dict.fromkeys(o for n in dropped for o in tensors[n].origin))
        findings.append(Finding("ignored", origins, f"the head of {spec.num_classes} classes was dropped as asked"))
    if new:
        inputs = width(spec)
        names = [f"{n}.{p}" for n in ("head", "head_dist")[: 1 + spec.dist_token] for p in ("weight", "bias")]
        out |= {n: init.new(n, (new, inputs) if n.endswith("weight") else (new,)) for n in names}
        cause = f"a new head of {new} classes starts at zero"
        findings.append(Finding("new", tuple(names), cause, "train it before you trust its logits"))
    changes = spec.with_facts("given", "the argument num_classes=", num_classes=new, head_norm=False)
    return Adapted(out, changes, tuple(findings))


def width(spec: Spec) -> int:
    """Channels of what a classifier reads.

    Raises:
        BadArgument: the model pools nothing.
    """
    if spec.pre_logits_dim:
        return spec.pre_logits_dim
    if spec.pool == "none":
        raise BadArgument(
            "the model pools nothing, so a classifier has nothing to read", found='pool="none"',
            remedy="put a head of your own on the tokens",
        )  # fmt: skip
    if spec.pool == "avg" and spec.neck_dim:
        return spec.neck_dim
    if spec.pool in ("map", "attn_pool"):
        return spec.pool_dim or spec.embed_dim
    if spec.pool == "cls" and spec.num_cls > 1:
        return spec.embed_dim * (spec.num_cls if spec.summary is None else len(spec.summary))
    return spec.embed_dim * (spec.pool_layers + 1 if spec.pool == "cls+avg" else 1)


def _mapped(tensors: Tensors, spec: Spec, asked: ClassMap) -> Adapted:
    rows, old = asked.rows, spec.num_classes
    if "head.weight" not in tensors or not old:
        raise BadArgument("a class map needs a classifier to cut from", remedy=f"num_classes={len(rows)}")
    odd = [r for r in rows if not isinstance(r, int) or isinstance(r, bool) or not -1 <= r < old]
    if odd or not rows:
        usual = "classes counted from 1" if old in odd else None
        expected = f"numbers from 0 to {old - 1}, or -1 for a new class"
        raise BadArgument("no such class in the file's head", found=odd[:10] or rows, expected=expected, usual=usual)
    names = [n for n in ROWS if n in tensors]
    out = {**tensors, **{n: _rows(tensors[n], rows) for n in names}}
    new = sum(r < 0 for r in rows)
    cause = f"the head of {old} classes became one of {len(rows)}: {len(rows) - new} rows of it"
    cause += f" and {new} of zeros; the logits of kept classes are unchanged" if new else ", their logits unchanged"
    remedy = "train the new classes before you trust their logits" if new else None
    origins = tuple(dict.fromkeys(o for n in names for o in tensors[n].origin))
    spec = spec.with_facts("given", "the argument num_classes=", num_classes=len(rows))
    return Adapted(out, spec, (Finding("resized", origins, cause, remedy),))


def _rows(tensor: Lazy, rows: tuple[int, ...]) -> Lazy:
    def take(values: np.ndarray) -> np.ndarray:
        import numpy as np

        out = np.zeros((len(rows), *values.shape[1:]), values.dtype)
        kept = [n for n, row in enumerate(rows) if row >= 0]
        out[kept] = values[[rows[n] for n in kept]]
        return out

    return computed((len(rows), *tensor.shape[1:]), tensor.dtype, take, [tensor])
