"""The record of where a file comes from: the same conversion gives the same one, and it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny import flip, offset_of, renamed, timm_state, write

import anyvit
from anyvit import provenance
from anyvit.lazy import Checkpoint


def test_the_record_says_where_a_file_comes_from(tmp_path: Path) -> None:
    source = write(renamed(timm_state(), lambda n: f"module.{n}"), tmp_path / "source.pth")
    out = tmp_path / "b.safetensors"
    written = anyvit.convert(source, out, "hf-vit", heads=4, image_size=24)
    record = anyvit.inspect(out).provenance
    assert record["anyvit"] == anyvit.__version__
    assert record["source"]["dialect"] == "timm" and record["source"]["prefix"] == "module."
    assert record["source"]["container"] == "torch" and record["target"] == {"dialect": "hf-vit"}
    assert ["pos_embed", "embed.[pos_prefix|pos]", "1 (k+n) d -> k d, n d"] in record["rules"]
    (resized,) = (change for change in record["changes"] if change[0] == "resized")
    assert resized == ["resized", ["module.pos_embed"], written.of("resized")[0].cause]
    assert "eps" in record["assumed"] and "num_heads" not in record["assumed"]
    assert record["source_digest"] == provenance.source_digest(source)
    assert str(tmp_path) not in json.dumps(record)


def test_the_same_conversion_gives_the_same_bytes_whatever_the_check(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    made = []
    for folder, check in (("one", "now"), ("two", "beside")):
        for suffix in ("safetensors", "pth", "npz"):
            source = write(timm_state(), tmp_path / folder / "in.npz")
            anyvit.convert(source, tmp_path / folder / f"x.{suffix}", "dino", heads=4, check=check)
        made.append({p.name: p.read_bytes() for p in sorted((tmp_path / folder).iterdir())})
    assert made[0] == made[1] and len(made[0]) == 4


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "[" * 50_000])
def test_a_record_that_cannot_be_read_is_no_record(text: str) -> None:
    assert provenance.provenance(Checkpoint({}, "safetensors", metadata={provenance.RECORD: text})) == {}


def test_the_record_names_what_was_asked_and_inspect_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from anyvit.cli import main

    out = tmp_path / "a.safetensors"
    anyvit.convert(timm_state(), out, "hf-vit", heads=4, image_size=24, num_classes=0, resample="timm")
    record = anyvit.inspect(out).provenance
    assert record["asked"] == {"heads": 4, "image_size": 24, "num_classes": 0, "resample": "timm"}
    assert main(["inspect", str(out), "--check"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "made by anyvit" in shown and "asked for: heads 4, image_size 24" in shown
    assert "position table 4 × 4 → 6 × 6 by recipe timm" in shown and record["source_digest"] in shown
    assert "the checksums of each tensor, recorded when it was written, agree" in shown
    flip(out, offset_of(out, "layernorm.bias"))
    assert main(["inspect", str(out), "--check"]) == 1
