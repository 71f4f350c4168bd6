"""The names and layouts that flax and Keras give to the parameters of a layer, made from a table in torch's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from anyvit import canon
from anyvit.tables import Rule

DENSE, CONV = "i o -> o i", "p q c d -> d c p q"


def retold(rules: Iterable[Rule], norm: str, table: str, spell: Callable[[str], str]) -> tuple[Rule, ...]:
    """Rules of the same model where dense kernels are (in, out), convolutions (height, width, in, out).

    Arguments:
        rules: in torch's names and layouts.
        norm: what weight and bias of a norm are called ("scale|bias", "gamma|beta").
        table: what the weight of an embedding is called ("embedding", "embeddings").
        spell: their name for a name of torch's.

    Example:
        >>> rows = retold([Rule("norm.{p}", "norm.{p}"), Rule("head.{p}", "head.{p}")], "gamma|beta", "embeddings", str)
        >>> [(row.theirs, row.axes) for row in rows]
        [('norm.<gamma|beta>', None), ('head.kernel', 'i o -> o i'), ('head.bias', None)]
    """
    return tuple(replace(found, theirs=spell(found.theirs)) for rule in rules for found in _retold(rule, norm, table))


def _retold(rule: Rule, norm: str, table: str) -> Iterator[Rule]:
    ours = rule.ours
    if ours is None:
        every = "|".join(dict.fromkeys(("kernel", "bias", *norm.split("|"))))
        theirs = re.sub(r"\.weight$", ".kernel", rule.theirs)
        yield replace(rule, theirs=theirs.replace("{p}", f"<{every}>"))
        return
    name = _one(rule)
    role = canon.role(name)
    if "{p}" not in rule.theirs:
        weight = rule.theirs.removesuffix(".weight")
        if weight == rule.theirs:
            yield rule
        elif role in ("position", "embed") and "patch" not in ours:
            yield replace(rule, theirs=f"{weight}.{table}")
        else:
            yield replace(rule, theirs=f"{weight}.kernel", axes=_kernel(rule, name))
        return
    if role == "norm":
        yield replace(rule, theirs=rule.theirs.replace("{p}", f"<{norm}>"))
        return
    for part, word in (("weight", "kernel"), ("bias", "bias")):
        axes = _kernel(rule, name) if part == "weight" else rule.axes
        yield replace(rule, theirs=rule.theirs.replace("{p}", word), ours=ours.replace("{p}", part), axes=axes)


def _one(rule: Rule) -> str:
    """A canonical name of a rule."""
    ours = rule.sides[1]
    assert ours is not None
    return ours.fill(dict.fromkeys(ours.variables, 0), (0,) * len(ours.ones), (0,) * len(ours.lists))


def _kernel(rule: Rule, name: str) -> str:
    """The layout of a rule's kernel."""
    entry = canon.lookup(name)
    if entry is not None and len(entry[0].weight.split()) == 4:
        return CONV
    if rule.axes is None:
        return DENSE
    fused, _, apart = rule.axes.partition(" ... -> ")  # of rows, whatever follows them
    assert apart.endswith(" ..."), rule
    return f"i {fused} -> {apart.removesuffix(' ...')} i"
