"""Filling a live module: its dialect is recognised by the same code as a file's, shapes are adapted, nothing is left in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from anyvit import adapt, canon, fit, init
from anyvit.adapt import Adapted, Wanted
from anyvit.errors import Incomplete, NotAViT, Unsayable
from anyvit.lazy import Lazy
from anyvit.module import checkpoint_of, facts_of
from anyvit.reading import Reading, coverage, understand
from anyvit.report import Finding, Report, Trail, fold, order
from anyvit.spec import Spec
from anyvit.torch_io import to_torch

if TYPE_CHECKING:
    from torch import nn

Tensors = Mapping[str, Lazy]


def fill(module: nn.Module, source: Reading, wanted: Wanted, *, init: str | None = None) -> Report:
    """Fill a module from a file that is understood.

    Arguments:
        module: the module, changed in place; nothing is changed where an error is raised.
        source: the file.
        wanted: changes on top of those that the module's shapes ask for.
        init: None leaves new heads as the module made them, "zeros" sets them to zero.

    Raises:
        NotAViT: the module's names fit no known layout.
        Incomplete: a backbone tensor would stay unfilled.
        Unsayable: the file holds what the module has no place for.
    """
    target = recognise_module(module)
    assert source.spec is not None and target.spec is not None and target.match is not None
    state = adapt.adapt(source.tensors, source.spec, _wanted(source.spec, target, wanted))
    fitted, surplus = _fitted(state, target)
    written = fit.express(fitted.tensors, fitted.spec, target.match.dialect, target.match.prefix)
    values = {n: t for n, t in written.run.tensors.items() if n in target.checkpoint.tensors}
    values.update(_shared_towers(source, target, values))
    left = _left(target, values)
    findings = (*state.findings, *fitted.findings, *surplus, *left, *_contradictions(module, source.spec, target))
    _check_shapes(values, target)
    _copy(module, values)
    if init == "zeros":
        _zero(module, [n for f in left if f.kind == "new" for n in f.names])
    return _report(source, target, replace(state, spec=fitted.spec), values, findings)


def recognise_module(module: nn.Module) -> Reading:
    """A module read as if it were a file: its dialect, prefix, canonical names and architecture.

    Raises:
        NotAViT: its names fit no known layout.
    """
    target = understand(checkpoint_of(module))
    if target.match is None or target.spec is None:
        some = tuple(target.checkpoint.tensors)[:6]
        raise NotAViT(
            f"the names of the module {type(module).__name__} fit no known layout",
            names=some,
            remedy="read the file with anyvit.load(…) and copy from its state_dict(), or describe the names in a Dialect",
        )
    facts = facts_of(module, target.match.prefix)
    spec = target.spec
    for name, fact in facts.items():
        if name in ("eps", "act", "num_heads"):
            spec = spec.with_facts("given", fact.source, **{name: fact.value})
    return replace(target, spec=spec)


def _wanted(spec: Spec, target: Reading, wanted: Wanted) -> Wanted:
    """The changes that the module's shapes ask for."""
    goal = target.spec
    assert goal is not None
    changes = {}
    if wanted.in_chans is None and goal.in_chans != spec.in_chans:
        changes["in_chans"] = goal.in_chans
    if wanted.patch_size is None and goal.patch != spec.patch:
        changes["patch_size"] = goal.patch
    if wanted.image_size is None and goal.grid is not None and goal.grid != spec.grid:
        changes["image_size"] = (goal.grid[0] * goal.patch[0], goal.grid[1] * goal.patch[1])
    return replace(wanted, **changes)


def _fitted(state: Adapted, target: Reading) -> tuple[fit.Fitted, list[Finding]]:
    """The file's tensors with exactly the backbone of the module, and what was left aside."""
    has, goal = state.tensors, target.tensors
    findings: list[Finding] = []
    tensors, new = _with_modulation(has, goal)
    findings += new
    tensors, seeded = _with_pooled_norm(tensors, goal)
    findings += seeded
    fitted = fit.fit(tensors, state.spec, [n for n in tensors if n not in goal], [n for n in goal if n not in tensors])
    missing = [n for n in goal if n not in fitted.tensors and canon.is_backbone(n)]
    if missing:
        theirs = [goal[n].origin[0] for n in missing]
        raise Incomplete(
            f"{len(missing)} backbone tensors of the module are not in the file; they would stay random",
            names=fold(dict.fromkeys(theirs)),
            usual=_usual(missing),
            remedy="build the module for this file: anyvit.inspect(…).constructors has the line",
        )
    surplus = [n for n in fitted.tensors if n not in goal]
    needed = [n for n in surplus if canon.is_backbone(n)]
    if needed:
        raise Unsayable(
            f"{len(needed)} tensors of the file have no place in the module, and the function needs them",
            names=fold(dict.fromkeys(o for n in needed for o in fitted.tensors[n].origin or (n,))),
            usual=_usual(needed),
            remedy="build the module for this file: anyvit.inspect(…).constructors has the line",
        )
    heads = [n for n in fitted.tensors if n in goal and n not in surplus and fitted.tensors[n].shape != goal[n].shape]
    other = [n for n in heads if not canon.is_backbone(n)]
    if surplus or other:
        names = fold(dict.fromkeys(o for n in (*surplus, *other) for o in fitted.tensors[n].origin or (n,)))
        findings.append(Finding("ignored", names, "the module has no such head, or one of another size"))
    kept = {n: t for n, t in fitted.tensors.items() if n not in surplus and n not in other}
    return replace(fitted, tensors=kept), findings


CAUSES = (
    ("ls1", "LayerScale: the module was built with (or without) init_values"),
    ("embed.reg", "registers: the module was built with another number of register tokens"),
    ("q_norm", "q/k norm: the module was built with (or without) qk_norm"),
    ("embed.norm", "a norm before block 0 (CLIP's ln_pre): the module was built with (or without) pre_norm"),
    ("mlp.gate", "a gated MLP (SwiGLU) against a plain one"),
    ("embed.pos", "a position table against rotary positions"),
    ("embed.cls", "a class token"),
    ("pool.", "an attention pool"),
    ("blocks.", "another depth"),
)


def _usual(names: list[str]) -> str | None:
    return next((cause for sign, cause in CAUSES if any(sign in name for name in names)), None)


def _with_modulation(tensors: Tensors, goal: Tensors) -> tuple[Tensors, list[Finding]]:
    """AdaLN modulation that the file lacks, as zeros: the conditioned module starts as the unconditioned one."""
    lacking = [n for n in goal if ".adaln." in n and n not in tensors]
    if not lacking:
        return tensors, []
    zeros = {n: init.new(n, goal[n].shape) for n in lacking}
    names = fold(dict.fromkeys(goal[n].origin[0] for n in lacking))
    cause = "AdaLN modulation is not in the file; it was set to zero, so the function is the unconditioned model's"
    return {**tensors, **zeros}, [Finding("new", names, cause, "expected: train these parameters")]


def _with_pooled_norm(tensors: Tensors, goal: Tensors) -> tuple[Tensors, list[Finding]]:
    """The final norm where the module norms after pooling instead of before."""
    if "fc_norm.weight" not in goal or "fc_norm.weight" in tensors or "norm.weight" in goal or "norm.weight" not in tensors:
        return tensors, []
    out = {n.replace("norm.", "fc_norm.", 1) if n.startswith("norm.") else n: t for n, t in tensors.items()}
    cause = "the module norms after pooling, the file before: its final norm starts fc_norm; the function changes"
    return out, [Finding("new", ("fc_norm.weight", "fc_norm.bias"), cause, "fine-tune, as MAE does")]


def _shared_towers(source: Reading, target: Reading, values: Tensors) -> dict[str, Lazy]:
    """Tensors outside the image tower that file and module share by name and shape (a text tower)."""
    assert source.match is not None and target.match is not None
    if source.match.dialect.name.split("-memory")[0] != target.match.dialect.name.split("-memory")[0]:
        return {}
    there = {**target.checkpoint.tensors}
    own = source.checkpoint.tensors
    outside = {n for n in (*source.match.outside, *source.match.unexplained)}
    return {
        n: own[n] for n in outside if n in there and n in own and n not in values and there[n].shape == own[n].shape
    }


def _left(target: Reading, values: Tensors) -> list[Finding]:
    """What of the module was not filled: new heads, buffers that it computes, other towers."""
    assert target.match is not None
    used = {name for name in values}
    findings = []
    heads = [t.origin[0] for n, t in target.tensors.items() if t.origin and not set(t.origin) & used]
    if heads:
        cause = "not in the file; left as the module initialised it"
        findings.append(Finding("new", fold(dict.fromkeys(heads)), cause, "expected for a head: train it"))
    known = {o for t in target.tensors.values() for o in t.origin}
    rest = [n for n in target.checkpoint.tensors if n not in used and n not in known]
    buffers = [n for n in rest if target.fates.get(n) == "ignored"]
    towers = [n for n in rest if n not in set(buffers)]
    if buffers:
        findings.append(Finding("ignored", fold(buffers), "the module computes it itself; left as it is"))
    if towers:
        cause = f"{len(towers)} tensors of the module beside the image tower were left as they are"
        findings.append(Finding("outside", fold(towers)[:8], cause))
    return findings


def _contradictions(module: nn.Module, spec: Spec, target: Reading) -> list[Finding]:
    """Where the module computes otherwise than the file's own project."""
    assert target.match is not None
    findings = []
    for name, fact in facts_of(module, target.match.prefix).items():
        if name not in ("eps", "act", "num_heads"):
            continue
        own = getattr(spec, name)
        same = abs(own - fact.value) < 1e-3 * own if name == "eps" else own == fact.value
        if not same and not (name == "act" and spec.ffn != "mlp"):
            how = spec.facts[name].how if name in spec.facts else "assumed"
            cause = f"the module computes with {name} {fact.value}, the file's project with {own} ({how})"
            findings.append(Finding("differs", (name,), cause, f"build the module with {name}={own}"))
    return findings


def _check_shapes(values: Tensors, target: Reading) -> None:
    wrong = [n for n, t in values.items() if t.shape != target.checkpoint.tensors[n].shape]
    if wrong:
        name = wrong[0]
        raise Incomplete(
            "tensors of the file do not fit the module",
            names=fold(wrong),
            found=values[name].shape,
            expected=target.checkpoint.tensors[name].shape,
            remedy="build the module for this file: anyvit.inspect(…).constructors has the line",
        )


def _copy(module: nn.Module, values: Tensors) -> None:
    import torch

    own = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, lazy in values.items():
            own[name].copy_(to_torch(lazy))


def _zero(module: nn.Module, names: list[str]) -> None:
    import torch

    own = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name in names:
            if name in own:
                own[name].zero_()


def _report(
    source: Reading, target: Reading, state: Adapted, values: Tensors, findings: tuple[Finding, ...]
) -> Report:
    report = source.report()
    trails = tuple(
        Trail(name, values[name].origin, "carried" if values[name].origin else "new")
        if name in values
        else Trail(name, (), "left")
        for name in target.checkpoint.tensors
    )
    filled = {n: t for n, t in target.tensors.items() if set(t.origin) & set(values)}
    return replace(
        report,
        spec=state.spec,
        trails=trails,
        findings=order((*report.findings, *findings)),
        coverage=coverage(filled, target.tensors),
    )
