"""Values that no training makes are found when a model is read, each with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from support.tiny import DEPTH, spoilt, timm_state, write

import anyvit

QKV = "blocks.1.attn.qkv.weight"


def load(path: object, **options: object) -> anyvit.ViT:
    return anyvit.load(path, heads=4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "name", "value", "at", "said"),
    [
        ("nan", QKV, np.nan, (3, 5), f"{QKV}[3, 5] = nan (1 of 12288 values)"),
        ("nan", "norm.bias", np.inf, (7,), "norm.bias[7] = inf (1 of 64 values)"),
        ("outlier", QKV, 3e36, (2, 2), f"{QKV}[2, 2] = 3e+36"),
        ("constant", "blocks.0.mlp.fc2.weight", 0.0, None, "all 16384 values of blocks.0.mlp.fc2.weight are 0"),
        ("constant", "patch_embed.proj.weight", 0.25, None, "are 0.25"),
        ("constant", QKV, 0.0, np.s_[64:128], f"4 pages of zeros from {QKV}[64, 0]"),
        ("denormal", QKV, 1e-40, np.s_[0], f"64 of 12288 values of {QKV}"),
    ],
)
def test_values_are_reported_with_their_place(
    tmp_path: Path, kind: str, name: str, value: float, at: tuple[int, ...], said: str
) -> None:
    path = write(spoilt(name, value, at), tmp_path / "a.safetensors")
    for check in ("now", "beside"):
        vit = load(path, check=check)
        assert vit.report is not None and vit.report.ok
        (found,) = vit.report.of(kind)
        assert found.names == (name,) and said in found.cause and not found.fatal
    assert load(path, check="off").report.of(kind) == ()  # type: ignore[union-attr]
    written = anyvit.convert(path, tmp_path / "b.npz", "timm", heads=4)
    assert written.of(kind) == (found,)
    assert anyvit.load_into(load(path, check="off"), path, heads=4).of(kind) == (found,)


def test_what_may_be_constant_is_not_reported(tmp_path: Path) -> None:
    state = timm_state()
    for name in state:
        if name.endswith(".bias") or name in ("cls_token", "head.weight"):
            state[name][...] = 0
        if "norm" in name and name.endswith(".weight"):
            state[name][...] = 1
    report = load(write(state, tmp_path / "a.safetensors")).report
    assert report is not None and report.of("constant") == ()


def test_many_damaged_tensors_make_one_short_finding(tmp_path: Path) -> None:
    state = {name: np.full_like(value, np.nan) for name, value in timm_state().items()}
    report = load(write(state, tmp_path / "a.safetensors")).report
    assert report is not None
    (found,) = report.of("nan")
    assert f"and {len(state) - 4} more" in found.cause and len(str(found)) < 1500
    assert f"blocks.{{0..{DEPTH - 1}}}.attn.qkv.weight" in found.names


@needs_shared
def test_real_weights_are_not_accused() -> None:
    vit = anyvit.load(SHARED / "real" / "dinov2-small-hf", check="now")
    assert vit.report is not None and vit.report.ok
    assert not {"nan", "outlier", "constant", "denormal", "damaged"} & {f.kind for f in vit.report.findings}


def test_inspect_check_names_bad_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from anyvit.cli import main

    state = timm_state()
    state[QKV][3, 5] = np.nan
    write(state, tmp_path / "a.pth")
    main(["inspect", str(tmp_path / "a.pth"), "--check"])
    assert f"{QKV}[3, 5] = nan" in " ".join(capsys.readouterr().out.split())
