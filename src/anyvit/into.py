"""Filling a live module: names translated, shapes adapted, nothing left in silence; refused before anything changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from anyvit import adaln, canon, integrity, meta
from anyvit.adapt import Wanted
from anyvit.errors import BadArgument, FileError, Incomplete, Unsayable
from anyvit.lazy import Lazy
from anyvit.module import real_names
from anyvit.plan import Plan, planned
from anyvit.reading import Reading, coverage
from anyvit.report import Finding, Report, Trail, fold, order
from anyvit.side_by_side import mapped
from anyvit.target import Target, recognise_module
from anyvit.torch_io import fill_from, lies_as, to_torch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from anyvit.witness import Witness

Tensors = Mapping[str, Lazy]


def fill(
    target: Target,
    source: Reading,
    wanted: Wanted,
    *,
    init: str | None = None,
    check: str | None = None,
    device: torch.device | None = None,
) -> Report:
    """Fill a module from a file that is understood.

    Arguments:
        target: the module, changed in place; nothing is changed where it is refused.
        source: the file.
        wanted: changes on top of those that the module's shapes ask for.
        init: None leaves new heads as the module made them, "zeros" sets them to zero.
        check: when the file's bytes are checked. Checksums before the module is changed; where there are none, nothing
            that is found refuses the file, and values are looked at as they are read.
        device: where tensors that the module has on meta are made; None makes them on the CPU.

    Raises:
        FileError: a checksum of the file is wrong.
        Incomplete: a backbone tensor would stay unfilled, or does not fit.
        Unsayable: the file holds what the module has no place for.
        BadArgument: `init` is something else.
    """
    if init not in (None, "zeros"):
        raise BadArgument('init is None or "zeros"', found=init)
    module = target.module
    try:
        plan = planned(source, target, wanted)
    except (Incomplete, Unsayable) as error:
        error.report = _refused(source, error)
        raise
    values = {target.real[n]: t for n, t in plan.values.items()}
    large = sum(t.nbytes for t in values.values()) > WHOLE
    running = integrity.begin(source.checkpoint, source.tensors, check, source.spec, waits=True, reads=large)
    meta.unfillable(module, list(values))
    zeroed = meta.settle(module, list(values))
    try:
        _copy(module, values, device, running.witness, large)
    except FileError as error:
        if not large:
            raise
        raise FileError(
            error.cause, names=error.names, found=error.found, expected=error.expected, usual=error.usual,
            remedy="make the module anew, for it is filled in part, and fetch the file again",
        ) from error  # fmt: skip
    findings = [*plan.findings, *_new_heads(plan, target, init, zeroed), *_read_back(module, plan, target)]
    findings += running.findings()
    if init == "zeros":
        _zero(module, [target.real[n] for n in plan.heads if _is_classifier(n, target)])
    return _report(source, target, plan, findings)


def _refused(source: Reading, error: Incomplete | Unsayable) -> Report:
    """The account of a file that a module cannot take; its fatal finding says what the module lacks or has no place for."""
    kind = "unsayable" if isinstance(error, Unsayable) else "missing"
    cause = error.cause + (f": {error.usual}" if error.usual else "")
    return source.report().adding([Finding(kind, error.names, cause, error.remedy, fatal=True)])


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


WHOLE = 256 * 2**20
"""Bytes up to which all values are read before the first is copied, so that a file that breaks off changes nothing."""


def _copy(
    module: nn.Module, values: Tensors, device: torch.device | None, witness: Witness | None, large: bool
) -> None:
    """Values into a module's own tensors; those on meta become tensors on `device`.

    Arguments:
        witness: is shown what is read into the module's memory.
        large: not all values are read before the first is copied.
    """
    import torch

    own = module.state_dict(keep_vars=True)
    empty = {n: t for n, t in values.items() if own[n].is_meta}
    if empty:
        meta.assign(module, {n: t.to(own[n].dtype) for n, t in _read(empty, device, own=True)})
    rest = {n: t for n, t in values.items() if n not in empty}
    straight = [n for n, t in rest.items() if large and lies_as(t, own[n])]
    _fill_straight([(rest[n], own[n]) for n in straight], witness)
    rest = {n: t for n, t in rest.items() if n not in set(straight)}
    places = dict.fromkeys(own[n].device for n in rest)
    reading = chain.from_iterable(_read({n: t for n, t in rest.items() if own[n].device == p}, p) for p in places)
    with torch.no_grad():
        for name, tensor in reading if large else dict(reading).items():
            own[name].copy_(tensor)


def _fill_straight(both: Sequence[tuple[Lazy, torch.Tensor]], witness: Witness | None) -> None:
    """Bytes of a file into tensors that lie as they do, by several threads."""

    def work(unit: Sequence[int]) -> None:
        for number in unit:
            fill_from(*both[number], witness)

    each = [[number] for number in range(len(both))]
    units = witness.units([lazy.pieces or () for lazy, _ in both]) if witness else each
    mapped(work, units, sum(lazy.nbytes for lazy, _ in both))


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
        target=f"the module {type(target.module).__name__}",
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
