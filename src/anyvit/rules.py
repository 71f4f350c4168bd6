"""The one function that reads or writes a mapping by a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from anyvit import axes
from anyvit.axes import Axes, AxesError
from anyvit.lazy import Lazy
from anyvit.names import Hit, Pattern
from anyvit.tables import CHECK, Dialect, R, Rule, parent, respell, without

__all__ = ["CHECK", "Dialect", "Fault", "R", "Rule", "Run", "parent", "read", "respell", "without", "write"]


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
        targets = self._targets(count, len(results))
        if len(targets) != len(results):
            text = f"the axes pattern makes {len(results)} tensors, and there are names for {len(targets)}"
            out.faults.append(Fault(tuple(own), self.rule, text))
            return None
        return zip(targets, results, strict=True)

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
