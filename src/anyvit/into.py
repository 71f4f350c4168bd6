"""Filling a live module: names translated, shapes adapted, nothing left in silence; refused before anything changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from anyvit import adaln, adapt, canon, fit, integrity, meta, rewrite, rules
from anyvit.adapt import Adapted, Wanted
from anyvit.errors import BadArgument, Incomplete, Unsayable
from anyvit.lazy import Lazy
from anyvit.module import real_names
from anyvit.reading import Reading, coverage
from anyvit.report import Finding, Report, Trail, fold, order
from anyvit.rules import parent
from anyvit.side_by_side import mapped
from anyvit.spec import Spec
from anyvit.target import Target, contradictions, differences, recognise_module
from anyvit.torch_io import fill_from, lies_as, to_torch

if TYPE_CHECKING:
    import torch
    from torch import nn

Tensors = Mapping[str, Lazy]
BUILD = "build the module for this file: anyvit.inspect(…).constructors has the line"


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


def fill(
    module: nn.Module,
    source: Reading,
    wanted: Wanted,
    *,
    init: str | None = None,
    check: str | None = None,
    device: torch.device | None = None,
) -> Report:
    """Fill a module from a file that is understood.

    Arguments:
        module: the module, changed in place; nothing is changed where it is refused.
        source: the file.
        wanted: changes on top of those that the module's shapes ask for.
        init: None leaves new heads as the module made them, "zeros" sets them to zero.
        check: when the file's bytes are checked; in any case before the module is changed.
        device: where tensors that the module has on meta are made; None makes them on the CPU.

    Raises:
        FileError: a checksum of the file is wrong.
        NotAViT: the module's names fit no known layout.
        Incomplete: a backbone tensor would stay unfilled, or does not fit.
        Unsayable: the file holds what the module has no place for.
        BadArgument: `init` is something else.
    """
    if init not in (None, "zeros"):
        raise BadArgument('init is None or "zeros"', found=init)
    target = recognise_module(module)
    try:
        plan = planned(source, target, wanted)
    except (Incomplete, Unsayable) as error:
        error.report = _refused(source, error)
        raise
    seen = integrity.begin(source.checkpoint, source.tensors, check, source.spec).findings()
    meta.unfillable(module, [target.real[n] for n in plan.values])
    zeroed = meta.settle(module, [target.real[n] for n in plan.values])
    _copy(module, {target.real[n]: t for n, t in plan.values.items()}, device)
    findings = [*plan.findings, *seen, *_new_heads(plan, target, init, zeroed), *_read_back(module, plan, target)]
    if init == "zeros":
        _zero(module, [target.real[n] for n in plan.heads if _is_classifier(n, target)])
    return _report(source, target, plan, findings)


def _refused(source: Reading, error: Incomplete | Unsayable) -> Report:
    """The account of a file that a module cannot take; its fatal finding says what the module lacks or has no place for."""
    kind = "unsayable" if isinstance(error, Unsayable) else "missing"
    cause = error.cause + (f": {error.usual}" if error.usual else "")
    return source.report().adding([Finding(kind, error.names, cause, error.remedy, fatal=True)])


def planned(source: Reading, target: Target, wanted: Wanted) -> Plan:
    """All values that a module gets, each tensor of it accounted for; changes nothing.

    Raises:
        Incomplete: a backbone tensor would stay unfilled, or does not fit.
        Unsayable: the file holds what the module has no place for.
    """
    assert source.spec is not None and target.reading.match is not None
    state = adapt.adapt(source.tensors, source.spec, _wanted(source.spec, target.spec, wanted))
    fitted, findings = _fitted(state, target)
    values, made = _spoken(fitted, target)
    _check_shapes(values, target, fitted.spec)
    towers = _shared_towers(source, target, values)
    fates = _fates(target, values, towers, made, (source.tensors, state.tensors, fitted.tensors))
    heads = tuple(n for n, fate in fates.items() if fate == "left")
    findings = [*state.findings, *fitted.findings, *findings, *_beside(target, fates)]
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


def _fitted(state: Adapted, target: Target) -> tuple[fit.Fitted, list[Finding]]:
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
        raise _refusal(missing, needed, fitted, target)
    left = [n for n, t in fitted.tensors.items() if n not in goal or (optional(n) and t.shape != goal[n].shape)]
    # a head without its bias is another head
    left += [n for n in fitted.tensors if n.endswith("weight") and n[:-6] + "bias" in left and optional(n)]
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
    sizes = [f"{n} {tensors[n].shape} against {goal[n].shape}" for n in names if n in goal and n.endswith("weight")]
    return "the module has no such head" + (f", or one of another size: {', '.join(sizes)}" if sizes else "")


def _refusal(missing: list[str], needed: list[str], fitted: fit.Fitted, target: Target) -> Incomplete | Unsayable:
    causes = differences(fitted.spec, target.spec)
    usual, remedy = "; ".join(causes) or None, BUILD
    if causes and all(cause.startswith(("class tokens", "registers", "final norm")) for cause in causes):
        asked = [f"cls_token={bool(target.spec.num_cls)}"] if target.spec.num_cls != fitted.spec.num_cls else []
        if target.spec.num_registers != fitted.spec.num_registers:
            asked.append(f"registers={target.spec.num_registers}")
        remedy = f"{', '.join(asked)} changes the function and fills it; or {BUILD}" if asked else BUILD
    if missing:
        theirs = dict.fromkeys(target.real.get(o, o) for n in missing for o in target.tensors[n].origin)
        return Incomplete(
            f"{len(theirs)} backbone tensors of the module are not in the file; they would stay random",
            names=fold(theirs), usual=usual, remedy=remedy,
        )  # fmt: skip
    mine = dict.fromkeys(o for n in needed for o in fitted.tensors[n].origin or (n,))
    return Unsayable(
        f"{len(mine)} tensors of the file have no place in the module, and the function needs them",
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


def _spoken(fitted: fit.Fitted, target: Target) -> tuple[dict[str, Lazy], dict[str, tuple[str, ...]]]:
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
            usual="; ".join(differences(fitted.spec, target.spec)) or None, remedy=BUILD,
        )  # fmt: skip
    parts: dict[str, tuple[str, ...]] = {}
    for name, tensor in target.tensors.items():
        for origin in tensor.origin:
            parts[origin] = (*parts.get(origin, ()), name)
    zeros = {n: rewrite.zeros(have[n].shape, have[n].dtype) for n in match.in_blocks if "adaln" in n.lower()}
    return {**run.tensors, **zeros}, parts


def _check_shapes(values: Tensors, target: Target, spec: Spec) -> None:
    have = target.all
    wrong = [n for n, t in values.items() if t.shape != have[n].shape]
    if wrong:
        raise Incomplete(
            "tensors of the file do not fit the module",
            names=fold(target.real[n] for n in wrong),
            found=values[wrong[0]].shape,
            expected=have[wrong[0]].shape,
            usual="; ".join(differences(spec, target.spec)) or None,
            remedy=BUILD,
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


def _new_heads(plan: Plan, target: Target, init: str | None, zeroed: Collection[str]) -> list[Finding]:
    match = target.reading.match
    assert match is not None
    extra = [target.real[n] for n in plan.heads if n in match.in_blocks]
    masks = target.tensors["embed.mask"].origin if "embed.mask" in target.tensors else ()
    heads = [n for n in plan.heads if n not in masks]
    zero = [target.real[n] for n in heads if target.real[n] in zeroed or (init and _is_classifier(n, target))]
    rest = [target.real[n] for n in heads if target.real[n] not in (*zero, *extra)]
    findings = []
    if zero:
        findings.append(Finding("new", fold(zero), "not in the file; set to zero", "expected for a head: train it"))
    if rest:
        cause = "not in the file; left as the module initialised it"
        findings.append(Finding("new", fold(rest), cause, "expected for a head: train it"))
    if extra:
        cause = f"parts of the module inside its blocks that {match.dialect.name} does not know; left as initialised"
        findings.append(Finding("new", fold(extra), cause, "see that they change nothing at the start, or train them"))
    return findings


def _read_back(module: nn.Module, plan: Plan, target: Target) -> tuple[Finding, ...]:
    """What new modulation is in the filled module, whatever its own initialisation does."""
    names = {o for n, t in target.tensors.items() if ".adaln." in n for o in t.origin}
    fresh = {n for n in names if plan.fates[n] == "new"}
    if not fresh:
        return ()
    filled = recognise_module(module).tensors
    made = {
        n: t for n, t in filled.items() if ".adaln." in n and set(t.origin) <= {target.real[f] for f in fresh} | fresh
    }
    return adaln.read_back(made, "on the filled module")


def _is_classifier(name: str, target: Target) -> bool:
    names = [n for n, t in target.tensors.items() if name in t.origin]
    return bool(names) and all(canon.role(n) == "head" for n in names)


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


WHOLE = 256 * 2**20
"""Bytes up to which all values are read before the first is copied, so that a file that breaks off changes nothing."""


def _copy(module: nn.Module, values: Tensors, device: torch.device | None = None) -> None:
    """Values into a module's own tensors; those on meta become tensors on `device`."""
    import torch

    own = module.state_dict(keep_vars=True)
    empty = {n: t for n, t in values.items() if own[n].is_meta}
    if empty:
        meta.assign(module, {n: t.to(own[n].dtype) for n, t in _read(empty, device, own=True)})
    rest = {n: t for n, t in values.items() if n not in empty}
    size = sum(t.nbytes for t in rest.values())
    straight = [n for n, t in rest.items() if size > WHOLE and lies_as(t, own[n])]
    mapped(lambda name: fill_from(rest[name], own[name]), straight, size)
    rest = {n: t for n, t in rest.items() if n not in set(straight)}
    places = dict.fromkeys(own[n].device for n in rest)
    reading = chain.from_iterable(_read({n: t for n, t in rest.items() if own[n].device == p}, p) for p in places)
    with torch.no_grad():
        for name, tensor in reading if size > WHOLE else dict(reading).items():
            own[name].copy_(tensor)


def _read(values: Tensors, device: torch.device | None, own: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Values as tensors: staged to a CUDA device, mapped on the CPU; `own` shares none with a module in memory."""
    if device is not None and device.type == "cuda":
        from anyvit.staging import to_cuda

        yield from to_cuda(values, device)
        return
    for name, lazy in values.items():
        yield name, _owned(lazy) if own else to_torch(lazy)


def _owned(lazy: Lazy) -> torch.Tensor:
    """A tensor of its own: mapped copy-on-write from a file, but never shared with a module or mapping in memory."""
    tensor = to_torch(lazy)
    return tensor if lazy.pieces is not None else tensor.clone()


def _zero(module: nn.Module, names: list[str]) -> None:
    import torch

    own = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name in names:
            own[name].zero_()


def _report(source: Reading, target: Target, plan: Plan, findings: list[Finding]) -> Report:
    report = source.report()
    fates = source_fates(source, plan.values)
    # what was outside the image tower may have been carried
    there = [f for f in report.findings if f.kind != "outside" or set(fates.values()) & {"outside", "unexplained"}]
    trails = []
    for name, real in target.real.items():
        origin = plan.values[name].origin if name in plan.values else ()
        trails.append(Trail(real, origin, "new" if plan.fates[name] == "left" else plan.fates[name]))
    filled = {n: t for n, t in target.tensors.items() if set(t.origin) & set(plan.values)}
    return replace(
        report,
        spec=plan.spec,
        trails=tuple(trails),
        fates=fates,
        findings=order((*there, *findings)),
        coverage=coverage(filled, target.tensors),
    )


def source_fates(source: Reading, values: Tensors) -> dict[str, str]:
    """What became of each tensor of a file, given the tensors that were made of it."""
    used = {origin for tensor in values.values() for origin in tensor.origin}
    real = real_names(source.checkpoint)
    fates = {}
    for plain, fate in source.fates.items():
        name = real.get(plain, plain)
        fates[name] = "carried" if name in used else "ignored" if fate == "carried" else fate
    return fates
