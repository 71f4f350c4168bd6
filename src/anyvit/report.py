"""What became of every tensor, and what a person should know, with cause and remedy."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from anyvit.errors import Ambiguous, AnyvitError, Incomplete, NotAViT, listing, printable
from anyvit.spec import Fact, Spec

if TYPE_CHECKING:
    from anyvit.recognise import Match


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Arguments:
        kind: a plain word: weights, resized, new, folded, assumed, outside, inert, unexplained, missing, conflict, …
        names: the tensors concerned, in the words of the file; indices may be folded.
        cause: what it is and why, in one sentence.
        remedy: the line to type, or what to do; None where nothing is to be done.
        fatal: whether a load would fail because of it.
    """

    kind: str
    names: tuple[str, ...]
    cause: str
    remedy: str | None = None
    fatal: bool = False

    def __str__(self) -> str:
        text = f"{self.kind}: {self.cause}"
        if self.names:
            text += f" [{listing(self.names, 300)}]"
        return printable(text + (f"\n    → {self.remedy}" if self.remedy else ""))


@dataclass(frozen=True)
class Trail:
    """Where one target tensor comes from.

    Arguments:
        target: its name.
        sources: the names in the file that it is made of.
        fate: carried | resized | folded | new | missing.
    """

    target: str
    sources: tuple[str, ...]
    fate: str


@dataclass(frozen=True)
class Report:
    """The account of one reading: what the file is, what became of each tensor, what a person should know.

    Arguments:
        match: how the file was recognised; None where it was not.
        spec: the architecture with its evidence; None where it could not be told.
        trails: target tensor → where it comes from.
        findings: what to know, the gravest first.
        fates: source tensor → carried | ignored | outside | unexplained | partial | conflict, each in exactly one
            class.
        container: the kind of file.
        path: what was opened.
        coverage: role → (parameters filled, parameters of the model).
        constructors: library → the line that builds a model which holds these weights.
        weight_sets: other weight sets in the file, by prefix.
        tensors: how many tensors and parameters the file holds.
        provenance: what a file that anyvit wrote records of itself.
        target: the module that was filled, or the file or folder that was written; its tensors are those of `trails`.
    """

    match: Match | None = None
    spec: Spec | None = None
    trails: tuple[Trail, ...] = ()
    findings: tuple[Finding, ...] = ()
    fates: Mapping[str, str] = field(default_factory=dict)
    container: str = ""
    path: str = ""
    coverage: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    constructors: Mapping[str, str] = field(default_factory=dict)
    weight_sets: tuple[str, ...] = ()
    tensors: tuple[int, int] = (0, 0)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    target: str = ""

    @property
    def ok(self) -> bool:
        """Whether a load with the same arguments succeeds."""
        return self.match is not None and self.spec is not None and not any(f.fatal for f in self.findings)

    def of(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(f for f in self.findings if f.kind == kind)

    def adding(self, findings: Iterable[Finding]) -> Report:
        """The same report with more findings."""
        return replace(self, findings=order((*self.findings, *findings)))

    def error(self) -> AnyvitError | None:
        """The error that a load raises, made of the fatal findings; None where all is well."""
        fatal = [f for f in self.findings if f.fatal]
        if not fatal:
            return None
        kinds = {f.kind for f in fatal}
        unknown = self.match is None and kinds != {"missing"} and kinds != {"fused"}
        kind = NotAViT if unknown or "not a ViT" in kinds else Incomplete
        kind = Ambiguous if kinds == {"ambiguous"} else kind
        causes = "; ".join(dict.fromkeys(f.cause for f in fatal[:4]))
        more = f" (and {len(fatal) - 4} more)" if len(fatal) > 4 else ""
        where = f"{self.path}: " if self.path else ""
        names = tuple(dict.fromkeys(name for f in fatal for name in f.names))
        return kind(f"{where}{causes}{more}", names=names, remedy=next((f.remedy for f in fatal if f.remedy), None))

    def raise_if_bad(self) -> None:
        """Raises the error of the fatal findings, if there are any.

        Raises:
            NotAViT: the file is no Vision Transformer that can be loaded.
            Incomplete: a tensor is missing, unexplained or does not fit.
            Ambiguous: nothing is wrong but a question that the caller has to answer.
        """
        error = self.error()
        if error is not None:
            error.report = self
            raise error

    def to_json(self, **options: Any) -> str:
        """The report as a JSON text; `options` go to json.dumps."""
        return json.dumps(self.as_dict(), default=str, **options)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        spec = self.spec
        return {
            "ok": self.ok,
            "path": self.path,
            "target": self.target or None,
            "container": self.container,
            "dialect": self.match.dialect.name if self.match else None,
            "prefix": self.match.prefix if self.match else None,
            "lineage": spec.lineage if spec else None,
            "tensors": self.tensors[0],
            "parameters": self.tensors[1],
            "spec": spec.values() if spec else None,
            "facts": {k: {"value": v.value, "how": v.how, "source": v.source} for k, v in spec.facts.items()}
            if spec
            else {},
            "coverage": {role: {"filled": a, "of": b} for role, (a, b) in self.coverage.items()},
            "fates": dict(Counter(self.fates.values())),
            "weight_sets": list(self.weight_sets),
            "constructors": dict(self.constructors),
            "findings": [
                {"kind": f.kind, "names": list(f.names), "cause": f.cause, "remedy": f.remedy, "fatal": f.fatal}
                for f in self.findings
            ],
            "trails": [{"target": t.target, "sources": list(t.sources), "fate": t.fate} for t in self.trails],
            "provenance": dict(self.provenance),
        }

    def __str__(self) -> str:
        from anyvit.show import text

        return text(self)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        return f"<anyvit report of {self.path or 'a mapping'}: {'ok' if self.ok else 'not loadable'}>"


_ORDER = (
    "not a ViT", "quantised", "fused", "factored", "damaged", "missing", "unexplained", "conflict", "shape", "unsayable",
    "ambiguous", "weights", "condition", "new", "resized", "folded", "assumed",
)  # fmt: skip


def order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings, the gravest first, without repetition."""
    unique = dict.fromkeys(findings)
    rank = {kind: n for n, kind in enumerate(_ORDER)}
    return tuple(sorted(unique, key=lambda f: (not f.fatal, rank.get(f.kind, len(rank)))))


_NUMBER = re.compile(r"(?<=[._/])(\d+)(?=[._/])|(?<=_)(\d+)(?=/)")


def fold(names: Iterable[str]) -> tuple[str, ...]:
    """Names that differ only in one number, folded.

    Example:
        >>> fold(["blocks.0.ls1", "blocks.1.ls1", "blocks.3.ls1", "norm.bias"])
        ('blocks.{0..1,3}.ls1', 'norm.bias')
    """
    groups: dict[tuple[str, str], list[int]] = {}
    order: dict[tuple[str, str], None] = {}
    for name in names:
        found = _NUMBER.search(name)
        if found is None:
            key = (name, "")
            groups.setdefault(key, [])
        else:
            key = (name[: found.start()], name[found.end() :])
            groups.setdefault(key, []).append(int(found.group()))
        order[key] = None
    return tuple(head + (f"{{{ranges(sorted(groups[head, tail]))}}}" + tail if groups[head, tail] else "")
                 if len(groups[head, tail]) != 1 else head + str(groups[head, tail][0]) + tail
                 for head, tail in order)  # fmt: skip


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as ranges.

    Example:
        >>> ranges([0, 1, 2, 5, 7, 8])
        '0..2,5,7..8'
    """
    runs: list[list[int]] = []
    for number in dict.fromkeys(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)


__all__ = ["Fact", "Finding", "Report", "Trail", "fold", "order", "ranges"]
