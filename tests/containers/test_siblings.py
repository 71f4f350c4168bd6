"""Configuration files beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

from anyvit.containers import siblings


def test_known_names_are_read_and_others_are_not(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "generation_config.json", "tokenizer.json", "notes.json"):
        (tmp_path / name).write_text(json.dumps({"name": name}))
    (tmp_path / "args.yaml").write_text("model: vit_base\n")
    found, notes = siblings.read(tmp_path)
    assert found == {
        "config.json": {"name": "config.json"},
        "preprocessor_config.json": {"name": "preprocessor_config.json"},
        "args.yaml": "model: vit_base\n",
    }
    assert notes == ()


def test_damaged_and_large_ones_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": ')
    (tmp_path / "open_clip_config.json").write_text('{"a": "' + "x" * siblings.LIMIT + '"}')
    (tmp_path / "args.json").mkdir()
    found, notes = siblings.read(tmp_path)
    assert found == {}
    assert [(note.kind, note.names) for note in notes] == [("damaged", ("config.json",))]
