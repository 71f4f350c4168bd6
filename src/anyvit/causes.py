"""From the first layer that differs to the cause: token counts, weights, then facts that tensors do not carry."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from anyvit import guesses
from anyvit.report import Finding, fold
from anyvit.sides import Side
from anyvit.spec import Rope, Spec
from anyvit.suspects import Suspect, compare_weights, stage

if TYPE_CHECKING:
    from torch import Tensor

    from anyvit.verification import LayerDiff
    from anyvit.watching import Trace

MOST = 6
"""Findings on weights that are listed."""


@dataclass(frozen=True)
class Cause:
    """Why two models differ.

    Arguments:
        text: one or two sentences; None where it was not found out.
        remedy: the line to type.
        findings: further differences.
        rounding: whether the weights differ by their rounding to 16 bits only.
    """

    text: str | None
    remedy: str | None = None
    findings: tuple[Finding, ...] = ()
    rounding: bool = False


def depth_cause(one: int, two: int) -> str:
    """The cause of a divergence where the depths differ."""
    return f"a has {one} blocks, b has {two}"


def find(
    a: Side, b: Side, traces: tuple[Trace, Trace], first: LayerDiff, pixels: Tensor, condition: Tensor | None
) -> Cause:
    """The likely cause of a first divergence.

    Arguments:
        a, b: the sides.
        traces: what they computed.
        first: the first layer that differs.
        pixels: (B, C, H, W).
        condition: (B, D) or None.
    """
    shapes = tuple(tuple(trace[first.name].shape) for trace in traces)
    if a.reading is None or b.reading is None or a.spec is None or b.spec is None:
        who = " and ".join(side.name for side in (a, b) if side.reading is None)
        text = f"the names of {who} fit no known layout, so its weights cannot be compared with the other's"
        return Cause(_shape_text(shapes) if shapes[0] != shapes[1] else text, "describe the names in an anyvit.Dialect")
    if shapes[0] != shapes[1]:
        return _shapes(a.spec, b.spec, shapes)
    broken = [side.name for side, trace in zip((a, b), traces, strict=True) if not trace[first.name].isfinite().all()]
    suspects = compare_weights(a.reading.tensors, b.reading.tensors, a.spec, b.spec)
    depth, findings = max(a.spec.depth, b.spec.depth), tuple(s.finding for s in suspects[:MOST])
    near = [s for s in suspects if s.stage <= stage(first.name, depth) and s.word != "resized"]
    if near:
        return _weights(near, findings)
    if broken:
        return Cause(f"{' and '.join(broken)} gives NaN or infinity here, from the same weights", None, findings)
    local = first.tolerance / math.sqrt(min(stage(first.name, depth), depth + 1) + 1)
    answer = guesses.search(a, b, traces, first.name, pixels, condition, local)
    return _facts(a, b, answer, local, findings)


def _weights(suspects: list[Suspect], findings: tuple[Finding, ...]) -> Cause:
    telling = [s for s in suspects if s.word not in ("rounded", "near", "unrelated")]
    chosen = (telling or suspects)[0]
    names = fold(chosen.names)
    shown = ", ".join(names[:3]) + (f" … ({len(names)} in all)" if len(names) > 3 else "")
    others = len(suspects) - 1
    more = f"; {others} other difference{'s' * (others > 1)} before this layer, see findings" if others else ""
    text = f"weights: {shown}: {chosen.text} (usual cause: {chosen.usual}){more}"
    left = tuple(f for f in findings if f != chosen.finding)
    return Cause(text, REMEDIES.get(chosen.word), left, all(s.word == "rounded" for s in suspects))


REMEDIES = {
    "transposed": "anyvit.load_into(module, path) turns every matrix the way the module needs it",
    "interleaved": "anyvit.load(path, dialect=…) with the dialect that wrote the file",
    "swapped": "anyvit.load_into(module, path) fills by names, not by order",
    "order": "anyvit.load_into(module, path) fills by names, not by order",
    "constant": "anyvit.load_into(module, path) raises where a tensor would stay unfilled",
    "unrelated": "anyvit.load(path, weights=…) chooses the weight set",
    "near": "anyvit.load(path, weights=…) chooses the weight set",
    "missing": "build the module for this file: anyvit.inspect(path).constructors has the line",
    "shape": "build the module for this file: anyvit.inspect(path).constructors has the line",
}
"""Way in which weights differ → what to do."""


def _facts(a: Side, b: Side, answer: guesses.Answer | None, tolerance: float,
           findings: tuple[Finding, ...]) -> Cause:  # fmt: skip
    if answer is None:
        return Cause(AGREE, None, findings)
    if not answer.facts:
        text = f"{AGREE}, and changing {', '.join(answer.tried)} does not explain it"
        return Cause(text, None, findings)
    name, one, two = answer.facts[0]
    if name == "pixels":
        who, how = ("b", two) if one == "as they are given" else ("a", one)
        text = (
            f"pixels: {who} computes with the pictures {how} before the patches; the other takes them as they are given"
        )
        return Cause(text, f"give {who} pictures that are not normalised yet, or take the step out", findings)
    said = "; ".join(f"{name}: a computes with {_plain(x)}, b with {_plain(y)}" for name, x, y in answer.facts)
    partly = "" if answer.left <= tolerance else f"; {answer.left:.1e} of {answer.without:.1e} stay unexplained"
    first, second = (a, b) if _weaker(a, b, name) else (b, a)
    remedy = " or ".join(_lines(side, answer.facts, 1 if side is a else 0) for side in (first, second))
    return Cause(f"{said}; the weights agree{partly}", remedy, findings)


def _weaker(a: Side, b: Side, name: str) -> bool:
    """Whether a's value is the likelier mistake: a head count that was guessed, or a module against a file."""
    if name == "num_heads":
        guessed = [
            side.spec is not None and name in side.spec.facts and side.spec.facts[name].how == "assumed"
            for side in (a, b)
        ]
        if guessed[0] != guessed[1]:
            return guessed[0]
    return b.known and not a.known


def _lines(side: Side, facts: tuple[tuple[str, Any, Any], ...], other: int) -> str:
    """What to type so that a side computes with the other's facts."""
    return f"for {side.name}: " + ", ".join(guesses.line(side.module, name, values[other]) for name, *values in facts)


AGREE = "the weights agree up to this layer; what is computed with them differs"


FIELDS = ("embed_dim", "num_cls", "dist_token", "num_registers", "patch_size", "grid", "num_classes", "projection_dim")
"""Facts that decide shapes of tokens and outputs."""


def _shapes(one: Spec, two: Spec, shapes: tuple[tuple[int, ...], ...]) -> Cause:
    differing = [(n, getattr(one, n), getattr(two, n)) for n in FIELDS if getattr(one, n) != getattr(two, n)]
    reasons = "; ".join(f"{name} is {_plain(x)} in a and {_plain(y)} in b" for name, x, y in differing)
    text = _shape_text(shapes) + (f": {reasons}" if reasons else "")
    remedy = "build the module for this file: anyvit.inspect(path).constructors has the line"
    return Cause(text, remedy if differing else None)


def _shape_text(shapes: tuple[tuple[int, ...], ...]) -> str:
    if len(shapes[0]) == 3 and shapes[0][2] == shapes[1][2]:
        return f"a has {shapes[0][1]} tokens, b has {shapes[1][1]}"
    return f"a gives shape {shapes[0]}, b {shapes[1]}"


def _plain(value: Any) -> str:
    if isinstance(value, Rope):
        changed = [f"{f.name}={getattr(value, f.name)!r}" for f in fields(value) if getattr(value, f.name) != f.default]
        return f"Rope({', '.join(changed)})"
    return "none" if value is None else str(value)
