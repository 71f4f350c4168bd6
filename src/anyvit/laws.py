"""The laws that a dialect must obey, told from its table alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from anyvit import canon
from anyvit.axes import Side
from anyvit.errors import AnyvitError
from anyvit.names import OPENS, Pattern, Variant
from anyvit.rules import Dialect, Rule


def check(dialect: Dialect) -> list[str]:
    """What is wrong with a dialect's table; nothing where it is right.

    *Well formed*: both sides of a row bind the same numbers and choices, lists have an axes pattern, every name of ours
    is canonical and has as many axes as the row gives it. *One reading*: no name of theirs is matched by two rows, no
    canonical name is written by two. That a table loses nothing on a round trip is for data to show.

    Arguments:
        dialect: the table to judge.

    Returns:
        One sentence for each fault, with the row that has it.

    Example:
        >>> from anyvit.rules import Dialect, R
        >>> check(Dialect("mine", (R("ln.{p}", "norn.{p}"),), source="here", title="Mine"))
        ['ln.{p}: norn.weight is no canonical name', 'ln.{p}: norn.bias is no canonical name']
    """
    faults = [f"the dialect has no {word}" for word in ("name", "source", "title") if not getattr(dialect, word)]
    good: list[Rule] = []
    for rule in dialect.rules:
        found = list(_row(rule))
        faults += [f"{rule.theirs}: {fault}" for fault in found]
        good += [] if found else [rule]
    return faults + list(_one_reading(good)) + list(_one_writing(good))


def _row(rule: Rule) -> Iterator[str]:
    try:
        _, ours = rule.sides
        _ = rule.layout
    except AnyvitError as error:
        yield error.cause
        return
    if ours is None:
        if not rule.why:
            yield "carries nothing and does not say why"
        return
    if ours.beside or ours.drops_number:
        yield "the canonical name stands beside the tower or drops a number"
    yield from _canonical(rule, ours)


def _canonical(rule: Rule, ours: Pattern) -> Iterator[str]:
    for variant in ours.variants():
        name = spell(ours, variant)
        entry = canon.lookup(name)
        if entry is None:
            yield f"{name} is no canonical name"
            continue
        rank = len(entry[1].split())
        for side in rule.layout.right if rule.layout else ():
            if (has := _rank(side, ours, len(rule.layout.right) if rule.layout else 1)) not in (None, rank):
                yield f"gives {name} {has} axes, it has {rank}"


def _rank(side: Side, ours: Pattern, parts: int) -> int | None:
    if ("...",) in side.groups:
        return None
    return len(side.groups) - (1 if ours.lists and parts == 1 else 0)


def spell(pattern: Pattern, variant: Variant, number: int = 0) -> str:
    """A name that this variant of a pattern matches, with one number put in for all.

    Example:
        >>> from anyvit.names import parse
        >>> pattern = parse("blocks.{i}.<norm1|norm2>.weight")
        >>> [spell(pattern, variant, 7) for variant in pattern.variants()]
        ['blocks.7.norm1.weight', 'blocks.7.norm2.weight']
    """
    numbers = dict.fromkeys((*pattern.variables, "_"), number)
    alls = tuple(number if place is None else place for place in variant.alls)
    return pattern.fill(numbers, variant.ones, alls)


def _one_reading(rules: Iterable[Rule]) -> Iterator[str]:
    for beside in (False, True):
        sides = [(rule.sides[0], rule) for rule in rules if rule.sides[0].beside == beside]
        yield from _overlaps(sides, "both match")


def _one_writing(rules: Iterable[Rule]) -> Iterator[str]:
    sides = [(rule.sides[1], rule) for rule in rules if rule.sides[1] and not rule.reads_only]
    yield from _overlaps([(ours, rule) for ours, rule in sides if ours], "both write")


def _overlaps(sides: Iterable[tuple[Pattern, Rule]], how: str) -> Iterator[str]:
    table: dict[str, list[tuple[Variant, Rule]]] = {}
    for pattern, rule in sides:
        for variant in pattern.variants():
            rivals = table.setdefault(variant.key, [])
            for other, rival in rivals:
                if all(map(_meet, variant.numbers, other.numbers)):
                    yield f"{rule.theirs} and {rival.theirs} {how} {_plain(spell(pattern, variant))}"
            rivals.append((variant, rule))


def _meet(one: str, other: str) -> bool:
    return one == other or one[0] in OPENS or other[0] in OPENS


def _plain(name: str) -> str:
    return re.sub(r"(?<=\.)0(?=\.)", "N", name)


def writable(dialect: Dialect) -> tuple[str, ...]:
    """Every canonical name that a dialect can write, block 0 standing for all blocks.

    Example:
        >>> from anyvit.dialects.instantmesh import INSTANTMESH
        >>> [name for name in writable(INSTANTMESH) if name.startswith("condition")][:2]
        ['condition.fc1.weight', 'condition.fc1.bias']
    """
    names: dict[str, None] = {}
    for rule in dialect.rules:
        if (ours := rule.sides[1]) and not rule.reads_only:
            names.update((spell(ours, variant), None) for variant in ours.variants())
    return tuple(names)
