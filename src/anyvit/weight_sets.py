"""Which of several weight sets of one file is read: teacher, student, EMA, raw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from anyvit.errors import BadArgument
from anyvit.recognise import OPTIMIZER, Match
from anyvit.report import Finding

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


def choose(found: Sequence[Match], weights: str | None) -> Choice:
    """Picks the weight set that the caller names, or that its authors evaluate.

    Arguments:
        found: readings of different prefixes, best fit first.
        weights: a word of the prefix ("teacher"), or the whole prefix; None for the preferred one.

    Raises:
        BadArgument: where no weight set bears that name; the message lists those there are.
    """
    models = [m for m in found if not OPTIMIZER.search(m.prefix)] or list(found)
    if weights is not None:
        return _named(models, weights)
    size = max(m.score for m in models)
    towers = [m for m in models if m.score >= size - abs(size) / 2]
    ranked = sorted(towers, key=lambda m: (_rank(m, towers), len(m.prefix)))
    best = ranked[0]
    others = tuple(m for m in models if m is not best)
    if not others:
        return Choice(best, (), ())
    reason = next((why for word, why in PREFERENCE if why and word in _telling(best, towers)), "")
    names = tuple(m.prefix for m in others)
    remedy = f'weights="{_label(others[0], models)}" reads another one'
    if len(ranked) > 1 and _rank(ranked[1], towers) == _rank(best, towers):
        cause = "several towers stand in this file and nothing says which one is meant"
        listed = (best.prefix, *names)
        return Choice(best, others, (Finding("ambiguous", listed, cause, f'weights="{best.prefix}"', fatal=True),))
    cause = f"this file holds {len(models)} weight sets; {best.prefix or 'the top level'} is read"
    return Choice(best, others, (Finding("weights", names, cause + (f": {reason}" if reason else ""), remedy),))


def _named(models: Sequence[Match], weights: str) -> Choice:
    hits = [m for m in models if m.prefix.rstrip("./") == weights.rstrip("./")]
    hits = hits or [m for m in models if weights in components(m.prefix)]
    wanted = tuple(weights.rstrip("./").split("."))
    hits = hits or [m for m in models if _contains(components(m.prefix), wanted)]
    if not hits:
        there = [_label(m, models) for m in models]
        raise BadArgument(
            f"no weight set of this file is called {weights!r}", names=there, remedy=f"weights={there[0]!r}"
        )
    others = tuple(m for m in models if m is not hits[0])
    return Choice(hits[0], others, ())


def _contains(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return any(parts[n : n + len(wanted)] == wanted for n in range(len(parts)))


def _telling(match: Match, among: Sequence[Match]) -> tuple[str, ...]:
    """The components in which a prefix differs from the others."""
    shared = set.intersection(*(set(components(m.prefix)) for m in among)) if len(among) > 1 else set()
    return tuple(part for part in components(match.prefix) if part not in shared)


def _rank(match: Match, among: Sequence[Match]) -> int:
    order = {word: n for n, (word, _) in enumerate(PREFERENCE)}
    telling = _telling(match, among)
    return min((order[part] for part in telling if part in order), default=len(order) if telling else len(order) - 1)


def _label(match: Match, among: Sequence[Match]) -> str:
    telling = _telling(match, among)
    return telling[0] if telling else match.prefix.rstrip("./")
