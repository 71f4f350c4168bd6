"""Channels of linear patches: their matrix has rows of pixels, of which neither channels nor sides are an axis."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from anyvit.lazy import Lazy
from anyvit.recognise import Match
from anyvit.report import Finding
from anyvit.rules import Rule
from anyvit.spec import Fact, Spec, pair

USUAL = 3
"""Channels that are taken for granted where patches are square with them; said as assumed."""
MOST = 16
"""Most channels that are thought of where nothing says them."""


def counts(rows: int) -> tuple[int, ...]:
    """Channels that leave square patches, the usual number first.

    Example:
        >>> counts(3 * 16 * 16), counts(5 * 8 * 8)
        ((3, 12), (5,))
    """
    fitting = [n for n in range(1, MOST + 1) if rows % n == 0 and isqrt(rows // n) ** 2 == rows // n]
    return tuple(sorted(fitting, key=lambda n: (n != USUAL, n)))


def channels(
    tensors: Mapping[str, Lazy], match: Match, facts: Mapping[str, Fact], asked: Mapping[str, Any], told: bool = False
) -> tuple[Fact | None, list[Finding]]:
    """How many channels the rows of a patch matrix are read with; None where they are an axis, or cannot be told.

    In this order: a config's channels; its patch size; three, where patches are square so; what the caller asked of
    `in_chans` or `patch_size`, where three do not fit; the only number that fits.

    Arguments:
        tensors: the file's tensors.
        match: how they were recognised.
        facts: what configs and arguments say.
        asked: in_chans and patch_size as the caller asked for them.
        told: whether the dialect is the caller's own, whose `sizes` say the channels where no config does.
    """
    found = _matrix(match)
    if found is None:
        return None, []
    if "in_chans" in facts:
        return facts["in_chans"], []
    if told:
        number = match.dialect.sizes["c"]
        return Fact(number, "assumed", f"rows of the patch matrix, {number} channels taken for granted"), []
    name, axis = found
    shape = tensors[name].shape
    if axis >= len(shape):
        return None, []
    rows, fitting = shape[axis], counts(shape[axis])
    if "patch_size" in facts and (number := _of_size(rows, facts["patch_size"].value)):
        return Fact(number, "given", f"{rows} rows, {facts['patch_size'].source}"), []
    if USUAL in fitting:
        return Fact(USUAL, "assumed", f"rows of the patch matrix, {USUAL} channels taken for granted"), []
    for number, what in _hints(rows, asked):
        if number in fitting:
            return Fact(number, "given", f"the argument {what}=, for {rows} rows of pixels do not say it"), []
    if len(fitting) == 1:
        why = f"{rows} rows of the patch matrix are square patches with {fitting[0]} channels alone"
        return Fact(fitting[0], "assumed", why), []
    # where none leaves square patches, the rows are said to be a fault of shape
    return None, [_ambiguous(name, rows, fitting)] if fitting else []


def _matrix(match: Match) -> tuple[str, int] | None:
    """The patch matrix and its axis of pixels, for a dialect that has one."""
    if "c" not in match.dialect.sizes:
        return None
    for name, hit in match.hits.items():
        rule: Rule = hit.item
        if rule.ours == "embed.patch.weight" and rule.layout is not None:
            groups = rule.layout.left[0].groups
            axis = next((n for n, group in enumerate(groups) if "c" in group and len(group) > 1), None)
            return None if axis is None else (name, axis)
    return None


def _hints(rows: int, asked: Mapping[str, Any]) -> list[tuple[int, str]]:
    """(channels, argument) as the caller's arguments give them."""
    found = []
    if asked.get("in_chans") is not None:
        found.append((getattr(asked["in_chans"], "count", asked["in_chans"]), "in_chans"))
    if asked.get("patch_size") is not None:
        found.append((_of_size(rows, asked["patch_size"]), "patch_size"))
    return found


def _of_size(rows: int, size: Any) -> int:
    """Channels of patches of a size in pixels; 0 where it does not fit, or is none."""
    try:
        height, width = (int(side) for side in pair(size))
    except (TypeError, ValueError):
        return 0
    return rows // (height * width) if height > 0 and height == width and not rows % (height * width) else 0


def remedy(spec: Spec, dialect: str) -> str:
    """What tells a reader the channels of a file that holds no word of them.

    Example:
        >>> remedy(Spec(in_chans=4), "big_vision-naflex")
        'in_chans=4'
    """
    if USUAL not in counts(spec.in_chans * spec.patch[0] * spec.patch[1]):
        return f"in_chans={spec.in_chans}"
    return f'dialect=dataclasses.replace(anyvit.dialects.get("{dialect}"), sizes={{"c": {spec.in_chans}}})'


def _ambiguous(name: str, rows: int, fitting: tuple[int, ...]) -> Finding:
    sides = ", ".join(f"{n} of {isqrt(rows // n)} × {isqrt(rows // n)}" for n in fitting)
    cause = (
        f"the channels of linear patches cannot be told from {rows} rows of pixels, and {USUAL} leave no square patch"
    )
    remedy = f"in_chans={fitting[-1]} or patch_size={isqrt(rows // fitting[-1])}, whatever it was"
    return Finding("ambiguous", (name,), f"{cause}; square ones are {sides}", remedy, True)
