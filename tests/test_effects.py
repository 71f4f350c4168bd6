"""What an adaptation does to features; and that new conditioning does nothing to them, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are run")

from conftest import SHARED, needs_shared  # noqa: E402
from support import adapting  # noqa: E402

import anyvit  # noqa: E402
from anyvit.effects import conditioning  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402
from anyvit.lazy import Lazy, from_array  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402

PICTURES = adapting.pixels(count=5)
FILES = {
    "timm": None,
    "dino": "dino-c/checkpoint0020.pth",
    "dinov2": "dinov2-a/dinov2_vits14_pretrain.pth",
    "clip": "openai_clip-c/ViT-B-32.pt",
    "instantmesh": "instantmesh-a/instant_nerf_base.ckpt",
}


def load(source: Any = None, **options: Any) -> ViT:
    return anyvit.load(adapting.state() if source is None else source, heads=2, **options)


def path_of(name: str) -> Path | None:
    if FILES[name] is not None and not (SHARED / "cases").is_dir():
        pytest.skip(f"no truth cases at {SHARED}")
    return None if FILES[name] is None else SHARED / "cases" / str(FILES[name])


@pytest.mark.parametrize("scheme", ["instantmesh", "dit"])
@pytest.mark.parametrize("name", ["timm", "dino", "dinov2", "clip"])
@torch.no_grad()
def test_new_conditioning_changes_nothing_to_the_last_bit(name: str, scheme: str) -> None:
    before, after = load(path_of(name)), load(path_of(name), condition=anyvit.AdaLN(scheme=scheme))
    size = before.spec.image_size
    assert isinstance(size, int)
    pixels, cameras = adapting.pixels(size, size), torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(3))
    plain, conditioned = before(pixels), after(pixels, cameras)
    assert float(after.condition(cameras[0]).abs().max()) > 0
    for field in ("tokens", "prenorm", "pooled", "embedding"):
        one, two = getattr(plain, field), getattr(conditioned, field)
        assert (one is None) == (two is None)
        assert one is None or torch.equal(one, two)
    assert any("max |Δ| 0 " in f.cause for f in after.report.of("new"))


@needs_shared
@torch.no_grad()
def test_gates_added_to_instantmesh_change_nothing() -> None:
    before, after = load(path_of("instantmesh")), load(path_of("instantmesh"), condition=anyvit.AdaLN(scheme="dit"))
    pixels, cameras = adapting.pixels(64, 64), torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(3))
    # the fused matrix has other rows, so the library may sum in another order
    adapting.close(after(pixels, cameras).tokens, before(pixels, cameras).tokens, 1e-6)
    assert after.spec.condition == "dit"
    assert not torch.equal(before(pixels, cameras).tokens, before(pixels, -cameras).tokens)


@torch.no_grad()
def test_the_measured_figure_sees_a_gate_a_shift_and_a_nan() -> None:
    vit = load(condition=anyvit.AdaLN(scheme="dit"))
    assert conditioning(vit) == 0.0
    for row, value in ((0, 0.25), (2 * 12, 0.5)):
        vit.blocks[1].adaln.bias[row] += value
        assert conditioning(vit) == pytest.approx(value)
        vit.blocks[1].adaln.bias[row] -= value
    vit.blocks[0].norm1.weight[0] = torch.nan
    assert torch.isnan(torch.tensor(conditioning(vit)))


def test_a_conditioned_file_is_not_measured_again() -> None:
    weights = load(condition=anyvit.AdaLN()).state_dict()
    again = anyvit.load(weights, dialect="anyvit", heads=2, condition=True)
    assert again.spec.condition == "instantmesh" and not again.report.of("new")


@pytest.mark.parametrize("dim", [16, 7, None])
@torch.no_grad()
def test_to_instantmesh_and_back(dim: int | None, tmp_path: Path) -> None:
    source, out, back = adapting.state(), tmp_path / "encoder.ckpt", tmp_path / "back.safetensors"
    anyvit.convert(source, out, to="instantmesh", heads=2, condition=anyvit.AdaLN(dim=dim))
    found = anyvit.inspect(out)
    assert found.match is not None and found.match.dialect.name == "instantmesh"
    assert found.spec is not None and found.spec.condition_inputs == dim
    conditioned, pixels = anyvit.load(out), adapting.pixels()
    condition = torch.randn(1, 2, dim) if dim else torch.randn(2, 12)
    assert torch.equal(conditioned(pixels, condition).tokens, load(source)(pixels).tokens)
    report = anyvit.convert(out, back, to="timm", condition=False)
    assert any("it changed nothing" in f.cause for f in report.of("ignored"))
    assert torch.equal(anyvit.load(back)(pixels).tokens, load(source)(pixels).tokens)


@needs_shared
def test_removing_trained_modulation_is_said_to_change_the_function() -> None:
    vit = load(path_of("instantmesh"), condition=False)
    assert vit.spec.condition is None and vit.condition is None
    assert any("the function changes" in f.cause for f in vit.report.of("ignored"))
    with pytest.raises(anyvit.AnyvitError, match="no words"):
        anyvit.convert(path_of("instantmesh"), "unwritten.safetensors", to="timm")
    assert not Path("unwritten.safetensors").exists()


def test_another_embedder_than_the_files_is_refused() -> None:
    weights = load(condition=anyvit.AdaLN(dim=7)).state_dict()
    assert anyvit.load(weights, dialect="anyvit", heads=2, condition=anyvit.AdaLN(dim=7)).spec.condition_inputs == 7
    with pytest.raises(BadArgument, match="another number of inputs"):
        anyvit.load(weights, dialect="anyvit", heads=2, condition=anyvit.AdaLN(dim=16))


def test_a_resized_table_comes_with_the_caveat_of_its_recipe() -> None:
    source = adapting.state(side=4)
    told = load(source, image_size=24, resample="none").report.of("resized")
    assert any("resizes no position table" in f.cause for f in told)
    plain = load(source, image_size=24, resample="timm").report.of("resized")
    assert plain and not any("source resizes no" in f.cause for f in plain)


@pytest.mark.parametrize("change", [{}, {"condition": anyvit.AdaLN()}, {"condition": anyvit.AdaLN(scheme="dit")}])
def test_an_exact_change_has_no_effect(change: dict[str, Any]) -> None:
    found = anyvit.effect(load(), load(**change), PICTURES)
    assert found.max_abs == 0.0 and found.knn_images == found.knn_patches == 1.0
    assert [layer.name for layer in found.layers] == ["blocks.0", "blocks.1"]
    for layer in found.layers:
        assert (layer.cls, layer.mean, layer.patches) == pytest.approx((1.0, 1.0, 1.0))


@torch.no_grad()
def test_cosines_are_those_of_the_features() -> None:
    before, after = load(), load(registers=2)
    found = anyvit.effect(before, after, PICTURES)
    a, b = before(PICTURES), after(PICTURES)
    for mine, one, two in ((found.last.cls, a.cls, b.cls), (found.last.patches, a.patches, b.patches),
                           (found.last.mean, a.patches.mean(1), b.patches.mean(1))):  # fmt: skip
        assert mine == pytest.approx(float(torch.cosine_similarity(one, two, dim=-1).mean()), abs=1e-5)
    assert found.last.cls < 0.9999 and found.max_abs is None
    assert found.grids == ((3, 3), (3, 3))


def test_a_larger_change_costs_more() -> None:
    small, large = (anyvit.effect(load(), load(patch_size=p), PICTURES).last.patches for p in (5, 8))
    same_grid = anyvit.effect(load(), load(image_size=24), PICTURES)
    assert large < small < 1
    assert same_grid.grids == ((3, 3), (6, 6)) and same_grid.last.mean < 1


def test_models_of_other_channels_get_their_own_pictures() -> None:
    after = load(in_chans=anyvit.Channels(4, bands=(2, None, 0, 1)))
    noise = torch.full((5, 1, 12, 12), 9.0)
    wide = torch.cat((PICTURES[:, [2]], noise, PICTURES[:, [0]], PICTURES[:, [1]]), 1)
    found = anyvit.effect(load(), after, (PICTURES, wide))
    assert found.max_abs is not None and found.max_abs < 1e-5
    with pytest.raises(BadArgument, match="batch of normalised pixels"):
        anyvit.effect(load(), after, PICTURES)


def test_nearest_pictures_are_counted() -> None:
    from anyvit.effects import _kept

    line = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [0.0, 1.0]])
    assert _kept([line, line], 1) == 1.0
    swapped = line[[3, 1, 2, 0]]  # the nearest of row 0 is 1, then 2; of row 3 it is 2, then 1
    assert _kept([line, swapped], 1) == 0.25


def test_the_table_names_every_layer_and_the_pictures() -> None:
    text = str(anyvit.effect(load(), load(registers=1), PICTURES[:2]))
    assert text.startswith("2 pictures, patches 3 × 3 → 3 × 3")
    assert "| blocks.1 | 0." in text and "nearest pictures kept: –" in text


def test_pictures_and_training_mode_are_left_as_they_were() -> None:
    import numpy as np

    before = load().train()
    photos = [np.random.default_rng(n).integers(0, 256, (12, 12, 3)).astype("uint8") for n in range(3)]
    assert anyvit.effect(before, load(), photos).max_abs == 0.0
    assert before.training


def test_models_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(BadArgument, match="another width or depth"):
        anyvit.effect(load(), ViT(Spec(embed_dim=16, depth=2, num_heads=2, mlp_dim=8, image_size=8)), PICTURES)


def test_modulation_is_read_lazily() -> None:
    from anyvit.adapt import AdaLN, condition

    def fail() -> Any:
        raise AssertionError("read")

    tensors = {"norm.weight": Lazy((4,), "float32", fail, ("norm.weight",)), "x": from_array(torch.ones(1).numpy())}
    done = condition(tensors, Spec(embed_dim=4, depth=2), AdaLN())
    assert done.tensors["norm.weight"] is tensors["norm.weight"]
