"""Dialects as JSON: what is written is read again, what is no table is refused, and a file is read by one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.toys import toy

from anyvit import dialects, inspect
from anyvit.dialects import ALL, get
from anyvit.errors import BadArgument, FileError
from anyvit.rules import Dialect
from anyvit.tables_json import built, described, read


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
def test_every_dialect_is_read_from_its_own_description(dialect: Dialect) -> None:
    again = built(json.loads(json.dumps(described(dialect))))
    # configs are functions in part, and beside the tensors
    assert replace(again, config=dialect.config) == dialect


def test_a_file_is_read_by_a_table_of_ones_own(tmp_path: Path) -> None:
    table = described(get("timm"))
    for rule in table["rules"]:
        rule["theirs"] = rule["theirs"].replace("blocks.", "layers.")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"rules": table["rules"], "comment": "ours"}), "utf-8")
    names = {name.replace("blocks.", "layers."): tensor for name, tensor in toy(0).items()}
    report = inspect(names, dialect=str(path))
    assert report.ok and report.match is not None and report.match.dialect.name == "mine"
    assert dialects.get(str(path)).rules == read(path).rules


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "no table"), ({}, "no table"), ({"rules": [{"theirs": "a"}]}, "no table"), ({"rules": 3}, "no table"),
        ({"rules": [{"theirs": "a", "ours": "nothing.such"}]}, "no canonical name"),
        ({"rules": [{"theirs": "a.{i}", "ours": "norm.weight"}]}, "breaks the laws"),
        ({"rules": [], "sizes": {"c": "three"}}, "no table"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(table: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(table), "utf-8")
    with pytest.raises(BadArgument, match=words):
        get(str(path))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        get(str(tmp_path / "none.json"))
    (tmp_path / "broken.json").write_text("{", "utf-8")
    with pytest.raises(BadArgument, match="no JSON"):
        get(str(tmp_path / "broken.json"))
