"""A report as a person reads it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anyvit.errors import listing, printable
from anyvit.report import Finding, Report

if TYPE_CHECKING:
    from anyvit.rules import Dialect
    from anyvit.spec import Fact, Spec


@dataclass(frozen=True)
class Style:
    """How wide text may be, and whether it is coloured.

    Arguments:
        width: columns.
        colour: whether to use the terminal's colours.
        typed: how a remedy is written for who reads it.
    """

    width: int = 100
    colour: bool = False
    typed: Callable[[str], str] = field(default=str, compare=False)

    def good(self, text: str) -> str:
        """Text in green."""
        return self._paint(text, "32")

    def bad(self, text: str) -> str:
        """Text in red."""
        return self._paint(text, "31")

    def doubt(self, text: str) -> str:
        """Text in yellow."""
        return self._paint(text, "33")

    def strong(self, text: str) -> str:
        """Text in bold."""
        return self._paint(text, "1")

    def _paint(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text


PLAIN = Style()


def text(report: Report, style: Style = PLAIN) -> str:
    """The report in some forty lines: what it is, the architecture with its evidence, what to know, what to type."""
    parts = [_head(report, style)]
    if report.spec is not None:
        parts.append(_facts(report.spec, style))
    parts.append(_record(report.provenance, style))
    parts.append(findings(report, style))
    if report.ok and not report.target:
        parts.append(_constructors(report, style))
    return "\n\n".join(part for part in parts if part)


def _head(report: Report, style: Style) -> str:
    count, size = report.tensors
    mark = style.good("✓") if report.ok else style.bad("✗")
    rows = []
    if report.spec is not None and report.match is not None:
        dialect = report.match.dialect
        behind = f', behind "{report.match.prefix}"' if report.match.prefix else ""
        lineage = report.spec.lineage
        of = f"; weights of lineage {lineage}" if lineage and lineage != dialect.name else ""
        own = sum(of for _, of in report.coverage.values())
        rows += [
            ("is", sentence(report.spec)),
            ("from", dialect.title or dialect.name),
            ("dialect", dialect.name + behind + of),
            ("size", f"{number(own)} parameters" + _roles(report)),
        ]
    elif report.match is None:
        rows.append(("is", "no Vision Transformer that can be loaded"))
    fates = Counter(report.fates.values())
    became = ": " + ", ".join(f"{n} {fate}" for fate, n in fates.most_common()) if set(fates) - {"carried"} else ""
    rows.append(("file", f"{report.container}, {count} tensors of {number(size)} numbers{became}"))
    if report.target:
        fates = Counter(trail.fate for trail in report.trails)
        told = ", ".join(f"{n} {fate}" for fate, n in fates.most_common())
        rows.append(("into", f"{report.target}, {len(report.trails)} tensors: {told}"))
    if report.weight_sets:
        rows.append(("also", "weight sets " + listing([f'"{p}"' for p in report.weight_sets], 3 * style.width)))
    lines = [f"{mark} {style.strong(report.path or 'a mapping')}"]
    for label, value in rows:
        lines += hang(value, f"  {label:<8}", style)
    return "\n".join(lines)


def sentence(spec: Spec) -> str:
    """What a model is, in one sentence.

    Example:
        >>> from anyvit.spec import Spec
        >>> sentence(Spec(image_size=224))
        'a Vision Transformer: 12 blocks of 768 channels, 12 heads, patch 16 × 16, 224 × 224 pixels'
    """
    plural = "s" if spec.depth != 1 else ""
    parts = [f"{spec.depth} block{plural} of {spec.embed_dim} channels"]
    parts.append(f"{spec.num_heads} head" + ("s" if spec.num_heads != 1 else ""))
    parts.append(f"patch {by(spec.patch_size)}")
    if spec.image_size:
        parts.append(f"{by(spec.image_size)} pixels")
    return "a Vision Transformer: " + ", ".join(parts)


def by(size: int | tuple[int, int]) -> str:
    """Height and width.

    Example:
        >>> by(14), by((224, 192))
        ('14 × 14', '224 × 192')
    """
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height} × {width}"


ROLES = 4
"""How many roles are shown with their parameters; what is incomplete is shown besides."""


def _roles(report: Report) -> str:
    ordered = sorted(report.coverage.items(), key=lambda item: -item[1][1])
    parts = []
    for n, (role, (have, of)) in enumerate(ordered):
        if n < ROLES or have != of:
            parts.append(f"{role} {number(have)}" + ("" if have == of else f" of {number(of)}"))
    more = ", …" if len(parts) < len(ordered) else ""
    return (": " + ", ".join(parts) + more).replace(" k", f"{FIXED}k").replace(" M", f"{FIXED}M") if parts else ""


ROWS = (
    "embed_dim", "depth", "num_heads", "patch_size", "image_size", "in_chans", "ffn", "mlp_dim", "norm", "eps", "act",
    "qkv_bias", "qk_norm", "layer_scale", "num_registers", "pre_norm", "final_norm", "pos_embed", "pool", "num_classes",
    "projection_dim", "condition", "resample", "mean", "std",
)  # fmt: skip
"""The facts that are shown, in order."""

QUIET = {"qk_norm", "layer_scale", "num_registers", "pre_norm", "num_classes", "projection_dim", "condition"}
"""Facts that are left out where they are absent."""


@dataclass(frozen=True)
class _Row:
    name: str
    value: str
    fact: Fact | None

    @property
    def how(self) -> str:
        return self.fact.how if self.fact else "default"

    def source(self) -> tuple[str, str]:
        """What stands in the row, and what may go to a footnote: "lineage dinov2: FILE" is cut at its colon."""
        text = self.fact.source if self.fact else ""
        head, colon, tail = text.partition(": ")
        return (head, tail) if colon and head.startswith("lineage ") else ("", text)


def _facts(spec: Spec, style: Style) -> str:
    rows = _joined([
        _Row(name, plain(getattr(spec, name)), spec.facts.get(name))
        for name in ROWS
        if getattr(spec, name) or name not in QUIET
    ])  # fmt: skip
    wide = max(len(row.name) for row in rows)
    broad = min(max(len(row.value) for row in rows), 24)
    sources = [row.source()[1] for row in rows]
    notes = list(dict.fromkeys(s for s in sources if len(s) > 30 and sources.count(s) > 1))
    lines = [style.strong("Architecture, with its evidence")]
    for row in rows:
        head, tail = row.source()
        cited = f"[{notes.index(tail) + 1}]" if tail in notes else tail
        text = (f"{head} {cited}" if tail in notes else f"{head}: {cited}") if head else cited
        start = f"  {row.name:<{wide}}  {row.value:<{broad}}  {row.how:<8}  "
        found = hang(text, start, style, len(f"  {'':<{wide}}  {'':<{broad}}  {'':<8}  "))
        lines += [line.replace("  assumed  ", "  " + style.doubt("assumed") + "  ", 1) for line in found]
    for n, note in enumerate(notes, 1):
        lines += hang(note, f"  [{n}] ", style)
    return "\n".join(lines)


def _joined(rows: Sequence[_Row]) -> list[_Row]:
    """Rows with mean and std in one where one source states both."""
    last = {row.name: row for row in rows[-2:]}
    mean, std = last.get("mean"), last.get("std")
    if mean is None or std is None or (mean.fact and mean.fact.source) != (std.fact and std.fact.source):
        return list(rows)
    return [*rows[:-2], _Row("mean, std", KNOWN.get((mean.value, std.value), f"{mean.value} / {std.value}"), mean.fact)]


KNOWN = {
    ("0.485, 0.456, 0.406", "0.229, 0.224, 0.225"): "ImageNet's",
    ("0.5, 0.5, 0.5", "0.5, 0.5, 0.5"): "0.5 / 0.5",
    ("0.48145466, 0.4578275, 0.40821073", "0.26862954, 0.26130258, 0.27577711"): "CLIP's",
}
"""Means and deviations of pixels that have a name."""


def plain(value: object) -> str:
    """A value in plain characters.

    Example:
        >>> plain(1e-06), plain((0.5, 0.5)), plain(True)
        ('1e-06', '0.5, 0.5', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(plain(v) for v in value)
    return "none" if value is None else str(value)


def findings(report: Report, style: Style = PLAIN) -> str:
    """What to know, each with its remedy; facts that the table marks as assumed share one line."""
    facts = report.spec.facts if report.spec is not None else {}
    shown = {name for name in ROWS if name in facts and facts[name].how == "assumed"}
    doubts = [f for f in report.findings if f.kind == "assumed" and not f.fatal and f.names and set(f.names) <= shown]
    inert = [f for f in report.findings if f.kind == "inert" and f.remedy is None]
    lines = []
    for finding in report.findings:
        if len(inert) > 2 and finding is inert[0]:
            finding = _together(inert)
        elif finding in doubts or (len(inert) > 2 and finding in inert):
            continue
        mark = style.bad("✗") if finding.fatal else "·"
        counted = finding.kind == "outside" and finding.cause[:1].isdigit()
        names = "" if counted and not finding.fatal else listing(finding.names, 300 if finding.fatal else 60)
        text = printable(f"{finding.kind}: {finding.cause}" + (f" [{names}]" if names else ""))
        lines += _item(text, finding.remedy, mark, style)
    if doubts and report.spec is not None and report.ok:
        lines += _assumed(doubts, report.spec, style)
    return "\n".join([style.strong("To know"), *lines]) if lines else ""


def _together(inert: Sequence[Finding]) -> Finding:
    """Classes of a pickle that were not executed, in one finding."""
    names = [finding.cause.removesuffix(", not executed") for finding in inert]
    return Finding("inert", (), f"{listing(names, 150)}, not executed")


def _assumed(doubts: Iterable[Finding], spec: Spec, style: Style) -> list[str]:
    """Facts that are marked as assumed in the table, in one line, so that their sources stand once."""
    doubts = list(doubts)
    names = ", ".join(f"{name} {plain(getattr(spec, name))}" for finding in doubts for name in finding.names)
    remedies = list(dict.fromkeys(f.remedy for f in doubts if f.remedy))
    given = [remedy.removeprefix("facts={").removesuffix("}") for remedy in remedies if remedy.startswith("facts={")]
    remedies = [remedy for remedy in remedies if not remedy.startswith("facts={")]
    remedies += [f"facts={{{', '.join(given)}}}"] if given else []
    remedy = f"{', '.join(remedies)} where it is otherwise" if remedies else None
    return _item(f"assumed: {names}; nothing in the file says it", remedy, style.doubt("·"), style)


def _item(text: str, remedy: str | None, mark: str, style: Style) -> list[str]:
    lines = []
    for n, paragraph in enumerate(text.splitlines()):
        lines += hang(paragraph.strip(), "    ", style)
        if n == 0:
            lines[0] = f"  {mark} {lines[0][4:]}"
    return lines + (hang(style.typed(remedy), "    → ", style) if remedy else [])


LINES = 5
"""How many constructor calls are shown."""


def _record(record: Mapping[str, Any], style: Style) -> str:
    """Where a file that anyvit wrote comes from, as it was recorded then."""
    source, rows = record.get("source"), []
    if not isinstance(source, dict):
        return ""
    known = ("container", "dialect", "lineage", "tensors")
    container, dialect, lineage, tensors = (str(source.get(word, "?"))[:60] for word in known)
    rows.append(
        f"made by anyvit {record.get('anyvit', '?')} from {container}, {dialect} ({lineage}), {tensors} tensors"
    )
    if isinstance(asked := record.get("asked"), dict) and asked:
        rows.append("asked for: " + ", ".join(f"{name} {plain(value)}" for name, value in sorted(asked.items())))
    changes = record.get("changes")
    for change in changes if isinstance(changes, list) else ():
        if isinstance(change, list) and len(change) == 3 and change[0] != "assumed":
            rows.append(f"{change[0]}: {str(change[2])[:200]}")
    if digest := record.get("source_digest"):
        rows.append(f"its source's tensors: {str(digest)[:80]}")
    rows = [*rows[:12], *([f"and {len(rows) - 12} more"] if len(rows) > 12 else [])]
    lines = [line for row in rows for line in hang(printable(row), "  · ", style)]
    return "\n".join([style.strong("Where it comes from, as recorded"), *lines])


def _constructors(report: Report, style: Style) -> str:
    if not report.constructors:
        return ""
    chosen = _chosen(report)
    wide = max(len(name) for name in chosen)
    lines = [style.strong("To build a model that holds these weights")]
    for name in chosen:
        line = report.constructors[name].replace('"FILE"', _quoted(report.path))
        lines += hang(line, f"  {name:<{wide}}  ", style)
    rest = [name for name in report.constructors if name not in chosen]
    return "\n".join(lines + hang("also " + ", ".join(rest), "  ", style) if rest else lines)


def _quoted(path: str) -> str:
    return f'"{path}"' if path and not set(path) & {'"', "\\"} else repr(path) if path else "…"


def _chosen(report: Report) -> list[str]:
    """The libraries whose lines are shown: ours and timm, what the file's own dialect is called, then the others."""
    own = report.match.dialect.name.removesuffix("-chunked") if report.match else ""
    first = ("anyvit", "timm", own, f"hf-{own}")
    names = sorted(report.constructors, key=lambda name: name not in first)
    return [name for name in report.constructors if name in names[:LINES]]


def of_dialect(dialect: Dialect, style: Style = PLAIN) -> str:
    """A dialect's table."""
    rows = [("their name", "our name", "layout, theirs -> ours")]
    for rule in dialect.rules:
        way = " (read only)" if rule.reads_only else ""
        rows.append((rule.theirs, (rule.ours or "—") + way, "; ".join(filter(None, [rule.axes, rule.why]))))
    head = table([(f"  {word}", value) for word, value in (
        ("source", dialect.source), ("lineage", dialect.lineage), ("container", dialect.container),
        ("before its names", dialect.root + dialect.tower),
    ) if value])  # fmt: skip
    lines = [f"{style.strong(dialect.name)}: {dialect.title}", *head, "", *(f"  {line}" for line in table(rows))]
    return "\n".join(lines)


FIXED = "\u00a0"
"""A space that is not wrapped at; lines bear a plain one."""


def hang(text: str, start: str, style: Style, indent: int | None = None) -> list[str]:
    """Text wrapped at the style's width behind its label."""
    after = " " * (len(start) if indent is None else indent)
    lines = textwrap.wrap(
        text, max(style.width, 40), initial_indent=start, subsequent_indent=after, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace(FIXED, " ") for line in lines] or [start.rstrip()]


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows as columns; those numbered in `right` are flush right.

    Example:
        >>> table([("a", "1"), ("bcd", "12")], right=[1])
        ['a     1', 'bcd  12']
    """
    flush = set(right)
    wide = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))] if rows else []
    return ["  ".join(f"{row[n]:{'>' if n in flush else '<'}{w}}" for n, w in enumerate(wide)).rstrip() for row in rows]


def number(count: int) -> str:
    """A count of parameters with its unit.

    Example:
        >>> number(999), number(22_056_576)
        ('999', '22.1 M')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
