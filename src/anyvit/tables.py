"""Rules and dialects: the tables that say what an ecosystem calls a tensor and how it lies in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from anyvit import axes, names
from anyvit.axes import Axes
from anyvit.errors import BadArgument
from anyvit.names import Hit, Index, Pattern


@dataclass(frozen=True)
class Rule:
    """One correspondence, readable both ways.

    Arguments:
        theirs: a name pattern of the ecosystem; `../` stands for beside the tower.
        ours: a canonical name pattern; None for names that carry nothing (`why` says what they are).
        axes: the layout on both sides, theirs first; None where it is the same.
        why: what the row is for, where it is not obvious.
        reads_only: an older spelling that is read but not written.
    """

    theirs: str
    ours: str | None
    axes: str | None = None
    why: str = ""
    reads_only: bool = False

    @cached_property
    def sides(self) -> tuple[Pattern, Pattern | None]:
        """Both patterns, parsed.

        Raises:
            BadArgument: a pattern that is none, or two that do not belong together.
        """
        theirs, ours = names.parse(self.theirs), names.parse(self.ours) if self.ours else None
        if ours is not None and (fault := self._mismatch(theirs, ours)):
            raise BadArgument(fault, names=[self.theirs, self.ours or ""])
        return theirs, ours

    def _mismatch(self, theirs: Pattern, ours: Pattern) -> str:
        """Why two patterns do not belong together; "" where they do."""
        if set(theirs.variables) != set(ours.variables):
            return f"binds {set(theirs.variables) or 'no number'} on one side, {set(ours.variables) or 'none'} on the other"
        if [len(slot.options) for slot in theirs.ones] != [len(slot.options) for slot in ours.ones]:
            return "the choices of both sides differ in number"
        layout = self.layout
        for pattern, sides in ((theirs, layout and layout.left), (ours, layout and layout.right)):
            if pattern.lists and sides is None:
                return "has a list and no axes pattern"
            if len(pattern.lists) > 1 and any(not slot.options for slot in pattern.lists):
                return "counts a list beside another list"
            if sides is not None and len(sides) > 1 and [len(slot.options) for slot in pattern.lists] != [len(sides)]:
                return f"has {len(sides)} patterns of axes, which are a list's"
        return ""

    @cached_property
    def layout(self) -> Axes | None:
        """The parsed axes pattern."""
        return axes.parse(self.axes) if self.axes else None


R = Rule

CHECK = "check: "
"""What the `why` of a row begins with that rests on a convention nobody has checked; a file read by it says so."""


Rows = Literal["any", "cls", "all", "none"]
ROWS: tuple[Rows, ...] = get_args(Rows)
"""What the position tables of a dialect may do with prefix tokens; see `Dialect.prefix_rows`."""


@dataclass(frozen=True)
class Dialect:
    """One ecosystem's names and layout.

    Arguments:
        name: short and stable ("timm", "hf-dinov2", …).
        rules: the table.
        source: where it is from (URL, or repository and file).
        title: the project in words.
        lineage: the default lineage of files in this dialect (see `dialects/lineages.py`).
        tower: the prefix that is written when a rule writes beside the tower ("vit.").
        root: a prefix that is always written ("visual.").
        container: the file that its project saves: "safetensors", "torch", "npz", "msgpack".
        sizes: sizes of axes that are fixed in this layout ({"c": 3}).
        config: rows (their key, Spec field, value map) of what is written beside weights; see `configs`.
        anchors: patterns one of which a file of this dialect must hold, where it is not the patch kernel.
        chunked: writes blocks in chunks (`{_}`).
        requires: canonical names that its readers insist on, even where an exact rewrite must make them.
        leaves: canonical names that its models lack unless their code asks for them, which no config does.
        prefix_rows: how many rows of its position tables belong to prefix tokens: "any" number, one for each class
            token ("cls"), none or one for every prefix token ("all"), or "none".
        computes: whether its models can compute the positions of their project instead of storing them.
        classifier: what is special about how its models feed their classifier: "cls+avg" (they may take the class
            token and the mean side by side), "unnormed" (the mean of tokens before the final norm), "pooler" (a dense
            layer that they have is not between pool and classifier).
        instead: canonical name → the rules that its models are written by where that name is absent.
        also: dialects of the same project for models that this one has no words for, in the order they are tried.
    """

    name: str
    rules: tuple[Rule, ...]
    source: str = ""
    title: str = ""
    lineage: str = ""
    tower: str = ""
    root: str = ""
    container: str = "safetensors"
    sizes: Mapping[str, int] = field(default_factory=dict)
    config: Any = None
    anchors: tuple[str, ...] = ()
    chunked: bool = False
    requires: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    prefix_rows: Rows = "any"
    computes: bool = False
    classifier: tuple[str, ...] = ()
    instead: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        from anyvit.show import of_dialect

        return of_dialect(self)

    def __repr__(self) -> str:
        return f"<dialect {self.name}: {len(self.rules)} rules>"

    @cached_property
    def reading(self) -> tuple[Index[Rule], Index[Rule]]:
        """The rules by their names: those inside the tower, those beside it."""
        entries = [(rule.sides[0], rule) for rule in self.rules]
        return (
            Index.of((pattern, rule) for pattern, rule in entries if not pattern.beside),
            Index.of((pattern, rule) for pattern, rule in entries if pattern.beside),
        )

    @cached_property
    def writing(self) -> Index[Rule]:
        """The rules by our names."""
        return Index.of((rule.sides[1], rule) for rule in self.rules if rule.sides[1] and not rule.reads_only)

    def find(self, name: str, prefix: str = "") -> list[Hit[Rule]]:
        """The rules that read a name under a prefix."""
        inside, beside = self.reading
        if name.startswith(prefix) and (hits := inside.match(name[len(prefix) :])):
            return hits
        above = parent(prefix)
        return beside.match(name[len(above) :]) if name.startswith(above) else []


def parent(prefix: str) -> str:
    """The prefix one component higher.

    Example:
        >>> parent("visual.trunk."), parent("vit."), parent("")
        ('visual.', '', '')
    """
    body = prefix[:-1]
    return prefix[: max(body.rfind("."), body.rfind("/")) + 1]


def without(dialect: Dialect | Iterable[Rule], *theirs: str) -> tuple[Rule, ...]:
    """The rules of a table but those with these names of theirs."""
    rules = dialect.rules if isinstance(dialect, Dialect) else tuple(dialect)
    missing = set(theirs) - {rule.theirs for rule in rules}
    if missing:
        raise BadArgument("no such rows to leave out", names=sorted(missing))
    return tuple(rule for rule in rules if rule.theirs not in theirs)


def respell(rules: Dialect | Iterable[Rule], old: str, new: str) -> tuple[Rule, ...]:
    """The same rules with a part of their names spelt otherwise."""
    rules = rules.rules if isinstance(rules, Dialect) else rules
    return tuple(replace(rule, theirs=rule.theirs.replace(old, new)) for rule in rules)
