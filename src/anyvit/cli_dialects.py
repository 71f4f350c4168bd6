"""The commands about names: `dialects` and `draft`."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit.cli_options import Answer, style
from anyvit.tables_json import described

if TYPE_CHECKING:
    from anyvit.rules import Dialect


def dialects_options(to: argparse.ArgumentParser) -> None:
    """Options of `dialects`."""
    to.add_argument("name", nargs="?", metavar="NAME", help="one of them, or a JSON file with a table")
    to.add_argument("--check", action="store_true", help="judge the tables by the laws that every dialect obeys")


def draft_options(to: argparse.ArgumentParser) -> None:
    """Options of `draft`."""
    to.add_argument("file", metavar="FILE", help="a checkpoint, or the folder of one")
    to.add_argument("--out", metavar="TABLE.json", help="where to write the table, to be mended by hand")


def dialects(args: argparse.Namespace) -> Answer:
    """The list of the dialects, or the table of one."""
    from anyvit.dialects import ALL, get

    chosen = ALL if args.name is None else (get(args.name),)
    faults: dict[str, list[str]] = {}
    if args.check:
        from anyvit.laws import check

        faults = {dialect.name: check(dialect) for dialect in chosen}
    bad = {name: found for name, found in faults.items() if found}
    data = [_described(dialect, faults) for dialect in chosen]
    whole = {"ok": not bad, "dialects": data} if args.name is None else {**data[0], "ok": not bad}
    return not bad, lambda: _text(chosen, args, bad), whole


def _described(dialect: Dialect, faults: dict[str, list[str]]) -> dict[str, Any]:
    found = {"faults": faults[dialect.name]} if dialect.name in faults else {}
    return {**described(dialect), **found}


def _text(chosen: Sequence[Dialect], args: argparse.Namespace, bad: dict[str, list[str]]) -> str:
    from anyvit.show import of_dialect, table

    how = style()
    if args.name is None:
        rows = [(d.name, d.title) for d in chosen]
        lines = [*table(rows), "", f"{len(chosen)} dialects; anyvit dialects NAME shows a table"]
    else:
        lines = [of_dialect(chosen[0], how)]
    if args.check:
        lines += ["", *(f"{how.bad('✗')} {name}: {fault}" for name, found in bad.items() for fault in found)]
        lines += [] if bad else [f"{how.good('✓')} all laws hold"]
    return "\n".join(lines)


def draft(args: argparse.Namespace) -> Answer:
    """A table for the names of a file, and whether it is enough to load it."""
    import anyvit

    made = anyvit.draft(args.file)
    report = anyvit.inspect(args.file, dialect=made)
    table = described(made)
    if args.out:
        Path(args.out).write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8")
    said = [str(finding) for finding in report.findings if finding.fatal or finding.kind == "unexplained"]

    def text() -> str:
        from anyvit.show import findings, of_dialect

        how = style()
        load = f"→ anyvit load {shlex.quote(args.file)} --dialect {shlex.quote(args.out or 'draft')}"
        ends = load if report.ok else "→ --out mine.json, mend its rows, --dialect mine.json"
        return "\n\n".join(filter(None, [of_dialect(made, how), findings(report, how), ends]))

    return report.ok, text, {"ok": report.ok, **table, "findings": said}
