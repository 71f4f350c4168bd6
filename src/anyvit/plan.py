"""What a live module gets from a file: names translated, shapes adapted, nothing left in silence; changes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anyvit import adapt, canon, fit, rewrite, rules
from anyvit.adapt import Adapted, Wanted
from anyvit.errors import Incomplete, Unsayable
from anyvit.garbage import uncollected
from anyvit.lazy import Lazy
from anyvit.module import real_names, submodule
from anyvit.reading import Reading
from anyvit.report import Finding, fold
from anyvit.rules import parent
from anyvit.spec import Spec
from anyvit.target import Target, contradictions, differences, part
from anyvit.weight_sets import same_tower

Tensors = Mapping[str, Lazy]


@dataclass(frozen=True)
class Plan:
    """What a fill will do; nothing has been done yet.

    Arguments:
        values: name in the module → its value.
        fates: name in the module → what becomes of it, for every name.
        heads: names in the module that stay as they were initialised.
        findings: what to say.
        spec: the architecture as it will be in the module.
    """

    values: Tensors
    fates: Mapping[str, str]
    heads: tuple[str, ...]
    findings: tuple[Finding, ...]
    spec: Spec = field(default_factory=Spec)


@uncollected
def planned(source: Reading, target: Target, wanted: Wanted) -> Plan:
    """All values that a module gets, each tensor of it accounted for; changes nothing.

    Raises:
        Incomplete: a backbone tensor would stay unfilled, or does not fit.
        Unsayable: the file holds what the module has no place for.
    """
    assert source.spec is not None and target.reading.match is not None
    state = adapt.adapt(source.tensors, source.spec, _wanted(source.spec, target.spec, wanted))
    fitted, findings = _fitted(state, target, source)
    values, made = _spoken(fitted, target, source)
    _check_shapes(values, target, fitted.spec, source)
    towers = _shared_towers(source, target, values)
    fates = _fates(target, values, towers, made, (source.tensors, state.tensors, fitted.tensors))
    heads = tuple(n for n, fate in fates.items() if fate == "left")
    findings = [*state.findings, *fitted.findings, *findings, *_other_towers(target), *_beside(target, fates)]
    findings += contradictions(source.spec, target, fitted.tensors)
    return Plan({**values, **towers}, fates, heads, tuple(findings), fitted.spec)


def _wanted(spec: Spec, goal: Spec, wanted: Wanted) -> Wanted:
    """The changes that the module's shapes ask for."""
    changes: dict[str, Any] = {}
    if wanted.in_chans is None and goal.in_chans != spec.in_chans:
        changes["in_chans"] = goal.in_chans
    if wanted.patch_size is None and goal.patch != spec.patch:
        changes["patch_size"] = goal.patch
    if wanted.image_size is None and goal.grid is not None and (goal.grid != spec.grid or "patch_size" in changes):
        changes["image_size"] = (goal.grid[0] * goal.patch[0], goal.grid[1] * goal.patch[1])
    return replace(wanted, **changes)


def optional(name: str) -> bool:
    """Whether a module may keep its own initial value of a canonical tensor, and a file's may be left aside.

    Example:
        >>> optional("head.weight"), optional("pool.query"), optional("blocks.3.ls1")
        (True, True, False)
    """
    return not canon.is_backbone(name) or canon.role(name) == "pool" or name.startswith(("fc_norm.", "condition."))


def _fitted(state: Adapted, target: Target, source: Reading) -> tuple[fit.Fitted, list[Finding]]:
    """The file's tensors with exactly the backbone of the module, and what was left aside."""
    goal = target.tensors
    tensors, findings = _with_modulation(state.tensors, goal)
    tensors, seeded = _with_pooled_norm(tensors, goal)
    findings += seeded
    begun = fit.Fitted(tensors, state.spec, tuple(findings))
    if "embed.pos" in goal:
        begun = fit.with_stored_positions(begun, target.spec.grid)
        tensors, findings = begun.tensors, list(begun.findings)
    both = {canon.block_of(n) for n in tensors} & {canon.block_of(n) for n in goal}
    lacks = [n for n in tensors if n not in goal and (not optional(n) or _turns(n, tensors, goal))]
    lacks = [n for n in lacks if canon.block_of(n) in both]
    wants = [n for n in goal if n not in tensors and n != "embed.mask" and canon.block_of(n) in both]
    rows = goal["embed.pos_prefix"].shape[0] if "embed.pos_prefix" in goal else 0
    fitted = fit.fit(tensors, begun.spec, lacks, wants, rows if "embed.pos" in goal else None)
    missing = [n for n in goal if n not in fitted.tensors and not optional(n)]
    needed = [n for n in fitted.tensors if n not in goal and not optional(n)]
    if missing or needed:
        raise _refusal(missing, needed, fitted, target, source)
    left = [n for n, t in fitted.tensors.items() if n not in goal or (optional(n) and t.shape != goal[n].shape)]
    # a head without its bias is another head
    left += [n for n in fitted.tensors if n.endswith("weight") and n[:-6] + "bias" in left and optional(n)]
    left = list(dict.fromkeys(left))
    if left:
        names = fold(dict.fromkeys(o for n in left for o in fitted.tensors[n].origin))
        if names:
            findings.append(Finding("ignored", names, _why_left(left, fitted.tensors, goal)))
    return replace(fitted, tensors={n: t for n, t in fitted.tensors.items() if n not in left}), findings


def _turns(name: str, tensors: Tensors, goal: Tensors) -> bool:
    """Whether a projection or classifier of the file has the module's classifier's or projection's shape."""
    other = {"proj.weight": "head.weight", "head.weight": "proj.weight"}.get(name)
    if name in ("head.bias", "proj.bias"):
        return name.replace("bias", "weight") in goal
    return other is not None and other in goal and goal[other].shape == tensors[name].shape


def _why_left(names: Collection[str], tensors: Tensors, goal: Tensors) -> str:
    if set(names) == {"embed.mask"}:
        return "the module has no mask token, and features do not use it"
    mine, theirs = "in the file", "in the module"
    sizes = [
        f"{n} {tensors[n].shape} {mine}, {goal[n].shape} {theirs}" for n in names if n in goal and n[-6:] == "weight"
    ]
    return f"the module's head is of another size: {', '.join(sizes)}" if sizes else "the module has no such head"


def build_line(source: Reading, target: Target) -> str:
    """The line that builds a module of the target's library for a file."""
    from anyvit.sides import library

    match = target.reading.match
    tower = submodule(target.module, match.prefix if match else "")
    path = json.dumps(source.checkpoint.path, ensure_ascii=False) if source.checkpoint.path else "path"
    lines = source.report().constructors
    own = [line for line in lines.values() if line.startswith("transformers.") and library(tower) == "transformers"]
    named = [line for line in own if line.startswith(f"transformers.{type(tower).__name__}(")]
    if own:
        return f'anyvit.build("hf:{(named or own)[0].split("(")[0].removeprefix("transformers.")}", {path})'
    if library(tower) == "timm" and "timm" in lines:
        return f'anyvit.build("timm:{lines["timm"].split(chr(34))[1]}", {path})'
    return f"anyvit.load({path}) makes a model for this file; anyvit.inspect({path}).constructors has others' lines"


def _refusal(
    missing: list[str], needed: list[str], fitted: fit.Fitted, target: Target, source: Reading
) -> Incomplete | Unsayable:
    causes = differences(fitted.spec, target.spec)
    usual, remedy = "; ".join(causes) or None, build_line(source, target)
    if causes and all(cause.startswith(("class tokens", "registers", "final norm")) for cause in causes):
        asked = [f"cls_token={bool(target.spec.num_cls)}"] if target.spec.num_cls != fitted.spec.num_cls else []
        if target.spec.num_registers != fitted.spec.num_registers:
            asked.append(f"registers={target.spec.num_registers}")
        remedy = f"{', '.join(asked)} changes the function and fills it; or {remedy}" if asked else remedy
    if missing:
        theirs = dict.fromkeys(target.real.get(o, o) for n in missing for o in target.tensors[n].origin)
        return Incomplete(
            f"backbone tensors of the module ({len(theirs)}) are not in the file; they would stay random",
            names=fold(theirs), usual=usual, remedy=remedy,
        )  # fmt: skip
    mine = dict.fromkeys(o for n in needed for o in fitted.tensors[n].origin or (n,))
    return Unsayable(
        f"tensors of the file ({len(mine)}) have no place in the module, and the function needs them",
        names=fold(mine), usual=usual, remedy=remedy,
    )  # fmt: skip


def _with_modulation(tensors: Tensors, goal: Tensors) -> tuple[Tensors, list[Finding]]:
    """AdaLN modulation that the file lacks, so that it changes nothing: shifts and scales of zero, gates of one."""
    lacking = [n for n in goal if ".adaln." in n and n not in tensors]
    if not lacking:
        return tensors, []
    new = {n: (rewrite.ones if ".gate" in n and n.endswith("bias") else rewrite.zeros)(goal[n].shape, goal[n].dtype)
           for n in lacking}  # fmt: skip
    names = fold(dict.fromkeys(o for n in lacking for o in goal[n].origin))
    cause = "AdaLN modulation is not in the file; it was set to zero, so the function is the unconditioned model's"
    return {**tensors, **new}, [Finding("new", names, cause, "expected: train these parameters")]


def _with_pooled_norm(tensors: Tensors, goal: Tensors) -> tuple[Tensors, list[Finding]]:
    """The final norm where the module norms after pooling instead of before."""
    before, after = "norm.weight", "fc_norm.weight"
    if after not in goal or after in tensors or before in goal or before not in tensors:
        return tensors, []
    out = {n.replace("norm.", "fc_norm.", 1) if n.startswith("norm.") else n: t for n, t in tensors.items()}
    cause = "the module norms after pooling, the file before: its final norm starts fc_norm; the function changes"
    names = tuple(o for part in ("weight", "bias") for o in goal[f"fc_norm.{part}"].origin if f"fc_norm.{part}" in goal)
    return out, [Finding("new", names, cause, "expected where the mean is pooled, as MAE does: fine-tune")]


def _spoken(fitted: fit.Fitted, target: Target, source: Reading) -> tuple[dict[str, Lazy], dict[str, tuple[str, ...]]]:
    """Values under the module's own names, and the canonical names that each is made of."""
    match = target.reading.match
    assert match is not None
    used = dict.fromkeys(hit.item for hit in match.hits.values() if hit.item.ours)
    table = replace(match.dialect, rules=tuple(replace(rule, reads_only=False) for rule in used))
    numbers = [hit.numbers for hit in match.hits.values() if "_" in hit.numbers and "i" in hit.numbers]
    chunks = {found["i"]: found["_"] for found in numbers}
    sizes = fit.axis_sizes(fitted.spec)
    run = rules.write(fitted.tensors, table, match.prefix, sizes, lambda index: chunks.get(index, 0))
    have = target.all
    wrong = [*run.leftover, *run.partial, *(n for fault in run.faults for n in fault.names)]
    wrong += [n for n in run.tensors if n not in have]
    if wrong:
        text = "; ".join(fault.text for fault in run.faults[:2])
        raise Incomplete(
            "tensors of the file do not fit the module" + (f": {text}" if text else ""), names=fold(wrong),
            usual="; ".join(differences(fitted.spec, target.spec)) or None, remedy=build_line(source, target),
        )  # fmt: skip
    parts: dict[str, tuple[str, ...]] = {}
    for name, tensor in target.tensors.items():
        for origin in tensor.origin:
            parts[origin] = (*parts.get(origin, ()), name)
    zeros = {n: rewrite.zeros(have[n].shape, have[n].dtype) for n in match.in_blocks if "adaln" in n.lower()}
    return {**run.tensors, **zeros}, parts


def _check_shapes(values: Tensors, target: Target, spec: Spec, source: Reading) -> None:
    have = target.all
    wrong = [n for n, t in values.items() if t.shape != have[n].shape]
    if wrong:
        raise Incomplete(
            "tensors of the file do not fit the module",
            names=fold(target.real[n] for n in wrong),
            found=values[wrong[0]].shape,
            expected=have[wrong[0]].shape,
            usual="; ".join(differences(spec, target.spec)) or None,
            remedy=build_line(source, target),
        )


def above(one: str, two: str) -> tuple[str, str]:
    """What stands before the components that two prefixes end with alike.

    Example:
        >>> above("module.visual.trunk.", "visual.trunk."), above("teacher.backbone.", "")
        (('module.', ''), ('teacher.backbone.', ''))
    """
    while one and two and one[len(parent(one)) :] == two[len(parent(two)) :]:
        one, two = parent(one), parent(two)
    return one, two


def _shared_towers(source: Reading, target: Target, values: Tensors) -> dict[str, Lazy]:
    """Tensors beside the image tower that file and module share by name and shape (a text tower)."""
    assert source.match is not None and target.reading.match is not None
    mine, theirs = above(source.match.prefix, target.reading.match.prefix)
    have, real = target.all, real_names(source.checkpoint)
    parameters = dict(target.module.named_parameters())
    out = {}
    for name, fate in source.fates.items():
        there = theirs + name.removeprefix(mine)
        tensor = source.checkpoint.tensors.get(real.get(name, name))
        unused = fate == "ignored" and target.real.get(there) in parameters
        if not (unused or fate in ("outside", "unexplained")) or tensor is None or not name.startswith(mine):
            continue
        if there in have and there not in values and have[there].shape == tensor.shape:
            out[there] = tensor
    return out


def _fates(
    target: Target, values: Tensors, towers: Tensors, parts: Mapping[str, tuple[str, ...]], steps: tuple[Tensors, ...]
) -> dict[str, str]:
    """What becomes of each tensor of the module, told from the tensors themselves."""
    read, adapted, fitted = steps
    fates = {}
    for name in target.real:
        if name in towers:
            fates[name] = "carried"
        elif name not in values:
            fates[name] = _fate_of_left(name, target, parts)
        elif not values[name].origin:
            fates[name] = "new"
        else:
            made = [n for n in parts.get(name, ()) if n in fitted]
            folded = any(n not in adapted or adapted[n] is not fitted[n] for n in made if fitted[n].origin)
            resized = any(n in adapted and (n not in read or read[n] is not adapted[n]) for n in made)
            fates[name] = "resized" if resized else "folded" if folded else "carried"
    return fates


def _fate_of_left(name: str, target: Target, parts: Mapping[str, tuple[str, ...]]) -> str:
    if name in parts:
        return "left"
    if target.reading.fates.get(name) == "ignored":
        return "ignored"
    match = target.reading.match
    return "left" if match is not None and name in match.in_blocks else "outside"


def _other_towers(target: Target) -> list[Finding]:
    """Towers of a module that are not filled; one that shares its tensors with the filled one is."""
    match = target.reading.match
    assert match is not None
    others = [m for m in target.reading.others if not same_tower(m, match, target.reading.checkpoint.aliases)]
    if not others:
        return []
    cause = (
        f"the module holds {len(others) + 1} image towers; {match.prefix.rstrip('.') or 'the outermost'} is filled, "
    )
    cause += "the others stay as they are"
    remedy = f"anyvit.load_into({part(others[0].prefix)}, …)"
    return [Finding("weights", tuple(m.prefix for m in others), cause, remedy)]


def _beside(target: Target, fates: Mapping[str, str]) -> list[Finding]:
    """Buffers that the module computes, modulation of unknown names, other towers."""
    match = target.reading.match
    assert match is not None
    real = target.real
    findings = []
    if zeros := [real[n] for n in match.in_blocks if fates[n] == "new"]:
        cause = "AdaLN modulation is not in the file; it was set to zero, so that shifts and scales change nothing"
        remedy = "gates, if there are any, are closed: open them; train these"
        findings.append(Finding("new", fold(zeros), cause, remedy))
    if buffers := [real[n] for n, fate in fates.items() if fate == "ignored"]:
        findings.append(Finding("ignored", fold(buffers), "the module computes it itself; left as it is"))
    if towers := [real[n] for n, fate in fates.items() if fate == "outside"]:
        cause = f"{len(towers)} tensors of the module beside the image tower are not in the file; left as they are"
        findings.append(Finding("outside", fold(towers), cause))
    return findings
