"""Rules, dialects, and the one function that reads or writes a mapping by a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from anyvit import axes, names
from anyvit.axes import Axes, AxesError
from anyvit.errors import BadArgument
from anyvit.lazy import Lazy
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


@dataclass(frozen=True)
class Fault:
    """A group of tensors that a rule names but whose shapes do not fit it."""

    names: tuple[str, ...]
    rule: Rule
    text: str


@dataclass(frozen=True)
class Run:
    """What became of a mapping: `tensors` is the result, and every source name is in exactly one of the others.

    Arguments:
        tensors: target name → tensor, unread.
        used: source name → the rule that carried it.
        ignored: source name → why it carries nothing.
        partial: source name → the names that would be needed beside it.
        leftover: names that no rule knows.
        faults: groups whose shapes do not fit.
        conflicts: target name → all sources that claim it.
        sizes: size of every axis that was met, by its letter.
    """

    tensors: Mapping[str, Lazy]
    used: Mapping[str, Rule]
    ignored: Mapping[str, str]
    partial: Mapping[str, tuple[str, ...]]
    leftover: tuple[str, ...]
    faults: tuple[Fault, ...]
    conflicts: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, frozenset[int]]


def read(
    tensors: Mapping[str, Lazy],
    dialect: Dialect,
    prefix: str = "",
    sizes: Mapping[str, int] | None = None,
    hits: Mapping[str, Hit[Rule]] | None = None,
) -> Run:
    """Translate a file's names and layout to the canonical ones.

    Arguments:
        tensors: flat name → tensor.
        dialect: the table to read it by.
        prefix: what precedes the tower's names.
        sizes: sizes of axes that shapes cannot tell ("k": prefix rows of the position table).
        hits: name → how it was matched, where that is known already.
    """

    def find(name: str) -> list[Hit[Rule]]:
        if hits is None:
            return dialect.find(name, prefix)
        return [hits[name]] if name in hits else []

    known = {**dialect.sizes, **(sizes or {})}
    return _run(tensors, find, lambda rule: rule.sides, lambda rule: rule.layout, known, lambda p: "", None)


def write(
    tensors: Mapping[str, Lazy],
    dialect: Dialect,
    prefix: str = "",
    sizes: Mapping[str, int] | None = None,
    chunk: Callable[[int], int] | None = None,
) -> Run:
    """Translate canonical tensors to a dialect's names and layout.

    Arguments:
        tensors: canonical name → tensor.
        dialect: the table to write by.
        prefix: what to put before the tower's names.
        sizes: sizes of axes that shapes cannot tell ("heads").
        chunk: block number → chunk number, for dialects with a number that is not kept.

    Raises:
        BadArgument: where the dialect has a number that is not kept and `chunk` is None.
    """

    def place(pattern: Pattern) -> str:
        return parent(prefix) if pattern.beside else prefix

    def layout(rule: Rule) -> Axes | None:
        return rule.layout.flip() if rule.layout else None

    known = {**dialect.sizes, **(sizes or {})}
    return _run(tensors, dialect.writing.match, lambda rule: rule.sides[::-1], layout, known, place, chunk)


_Key = tuple[int, tuple[tuple[str, int], ...], tuple[int, ...]]


def _run(
    tensors: Mapping[str, Lazy],
    find: Callable[[str], list[Hit[Rule]]],
    sides: Callable[[Rule], tuple[Pattern | None, ...]],
    layout: Callable[[Rule], Axes | None],
    sizes: Mapping[str, int],
    place: Callable[[Pattern], str],
    chunk: Callable[[int], int] | None,
) -> Run:
    groups: dict[_Key, _Group] = {}
    ignored: dict[str, str] = {}
    leftover: list[str] = []
    for name, tensor in tensors.items():
        hits = find(name)
        if not hits:
            leftover.append(name)
            continue
        hit = hits[0]
        source, target = sides(hit.item)
        if target is None or source is None:
            ignored[name] = hit.item.why
            continue
        kept = tuple((k, v) for k, v in hit.numbers.items() if k != "_")
        key = (id(hit.item), kept, hit.ones)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(hit.item, source, target, dict(hit.numbers), hit.ones, {}, [])
        if hit.alls in group.members:
            group.doubles.append(name)
        else:
            group.members[hit.alls] = (name, tensor)
    out = _Collect({}, {}, {}, [], {}, {})
    for group in groups.values():
        group.emit(out, layout(group.rule), sizes, place, chunk)
    return Run(
        out.tensors,
        out.used,
        ignored,
        out.partial,
        tuple(leftover),
        tuple(out.faults),
        {target: tuple(sources) for target, (claims, sources) in out.claims.items() if claims > 1},
        {letter: frozenset(values) for letter, values in out.sizes.items()},
    )


@dataclass
class _Collect:
    """What the groups of a run give; `claims` counts them by target and lists their sources."""

    tensors: dict[str, Lazy]
    used: dict[str, Rule]
    partial: dict[str, tuple[str, ...]]
    faults: list[Fault]
    claims: dict[str, tuple[int, list[str]]]
    sizes: dict[str, set[int]]


@dataclass
class _Group:
    """The tensors that one rule reads together; `doubles` are names that claim a place which is taken."""

    rule: Rule
    source: Pattern
    target: Pattern
    numbers: dict[str, int]
    ones: tuple[int, ...]
    members: dict[tuple[int, ...], tuple[str, Lazy]]
    doubles: list[str]

    def emit(
        self,
        out: _Collect,
        layout: Axes | None,
        sizes: Mapping[str, int],
        place: Callable[[Pattern], str],
        chunk: Callable[[int], int] | None,
    ) -> None:
        own = [name for name, _ in self.members.values()] + self.doubles
        results: Iterable[tuple[tuple[int, ...], Lazy | None]] | None
        if layout is None and not self.source.lists and not self.target.lists:
            results = [((), tensor) for _, tensor in self.members.values()]
        else:
            results = self._rearranged(out, own, layout, sizes)
        if results is None:
            return
        numbers = self._numbers(chunk)
        for at, tensor in results:
            if tensor is not None:
                name = place(self.target) + self.target.fill(numbers, self.ones, at)
                claims, sources = out.claims.get(name, (0, []))
                out.claims[name] = (claims + 1 + len(self.doubles), sources + own)
                out.tensors.setdefault(name, tensor)
        out.used.update(dict.fromkeys(own, self.rule))

    def _rearranged(
        self, out: _Collect, own: list[str], layout: Axes | None, sizes: Mapping[str, int]
    ) -> Iterable[tuple[tuple[int, ...], Lazy | None]] | None:
        """Place on the target's list axes → tensor; None, and an entry in `out`, where the group is not whole or does not fit."""
        wanted = self._places()
        optional = layout is not None and layout.joins
        missing = [at for at in wanted if at not in self.members]
        if missing and not optional:
            out.partial.update(dict.fromkeys(own, self._spell(missing)))
            return None
        inputs = [self.members[at][1] if at in self.members else None for at in wanted]
        count = self._outputs()
        try:
            results, solved = self._apply(layout, inputs, count, sizes)
        except AxesError as error:
            out.faults.append(Fault(tuple(own), self.rule, str(error)))
            return None
        for letter, size in solved.items():
            out.sizes.setdefault(letter, set()).add(size)
        return zip(self._targets(count, len(results)), results, strict=True)

    def _apply(
        self, layout: Axes | None, inputs: Sequence[Lazy | None], count: int | None, sizes: Mapping[str, int]
    ) -> tuple[Sequence[Lazy | None], dict[str, int]]:
        if layout is None:
            return list(inputs), {}
        return axes.apply(layout, inputs, count, sizes, bool(self.source.lists))

    def _numbers(self, chunk: Callable[[int], int] | None) -> dict[str, int]:
        if not self.target.drops_number or chunk is None:
            return self.numbers
        kept = next(number for variable, number in self.numbers.items() if variable != "_")
        return {**self.numbers, "_": chunk(kept)}

    def _spell(self, places: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
        """The names at these places, under the prefix that the group's own names have."""
        at, (name, _) = next(iter(self.members.items()))
        numbers = {"_": 0, **self.numbers}
        prefix = name[: len(name) - len(self.source.fill(numbers, self.ones, at))]
        return tuple(prefix + self.source.fill(numbers, self.ones, at) for at in places)

    def _places(self) -> list[tuple[int, ...]]:
        """Every place on the list axes that the source side must fill; where one is free, not all that are."""
        count = len(self.members)
        lengths = [
            len(slot.options) if slot.options else min(count, max(at[n] for at in self.members)) + 1
            for n, slot in enumerate(self.source.lists)
        ]
        return _grid(lengths)

    def _outputs(self) -> int | None:
        lists = self.target.lists
        if any(not slot.options for slot in lists):
            return None
        return prod(len(slot.options) for slot in lists)

    def _targets(self, count: int | None, found: int) -> list[tuple[int, ...]]:
        if count is None:
            return [(n,) for n in range(found)]
        return _grid([len(slot.options) for slot in self.target.lists])


def _grid(lengths: Sequence[int]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for length in lengths:
        places = [(*place, n) for place in places for n in range(length)]
    return places
