"""Which of several weight sets of one file is read: teacher, student, EMA, raw."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from anyvit.errors import BadArgument
from anyvit.lazy import Lazy
from anyvit.recognise import OPTIMIZER, Match
from anyvit.report import Finding, fold

PREFERENCE: tuple[tuple[str, str], ...] = (
    ("target_encoder", "the target encoder (EMA) is what its authors evaluate"),
    ("base_encoder", "MoCo v3 evaluates base_encoder"),
    ("teacher", "the teacher is what its authors evaluate"),
    ("ema_teacher", "the EMA teacher is what its authors evaluate"),
    ("teacher_model", "the teacher is what its authors evaluate"),
    ("state_dict_ema", "averaged weights (EMA) evaluate better than raw ones"),
    ("ema_model", "averaged weights (EMA) evaluate better than raw ones"),
    ("ema", "averaged weights (EMA) evaluate better than raw ones"),
    ("params_ema", "averaged weights (EMA) evaluate better than raw ones"),
    ("model", "the scripts of this family take `model`"),
    ("model_ema", "averaged weights (EMA) evaluate better than raw ones"),
    ("target", "the target network is what its authors evaluate"),
    ("state_dict", ""),
    ("params", ""),
    ("module", ""),
    ("net", ""),
    ("encoder", ""),
    ("context_encoder", ""),
    ("momentum_encoder", ""),
    ("student", ""),
    ("online", ""),
    ("query_encoder", ""),
    ("encoder_q", ""),
    ("encoder_k", ""),
)
"""Words of prefixes in the order of preference, with the reason.

Source: the evaluation scripts of I-JEPA (target_encoder), MoCo v3 main_lincls.py (base_encoder), DINO, DINOv2 and iBOT
(`checkpoint_key="teacher"`), DeiT and BEiT (`model`), timm utils/checkpoint_saver.py (state_dict_ema).
"""


PARTS = {"teacher": "teacher", "ema": "ema", "target": "target", "online": "online", "student": "student"}
"""Part of a component (`teacher_backbone`, `net_ema`) → the word in `PREFERENCE` that it stands for."""

COPIES = ("m", "momentum")
"""Parts of a component that mark a copy which follows by momentum (ALBEF's and BLIP's `visual_encoder_m`)."""


@dataclass(frozen=True)
class Choice:
    """The weight set that is read and what to say about it."""

    match: Match
    others: tuple[Match, ...]
    findings: tuple[Finding, ...]


def components(prefix: str) -> tuple[str, ...]:
    """The dotted components of a prefix.

    Example:
        >>> components("teacher.backbone.")
        ('teacher', 'backbone')
    """
    return tuple(part for part in re.split(r"[./]", prefix) if part)


def choose(found: Sequence[Match], weights: str | None, aliases: Mapping[str, str] = MappingProxyType({})) -> Choice:
    """Picks the weight set that the caller names, or that its authors evaluate.

    Arguments:
        found: readings of different prefixes, best fit first.
        weights: a word of the prefix ("teacher"), or the whole prefix; None for the preferred one.
        aliases: name → the first name of the very same tensor; a tower that is only another's second name is no choice.

    Raises:
        BadArgument: where no weight set bears that name; the message lists those there are.
    """
    models = [m for m in found if not OPTIMIZER.search(m.prefix)]
    if not models:
        return Choice(found[0], tuple(found[1:]), (_only_moments(found),))
    if weights is not None and not isinstance(weights, str):
        raise BadArgument("weights is a word of the prefix of a weight set, or the whole prefix", found=weights)
    if weights is not None:
        return _named(models, weights, aliases)
    largest = max(m.score for m in models)
    towers = [m for m in models if m.score == largest or m.score * SMALLEST >= largest]
    return _preferred(models, towers, aliases)


SMALLEST = 8
"""A reading with fewer than one in so many of the tensors of the largest is no rival tower, but a part that fits by chance."""


def _preferred(models: Sequence[Match], towers: Sequence[Match], aliases: Mapping[str, str]) -> Choice:
    """The tower whose word stands first in `PREFERENCE`; a question where two are equal."""
    ranked = sorted(towers, key=lambda m: (_rank(m, towers), len(m.prefix)))
    best = ranked[0]
    others = tuple(m for m in models if m is not best)
    if not others:
        return Choice(best, (), ())
    names = tuple(m.prefix for m in others)
    equal = [m for m in ranked[1:] if _rank(m, towers) == _rank(best, towers) and not same_tower(m, best, aliases)]
    if equal:
        cause = "several towers stand in this file and nothing says which one is meant"
        listed = (best.prefix, *names)
        return Choice(best, others, (Finding("ambiguous", listed, cause, f'weights="{best.prefix}"', fatal=True),))
    told = {_word(part) for part in _telling(best, towers)}
    reason = next((why for word, why in PREFERENCE if why and word in told), "")
    cause = f"this file holds {len(models)} weight sets; {best.prefix or 'the top level'} is read"
    remedy = f'weights="{_label(others[0], models)}" reads another one'
    return Choice(best, others, (Finding("weights", names, cause + (f": {reason}" if reason else ""), remedy),))


def headless(match: Match, tensors: Mapping[str, Lazy], weights: str | None) -> list[Finding]:
    """A fatal finding where the weight set that its authors evaluate is there but cannot be read, for it lacks its patch
    kernel: another one of the same shapes would be read in its place.

    Arguments:
        match: the weight set that is read.
        tensors: the file's tensors.
        weights: what the caller names; then that is what is meant.
    """
    inner = {name[len(match.prefix) :]: tensors[name].shape for name in match.hits if name.startswith(match.prefix)}
    own = (name for name, hit in match.hits.items() if (hit.item.ours or "").startswith("blocks."))
    mark = next((name[len(match.prefix) :] for name in own if name.startswith(match.prefix)), None)
    if weights is not None or mark is None:
        return []
    order = dict(PREFERENCE)
    for prefix in dict.fromkeys(name[: -len(mark)] for name in match.outside if name.endswith(mark)):
        rival = replace(match, prefix=prefix)
        word = next((w for part in _telling(rival, (match, rival)) if (w := _word(part)) in order), None)
        lost = [name for name, shape in inner.items() if prefix + name not in tensors]
        there = sum(prefix + name in tensors and tensors[prefix + name].shape == inner[name] for name in inner)
        better = word is not None and _rank(rival, (match, rival)) < _rank(match, (match, rival))
        if better and prefix[-1:] in (".", "/") and 2 * there > len(inner) and not OPTIMIZER.search(prefix):
            cause = f"the weight set {prefix} is not whole, and {match.prefix or 'the top level'} would be read in its place"
            cause += f"; {order[word]}" if word and order[word] else ""
            label = _label(match, (match, rival))
            remedy = f'get the whole file; weights="{label}" reads the other one all the same'
            return [Finding("missing", fold(prefix + name for name in lost)[:4], cause, remedy, fatal=True)]
    return []


def _only_moments(found: Sequence[Match]) -> Finding:
    cause = "only the state of an optimizer, whose moments bear the model's names: there are no model weights in it"
    names = tuple(m.prefix for m in found)
    return Finding("not a ViT", names, cause, "load the checkpoint that was saved beside it", fatal=True)


def same_tower(one: Match, other: Match, aliases: Mapping[str, str]) -> bool:
    """Whether two towers are one under two names, tensor for tensor."""

    def first(name: str) -> str:
        return aliases.get(name, name)

    theirs = {name[len(other.prefix) :]: first(name) for name in other.hits if name.startswith(other.prefix)}
    ours = {name[len(one.prefix) :]: first(name) for name in one.hits if name.startswith(one.prefix)}
    return ours == theirs


def _named(models: Sequence[Match], weights: str, aliases: Mapping[str, str]) -> Choice:
    hits = [m for m in models if m.prefix.rstrip("./") == weights.rstrip("./")]
    hits = hits or [m for m in models if weights and weights in components(m.prefix)]
    hits = hits or [m for m in models if weights and _contains(components(m.prefix), components(weights))]
    if not hits:
        there = [_label(m, models) for m in models]
        raise BadArgument(
            f"no weight set of this file is called {weights!r}", names=there, remedy=f"weights={there[0]!r}"
        )
    choice = _preferred(hits, hits, aliases)
    return Choice(choice.match, tuple(m for m in models if m is not choice.match), choice.findings)


def _contains(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return any(parts[n : n + len(wanted)] == wanted for n in range(len(parts)))


def _telling(match: Match, among: Sequence[Match]) -> tuple[str, ...]:
    """The components in which a prefix differs from the others."""
    shared = set.intersection(*(set(components(m.prefix)) for m in among)) if len(among) > 1 else set()
    return tuple(part for part in components(match.prefix) if part not in shared)


def _rank(match: Match, among: Sequence[Match]) -> int:
    order = {word: n for n, (word, _) in enumerate(PREFERENCE)}
    telling = _telling(match, among)
    if any(_word(part) == "" for part in telling):
        return len(order) + 1
    known = [order[word] for part in telling if (word := _word(part)) in order]
    return min(known, default=len(order) if telling else len(order) - 1)


def _word(part: str) -> str:
    """The word in `PREFERENCE` that a component of a prefix stands for; "" for a momentum copy.

    Example:
        >>> _word("teacher"), _word("teacher_backbone"), _word("visual_encoder_m"), _word("visual_encoder")
        ('teacher', 'teacher', '', 'visual_encoder')
    """
    if any(part == word for word, _ in PREFERENCE):
        return part
    pieces = part.split("_")
    if len(pieces) > 1 and (pieces[-1] in COPIES or pieces[0] == "momentum"):
        return ""
    return next((PARTS[piece] for piece in pieces if piece in PARTS), part)


def _label(match: Match, among: Sequence[Match]) -> str:
    telling = _telling(match, among)
    return telling[0] if telling else match.prefix.rstrip("./")
