"""The name language: one pattern reads a whole name and writes it again.

| written | means |
|---|---|
| `{i}` | a number kept on both sides of a rule |
| `{i+1}` | the same where they count from one |
| `{_i}` | the same as `_3`, and nothing for 0 (Keras numbers layers so) |
| `{_}` | a number that is not kept; writing needs it given |
| `<a|b>` | one of; translates by position to the other side of the rule |
| `[a|b]` | all of: a list axis, first in the axes of the rule |
| `[i]` | all numbers 0, 1, 2 …: a list axis of a stacked tensor |
| `{p}` | short for `<weight|bias>` |
| `../` | at the start: beside the tower, one component above its prefix |

A pattern always matches a whole name, so the order of rules never matters. Matching is one dictionary look-up: every
run of digits of a name is blanked, and what is left is the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product
from math import prod
from typing import Generic, TypeVar

from anyvit.errors import BadArgument

T = TypeVar("T")
_TOKEN = re.compile(r"\{(\w+(?:\+1)?)\}|<([^<>]*)>|\[([^\[\]]*)\]")
_DIGITS = re.compile(r"([0-9]+)")
BLANK = "\0"
LENGTH_LIMIT = 1024
"""Longest pattern in characters."""
VARIANTS_LIMIT = 256
"""Most names that the options of one pattern may stand for; those of the dialects here stand for 64 at most."""
OPENS = "$@+^"
"""Marks of numbers that are open; see `Variant`."""
_MARKS = {"number": "$", "suffix": "^", "count": "@"}
_OPEN = "\x01"
_NUMBER = re.compile(r"[0-9]+|\x01")
_TOUCHING = re.compile(r"\x01[0-9\x01]|[0-9]\x01")


@dataclass(frozen=True)
class Slot:
    """A part of a pattern that is no plain text.

    Arguments:
        kind: "number" (`{i}`, `{i+1}`), "suffix" (`{_i}`), "one" (`<a|b>`), "all" (`[a|b]`) or "count" (`[i]`).
        name: the variable of a number or count.
        options: the texts of "one" and "all".
        first: what they call number 0.
    """

    kind: str
    name: str = ""
    options: tuple[str, ...] = ()
    first: int = 0


@dataclass(frozen=True)
class Variant:
    """A pattern with its choices made: text with numbers left open.

    Arguments:
        key: the text with every run of digits blanked.
        numbers: for each run of digits, its literal text, or a mark and what it binds: "$" a variable, "+" one that
            they count from one, "^" one that they write from 1 on only, "@" a list axis.
        ones: the chosen option of each `<a|b>`.
        alls: the chosen option of each `[a|b]`; None for a `[i]`, whose number is bound instead.
        zeros: the variables that are 0 because their number is not there.
    """

    key: str
    numbers: tuple[str, ...]
    ones: tuple[int, ...]
    alls: tuple[int | None, ...]
    zeros: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pattern:
    """A parsed name pattern.

    Example:
        >>> pattern = parse("blocks.{i}.<norm1|norm2>.{p}")
        >>> pattern.fill({"i": 3}, (1, 0))
        'blocks.3.norm2.weight'
    """

    text: str
    parts: tuple[str | Slot, ...]
    beside: bool = False

    def _of(self, *kinds: str) -> list[Slot]:
        return [part for part in self.parts if isinstance(part, Slot) and part.kind in kinds]

    @cached_property
    def lists(self) -> tuple[Slot, ...]:
        """The list axes, in order."""
        return tuple(self._of("all", "count"))

    @cached_property
    def ones(self) -> tuple[Slot, ...]:
        """The alternatives, in order."""
        return tuple(self._of("one"))

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The kept numbers, in order."""
        return tuple(slot.name for slot in self._of("number", "suffix") if slot.name != "_")

    @cached_property
    def drops_number(self) -> bool:
        """Whether it has a number that is not kept."""
        return any(slot.name == "_" for slot in self._of("number"))

    def variants(self) -> Iterator[Variant]:
        """Every way to choose among its options."""
        return iter(self._variants)

    @cached_property
    def _variants(self) -> tuple[Variant, ...]:
        slots = [p for p in self.parts if isinstance(p, Slot)]
        choices = [range(len(p.options) or 2) for p in slots if p.options or p.kind == "suffix"]
        return tuple(self._variant(iter(choice)) for choice in product(*choices))

    def _variant(self, choice: Iterator[int]) -> Variant:
        text = ""
        opens: list[str] = []
        ones: list[int] = []
        alls: list[int | None] = []
        zeros: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                text += part
            elif part.options:
                pick = next(choice)
                (ones if part.kind == "one" else alls).append(pick)
                text += part.options[pick]
            elif part.kind == "suffix" and not next(choice):
                zeros.append(part.name)
            else:
                text += "_" + _OPEN if part.kind == "suffix" else _OPEN
                mark = "+" if part.first else _MARKS[part.kind]
                opens.append(mark + part.name)
                if part.kind == "count":
                    alls.append(None)
        if _TOUCHING.search(text):
            raise BadArgument(f"a number of the name pattern {self.text!r} touches another digit")
        variables = iter(opens)
        numbers = tuple(next(variables) if run == _OPEN else run for run in _NUMBER.findall(text))
        return Variant(_NUMBER.sub(BLANK, text), numbers, tuple(ones), tuple(alls), tuple(zeros))

    def fill(self, numbers: Mapping[str, int], ones: Sequence[int] = (), alls: Sequence[int] = ()) -> str:
        """The name with its numbers and choices put in.

        Raises:
            BadArgument: where a number that the pattern needs is not given.
        """
        pick_one, pick_all = iter(ones), iter(alls)
        out = []
        for part in self.parts:
            if isinstance(part, str):
                out.append(part)
            elif part.kind in ("number", "suffix"):
                if part.name not in numbers:
                    raise BadArgument(f"the number {{{part.name}}} of the name pattern {self.text!r} is not given")
                number = numbers[part.name] + part.first
                out.append(str(number) if part.kind == "number" else f"_{number}" if number else "")
            elif part.kind == "count":
                out.append(str(next(pick_all)))
            else:
                out.append(part.options[next(pick_one if part.kind == "one" else pick_all)])
        return "".join(out)


@lru_cache(maxsize=1 << 13)
def parse(text: str) -> Pattern:
    """A pattern from its text.

    Raises:
        BadArgument: where a bracket does not close, two numbers touch, or it stands for implausibly many names.
    """
    if len(text) > LENGTH_LIMIT:
        raise BadArgument(
            f"the name pattern {text[:80]!r}… is too long", found=len(text), expected=f"at most {LENGTH_LIMIT}"
        )
    if BLANK in text or _OPEN in text:
        raise BadArgument(f"the name pattern {text!r} holds control characters")
    beside = text.startswith("../")
    body = (text[3:] if beside else text).replace("{p}", "<weight|bias>")
    parts: list[str | Slot] = []
    end = 0
    for token in _TOKEN.finditer(body):
        if token.start() > end:
            parts.append(body[end : token.start()])
        number, one, every = token.groups()
        if number is not None:
            parts.append(_number(number))
        elif one is not None:
            parts.append(Slot("one", options=tuple(one.split("|"))))
        elif "|" in every:
            parts.append(Slot("all", options=tuple(every.split("|"))))
        else:
            parts.append(Slot("count", every))
        end = token.end()
    if end < len(body):
        parts.append(body[end:])
    return _check(Pattern(text, tuple(parts), beside))


def _number(text: str) -> Slot:
    name, _, first = text.partition("+")
    if name[0] == "_" and len(name) > 1 and not first:
        return Slot("suffix", name[1:])
    return Slot("number", name, first=1 if first else 0)


def _check(pattern: Pattern) -> Pattern:
    for part in pattern.parts:
        if isinstance(part, str) and re.search(r"[{}<>\[\]|]", part):
            raise BadArgument(f"a bracket of the name pattern {pattern.text!r} does not close", found=part)
    count = prod(len(part.options) for part in pattern.parts if isinstance(part, Slot) and part.options)
    if count > VARIANTS_LIMIT:
        raise BadArgument(
            f"the name pattern {pattern.text!r} stands for implausibly many names",
            found=f"{count} choices among its options",
            expected=f"at most {VARIANTS_LIMIT}",
            usual="<…|…> and {p} that were repeated",
            remedy="write several rules",
        )
    for _ in pattern.variants():
        pass
    return pattern


def blank(name: str) -> tuple[str, list[str]]:
    """A name with its runs of digits blanked, and the runs.

    Example:
        >>> blank("blocks.3.norm1")[1]
        ['3', '1']
    """
    parts = _DIGITS.split(name)
    return BLANK.join(parts[::2]), parts[1::2]


@dataclass(slots=True)
class Hit(Generic[T]):
    """How a name was matched.

    Arguments:
        item: what the pattern was filed under.
        numbers: the kept and dropped numbers by variable.
        ones: the chosen options of its alternatives.
        alls: its place on each list axis.
    """

    item: T
    numbers: Mapping[str, int]
    ones: tuple[int, ...]
    alls: tuple[int, ...]


@dataclass(frozen=True)
class Index(Generic[T]):
    """Many patterns, found by one look-up.

    Example:
        >>> index = Index.of([(parse("encoderblock_{i}/LayerNorm_<0|2>/scale"), "norm")])
        >>> hit = index.match("encoderblock_11/LayerNorm_2/scale")[0]
        >>> hit.item, hit.numbers, hit.ones
        ('norm', {'i': 11}, (1,))
    """

    table: Mapping[str, Sequence[tuple[Variant, T]]] = field(default_factory=dict)

    @staticmethod
    def of(entries: Iterable[tuple[Pattern, T]]) -> Index[T]:
        """An index of (pattern, item) pairs."""
        table: dict[str, list[tuple[Variant, T]]] = {}
        for pattern, item in entries:
            for variant in pattern.variants():
                table.setdefault(variant.key, []).append((variant, item))
        return Index(table)

    def match(self, name: str) -> list[Hit[T]]:
        """Every pattern that matches the whole name."""
        key, digits = blank(name)
        return self.match_blanked(key, digits)

    def match_blanked(self, key: str, digits: Sequence[str]) -> list[Hit[T]]:
        """The same for a name that is blanked already."""
        hits = []
        for variant, item in self.table.get(key, ()):
            numbers = _bind(variant.numbers, digits, variant.zeros)
            if numbers is None:
                continue
            alls = variant.alls
            if None in alls:
                counts = iter([int(text) for spec, text in zip(variant.numbers, digits, strict=True) if spec[0] == "@"])
                alls = tuple(next(counts) if place is None else place for place in alls)
            hits.append(Hit(item, numbers, variant.ones, alls))  # type: ignore[arg-type]
        return hits


def _bind(specs: Sequence[str], digits: Sequence[str], zeros: Sequence[str] = ()) -> dict[str, int] | None:
    numbers = dict.fromkeys(zeros, 0)
    if len(specs) != len(digits):
        return None
    for spec, text in zip(specs, digits, strict=True):
        if spec == text:
            continue
        kind = spec[0]
        if kind not in OPENS or len(text) > 9 or (text[0] == "0" and len(text) > 1):
            return None
        if kind != "@":
            number = int(text) - (kind == "+")
            if number < (kind == "^") or numbers.setdefault(spec[1:], number) != number:
                return None
    return numbers
