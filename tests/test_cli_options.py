"""Options that say what is changed in a model, from words to what `load` and `convert` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="models are loaded")

from test_cli import FILE, ask, call

import anyvit
from anyvit import cli_options


@pytest.mark.parametrize("text", ["7", "7,5,3", "7,x", "", "0,3"])
def test_pair_is_two_positive_numbers(text: str) -> None:
    with pytest.raises(ValueError):
        cli_options.pair(text)


@pytest.mark.parametrize("text", ["", "GB", "12 XB", "-3", "0", "0.0001", "1e9"])
def test_byte_count_is_a_positive_number_with_a_known_unit(text: str) -> None:
    with pytest.raises(ValueError):
        cli_options.byte_count(text)


def test_a_class_map_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("3\n1\n-1\n")
    assert cli_options.class_map(str(tmp_path / "map.txt")).rows == (3, 1, -1)
    with pytest.raises(ValueError):
        cli_options.class_map("nowhere.txt")


@pytest.mark.parametrize(("words", "spec", "cause"), [
    (["--registers", "3"], {"num_registers": 3}, "3 registers are new"),
    (["--cls-token", "no"], {"num_cls": 0, "pool": "avg"}, "class token was removed"),
    (["--in-chans", "13:zero"], {"in_chans": 13}, "rest at zero"),
    (["--in-chans", "4:2,1,0,-"], {"in_chans": 4}, "moved to their places"),
    (["--class-map", "3,4,-1"], {"num_classes": 3}, "2 rows of it and 1 of zeros"),
    (["--layer-scale", "no", "--fuse-norms"], {"layer_scale": False}, "norms were folded"),
    (["--condition", "instantmesh"], {"condition": "instantmesh", "condition_inputs": 16}, "max |Δ| 0 "),
    (["--condition", "dit:7"], {"condition": "dit", "condition_inputs": 7}, "max |Δ| 0 "),
    (["--condition", "dit:none"], {"condition": "dit", "condition_inputs": None}, "max |Δ| 0 "),
])  # fmt: skip
def test_load_and_convert_do_what_is_asked(
    words: list[str], spec: dict[str, Any], cause: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, found = ask(capsys, "load", FILE, *words)
    assert code == 0 and {name: found["report"]["spec"][name] for name in spec} == spec
    assert any(cause in finding["cause"] for finding in found["report"]["findings"])
    out = tmp_path / "out.safetensors"
    code, found = ask(capsys, "convert", FILE, out, "--to", "anyvit-dit" if "dit" in words[1] else "anyvit", *words)
    assert code == 0 and any(cause in finding["cause"] for finding in found["report"]["findings"])
    told = anyvit.inspect(out)
    assert told.ok and {name: getattr(told.spec, name) for name in spec} == spec
    assert any(cause in change[2] for change in told.provenance["changes"])


def test_conditioning_is_taken_away(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert call("convert", FILE, out, "--to", "anyvit", "--condition", "instantmesh") == 0
    capsys.readouterr()
    code, found = ask(capsys, "load", out, "--condition", "off")
    assert code == 0 and found["report"]["spec"]["condition"] is None


@pytest.mark.parametrize("words", [
    ["--condition", "film"], ["--condition", "dit:x"], ["--cls-token", "maybe"], ["--in-chans", "4:2,x"],
    ["--num-classes", "3", "--class-map", "1,2"], ["--class-map", "none"],
])  # fmt: skip
def test_words_that_say_nothing_are_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("load", FILE, *words) == 2
    assert "usage" in capsys.readouterr().err
