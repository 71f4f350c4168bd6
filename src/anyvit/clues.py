"""What is known of a file beside its tensors, and how a fact is worded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyvit.dialects.lineages import Lineage
from anyvit.lazy import Lazy
from anyvit.spec import Fact


@dataclass(frozen=True)
class Clues:
    """What is known beside the tensors.

    Arguments:
        lineage: where the weights come from.
        given: facts from configs and arguments, by Spec field.
        sizes: axis sizes that the layout showed ("heads", "gh", "gw").
        dialect: the dialect's name.
        ignored: names in the file that carry nothing (a mask of the key bias).
    """

    lineage: Lineage
    given: Mapping[str, Fact]
    sizes: Mapping[str, frozenset[int]]
    dialect: str
    ignored: Mapping[str, str]


def measured(value: Any, source: str) -> Fact:
    """A fact that names or shapes show.

    Example:
        >>> str(measured(12, "blocks 0 to 11"))
        '12 (measured: blocks 0 to 11)'
    """
    return Fact(value, "measured", source)


def shape_of(tensors: Mapping[str, Lazy], name: str) -> str:
    """The shape of a canonical tensor as evidence, by its name in the file.

    Example:
        >>> shape_of({"embed.cls": Lazy((1, 32), "float32", bytes, ("cls_token",))}, "embed.cls")
        'shape (1, 32) of cls_token'
    """
    tensor = tensors[name]
    return f"shape {tensor.shape} of {tensor.origin[0] if tensor.origin else name}"
