"""The command that drafts a table: enough for a fork, mended by hand where words leave something open."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.toys import toy

from anyvit import cli


def fork(path: Path, *table: str) -> Path:
    """A file whose names are spelt otherwise: pattern and replacement, pair by pair."""
    names = {}
    for name, tensor in toy(0).items():
        for old, new in zip(table[::2], table[1::2], strict=True):
            name = re.sub(old, new, name)
        names[name] = tensor
    np.savez(path, **names)
    return path


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = cli.main([str(word) for word in words])
    return code, capsys.readouterr().out


def test_a_draft_that_is_enough_says_how_it_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = fork(tmp_path / "a fork.npz", "blocks", "layers")
    code, text = call(capsys, "draft", file)
    assert code == 0 and "layers.{i}.attn.qkv.{p}" in text and "check: " in text
    assert text.rstrip().endswith(f"anyvit load '{file}' --dialect draft")
    assert call(capsys, "inspect", file)[0] == 1
    assert call(capsys, "inspect", file, "--dialect", "draft")[0] == 0


def test_a_draft_that_is_not_enough_is_mended_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, table = (
        fork(tmp_path / "f.npz", "blocks", "layers", "norm1", "a_norm", "norm2", "b_norm"),
        tmp_path / "mine.json",
    )
    code, text = call(capsys, "draft", file, "--out", table)
    assert code == 1 and "a_norm" in text and "mine.json" in text
    content: dict[str, Any] = json.loads(table.read_text("utf-8"))
    content["rules"].append({"theirs": "layers.{i}.<a|b>_norm.{p}", "ours": "blocks.{i}.<norm1|norm2>.{p}"})
    table.write_text(json.dumps(content), "utf-8")
    code, text = call(capsys, "inspect", file, "--dialect", table, "--json")
    assert code == 0 and json.loads(text)["ok"]
    assert "a_norm" not in call(capsys, "dialects", "timm")[1] and "<a|b>_norm" in call(capsys, "dialects", table)[1]


def test_json_is_the_table_that_a_dialect_is_read_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, table = fork(tmp_path / "f.npz", "blocks", "layers"), tmp_path / "mine.json"
    code, text = call(capsys, "draft", file, "--json")
    table.write_text(text, "utf-8")
    assert code == 0 and json.loads(text)["ok"]
    assert call(capsys, "inspect", file, "--dialect", table)[0] == 0


def test_a_file_without_blocks_has_no_draft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "one.npz", weight=np.zeros((3, 3)))
    assert cli.main(["draft", str(tmp_path / "one.npz")]) == 1
    assert "no stack of blocks" in capsys.readouterr().err
