"""Channels of linear patches: told by a config or the caller, found where one number fits, never guessed in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are loaded with torch")

from support.adapting import close, drawn  # noqa: E402

import anyvit  # noqa: E402
from anyvit.dialects import get  # noqa: E402
from anyvit.linear import counts  # noqa: E402
from anyvit.spec import Spec  # noqa: E402

DIALECTS = ("big_vision-naflex", "timm-naflex", "hf-siglip2")


def written(folder: Path, dialect: str, channels: int, patch: int) -> tuple[Any, Path]:
    """A model of `channels` whose patches are rows, in a container that says nothing of them."""
    spec = Spec(
        embed_dim=16, depth=2, num_heads=2, patch_size=patch, image_size=4 * patch, grid=(4, 4), in_chans=channels,
        mlp_dim=24, num_cls=0, pool="avg", act="gelu" if dialect.startswith("timm") else "gelu_tanh",
    )  # fmt: skip
    vit, out = drawn(spec), folder / "out.npz"
    anyvit.convert(vit, out, dialect)
    return vit, out


def equal(vit: Any, back: Any, channels: int, side: int) -> None:
    x = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        close(back(x).tokens, vit(x).tokens, 1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("channels", "patch"), [(5, 4), (3, 4), (7, 2)])
def test_the_only_number_that_fits_is_taken_and_said(dialect: str, channels: int, patch: int, tmp_path: Path) -> None:
    vit, out = written(tmp_path, dialect, channels, patch)
    back = anyvit.load(out, heads=2)
    assert (back.spec.in_chans, back.spec.patch_size) == (channels, patch)
    assert back.spec.facts["in_chans"].how == "assumed"
    assert any(f"channels {channels}" in str(f) for f in back.report.of("assumed"))
    equal(vit, back, channels, 4 * patch)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_where_several_fit_the_caller_is_asked(dialect: str, tmp_path: Path) -> None:
    """64 rows are one channel of 8 × 8, four of 4 × 4 or sixteen of 2 × 2."""
    vit, out = written(tmp_path, dialect, 4, 4)
    report = anyvit.inspect(out)
    (finding,) = [f for f in report.of("ambiguous") if "channels" in f.cause]
    assert not report.ok and "1 of 8 × 8, 4 of 4 × 4, 16 of 2 × 2" in finding.cause and "in_chans=" in str(finding)
    with pytest.raises(anyvit.AnyvitError, match="channels of linear patches"):
        anyvit.load(out, heads=2)
    for hint in ({"in_chans": 4}, {"patch_size": 4}, {"dialect": replace(get(dialect), sizes={"c": 4})}):
        back = anyvit.load(out, heads=2, **hint)
        assert (back.spec.in_chans, back.spec.patch_size) == (4, 4)
        equal(vit, back, 4, 16)


def test_a_hint_is_no_hint_where_three_channels_fit(tmp_path: Path) -> None:
    """in_chans= is what it always is, an adaptation: 48 rows are three channels of 4 × 4."""
    _, out = written(tmp_path, "big_vision-naflex", 3, 4)
    back = anyvit.load(out, heads=2, in_chans=12)
    assert (back.spec.in_chans, back.spec.patch_size) == (12, 4)


def test_rows_that_are_no_square_patches_are_a_fault_of_shape(tmp_path: Path) -> None:
    _, out = written(tmp_path, "hf-siglip2", 3, 4)
    from anyvit.containers import open_checkpoint

    tensors = {n: t.read() for n, t in open_checkpoint(out).tensors.items()}
    kernel = "embeddings.patch_embedding.weight"
    tensors[kernel] = tensors[kernel][:, :46]
    report = anyvit.inspect(tensors)
    assert not report.ok and any(kernel in str(f) for f in report.findings)


def test_what_a_file_needs_is_told_when_it_is_written(tmp_path: Path) -> None:
    for channels, remedy in ((4, "in_chans=4"), (12, 'sizes={"c": 12}')):
        vit, _ = written(tmp_path, "big_vision-naflex", channels, 4)
        report = anyvit.convert(vit, tmp_path / "again.npz", "big_vision-naflex")
        assert any(remedy in str(f) for f in report.of("note")), remedy


def test_numbers_that_fit() -> None:
    assert counts(3 * 14 * 14) == (3, 12)
    assert counts(2 * 7 * 11) == ()
