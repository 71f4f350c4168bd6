"""Bringing canonical tensors to what a target can say: exact rewrites first, a refusal by name otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anyvit import canon, init, rewrite
from anyvit.errors import Unsayable
from anyvit.lazy import Lazy
from anyvit.report import Finding, fold
from anyvit.rules import Dialect, Run, write
from anyvit.spec import Spec

Tensors = Mapping[str, Lazy]


@dataclass(frozen=True)
class Fitted:
    """Canonical tensors that a target can hold, their Spec, and what was changed for it."""

    tensors: Tensors
    spec: Spec
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Step:
    """A rewrite and what it changes in the Spec.

    Arguments:
        removes: canonical names (blocks by `{i}`) that it takes away; the step is tried when the target has none of them.
        adds: canonical names that it makes; the step is tried when the target wants them.
        apply: the rewrite.
        text: what it did.
        changes: Spec fields that change.
        exact: whether the function stays the same to the last bit.
    """

    removes: tuple[str, ...]
    adds: tuple[str, ...]
    apply: Callable[[Tensors], dict[str, Lazy] | None]
    text: str
    changes: Mapping[str, Any]
    exact: bool


def _ones(tensors: Tensors) -> dict[str, Lazy] | None:
    if "blocks.0.ls1" in tensors:
        return None
    out = dict(tensors)
    for i in rewrite.block_numbers(tensors):
        for name, like in (("ls1", "norm1"), ("ls2", "norm2")):
            shape = tensors[f"blocks.{i}.{like}.weight"].shape
            out[f"blocks.{i}.{name}"] = init.new(name, shape, "ones")
    return out


def _patch_bias(tensors: Tensors) -> dict[str, Lazy] | None:
    if "embed.patch.bias" in tensors:
        return None
    kernel = tensors["embed.patch.weight"]
    return {**tensors, "embed.patch.bias": rewrite.zeros(kernel.shape[:1], kernel.dtype)}


def _qkv_bias(tensors: Tensors) -> dict[str, Lazy] | None:
    out = dict(tensors)
    for i in rewrite.block_numbers(tensors):
        for part in "qkv":
            weight, bias = tensors.get(f"blocks.{i}.attn.{part}.weight"), f"blocks.{i}.attn.{part}.bias"
            if weight is not None and bias not in out:
                out[bias] = rewrite.zeros(weight.shape[:1], weight.dtype)
    return out if len(out) > len(tensors) else None


def _split_pos(tensors: Tensors) -> dict[str, Lazy] | None:
    return rewrite.unfold_prefix_positions(tensors)


B = canon.B
STEPS: tuple[Step, ...] = (
    Step((), (B + "attn.k.bias",), rewrite.zero_key_bias, "a key bias of zeros was added", {"qkv_bias": True}, True),
    Step((), (B + "attn.q.bias", B + "attn.k.bias", B + "attn.v.bias"), _qkv_bias,
         "q, k and v biases of zeros were added", {"qkv_bias": True}, True),
    Step((B + "ls1", B + "ls2"), (), rewrite.fold_layer_scale,
         "LayerScale was folded into the matrices before it", {"layer_scale": False}, False),
    Step((), (B + "ls1", B + "ls2"), _ones, "LayerScale of ones was added", {"layer_scale": True}, True),
    Step(("embed.pos_prefix",), (), rewrite.fold_prefix_positions,
         "the prefix rows of the position table were added to their tokens", {"pos_prefix": 0}, False),
    Step((), ("embed.pos_prefix",), _split_pos, "prefix rows of zeros were added to the position table", {}, True),
    Step(("embed.patch.bias",), (), rewrite.fold_patch_bias,
         "the patch bias was folded into the position table", {"patch_bias": False}, False),
    Step((), ("embed.patch.bias",), _patch_bias, "a patch bias of zeros was added", {"patch_bias": True}, True),
)  # fmt: skip


def fit(tensors: Tensors, spec: Spec, lacks: Collection[str], wants: Collection[str]) -> Fitted:
    """Apply the rewrites that remove what a target lacks and make what it wants.

    Arguments:
        tensors: canonical name → tensor.
        spec: their architecture.
        lacks: canonical names that the tensors have and the target cannot say.
        wants: canonical names that the target needs and the tensors lack.
    """
    lacking, wanting = {_folded(n) for n in lacks}, {_folded(n) for n in wants}
    findings: list[Finding] = []
    for step in STEPS:
        if not (lacking & set(step.removes) or wanting & set(step.adds)):
            continue
        done = step.apply(tensors)
        if done is None:
            continue
        how = "the function is unchanged" if step.exact else "the function is unchanged but for rounding"
        names = step.removes or step.adds
        findings.append(Finding("folded", tuple(n.replace("{i}", "N") for n in names), f"{step.text}; {how}"))
        changes = dict(step.changes)
        if "embed.pos_prefix" in step.adds:
            changes["pos_prefix"] = done["embed.pos_prefix"].shape[0]
        tensors, spec = done, spec.with_facts("given", step.text, **changes)
        wanting -= {_folded(n) for n in done}
        lacking -= set(step.removes)
    return Fitted(tensors, spec, tuple(findings))


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
) -> Written:
    """Say canonical tensors in a dialect, rewritten where its words do not reach.

    Arguments:
        tensors: canonical name → tensor.
        spec: their architecture.
        dialect: the table to write by.
        prefix: what to put before the tower's names.
        chunks: number of block chunks (`blocks.<chunk>.<index>`), for dialects that have them.
        requires: canonical names that the target needs.

    Raises:
        Unsayable: a tensor that the function needs has no name there, and no rewrite removes it.
    """
    wants = [name for name in requires if name not in tensors]
    fitted = fit(tensors, spec, (), wants)
    for _ in range(3):
        run = _write(fitted, dialect, prefix, chunks)
        lacking = (*run.leftover, *run.partial, *(n for fault in run.faults for n in fault.names))
        if not lacking:
            return Written(run, fitted)
        missing = {name for names in run.partial.values() for name in names}
        again = fit(fitted.tensors, fitted.spec, lacking, missing)
        if not again.findings:
            break
        fitted = replace(again, findings=fitted.findings + again.findings)
    return _without_extras(run, fitted, dialect, prefix, chunks)


def _write(fitted: Fitted, dialect: Dialect, prefix: str, chunks: int | None) -> Run:
    spec = fitted.spec
    sizes = {"heads": spec.num_heads, "c": spec.in_chans, "t": spec.num_cls, "p1": spec.patch[0], "p2": spec.patch[1]}
    if spec.grid:
        sizes |= {"gh": spec.grid[0], "gw": spec.grid[1]}
    chunk = None
    if dialect.chunked:
        size = max(1, spec.depth // max(1, chunks or 1))

        def chunk(index: int) -> int:
            return index // size

    return write(fitted.tensors, dialect, prefix, sizes, chunk)


def _without_extras(run: Run, fitted: Fitted, dialect: Dialect, prefix: str, chunks: int | None) -> Written:
    """The same without what features do not need (heads, mask tokens), or a refusal."""
    lacking = dict.fromkeys((*run.leftover, *run.partial, *(n for fault in run.faults for n in fault.names)))
    needed = [n for n in lacking if canon.is_backbone(n)]
    if needed:
        faults = "; ".join(fault.text for fault in run.faults[:2])
        raise Unsayable(
            f"the dialect {dialect.name} has no words for {len(needed)} tensors that the function needs",
            names=fold(needed),
            usual=faults or "the target's model has no such part",
            remedy="convert to a dialect that has it: anyvit dialects",
        )
    kept = {n: t for n, t in fitted.tensors.items() if n not in lacking}
    cause = f"{dialect.name} has no words for it; it was left out"
    finding = Finding("unsayable", fold(lacking), cause, None)
    fitted = Fitted(kept, fitted.spec, (*fitted.findings, finding))
    return Written(_write(fitted, dialect, prefix, chunks), fitted)


def order_like(names: Sequence[str], tensors: Tensors) -> dict[str, Lazy]:
    """The tensors in the order of `names`, the rest behind."""
    return {**{n: tensors[n] for n in names if n in tensors}, **tensors}
