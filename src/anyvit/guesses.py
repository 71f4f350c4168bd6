"""Which fact that tensors do not carry makes one side compute what the other does: tried by running it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from anyvit import resample
from anyvit.assemble import build_vit
from anyvit.errors import AnyvitError
from anyvit.model import ViT
from anyvit.model.layers import ACTIVATIONS
from anyvit.model.positions import kinds, native_grid
from anyvit.relpos import RELATIVE
from anyvit.report import Report
from anyvit.sides import Side, library
from anyvit.spec import Rope, Spec
from anyvit.trials import TIMES, Guess, Trial
from anyvit.watching import Trace

EPS = (1e-6, 1e-5, 1e-12, 1e-8)
"""Epsilons of norms in the wild.

Source: 1e-6 timm, DINO, JAX; 1e-5 torch.nn.LayerNorm, CLIP; 1e-12 transformers' ViT; 1e-8 torchscale.
"""

NORMALISED: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and std by which a module may normalise pictures itself."""

DIVISORS = 24
"""Most head counts that are tried."""


@dataclass(frozen=True)
class Answer:
    """What was found by trying.

    Arguments:
        facts: name, value in a, value in b of each fact that makes the difference; empty where none was found.
        left: the largest difference to b that stays when they are set.
        without: the largest difference without them.
        tried: the facts that were tried.
    """

    facts: tuple[tuple[str, Any, Any], ...]
    left: float
    without: float
    tried: tuple[str, ...]


STATED = ("num_heads", "eps", "act", "resample")
"""Facts that both sides say of themselves, or that loading assumed."""


def search(a: Side, b: Side, traces: tuple[Trace, Trace], first: str, pixels: Tensor, condition: Tensor | None,
           tolerance: float) -> Answer | None:  # fmt: skip
    """Which facts explain the first diverging layer; None where neither side can be rebuilt.

    Only that layer is run, on what each side itself fed into it.

    Arguments:
        a, b: the sides.
        traces: what they computed.
        first: the first layer that differs.
        pixels: (B, C, H, W).
        condition: (B, D) or None.
        tolerance: the largest difference from one layer's rounding.
    """
    own_first = sorted((a, b), key=lambda side: not isinstance(side.module, ViT))
    base = next((vit for side in own_first if (vit := _rebuilt(side)) is not None), None)
    if base is None or a.spec is None or b.spec is None:
        return None
    trial = Trial(base.state_dict(), base.spec, first, traces, pixels, condition, tolerance)
    stated = _stated(a.spec, base.spec), _stated(b.spec, base.spec)
    said = _telling(trial, stated)
    left = trial.distance(Guess().on(stated[1]), 1)
    without = trial.distance(Guess().on(stated[0]), 1)
    if said and max(left, trial.distance(Guess().on(stated[0]), 0)) <= tolerance:
        return Answer(said, left, without, STATED)
    return _by_groups(trial, (a.spec, b.spec), stated, Answer((), without, without, ()), said)


Values = Mapping[str, Any]
Facts = tuple[tuple[str, Any, Any], ...]


def _stated(spec: Spec, base: Spec) -> Values:
    """What a side says of itself, where our model of the weights computes otherwise."""
    found = {name: getattr(spec, name) for name in STATED if getattr(spec, name) != getattr(base, name)}
    return {**found, "head_dim": None} if "num_heads" in found else found


def _telling(trial: Trial, stated: tuple[Values, Values]) -> Facts:
    """The facts in which both sides differ by their own words, as far as they matter in this layer."""
    found = []
    right = trial.distance(Guess().on(stated[1]), 1)
    for name in STATED:
        one, two = (own.get(name, getattr(trial.spec, name)) for own in stated)
        mixed = {**stated[1], name: one, **({"head_dim": None} if name == "num_heads" else {})}
        if one != two and trial.distance(Guess().on(mixed), 1) > TIMES * right:
            found.append((name, one, two))
    return tuple(found)


def _by_groups(
    trial: Trial, specs: tuple[Spec, Spec], stated: tuple[Values, Values], best: Answer, said: Facts
) -> Answer:
    """One more fact that nobody states, on top of what the sides say of themselves."""
    tried: dict[str, None] = {}
    for group in _groups(trial.spec, *specs, trial.layer, trial.pixels):
        name = group[0].fact
        tried.update(dict.fromkeys(name.split(" and ")))
        one, two = (trial.settled(group, own, side) for side, own in enumerate(stated))
        if one is not None and two is not None and one != two:
            own = vars(trial.spec)
            fact = name, _value(one, name, {**own, **stated[0]}), _value(two, name, {**own, **stated[1]})
            left = trial.distance(two.on(stated[1]), 1)
            return Answer((fact, *(f for f in said if f[0] not in name)), left, best.without, tuple(tried))
        if two is None:
            best = _better(best, trial, group, stated[1])
    return replace(best, tried=tuple(tried))


def _better(best: Answer, trial: Trial, group: list[Guess], own: Values) -> Answer:
    """The guess that explains most, where it explains nine tenths of the difference."""
    guess = min(group, key=lambda g: trial.distance(g.on(own), 1))
    left = trial.distance(guess.on(own), 1)
    if left < min(best.left, best.without / 10):
        before = _value(Guess(), guess.fact, {**vars(trial.spec), **own})
        return replace(best, facts=((guess.fact, before, guess.value),), left=left)
    return best


def _value(guess: Guess, name: str, values: Values) -> Any:
    if guess.fact:
        return guess.value
    if name == "pixels":
        return "as they are given"
    parts = tuple(values[part] for part in name.split(" and "))
    return parts[0] if len(parts) == 1 else parts


def _rebuilt(side: Side) -> ViT | None:
    """Our ViT with the weights of a side."""
    if isinstance(side.module, ViT):
        return side.module
    if side.reading is None or side.spec is None:
        return None
    try:
        return build_vit(side.reading.tensors, side.spec, Report()).to(torch.float32)
    except (AnyvitError, RuntimeError):
        return None


def _groups(spec: Spec, one: Spec, two: Spec | None, first: str, pixels: Tensor) -> Iterator[list[Guess]]:
    """Guesses by field; what the modules say of themselves stands first."""
    known = two or one
    in_embed, in_blocks = first == "embed", first.startswith("blocks.")
    native = "learned" in kinds(spec) or "sincos" in kinds(spec)
    patches = (pixels.shape[-2] // spec.patch[0], pixels.shape[-1] // spec.patch[1])
    if in_embed and native and native_grid(spec) != patches:
        yield _of("resample", [known.resample, *_recipes()], spec)
    if in_embed:
        yield [Guess("pixels", f"normalised by {name} mean and std", {}, how) for name, how in NORMALISED.items()] + [
            Guess("pixels", "with colour channels reversed", {}, "bgr")
        ]
    if not in_embed or spec.pre_norm or spec.patch_norm:
        yield _of("eps", [known.eps, one.eps, *EPS], spec)
    if in_blocks:
        yield _of("act", [known.act, *ACTIVATIONS], spec)
        yield [
            replace(g, changes={**g.changes, "head_dim": None})
            for g in _of("num_heads", _head_counts(spec, known), spec)
        ]
        yield from _in_blocks(spec, first)
        yield [Guess("eps and act", (eps, act), {"eps": eps, "act": act}) for eps in EPS for act in ACTIVATIONS]
    if first == "tokens":
        yield _of("tokens_normed", [not spec.tokens_normed], spec)
    if first in ("pooled", "logits"):
        yield _of("pool", ["cls", "avg", "cls+dist", "cls+avg"], spec)
        yield _of("pool_prefix", [True, False], spec)
        yield _of("pool_heads", _head_counts(spec, known), spec)
        yield _of("act", [known.act, *ACTIVATIONS], spec)


def _in_blocks(spec: Spec, first: str) -> Iterator[list[Guess]]:
    if spec.rope is not None:
        bare = "+".join(kind for kind in spec.pos_embed.split("+") if kind != "rope") or "none"
        absent = Guess("rope", None, {"rope": None, "pos_embed": bare})
        yield [absent, *_of("rope", list(_ropes(spec.rope)), spec)]
    elif "none" not in kinds(spec) and first == "blocks.0" and spec.heads_dim % 4 == 0:
        added = f"{spec.pos_embed}+rope"
        ropes = [Rope(base=base, layout=layout) for base in (10000.0, 100.0) for layout in ("half", "interleaved")]
        yield [Guess("rope", rope, {"rope": rope, "pos_embed": added}) for rope in ropes]
    if {"relpos", "relpos_shared"} & kinds(spec):
        yield _of("rel_resample", list(RELATIVE), spec)
    yield _of("block_norm", ["pre", "post"], spec)


def _of(name: str, values: list[Any], spec: Spec) -> list[Guess]:
    own = getattr(spec, name)
    unique = {repr(value): value for value in values if value != own}
    return [Guess(name, value, {name: value}) for value in unique.values()] or [Guess(name, own, {})]


def _recipes() -> list[str]:
    """One recipe of each way to resize."""
    seen: dict[str, str] = {}
    for name in resample.RECIPES:
        seen.setdefault(resample.formula(name), name)
    return list(seen.values())


def _head_counts(spec: Spec, known: Spec) -> list[int]:
    counts = [h for h in range(1, spec.embed_dim + 1) if spec.embed_dim % h == 0]
    near = sorted(counts, key=lambda h: abs(spec.embed_dim / h - 64))[:DIVISORS]
    return [known.num_heads, *near]


def _ropes(rope: Rope) -> Iterator[Rope]:
    for base in (10000.0, 100.0):
        yield replace(rope, base=base)
    for layout in ("half", "interleaved"):
        yield replace(rope, layout=layout)
        for first in ("row", "column"):
            yield replace(rope, layout=layout, first=first)
    for coords in ("index", "index1"):
        yield replace(rope, coords=coords)
    if rope.coords == "scaled":
        yield from (replace(rope, reference=side) for side in (14, 16, 24))
    yield replace(rope, span="head" if rope.span == "axes" else "axes")


LINES: Mapping[tuple[str, str], str] = {
    ("eps", "transformers"): "config.layer_norm_eps = {value}",
    ("eps", "timm"): "timm.create_model(…, norm_layer=functools.partial(torch.nn.LayerNorm, eps={value}))",
    ("act", "transformers"): "config.hidden_act = {act}",
    ("act", "timm"): "timm.create_model(…, act_layer={value!r})",
    ("act", "open_clip"): "open_clip.create_model(…, force_quick_gelu={quick})",
    ("num_heads", "transformers"): "config.num_attention_heads = {value}",
    ("num_heads", "timm"): "timm.create_model(…, num_heads={value})",
    ("num_heads", "anyvit"): "anyvit.load(…, heads={value})",
    ("resample", "anyvit"): "anyvit.load(…, resample={value!r})",
    ("pool", "timm"): "timm.create_model(…, global_pool={pool})",
}
"""(field, library) → the line that gives a model another value of it."""


def line(module: nn.Module, name: str, value: Any) -> str:
    """The line to type so that a module computes with another value of a fact.

    Example:
        >>> from anyvit.spec import Spec
        >>> line(ViT(Spec(embed_dim=8, depth=1, num_heads=1, mlp_dim=8, image_size=16)), "num_heads", 2)
        'anyvit.load(…, heads=2)'
    """
    package = library(module)
    text = LINES.get((name, package))
    if text is None and package == "anyvit":
        text = "anyvit.ViT(dataclasses.replace(vit.spec, {name}={value!r}))"
    if text is None:
        text = "build the module with {name}={value!r}"
    acts = {"gelu_tanh": "gelu_pytorch_tanh"}
    pools = {"cls": "token"}
    return text.format(
        name=name, value=value, act=repr(acts.get(value, value) if isinstance(value, str) else value),
        quick=value == "quick_gelu", pool=repr(pools.get(value, value) if isinstance(value, str) else value),
    )  # fmt: skip
