"""The demonstration: it measures what it says, and says so when a conversion does not hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyvit
from anyvit import api, cli, demo
from anyvit.containers import open_checkpoint
from anyvit.demo import CHECKPOINT, DIGITS, Demo, Row
from anyvit.dialects import ALL, get
from anyvit.lazy import computed
from anyvit.show import Style


@pytest.fixture(scope="module")
def shown() -> tuple[Demo, str]:
    """The whole demonstration, once, with all that it prints."""
    lines: list[str] = []
    return demo.run(lines.append), "\n".join(lines)


def test_every_conversion_holds(shown: tuple[Demo, str]) -> None:
    done, said = shown
    assert not [(row.dialect, row.outcome, row.delta, row.note) for row in done.of("moved", "failed")]
    assert done.ok
    assert f"✓ all {len(done.of('kept'))} conversions keep accuracy and outputs" in said


def test_the_model_is_as_good_as_the_file_says(shown: tuple[Demo, str]) -> None:
    done, said = shown
    assert done.trained >= 0.96 and done.accuracy == pytest.approx(done.trained, abs=1e-9)
    assert f"{done.accuracy:.2%} of {done.digits} held-out digits are told right" in said


def test_every_dialect_but_those_in_memory_has_its_row(shown: tuple[Demo, str]) -> None:
    done, said = shown
    wanted = {dialect.name for dialect in ALL if not dialect.name.endswith("-memory")}
    assert {row.dialect for row in done.rows} == wanted
    assert all(re.search(rf"(?m)\b{re.escape(row.dialect)}\b", said) for row in done.rows)
    kept = {row.dialect for row in done.of("kept")}
    assert {"timm", "dinov2", "hf-dinov2", "hf-vit", "google-npz", "big_vision", "torchvision"} <= kept
    assert all(row.size > 1_000_000 and row.delta is not None for row in done.of("kept"))


def test_refusals_name_what_there_are_no_words_for(shown: tuple[Demo, str]) -> None:
    done, _ = shown
    reasons = {row.dialect: row.note for row in done.of("refused")}
    assert reasons["timm-glu"] == "no words for mlp.fc1, mlp.fc2"
    assert "cls" in reasons["hf-siglip"]
    assert all(reason and "\n" not in reason and len(reason) <= 90 for reason in reasons.values())


def test_says_where_a_project_computes_otherwise(shown: tuple[Demo, str]) -> None:
    notes = {row.dialect: row.note for row in shown[0].rows}
    assert notes["google-npz"].startswith("act gelu_tanh moves tokens by ")
    assert "moves tokens" not in notes["timm"]


def test_is_plain_data_too(shown: tuple[Demo, str]) -> None:
    done, _ = shown
    data = json.loads(json.dumps(done.as_dict(), default=str))
    assert data["ok"] is done.ok and len(data["conversions"]) == len(done.rows)
    assert {"dialect", "size", "outcome", "delta", "accuracy", "note"} <= data["conversions"][0].keys()


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shown: tuple[Demo, str]) -> None:
    done, _ = shown
    monkeypatch.setattr(demo, "run", lambda *_: replace(done, rows=(*done.of("kept"),)))
    assert cli.main(["demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    bad = replace(done.rows[0], outcome="moved")
    monkeypatch.setattr(demo, "run", lambda *_: replace(done, rows=(bad,)))
    assert cli.main(["demo", "--json"]) == 1
    assert cli.main(["demo"]) == 1


def convert_to(folder: Path, name: str = "timm") -> Row:
    """One conversion as the demonstration does it."""
    vit = anyvit.load(CHECKPOINT)
    digits, labels, _ = demo.held_out()
    x = demo.pixels(digits[:40], vit.preprocess.mean, vit.preprocess.std)
    source = demo._wide(open_checkpoint(CHECKPOINT))
    return demo._convert(source, vit, x, demo.see(vit, x), labels[:40], get(name), folder)


def tampering(change: Callable[[np.ndarray], np.ndarray], name: str) -> Callable[..., Any]:
    """`convert` with one tensor of the source changed."""
    honest = api.convert

    def convert(source: Any, *args: Any, **options: Any) -> Any:
        old = source.tensors[name]
        new = computed(old.shape, old.dtype, change, [old])
        return honest(replace(source, tensors={**source.tensors, name: new}), *args, **options)

    return convert


def test_an_honest_conversion_is_kept(tmp_path: Path) -> None:
    row = convert_to(tmp_path)
    assert (row.outcome, row.delta, row.note) == ("kept", 0.0, "")


@pytest.mark.parametrize("name", ["blocks.0.0.norm1.bias", "blocks.1.3.ls2.gamma", "pos_embed"])
def test_a_conversion_that_changes_a_tensor_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    convert = tampering(lambda values: values * np.float32(1.01), f"teacher.backbone.{name}")
    monkeypatch.setattr("anyvit.api.convert", convert)
    assert convert_to(tmp_path).outcome == "moved"


def test_a_classifier_that_is_lost_on_the_way_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = tampering(lambda values: values[::-1], "teacher.linear_head.weight")
    monkeypatch.setattr("anyvit.api.convert", convert)
    row = convert_to(tmp_path)
    assert row.outcome == "moved" and row.delta == 0.0 and row.accuracy is not None and row.accuracy < 0.5


def test_a_file_that_cannot_be_read_back_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(source: Any, out: Path, to: str, **_: Any) -> None:
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"\x00" * 64)

    monkeypatch.setattr("anyvit.api.convert", convert)
    row = convert_to(tmp_path)
    assert row.outcome == "failed" and row.note.startswith("cannot be read back: ")


def test_ok_needs_the_trained_accuracy_and_a_conversion(shown: tuple[Demo, str]) -> None:
    done = replace(shown[0], rows=(Row("timm", 9, "kept", 0.0, 0.9, ""),))
    assert done.ok
    assert not replace(done, rows=()).ok
    assert not replace(done, accuracy=done.trained - 1 / done.digits).ok
    assert not replace(done, rows=(*done.rows, Row("dino", 9, "failed", None, None, "why"))).ok


def test_the_packaged_files_are_small_and_messy() -> None:
    assert CHECKPOINT.stat().st_size + DIGITS.stat().st_size < 2_000_000
    found = open_checkpoint(CHECKPOINT)
    teacher = found.tensors["teacher.backbone.blocks.1.3.attn.qkv.weight"]
    student = found.tensors["student.module.backbone.blocks.1.3.attn.qkv.weight"]
    assert teacher.dtype == student.dtype == "float16" and not np.array_equal(teacher.read(), student.read())
    assert found.extras["iteration"] > 0 and "Namespace" in repr(found.extras["args"])
    assert all(np.isfinite(tensor.read()).all() and tensor.read().any() for tensor in found.tensors.values())


def test_held_out_digits_are_pictures_of_all_ten() -> None:
    digits, labels, _ = demo.held_out()
    assert digits.shape == (360, 8, 8) and digits.dtype == np.uint8 and digits.max() == 16
    assert set(labels.tolist()) == set(range(10))


def test_pictures_in_half_blocks_and_in_greys() -> None:
    digit = np.zeros((8, 8), np.uint8)
    digit[:, :4] = 16
    lines = demo._picture(digit, Style())
    assert len(lines) == 7 and all(line.startswith("█" * 6) and line.endswith(" " * 6) for line in lines)
    grey = demo._picture(digit, Style(colour=True))[0]
    assert grey.count("▀") == 14 and "38;5;255" in grey and "48;5;232" in grey
    digit = np.zeros((8, 8), np.uint8)
    digit[4:] = 16
    assert [line[0] for line in demo._picture(digit, Style())] == [" "] * 3 + ["▄"] + ["█"] * 3
