"""Why a handful of pictures is not learnt: the usual causes, each told from a measurement."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch

from anyvit.canon import role
from anyvit.model import ViT
from anyvit.report import Finding, fold
from anyvit.training import pixels
from anyvit.training.data import Example
from anyvit.training.groups import HEADS

if TYPE_CHECKING:
    from anyvit.training.overfit import Course


def before(vit: ViT, some: Example, *, made: bool, plain: bool) -> list[Finding]:
    """What can be told before the first step: weights, pixels, examples that contradict each other.

    Arguments:
        vit: the model.
        some: the pictures.
        made: whether they were made up.
        plain: whether labels are classes.
    """
    causes = []
    bad = [n for n, p in vit.named_parameters() if not bool(torch.isfinite(p.detach()).all())]
    if bad:
        causes.append(Finding("nan", fold(bad), "parameters are NaN or infinite", "compare the file with its original"))
    if not made and (odd := pixels.odd(list(some.pixels), vit)) is not None:
        causes.append(odd)
    condition = some.condition
    if condition is not None and not bool(torch.isfinite(condition).all()):
        causes.append(Finding("nan", (), "the condition holds NaN or infinite values", "look at the cameras"))
    elif condition is not None and len(condition) > 1 and bool((condition == condition[:1]).all()):
        causes.append(Finding("condition", (), "every picture has the same condition, so it can tell nothing"))
    if plain and (pair := _contradiction(some)):
        cause = f"examples {pair[0]} and {pair[1]} are the same picture with other labels: nothing can tell them apart"
        causes.append(Finding("labels", (), cause, "look at the labels, and at what tells the pictures apart"))
    return causes


def _contradiction(some: Example) -> tuple[int, int] | None:
    for a in range(len(some.pixels)):
        for b in range(a):
            same = torch.equal(some.pixels[a], some.pixels[b]) and int(some.label[a]) != int(some.label[b])
            if same and (some.condition is None or torch.equal(some.condition[a], some.condition[b])):
                return b, a
    return None


def after(
    vit: ViT, some: Example, course: Course, trained: Collection[str], fresh: Collection[str], *, made: bool
) -> list[Finding]:
    """What the run has shown: frozen parts, parts without a gradient, losses that are no numbers.

    Arguments:
        vit: the model as it is now.
        some: the pictures.
        course: what was measured.
        trained: parameters that were to learn.
        fresh: parameters that are new.
        made: whether the pictures were made up.
    """
    causes = _conditioning(vit, course, trained)
    causes += _head(vit, course, trained)
    dead = [
        n for n in trained if not course.gradients.get(n, 1.0) and (n in fresh or role(_canonical(n)) == "condition")
    ]
    if dead and not causes:
        cause = "new parts get no gradient (0 in every step), so they stay as they started"
        remedy = "see that what they make reaches the loss: no detach, no no_grad, a condition that is given"
        causes.append(Finding("gradient", fold(dead), cause, remedy))
    if not math.isfinite(course.losses[-1]) and not causes:
        nan = [n for n, value in course.gradients.items() if not math.isfinite(value)]
        if len(course.losses) == 1:
            causes.append(
                Finding("nan", (), f"the loss is {course.losses[-1]} before the first step", _first_nan(vit, some))
            )
        elif nan:
            causes.append(
                Finding("nan", fold(nan), "gradients are NaN or infinite", "a lower lr, or another precision")
            )
    return causes


def _conditioning(vit: ViT, course: Course, trained: Collection[str]) -> list[Finding]:
    """Modulation that is frozen, or that the condition never reaches."""
    if not vit.spec.condition:
        return []
    names = [n for n, _ in vit.named_parameters() if ".adaln." in n]
    frozen = [n for n in names if n not in trained]
    if frozen and (not course.reached or course.moved == 0.0):
        some = "all" if len(frozen) == len(names) else f"{len(frozen)} of {len(names)} tensors"
        cause = f"the modulation is frozen ({some} of AdaLN), so the condition cannot be learnt"
        if course.moved == 0.0:
            cause += "; it changes nothing: another picture's condition gives the same logits"
        remedy = 'train="all" or "new", and requires_grad_(True) for blocks.*.adaln.*'
        return [Finding("frozen", fold(frozen), cause, remedy)]
    return []


def _head(vit: ViT, course: Course, trained: Collection[str]) -> list[Finding]:
    heads = [n for n, _ in vit.named_parameters() if n.startswith(HEADS)]
    still = [n for n in heads if n not in trained]
    if course.reached or not trained or len(still) < len(heads) or not heads or course.logits is None:
        return []
    zero = not bool(vit.head.weight.detach().any()) if vit.head is not None else False
    cause = "the head is frozen" + (" at zero: no gradient passes it" if zero else "")
    return [Finding("frozen", fold(still), cause, 'train="all", and requires_grad_(True) for head.*')]


def _canonical(name: str) -> str:
    return name.replace(".adaln.", ".adaln.shift1.")


def _first_nan(vit: ViT, some: Example) -> str:
    """Where values first are no numbers."""
    with torch.no_grad():
        for n, x in enumerate(vit.layers(some.pixels, range(1, vit.spec.depth + 1), some.condition)):
            if not bool(torch.isfinite(x).all()):
                return f"look at blocks.{n}: its output is the first that is not finite"
    return "look at the head and the loss: the output of every block is finite"


def diverged(course: Course) -> bool:
    """Whether the loss is no number any more, or ended above where it began."""
    last = course.losses[-1]
    return not math.isfinite(last) or last > 1.05 * course.losses[0] or max(course.losses) > 3 * course.losses[0] + 1


def unknown(course: Course, steps: int) -> Finding:
    """What to say where no usual cause was measured."""
    last = course.losses[-1]
    if course.late:
        return Finding(
            "time", (), f"time ran out after {len(course.losses) - 1} steps, at a loss of {last:.3g}", "seconds=…"
        )
    half = course.losses[len(course.losses) // 2]
    if len(course.losses) > steps and last < 0.99 * half:
        cause = f"the loss still falls after {steps} steps ({half:.3g} half way, {last:.3g} at the end)"
        return Finding("time", (), cause, "more steps=, or a higher lr")
    return Finding("unknown", (), f"the loss stands still at {last:.3g}; none of the usual causes was measured")


@torch.no_grad()
def heeded(vit: ViT, some: Example) -> float:
    """The largest change of a logit when every picture gets the next one's condition."""
    assert some.condition is not None
    one, two = (vit(some.pixels, c).logits for c in (some.condition, some.condition.roll(1, 0)))
    return float((one - two).abs().max())


PARTS = {"embed": "embedding", "position": "embedding", "condition": "conditioning", "head": "head", "pool": "pool"}


def by_part(gradients: Mapping[str, float]) -> dict[str, float]:
    """Part of the model → the largest gradient in it."""
    out: dict[str, float] = {}
    for name, value in gradients.items():
        part = "modulation" if ".adaln." in name else PARTS.get(role(_canonical(name)), "blocks")
        out[part] = max(value, out.get(part, 0.0))
    return out
