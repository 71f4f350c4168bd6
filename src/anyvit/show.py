"""A report as a person reads it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from anyvit.report import Finding, Report

if TYPE_CHECKING:
    from anyvit.spec import Spec


def text(report: Report) -> str:
    """The report in some thirty lines: what it is, the architecture with its evidence, what to know, what to type."""
    parts = [_head(report)]
    if report.spec is not None:
        parts += [_facts(report.spec), _coverage(report)]
    parts.append(_findings(report.findings))
    if report.constructors and report.ok:
        parts.append(_constructors(report))
    return "\n\n".join(part for part in parts if part)


def _head(report: Report) -> str:
    count, size = report.tensors
    mark = "✓" if report.ok else "✗"
    name = report.path or "a mapping"
    lines = [f"{mark} {name}", f"  {report.container} · {count} tensors · {number(size)} parameters"]
    if report.match is None:
        lines.append("  not a Vision Transformer that can be loaded")
        return "\n".join(lines)
    dialect = report.match.dialect
    where = f" behind {report.match.prefix!r}" if report.match.prefix else ""
    lineage = f" · lineage {report.spec.lineage}" if report.spec and report.spec.lineage else ""
    lines.append(f"  dialect {dialect.name}{where}{lineage}")
    if report.weight_sets:
        lines.append(f"  other weight sets: {', '.join(repr(p) for p in report.weight_sets[:6])}")
    if report.fates:
        fates = Counter(report.fates.values())
        lines.append("  " + " · ".join(f"{n} {fate}" for fate, n in fates.most_common()))
    return "\n".join(lines)


ROWS = (
    "embed_dim", "depth", "num_heads", "patch_size", "image_size", "in_chans", "ffn", "mlp_dim", "norm", "eps", "act",
    "qkv_bias", "qk_norm", "layer_scale", "num_registers", "pre_norm", "final_norm", "pos_embed", "pool", "num_classes",
    "projection_dim", "condition", "resample", "mean", "std",
)  # fmt: skip
"""The facts that are shown, in order."""

QUIET = {"qk_norm", "layer_scale", "num_registers", "pre_norm", "num_classes", "projection_dim", "condition"}
"""Facts that are left out where they are absent."""


def _facts(spec: Spec) -> str:
    rows = []
    for name in ROWS:
        value = getattr(spec, name)
        if name in QUIET and not value:
            continue
        fact = spec.facts.get(name)
        how = f"{fact.how}: {fact.source}" if fact else "default"
        rows.append((name, plain(value), how))
    wide = max(len(name) for name, _, _ in rows)
    broad = max(min(len(value), 28) for _, value, _ in rows)
    return "\n".join(f"  {name:<{wide}}  {value:<{broad}}  {how}" for name, value, how in rows)


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


def _coverage(report: Report) -> str:
    parts = [
        f"{role} {number(have)}" + ("" if have == of else f" of {number(of)}") for role, (have, of) in report.coverage.items()
    ]
    return "  parameters: " + " · ".join(parts) if parts else ""


def _findings(findings: tuple[Finding, ...]) -> str:
    lines = []
    for finding in findings:
        mark = "✗" if finding.fatal else "·"
        lines.append(f"  {mark} {finding}")
    return "\n".join(lines)


def _constructors(report: Report) -> str:
    return "\n".join(f"  {name}: {line}" for name, line in report.constructors.items())


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
