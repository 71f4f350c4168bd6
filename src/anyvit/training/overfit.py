"""The overfit check: a handful of pictures must go to near-zero loss before a long run is worth its time."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from anyvit.errors import BadArgument
from anyvit.model import ViT
from anyvit.report import Finding
from anyvit.spec import pair
from anyvit.training import data as pictures
from anyvit.training import diagnosis, state
from anyvit.training import groups as rates
from anyvit.training.heads import give_head
from anyvit.training.losses import Loss, cross_entropy

TARGET = 0.02
"""Loss that counts as zero, in nats: probabilities of 98 % for the right class."""
WARMUP = 5
GRADIENTS = 20
"""Steps in which gradients are measured; the first of them leave what stands before zero weights without any."""
PATIENCE = 40
"""Steps without a loss lower by a hundredth after which a run has stopped to learn."""
SIDE = 6
"""Patches of a made picture's side, at most."""


@dataclass(frozen=True)
class OverfitCheck:
    """The verdict of an overfit check, and what it rests on.

    Arguments:
        ok: whether the loss went to near zero and no cause stands against it.
        first, last: losses before the first step and at the end.
        right: fraction of the pictures that are told right; None for a loss of the caller's.
        steps: how many were made.
        pictures: how many there were.
        made: whether the pictures were made up.
        causes: why it failed, as measured; the likeliest first.
        notes: what else was measured.
        gradients: part of the model → largest gradient that it got.
        seconds: all of it took.
    """

    ok: bool
    first: float
    last: float
    right: float | None
    steps: int
    pictures: int
    made: bool
    causes: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    gradients: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        what = "made pictures" if self.made else "pictures"
        right = "" if self.right is None else f", {round(self.right * self.pictures)} of {self.pictures} told right"
        done = f"loss {self.first:.4g} → {self.last:.4g} in {self.steps} steps on {self.pictures} {what}{right}"
        lines = [f"{'✓ the model overfits' if self.ok else '✗ the model does not overfit'}: {done}"]
        if self.causes:
            lines += ["", "Why"] + [f"  ✗ {cause}" for cause in self.causes]
        if self.notes:
            lines += ["", "Measured"] + [f"  · {note}" for note in self.notes]
        if self.gradients:
            parts = ", ".join(f"{name} {value:.2g}" for name, value in self.gradients.items())
            lines += ["", f"Largest gradients: {parts}"]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        plain = {n: v for n, v in vars(self).items() if n not in ("causes", "notes")}
        # JSON has no NaN
        plain |= {n: plain[n] if math.isfinite(plain[n]) else None for n in ("first", "last")}
        plain["gradients"] = {n: v if math.isfinite(v) else None for n, v in self.gradients.items()}
        return {**plain, "causes": [vars(f) for f in self.causes], "notes": [vars(f) for f in self.notes]}

    def to_json(self) -> str:
        """The same as a JSON text."""
        return json.dumps(self.as_dict(), default=str)


@dataclass
class Course:
    """What one run of steps measured.

    Arguments:
        losses: before each step, and after the last.
        gradients: parameter → largest gradient in the first steps.
        logits: (B, C) after the last step; None where there are none.
        moved: largest change of the logits when every picture gets another's condition; None without conditions.
        reached: whether the loss went to near zero.
        late: whether time ran out.
    """

    losses: list[float]
    gradients: dict[str, float]
    logits: Tensor | None = None
    moved: float | None = None
    reached: bool = False
    late: bool = False


def overfit_check(
    vit: Any,
    data: Any = None,
    *,
    count: int = 8,
    steps: int = 300,
    lr: float = 3e-4,
    new_lr: float | None = None,
    train: str | Sequence[str] = "all",
    new: Sequence[str] | None = None,
    loss: Loss | None = None,
    target: float = TARGET,
    seconds: float = 100.0,
    seed: int = 0,
) -> OverfitCheck:
    """Whether a model can learn a handful of pictures by heart, and what stands against it if not.

    A copy of the model is trained; the model stays as it is, and what has `requires_grad=False` in it stays frozen.

    Arguments:
        vit: a `ViT`, or what `load` takes.
        data: as for `finetune`, of which the first `count` examples are taken, spread over the classes; None makes
            pictures up. For a conditioned model these differ in nothing but their condition, so that only the
            modulation can tell them apart. A model that has no classifier gets one.
        count: pictures.
        steps: at most.
        lr, new_lr, train, new, loss: as for `finetune`.
        target: loss that counts as near zero.
        seconds: after which no further step is begun.
        seed: of made pictures.

    Returns:
        `OverfitCheck`; `str` of it is the verdict with its causes.

    Raises:
        BadArgument: arguments or data that the model cannot take.

    Example:
        >>> from anyvit.spec import Spec
        >>> vit = ViT(Spec(embed_dim=32, depth=1, num_heads=2, mlp_dim=48, image_size=32))
        >>> overfit_check(vit, count=4, lr=3e-3).ok
        True
    """
    began = time.monotonic()
    model = copy.deepcopy(rates.model_of(vit))
    given = None if data is None else pictures.examples(data, model)
    with state.seeded(seed):
        some = _made(model, count, seed) if given is None else _few(given, model, count)
        where = next(model.parameters()).device
        some = pictures.Example(*(None if t is None else t.to(where) for t in some))  # type: ignore[arg-type]
        if loss is None and (wrong := _headed(model, some, made=given is None, named=given and given.classes)):
            return _verdict(model, some, Course([math.nan], {}), [wrong], [], given is None, began, loss)
        fresh = rates.new_parameters(model, new)
        causes = diagnosis.before(model, some, made=given is None, plain=loss is None)
        trained = _chosen(model, train, fresh, causes)
        grouped = rates.groups(model, trained, lr=lr, new=fresh, new_lr=new_lr)
        ends = began + seconds
        start = copy.deepcopy(model.state_dict())
        course = _run(model, some, trained, grouped, loss or cross_entropy, steps, target, ends)
        notes: list[Finding] = []
        after = diagnosis.after(model, some, course, trained, fresh, made=given is None)
        causes += after
        if not course.reached and trained and not causes and time.monotonic() < ends:
            causes += _other_rate(
                model, start, some, trained, grouped, loss or cross_entropy, course, steps, target, ends
            )
        if not course.reached and not causes:
            causes.append(diagnosis.unknown(course, steps))
        if course.moved is not None:
            cause = f"another picture's condition moves the logits by up to {course.moved:.3g}"
            notes.append(Finding("condition", (), cause))
    return _verdict(model, some, course, causes, notes, given is None, began, loss)


def _verdict(
    vit: ViT, some: pictures.Example, course: Course, causes: list[Finding], notes: list[Finding], made: bool,
    began: float, loss: Loss | None,
) -> OverfitCheck:  # fmt: skip
    right = None
    if loss is None and course.logits is not None:
        right = float((course.logits.argmax(1) == some.label).double().mean())
    return OverfitCheck(
        course.reached and not causes, course.losses[0], course.losses[-1], right, len(course.losses) - 1,
        len(some.pixels), made, tuple(causes), tuple(notes), diagnosis.by_part(course.gradients),
        time.monotonic() - began,
    )  # fmt: skip


def _made(vit: ViT, count: int, seed: int) -> pictures.Example:
    """Pictures of smooth noise, each of its own class; with conditions two pictures under each of them."""
    spec, noise = vit.spec, pictures.generator(seed, 7)
    if count < 2:
        raise BadArgument("an overfit check needs two pictures at least", found=count)
    sides = [min(s // p, SIDE) * p for s, p in zip(pair(spec.image_size or 10**6), spec.patch, strict=True)]
    pixels = torch.randn(count, spec.in_chans, *sides, generator=noise)
    rough = torch.randn(count, spec.in_chans, 3, 3, generator=noise)
    pixels = 0.5 * pixels + torch.nn.functional.interpolate(rough, sides, mode="bilinear")
    labels = torch.arange(count)
    if not spec.condition:
        return pictures.Example(pixels, labels % _most(vit, count))
    kinds = max(2, count // 2)
    inputs = spec.condition_inputs
    rows = (
        torch.randn(kinds, 1, inputs, generator=noise)
        if inputs
        else torch.randn(kinds, spec.embed_dim, generator=noise)
    )
    which = labels % kinds
    return pictures.Example(pixels[labels // kinds], which % _most(vit, kinds), rows[which])


def _most(vit: ViT, count: int) -> int:
    return min(count, vit.spec.num_classes or count)


def _few(given: pictures.Examples, vit: ViT, count: int) -> pictures.Example:
    """Examples spread evenly over the data, which holds them class by class as a rule."""
    count = min(count, len(given))
    return pictures.batch([given[n * len(given) // count] for n in range(count)], vit.spec)


def _headed(vit: ViT, some: pictures.Example, made: bool, named: Any) -> Finding | None:
    """Gives a model without a classifier one; says what is wrong with the labels."""
    labels = some.label
    if labels.is_floating_point() or labels.ndim != 1 or int(labels.min()) < 0:
        found = "numbers with a fraction" if labels.is_floating_point() else labels.flatten()[:8].tolist()
        return Finding("labels", (), f"labels out of range: {found}", "numbers of classes, from 0 on")
    if vit.spec.pool == "none":  # the head of the check reads the mean of the patches
        vit.spec = replace(vit.spec, pool="avg")
    if named and len(named) != vit.spec.num_classes:
        give_head(vit, len(named))
    elif not vit.spec.num_classes:
        give_head(vit, int(labels.max()) + 1)
    classes = vit.spec.num_classes
    if int(labels.max()) >= classes:
        usual = ": counted from 1?" if int(labels.max()) == classes else ""
        cause = f"labels out of range: {int(labels.max())} of a head of {classes} classes{usual}"
        return Finding("labels", (), cause, f"labels from 0 to {classes - 1}, or load(…, num_classes=…)")
    return None


def _chosen(vit: ViT, train: str | Sequence[str], fresh: frozenset[str], causes: list[Finding]) -> tuple[str, ...]:
    if not any(p.requires_grad for p in vit.parameters()):
        cause = "all parameters are frozen (requires_grad=False), so nothing can learn"
        causes.append(Finding("frozen", (), cause, "vit.requires_grad_(True)"))
        return ()
    return rates.chosen(vit, train, fresh)


def _run(
    vit: ViT, some: pictures.Example, trained: Sequence[str], grouped: Sequence[rates.Group], loss: Loss, steps: int,
    target: float, ends: float,
) -> Course:  # fmt: skip
    """Steps of AdamW on one batch until the loss is near zero, stands still, is no number any more, or time is up."""
    course, best, since = Course([], {}), math.inf, 0
    vit.train()
    with rates.only(vit, trained):
        optimizer = rates.optimizer(vit, grouped) if trained else None
        parameters = [(n, p) for n, p in vit.named_parameters() if n in set(trained)]
        for step in range(steps + 1):
            features = vit(some.pixels, some.condition)
            value = loss(features, some.label)
            course.losses.append(float(value.detach()))
            course.logits = features.logits
            course.reached = course.losses[-1] < target and _told(features.logits, some.label, loss)
            course.late = time.monotonic() > ends
            best, since = (course.losses[-1], 0) if course.losses[-1] < 0.99 * best else (best, since + 1)
            stop = step == steps or course.reached or course.late or since > PATIENCE
            if stop or optimizer is None or not math.isfinite(course.losses[-1]):
                break
            value.backward()
            if step < GRADIENTS:
                _measure(course.gradients, parameters)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * min(1.0, (step + 1) / WARMUP)
            torch.nn.utils.clip_grad_norm_([p for _, p in parameters], 1.0)
            optimizer.step()
            optimizer.zero_grad()
    vit.eval()
    if some.condition is not None and course.logits is not None:
        course.moved = diagnosis.heeded(vit, some)
    course.logits = None if course.logits is None else course.logits.detach()
    return course


def _told(logits: Tensor | None, labels: Tensor, loss: Loss) -> bool:
    return loss is not cross_entropy or logits is None or bool((logits.argmax(1) == labels).all())


def _measure(largest: dict[str, float], parameters: Sequence[tuple[str, Tensor]]) -> None:
    for name, parameter in parameters:
        found = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        # a NaN stands first, where max keeps it
        largest[name] = max(found, largest.get(name, 0.0))


def _other_rate(
    vit: ViT, start: dict[str, Tensor], some: pictures.Example, trained: Sequence[str],
    grouped: Sequence[rates.Group], loss: Loss, course: Course, steps: int, target: float, ends: float,
) -> list[Finding]:  # fmt: skip
    """Runs again with another learning rate, and says so where that one works."""
    high = diagnosis.diverged(course)
    for factor in (0.1, 0.01, 0.001) if high else (10.0, 100.0, 1000.0):
        vit.load_state_dict(start)
        again = _run(vit, some, trained, [replace(g, lr=g.lr * factor) for g in grouped], loss, steps, target, ends)
        if again.reached or again.losses[-1] < 0.7 * course.losses[-1]:
            word = "high" if factor < 1 else "low"
            cause = f"the learning rate is too {word}: at {factor:g} times it, the loss goes to {again.losses[-1]:.2g}"
            old = next((g for g in reversed(grouped) if g.layer is not None), grouped[-1])
            name = "new_lr" if old.layer is None else "lr"
            return [Finding("rate", (), f"{cause} in {len(again.losses) - 1} steps", f"{name}={old.lr * factor:.1g}")]
    if high:
        cause = "the loss grows: the run diverges, at lower learning rates too"
        return [Finding("rate", (), cause, "look at the pictures and at the loss")]
    return []
