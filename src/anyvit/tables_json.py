"""Dialects as plain data, so that one can be written, mended by hand and read again without any Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyvit.errors import BadArgument, FileError
from anyvit.tables import ROWS, Dialect, Rule

TEXTS = ("name", "title", "source", "lineage", "container", "tower", "root")
"""Fields of a dialect that are text."""
LISTS = ("anchors", "requires", "leaves", "classifier", "also")
"""Fields that are lists of text."""
SWITCHES = ("chunked", "computes")
"""Fields that are true or false."""


def described(dialect: Dialect) -> dict[str, Any]:
    """A dialect as plain values, as `anyvit dialects NAME --json` prints it.

    Example:
        >>> described(Dialect("mine", (Rule("ln.{p}", "norm.{p}"),)))["rules"]
        [{'theirs': 'ln.{p}', 'ours': 'norm.{p}', 'axes': None, 'why': ''}]
    """
    texts = {name: getattr(dialect, name) for name in TEXTS}
    more = {"sizes": dict(dialect.sizes), "prefix_rows": dialect.prefix_rows}
    more |= {name: list(getattr(dialect, name)) for name in LISTS}
    more |= {name: getattr(dialect, name) for name in SWITCHES}
    more["instead"] = {absent: [_row(rule) for rule in rules] for absent, rules in dialect.instead.items()}
    return {**texts, **more, "rules": [_row(rule) for rule in dialect.rules]}


def _row(rule: Rule) -> dict[str, Any]:
    row = {"theirs": rule.theirs, "ours": rule.ours, "axes": rule.axes, "why": rule.why}
    return {**row, "reads_only": True} if rule.reads_only else row


def built(table: Any, path: str = "the table") -> Dialect:
    """The dialect of plain values; keys that are not known are passed over.

    Arguments:
        table: what `described` gives; only `rules` is needed, and of a rule only `theirs` and `ours`.
        path: where it is from, for errors.

    Raises:
        BadArgument: it is no table of a dialect, or breaks a law.
    """
    from anyvit import laws

    remedy = "anyvit dialects timm --json shows a table of the form that is read"
    try:
        rules = tuple(_rule(row) for row in table["rules"])
        more: dict[str, Any] = {name: str(table[name]) for name in TEXTS if table.get(name)}
        more["sizes"] = {str(letter): int(size) for letter, size in (table.get("sizes") or {}).items()}
        more |= {name: tuple(map(str, table.get(name) or ())) for name in LISTS}
        more |= {name: bool(table.get(name)) for name in SWITCHES}
        more["prefix_rows"] = {word: word for word in ROWS}[table.get("prefix_rows", ROWS[0])]
        instead = table.get("instead") or {}
        more["instead"] = {str(absent): tuple(_rule(row) for row in rows) for absent, rows in instead.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise BadArgument(f"{path} holds no table of a dialect", found=found, remedy=remedy) from error
    dialect = Dialect(rules=rules, **{"name": "mine", "source": path, "title": path, **more})
    if faults := laws.check(dialect):
        usual = 'two rows for one of our names: the older spelling has "reads_only": true'
        raise BadArgument(f"the table in {path} breaks the laws of dialects", names=faults, usual=usual, remedy=remedy)
    return dialect


def _rule(row: Mapping[str, Any]) -> Rule:
    return Rule(row["theirs"], row["ours"], row.get("axes"), row.get("why") or "", bool(row.get("reads_only")))


def read(path: str | Path) -> Dialect:
    """The dialect in a JSON file.

    Raises:
        FileError: the file cannot be read.
        BadArgument: it holds no table of a dialect.
    """
    try:
        table = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise FileError(f"{path} cannot be read", found=error.strerror) from error
    except ValueError as error:
        raise BadArgument(f"{path} is no JSON", found=str(error)) from error
    if not isinstance(table, Mapping):
        raise BadArgument(f"{path} holds no table of a dialect", found=type(table).__name__)
    return built(table, str(path))
