"""Bringing canonical tensors to what a target can say: exact rewrites first, a refusal by name otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from anyvit import canon, rewrite
from anyvit.errors import Unsayable
from anyvit.lazy import Lazy
from anyvit.report import Finding, fold
from anyvit.rules import Dialect, Run, write
from anyvit.spec import Spec, single

Tensors = Mapping[str, Lazy]
B = canon.B


@dataclass(frozen=True)
class Fitted:
    """Canonical tensors that a target can hold, their Spec, and what was changed for it."""

    tensors: Tensors
    spec: Spec
    findings: tuple[Finding, ...] = ()

    def then(self, other: Fitted) -> Fitted:
        """The result of a further step."""
        return replace(other, findings=tuple(dict.fromkeys((*self.findings, *other.findings))))


@dataclass(frozen=True)
class Step:
    """A rewrite and what it changes in the Spec.

    Arguments:
        text: what it did.
        apply: the rewrite; gives None where it does not apply.
        removes: canonical names (blocks by `{i}`) that it takes away; tried when the target lacks one of them.
        adds: canonical names that it makes; tried when the target wants one of them.
        changes: Spec fields that change.
        exact: whether the function stays the same to the last bit.
    """

    text: str
    apply: Callable[[Tensors, Spec], dict[str, Lazy] | None]
    removes: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    changes: Mapping[str, Any] | Callable[[Tensors], Mapping[str, Any]] = field(default_factory=dict)
    exact: bool = True

    def changed(self, tensors: Tensors) -> Mapping[str, Any]:
        """The Spec fields that the rewritten tensors have otherwise."""
        return self.changes(tensors) if callable(self.changes) else self.changes


def _plain(rewritten: Callable[[Tensors], dict[str, Lazy] | None]) -> Callable[[Tensors, Spec], dict[str, Lazy] | None]:
    return lambda tensors, spec: rewritten(tensors)


def _no_key_bias(tensors: Tensors, spec: Spec) -> dict[str, Lazy] | None:
    return rewrite.drop_key_bias(tensors, rotary=spec.rope is not None)


def _no_layer_scale(tensors: Tensors, spec: Spec) -> dict[str, Lazy] | None:
    return rewrite.fold_layer_scale(tensors, post=spec.block_norm == "post")


def _no_periods(tensors: Tensors, spec: Spec) -> dict[str, Lazy] | None:
    return rewrite.drop_rope_periods(tensors, spec.rope.base) if spec.rope else None


def _periods(tensors: Tensors, spec: Spec) -> dict[str, Lazy] | None:
    return rewrite.rope_periods(tensors, spec.rope.base, spec.heads_dim // 4) if spec.rope else None


def _classes(tensors: Tensors) -> dict[str, Any]:
    return {"num_classes": tensors["head.weight"].shape[0], "projection_dim": None, "projection_bias": False}


def _joint(tensors: Tensors) -> dict[str, Any]:
    return {"num_classes": 0, "projection_dim": tensors["proj.weight"].shape[0], "projection": "linear"}


QKV = (B + "attn.q.bias", B + "attn.k.bias", B + "attn.v.bias")
OUT = (B + "attn.out.bias",)
MLP = (B + "mlp.fc1.bias", B + "mlp.fc2.bias", B + "mlp.gate.bias", B + "mlp.up.bias", B + "mlp.down.bias")
PATCH = ("embed.patch.bias",)
HEADS = ("head.bias", "head_dist.bias", "pre_logits.bias", "proj.bias")
SCALES = (B + "ls1", B + "ls2")
POOL = ("pool.q.bias", "pool.k.bias", "pool.v.bias", "pool.out.bias", "pool.mlp.fc1.bias", "pool.mlp.fc2.bias")


def _biases(what: str, names: tuple[str, ...], **fields: str) -> tuple[Step, Step]:
    """Two steps: biases of zeros are dropped, or made."""
    drop, make = partial(rewrite.drop_zero_biases, patterns=names), partial(rewrite.zero_biases, patterns=names)
    return (
        Step(
            f"{what}, all zero, were dropped",
            _plain(drop),
            removes=names,
            changes=dict.fromkeys(fields.values(), False),
        ),
        Step(f"{what} of zeros were added", _plain(make), adds=names, changes=dict.fromkeys(fields.values(), True)),
    )


STEPS: tuple[Step, ...] = (
    Step("a key bias of zeros was added", _plain(rewrite.zero_key_bias), (), QKV[1:2], {"qkv_bias": True}),
    Step("key biases, all zero, were dropped", _plain(partial(rewrite.drop_zero_biases, patterns=QKV[1:2])), QKV[1:2],
         (), {"qkv_bias": "qv"}),
    Step("the key bias, which softmax does not see, was dropped", _no_key_bias, QKV[1:2], (),
         {"qkv_bias": "qv"}, False),
    *_biases("q, k and v biases", QKV, field="qkv_bias"),
    Step("LayerScale was folded into the matrices before it", _no_layer_scale, SCALES, (),
         {"layer_scale": False}, False),
    Step("LayerScale of ones was added", _plain(rewrite.unit_layer_scale), (), SCALES,
         {"layer_scale": True, "mlp_layer_scale": True}),
    *_biases("biases of the output projections", OUT, field="proj_bias"),
    *_biases("biases of the MLPs", MLP, field="mlp_bias"),
    *_biases("patch biases", PATCH, field="patch_bias"),
    Step("the patch bias was folded into the position table", _plain(rewrite.fold_patch_bias), PATCH, (),
         {"patch_bias": False}, False),
    Step("the projection became a classifier with a bias of zeros", _plain(rewrite.projection_as_head),
         ("proj.weight", "proj.bias"), (), _classes),
    Step("the classifier, whose bias is zero, became a projection", _plain(rewrite.head_as_projection),
         ("head.weight",), ("proj.weight",), _joint),
    *_biases("biases of heads", HEADS),
    Step("the norm before the classifier was folded into it", _plain(rewrite.fold_head_norm),
         ("head_norm.mean", "head_norm.var"), (), {"head_norm": False}, False),
    *_biases("biases of the attention pool", POOL, field="pool_bias"),
    Step("the shared relative position table was given to every block", _plain(rewrite.spread_relative_positions),
         ("embed.rel_pos",), (B + "attn.rel_pos",), {"pos_embed": "relpos"}),
    Step("a mask token of zeros was added, which features do not use", _plain(rewrite.zero_mask_token), (),
         ("embed.mask",), {"mask_token": True}),
    Step("the periods of the rotary embedding, which follow from its base, were dropped", _no_periods,
         ("rope.periods",), ()),
    Step("the periods of the rotary embedding were computed from its base", _periods, (), ("rope.periods",)),
)  # fmt: skip
"""In the order in which they are tried."""


def fit(
    tensors: Tensors, spec: Spec, lacks: Collection[str] = (), wants: Collection[str] = (), rows: int | None = None
) -> Fitted:
    """Apply the rewrites that remove what a target lacks and make what it wants.

    Arguments:
        tensors: canonical name → tensor.
        spec: their architecture.
        lacks: canonical names that the tensors have and the target cannot say.
        wants: canonical names that the target needs and the tensors lack.
        rows: how many prefix rows the target's position table has; None where any number will do.
    """
    state = Fitted(tensors, spec)
    if rows is None and "embed.pos_prefix" in lacks:
        rows = 0
    if rows is not None:
        state = _rows(state, rows)
    lacking, wanting = {_folded(n) for n in lacks}, {_folded(n) for n in wants}
    for step in STEPS:
        if not (lacking & set(step.removes) or wanting & set(step.adds)):
            continue
        done = step.apply(state.tensors, state.spec)
        if done is None:
            continue
        state = _after(state, step.text, done, step.exact, step.changed(done))
        wanting -= {_folded(n) for n in done}
        lacking &= {_folded(n) for n in done}
    return state


def _rows(state: Fitted, rows: int) -> Fitted:
    before = state.tensors.get("embed.pos_prefix")
    done = rewrite.prefix_rows(state.tensors, rows)
    if done is None:
        return state
    text = f"prefix rows of the position table: {before.shape[0] if before else 0} → {rows}"
    if before is not None and before.shape[0] > rows:
        return _after(state, text + ", added to their tokens", done, False, {"pos_prefix": rows})
    return _after(state, text + ", with zeros", done, True, {"pos_prefix": rows})


def _after(state: Fitted, text: str, done: Tensors, exact: bool, changes: Mapping[str, Any]) -> Fitted:
    how = "the function is unchanged" if exact else "the function is unchanged but for rounding"
    before = state.tensors
    gone = {o: None for n in before if n not in done for o in before[n].origin or (n,)}
    new = {n: None for n in done if n not in before}
    finding = Finding("folded", fold(gone or new), f"{text}; {how}")
    return Fitted(done, state.spec.with_facts("given", text, **changes), (*state.findings, finding))


def with_stored_positions(state: Fitted, grid: tuple[int, int] | None) -> Fitted:
    """The same with the sine-cosine positions that its own project computes as a table, for a target that stores them.

    Arguments:
        state: what there is.
        grid: rows and columns of the target's table, in tokens; None where nothing says them.

    Raises:
        Unsayable: the positions are computed, and at which grid the target stores them is not known.
    """
    if "sincos_unstored" not in state.spec.pos_embed.split("+"):
        return state
    if grid is None or not all(grid):
        raise Unsayable(
            "the positions are computed and not stored, and nothing says for which picture size the target stores them",
            names=("embed.pos",), remedy="image_size=224",
        )  # fmt: skip
    done = rewrite.sincos_table(state.tensors, grid)
    if done is None:
        return state
    patch = state.spec.patch
    size = single((grid[0] * patch[0], grid[1] * patch[1]))
    kinds = state.spec.pos_embed.replace("sincos_unstored", "sincos")
    text = f"the sine-cosine positions, which the source computes, were stored for {grid[0]} × {grid[1]} patches"
    return _after(state, text, done, True, {"pos_embed": kinds, "grid": grid, "image_size": size})


CLASSIFIER = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")


def with_head_for(state: Fitted, pool: str | None, both: bool = False) -> Fitted:
    """The same with a classifier as wide as what the target's class feeds it, or without a classifier.

    Class token and mean side by side hold either alone: the other half of the matrix is zero, and is cut where it is.

    Arguments:
        state: what there is.
        pool: what the target's class feeds its classifier; None where nothing fixes it.
        both: whether the target may feed its classifier class token and mean side by side.
    """
    spec, width = state.spec, state.spec.embed_dim
    columns = state.tensors["head.weight"].shape[1]
    if pool == "cls+avg" and spec.pool in ("cls", "avg") and columns == width:
        text = f"the classifier got columns of zeros for what it is not fed ({'mean' if spec.pool == 'cls' else 'cls'})"
        return _after(state, text, rewrite.widened_head(state.tensors, spec.pool), True, {"pool": pool})
    if spec.pool == "cls+avg" and not both:
        found = rewrite.narrowed_head(state.tensors)
        if found is not None:
            text = f"the classifier's columns of zeros were cut: it is fed {found[1]} alone"
            return _after(state, text, found[0], True, {"pool": found[1]})
    if pool is not None and columns != width * (2 if pool == "cls+avg" else 1):
        why = f"the target's classifier is fed {pool}, this one {spec.pool} of another width; it was left out"
        return dropped(state, CLASSIFIER, why)
    return state


def _folded(name: str) -> str:
    block = canon.block_of(name)
    return name if block is None else name.replace(f"blocks.{block}.", B, 1)


@dataclass(frozen=True)
class Written:
    """Tensors in a dialect's names and layout."""

    run: Run
    fitted: Fitted


def express(
    tensors: Tensors,
    spec: Spec,
    dialect: Dialect,
    prefix: str = "",
    *,
    chunks: int | None = None,
    requires: Collection[str] = (),
    rows: int | None = None,
) -> Written:
    """Say canonical tensors in a dialect, rewritten where its words do not reach.

    Arguments:
        tensors: canonical name → tensor.
        spec: their architecture.
        dialect: the table to write by.
        prefix: what to put before the tower's names.
        chunks: number of block chunks (`blocks.<chunk>.<index>`), for dialects that have them.
        requires: canonical names that the target needs.
        rows: prefix rows of the target's position table; None where any number will do.

    Raises:
        Unsayable: a tensor that the function needs has no name there, and no rewrite removes it.
    """
    fitted = fit(tensors, spec, (), [name for name in requires if name not in tensors], rows)
    for _ in range(4):
        run = _write(fitted, dialect, prefix, chunks)
        missing = {name for names in run.partial.values() for name in names}
        lacking = (*run.leftover, *(n for fault in run.faults for n in fault.names))
        if not lacking and not missing:
            return Written(run, fitted)
        again = fit(fitted.tensors, fitted.spec, lacking, missing)
        if not again.findings:
            again = fit(fitted.tensors, fitted.spec, (*lacking, *run.partial))
        if not again.findings:
            break
        fitted = fitted.then(again)
    return _without_extras(run, fitted, dialect, prefix, chunks)


def axis_sizes(spec: Spec) -> dict[str, int]:
    """Sizes of axes that a tensor's shape alone does not tell a writer.

    Example:
        >>> axis_sizes(Spec(num_heads=3, grid=(2, 4)))
        {'heads': 3, 'c': 3, 't': 1, 'p1': 16, 'p2': 16, 'gh': 2, 'gw': 4}
    """
    sizes = {"heads": spec.num_heads, "c": spec.in_chans, "t": spec.num_cls, "p1": spec.patch[0], "p2": spec.patch[1]}
    return {**sizes, "gh": spec.grid[0], "gw": spec.grid[1]} if spec.grid else sizes


def _write(fitted: Fitted, dialect: Dialect, prefix: str, chunks: int | None) -> Run:
    spec = fitted.spec
    chunk: Callable[[int], int] | None = None
    if dialect.chunked:
        # DINOv2 cuts at multiples of depth // chunks, so there can be more chunks than were asked for
        size = max(1, spec.depth // (chunks or 1))
        chunk = size.__rfloordiv__

    return write(fitted.tensors, dialect, prefix, axis_sizes(spec), chunk)


def _without_extras(run: Run, fitted: Fitted, dialect: Dialect, prefix: str, chunks: int | None) -> Written:
    """The same without what features do not need (heads, mask tokens), or a refusal."""
    lacking = dict.fromkeys((*run.leftover, *run.partial, *(n for fault in run.faults for n in fault.names)))
    # a head without its bias is another head
    heads = [n.replace("bias", "weight") for n in lacking if n in HEADS]
    lacking.update(dict.fromkeys(n for n in heads if n in fitted.tensors))
    needed = [n for n in lacking if canon.is_backbone(n) or n == "rope.periods"]
    if needed:
        faults = "; ".join(fault.text for fault in run.faults[:2])
        raise Unsayable(
            f"the dialect {dialect.name} has no words for {len(needed)} tensors that the function needs",
            names=fold(dict.fromkeys(o for n in needed for o in fitted.tensors[n].origin or (n,))),
            usual=faults or "the target's model has no such part",
            remedy="convert to a dialect that has it: anyvit dialects",
        )
    left = dropped(fitted, lacking, f"{dialect.name} has no words for it; it was left out")
    return Written(_write(left, dialect, prefix, chunks), left)


def dropped(fitted: Fitted, names: Collection[str], why: str) -> Fitted:
    """The same without some tensors that features do not need.

    Arguments:
        fitted: what there is.
        names: canonical names.
        why: for the finding.
    """
    names = [n for n in names if n in fitted.tensors]
    kept = {n: t for n, t in fitted.tensors.items() if n not in names}
    findings = list(fitted.findings)
    for kind, those, text in (
        ("ignored", [n for n in names if n == "embed.mask"], "the mask token, which features do not use, was left out"),
        ("unsayable", [n for n in names if n != "embed.mask"], why),
    ):
        origins = dict.fromkeys(o for n in those for o in fitted.tensors[n].origin or (n,))
        if origins:
            findings.append(Finding(kind, fold(origins), text))
    return Fitted(kept, without_heads(fitted.spec, kept), tuple(findings))


def without_heads(spec: Spec, tensors: Tensors) -> Spec:
    """The Spec of tensors of which heads or the mask token were left out."""
    changes: dict[str, Any] = {}
    if spec.num_classes and "head.weight" not in tensors:
        changes["num_classes"] = 0
    if spec.head_norm and "head_norm.mean" not in tensors:
        changes["head_norm"] = False
    if spec.pre_logits_dim and "pre_logits.weight" not in tensors:
        changes["pre_logits_dim"] = None
    if spec.projection_dim and not any(n.startswith("proj.") for n in tensors):
        changes["projection_dim"] = None
    if spec.whiten and "whiten.weight" not in tensors:
        changes["whiten"] = False
    if spec.neck_dim and "neck.conv1.weight" not in tensors:
        changes["neck_dim"] = None
    if spec.mask_token and "embed.mask" not in tensors:
        changes["mask_token"] = False
    return spec.with_facts("given", "left out", **changes) if changes else spec
