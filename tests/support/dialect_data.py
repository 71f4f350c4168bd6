"""Random canonical tensors that a dialect can write, of sizes that no two axes share by chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import numpy as np

from anyvit import canon
from anyvit.axes import Side
from anyvit.lazy import Lazy, from_array
from anyvit.names import Pattern, Variant
from anyvit.rules import Dialect, Rule

BLOCKS = 3
LETTERS = {
    "d": 23, "heads": 3, "e": 7, "k": 2, "n": 35, "gh": 5, "gw": 7, "c": 3, "p": 11, "q": 13, "t": 2, "r": 5, "m": 31,
    "o": 17, "i": 19, "s": 29, "h": 3,
}  # fmt: skip
INNER = LETTERS["heads"] * LETTERS["e"]


def size(letter: str, fixed: Mapping[str, int]) -> int:
    """The size of an axis; letters that differ in a digit share it."""
    return fixed.get(letter) or LETTERS.get(letter) or LETTERS.get(letter.rstrip("0123456789"), 37)


def shape_of(rule: Rule, ours: Pattern, variant: Variant, name: str, fixed: Mapping[str, int]) -> tuple[int, ...]:
    """The shape that a rule gives a canonical name, where it says one; else the vocabulary's."""
    entry = canon.lookup(name)
    assert entry is not None, name
    if rule.layout is None or any(("...",) in side.groups for side in rule.layout.right):
        shape = [size(letter, fixed) for letter in entry[1].split()]
        if ".attn." in name and entry[1] == "d d":
            shape = [LETTERS["d"], INNER] if ".out." in name else [INNER, LETTERS["d"]]
        return tuple(shape)
    joined = len(rule.layout.right) > 1
    side = rule.layout.right[variant.alls[0] or 0] if joined else rule.layout.right[0]
    groups = side.groups[1:] if ours.lists and not joined else side.groups
    return tuple(prod(size(letter, fixed) for letter in group) for group in groups)


def names_of(rule: Rule) -> Iterable[tuple[str, Variant]]:
    """Every canonical name of a rule, for the first blocks."""
    ours = rule.sides[1]
    assert ours is not None
    counted = any(None in variant.alls for variant in ours.variants())
    for number in range(BLOCKS if ours.variables or counted else 1):
        for variant in ours.variants():
            alls = tuple(number if place is None else place for place in variant.alls)
            yield ours.fill(dict.fromkeys(ours.variables, number), variant.ones, alls), variant


def canonical(dialect: Dialect, rules: Iterable[Rule] | None = None, seed: int = 0) -> dict[str, Lazy]:
    """A value for every canonical name that the rules write; no number occurs twice."""
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in dialect.rules if rules is None else rules:
        ours = rule.sides[1]
        if ours is None or (rules is None and rule.reads_only):
            continue
        for name, variant in names_of(rule):
            shapes[name] = shape_of(rule, ours, variant, name, dialect.sizes)
    total = sum(map(prod, shapes.values()))
    values = np.random.default_rng(seed).permutation(total).astype("float32")
    tensors, start = {}, 0
    for name, shape in shapes.items():
        tensors[name] = from_array(values[start : start + prod(shape)].reshape(shape), name)
        start += prod(shape)
    return tensors


def reading_sizes(dialect: Dialect) -> dict[str, int]:
    """What a reader must know beside the shapes: all but the last part of each joined axis."""
    joined = [_joined(side) for rule in dialect.rules if rule.layout for side in rule.layout.left]
    return {letter: size(letter, dialect.sizes) for parts in joined for letter in parts[:-1] if letter.isalpha()}


def _joined(side: Side) -> tuple[str, ...]:
    return () if side.joined is None else side.groups[side.joined]


WRITING_SIZES = {letter: LETTERS[letter] for letter in ("heads", "gh", "gw")}
"""What a writer must know beside the shapes."""
