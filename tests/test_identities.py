"""LayerScale folded and added, norms folded into matrices: the same function, said to be so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are run")

from support import adapting  # noqa: E402

import anyvit  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402
from anyvit.identities import fuse_norms  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Rope, Spec  # noqa: E402

PICTURE = adapting.pixels()
SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24, "patch_size": 4, "image_size": 12}


@torch.no_grad()
def vit(**options: Any) -> ViT:
    torch.manual_seed(0)
    made = ViT(Spec(**{**SMALL, **options})).eval()
    for parameter in made.parameters():
        parameter.normal_(std=0.4)
    return made


def load(source: Any = None, **options: Any) -> ViT:
    return anyvit.load(adapting.state(layer_scale=True) if source is None else source, heads=2, **options)


@torch.no_grad()
def test_layer_scale_goes_and_comes() -> None:
    before, folded = load(), load(layer_scale=False)
    assert not folded.spec.layer_scale and folded.blocks[0].ls1 is None
    adapting.close(folded(PICTURE).tokens, before(PICTURE).tokens)
    assert any("unchanged but for rounding" in f.cause for f in folded.report.of("folded"))
    again = anyvit.load(folded, layer_scale=True)
    assert torch.equal(again(PICTURE).tokens, folded(PICTURE).tokens) and bool((again.blocks[1].ls2 == 1).all())
    assert any(f.cause.endswith("the function is unchanged") for f in again.report.of("folded"))
    assert not load(layer_scale=True).report.of("folded")


@torch.no_grad()
@pytest.mark.parametrize("options", [
    {}, {"qkv_bias": False}, {"qkv_bias": "qv"}, {"ffn": "swiglu", "act": "silu"}, {"norm": "rmsnorm", "norm_bias": False},
    {"mlp_bias": False}, {"ffn": "swiglu", "mlp_bias": False}, {"qk_norm": "head"}, {"layer_scale": True},
    {"pos_embed": "rope", "rope": Rope(), "qkv_bias": "qv"}, {"mlp_norm": True, "attn_norm": True},
    {"diff_attn": "vectors"},
])  # fmt: skip
def test_norms_go_into_the_matrices_behind_them(options: dict[str, Any]) -> None:
    before = vit(**options)
    if options.get("qkv_bias") == "qv":
        for block in before.blocks:
            block.attn.qkv.bias[16:32] = 0
    after = anyvit.load(before, fuse_norms=True)
    assert all(bool((block.norm1.weight == 1).all()) for block in after.blocks)
    assert all(getattr(block.norm2, "bias", None) is None or not block.norm2.bias.any() for block in after.blocks)
    adapting.close(after(PICTURE).tokens, before(PICTURE).tokens, 2e-5)
    assert any("folded into the matrices" in f.cause for f in after.report.of("folded"))


@torch.no_grad()
def test_it_is_no_identity_without_the_shifts() -> None:
    before = vit()
    after = anyvit.load(before, fuse_norms=True)
    for block in after.blocks:
        block.mlp.fc1.bias -= block.mlp.fc1.weight.sum(1) * 0.1
    assert float((after(PICTURE).tokens - before(PICTURE).tokens).abs().max()) > 1e-2


def test_any_dialect_can_say_it(tmp_path: Path) -> None:
    anyvit.convert(
        adapting.state(layer_scale=True), tmp_path / "out", to="hf-vit", heads=2, fuse_norms=True, layer_scale=False
    )
    adapting.close(anyvit.load(tmp_path / "out")(PICTURE).tokens, load()(PICTURE).tokens, 1e-4)


@torch.no_grad()
def test_new_modulation_comes_after_it() -> None:
    after = load(fuse_norms=True, condition=anyvit.AdaLN(dim=3))
    adapting.close(after(PICTURE, torch.randn(1, 2, 3)).tokens, load()(PICTURE).tokens)


def test_sixteen_bit_files_are_folded_in_float32() -> None:
    half = {name: t.half() for name, t in adapting.state(layer_scale=True).items()}
    adapting.close(load(half, layer_scale=False, fuse_norms=True)(PICTURE).tokens, load(half)(PICTURE).tokens)


@pytest.mark.parametrize(("more", "words"), [
    ({"condition": "dit"}, "modulation"), ({"window": 7}, "windows"), ({"block_norm": "post"}, "behind the branches"),
    ({"ffn": "parallel_scaling"}, "one norm feeds both"),
])  # fmt: skip
def test_norms_that_cannot_be_folded_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        fuse_norms({}, Spec(**more))


@torch.no_grad()
@pytest.mark.parametrize("options", [
    {"block_norm": "post"}, {"ffn": "parallel_scaling"}, {"ffn": "swiglu", "act": "silu"}, {"mlp_layer_scale": False},
])  # fmt: skip
def test_layer_scale_goes_where_it_belongs(options: dict[str, Any], tmp_path: Path) -> None:
    before = vit(layer_scale=True, **options)
    adapting.close(anyvit.load(before, layer_scale=False)(PICTURE).tokens, before(PICTURE).tokens)
