from __future__ import annotations

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit import resample
from anyvit.dtypes import np_dtype
from anyvit.errors import BadArgument

ROOT = Path(__file__).resolve().parents[1]
GRIDS = [((7, 7), (5, 5)), ((7, 7), (11, 11)), ((14, 14), (16, 16)), ((6, 6), (3, 11)), ((4, 4), (2, 8))]


def table(grid: tuple[int, int], dim: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((grid[0] * grid[1], dim)).astype(np.float32)


def interpolated(stored: torch.Tensor, old: tuple[int, int], **options: object) -> torch.Tensor:
    picture = stored.reshape(1, *old, -1).permute(0, 3, 1, 2)
    picture = torch.nn.functional.interpolate(picture, **options)  # type: ignore[arg-type]
    return picture.permute(0, 2, 3, 1).reshape(-1, stored.shape[1])


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("name", ["dino", "ibot", "dinov2", "depth_anything", "instantmesh"])
def test_dino_is_bitwise_the_scale_factor_of_its_source(name: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    stored = torch.from_numpy(table(old))
    factors = tuple((after + 0.1) / math.sqrt(old[0] * old[1]) for after in new)
    theirs = interpolated(stored, old, mode="bicubic", scale_factor=factors)
    assert torch.equal(resample.positions(stored, old, new, name), theirs)
    assert not torch.equal(theirs, resample.positions(stored, old, new, "hf"))


@pytest.mark.parametrize("side", [5, 8, 11, 15, 16])
def test_msn_is_bitwise_the_one_factor_of_its_source(side: int) -> None:
    stored = torch.from_numpy(table((14, 14)))
    theirs = interpolated(stored, (14, 14), mode="bicubic", scale_factor=math.sqrt(side**2 / 14**2))
    ours = resample.positions(stored, (14, 14), (side, side), "msn")
    if len(theirs) == side * side:
        assert torch.equal(ours, theirs) and resample.caveat("msn", (14, 14), (side, side)) is None
    else:
        assert ours.shape == (side * side, 12) and resample.caveat("msn", (14, 14), (side, side))


def test_some_scale_factor_fails_at_its_source_and_the_size_is_right_here() -> None:
    old, new = (7, 7), (29, 29)
    stored = torch.from_numpy(table(old))
    theirs = interpolated(stored, old, mode="bicubic", scale_factor=math.sqrt(29**2 / 7**2))
    assert len(theirs) == 28 * 28, "the case that is tested here"
    ours = resample.positions(stored, old, new, "msn")
    assert ours.shape == (29 * 29, 12)
    torch.testing.assert_close(ours, resample.positions(stored, old, new, "hf"), rtol=0, atol=1e-5)
    inside = ours.reshape(29, 29, 12)[:28, :28].reshape(-1, 12)
    torch.testing.assert_close(inside, theirs, rtol=0, atol=1e-5)
    assert "28 rows instead of 29 and 28 columns" in str(resample.caveat("msn", old, new))


def test_a_large_offset_moves_the_coordinates_and_keeps_the_size() -> None:
    stored = torch.from_numpy(table((6, 6)))
    recipe = {"offset": 1.5}
    theirs = interpolated(stored, (6, 6), mode="bicubic", scale_factor=9.5 / 6)
    ours = resample.positions(stored, (6, 6), (8, 8), recipe)
    assert len(theirs) == 81 and ours.shape == (64, 12)
    cut = theirs.reshape(9, 9, 12)[:8, :8].reshape(64, 12)
    torch.testing.assert_close(ours, cut, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.usefixtures("peers")
def test_timm_is_bitwise_timm(old: tuple[int, int], new: tuple[int, int]) -> None:
    from timm.layers import resample_abs_pos_embed

    stored = torch.from_numpy(table(old))
    theirs = resample_abs_pos_embed(stored[None], list(new), list(old), num_prefix_tokens=0)[0]
    assert torch.equal(resample.positions(stored, old, new, "timm"), theirs)
    theirs = resample_abs_pos_embed(
        stored[None], list(new), list(old), num_prefix_tokens=0, interpolation="bilinear", antialias=False
    )[0]
    assert torch.equal(resample.positions(stored, old, new, "timm-npz"), theirs)


@pytest.mark.parametrize("new", [(5, 5), (9, 9), (3, 11), (4, 9)])
@pytest.mark.parametrize(
    ("folder", "model", "recipe", "cls"),
    [
        ("vit", "ViT", "hf", 1),
        ("dinov2", "Dinov2", "hf", 1),
        ("dinov2_with_registers", "Dinov2WithRegisters", "hf-registers", 1),
        ("siglip", "SiglipVision", "siglip-hf", 0),
    ],
)
def test_hugging_face_is_bitwise_its(folder: str, model: str, recipe: str, cls: int, new: tuple[int, int]) -> None:
    import importlib

    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    config = getattr(importlib.import_module(f"transformers.models.{folder}"), f"{model}Config")
    embeddings = getattr(module, f"{model}Embeddings")(
        config(hidden_size=12, num_attention_heads=2, image_size=48, patch_size=8)
    )
    stored = torch.from_numpy(table((6, 6)))
    if cls:
        embeddings.position_embeddings.data[0, cls:] = stored
    else:
        embeddings.position_embedding.weight.data.copy_(stored)
    tokens = torch.zeros(1, cls + new[0] * new[1], 12)
    theirs = embeddings.interpolate_pos_encoding(tokens, 8 * new[0], 8 * new[1])[0, cls:]
    assert torch.equal(resample.positions(stored, (6, 6), new, recipe), theirs)


def test_naflex_of_hugging_face_is_bitwise_its() -> None:
    from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

    stored = torch.from_numpy(table((6, 6)))
    for new in ((5, 5), (3, 11), (9, 8)):
        theirs = Siglip2VisionEmbeddings.resize_positional_embeddings(
            stored.reshape(6, 6, 12), torch.tensor([new]), new[0] * new[1]
        )[0]
        torch.testing.assert_close(resample.positions(stored, (6, 6), new, "naflex-hf"), theirs, rtol=0, atol=1e-6)
        torch.testing.assert_close(resample.positions(stored, (6, 6), new, "naflex"), theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("new", [(5, 5), (9, 9), (3, 11)])
@pytest.mark.usefixtures("peers")
def test_open_clip_is_open_clip(new: tuple[int, int]) -> None:
    from types import SimpleNamespace

    from open_clip.model import resize_pos_embed

    stored = torch.from_numpy(table((6, 6)))
    state = {"visual.positional_embedding": torch.cat([torch.zeros(1, 12), stored])}
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=new)))
    assert torch.equal(resample.positions(stored, (6, 6), new, "open_clip"), state["visual.positional_embedding"][1:])


@pytest.mark.parametrize("side", [5, 9])
@pytest.mark.usefixtures("peers")
def test_torchvision_is_torchvision(side: int) -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    stored = torch.from_numpy(table((6, 6)))
    state = {"encoder.pos_embedding": torch.cat([torch.zeros(1, 12), stored])[None]}
    theirs = interpolate_embeddings(8 * side, 8, state)["encoder.pos_embedding"][0, 1:]  # type: ignore[arg-type]
    assert torch.equal(resample.positions(stored, (6, 6), (side, side), "torchvision"), theirs)


@pytest.mark.parametrize(("old", "new"), [*GRIDS, ((24, 24), (22, 22)), ((28, 28), (14, 14)), ((16, 16), (30, 20))])
@pytest.mark.parametrize("name", ["google", "big_vision"])
def test_google_is_scipys_zoom(name: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    stored = table(old)
    theirs = ndimage.zoom(stored.reshape(*old, -1), (new[0] / old[0], new[1] / old[1], 1), order=1)
    ours = resample.positions(stored, old, new, name)
    np.testing.assert_allclose(ours, theirs.reshape(-1, 12), rtol=0, atol=1e-6)
    assert bool(resample.caveat(name, old, new)) == (not theirs[-1].any() or not theirs[:, -1].any())


def test_zeros_of_scipys_zoom_come_with_a_caveat_and_its_remedy_has_none() -> None:
    old, new = (28, 28), (14, 14)
    stored = table(old)
    ours = resample.positions(stored, old, new, "big_vision").reshape(14, 14, 12)
    assert not ours[-1].any() and not ours[:, -1].any() and ours[:-1, :-1].all()
    assert 'resample={"mode": "bilinear", "align_corners": True}' in str(resample.caveat("big_vision", old, new))
    healed = resample.positions(stored, old, new, {"mode": "bilinear", "align_corners": True}).reshape(14, 14, 12)
    np.testing.assert_allclose(healed[:-1, :-1], ours[:-1, :-1], atol=1e-5)
    np.testing.assert_allclose(healed[-1, -1], stored[-1], atol=1e-5)


JAX = np.load(Path(__file__).parent / "fixtures" / "resample_jax.npz")


@pytest.mark.parametrize("case", sorted({name.split(".")[0] for name in JAX}))
def test_flexivit_is_jaxs_resize(case: str) -> None:
    h, w, high, wide = (int(side) for side in JAX[f"{case}.size"])
    stored = JAX[f"{case}.table"]
    for recipe, method in (("flexivit", "linear"), ({"mode": "bicubic", "antialias": True, "kind": "jax"}, "cubic")):
        for given_table in (stored, torch.from_numpy(stored)):
            ours = np.asarray(resample.positions(given_table, (h, w), (high, wide), recipe))
            np.testing.assert_allclose(ours, JAX[f"{case}.{method}"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (4, 7)), ((8, 8), (9, 5)), ((8, 8), (8, 5)), ((8, 8), (10, 10))])
def test_radio_cuts_a_square(old: tuple[int, int], new: tuple[int, int]) -> None:
    stored = torch.from_numpy(table(old))
    side = max(new)
    square = interpolated(stored, old, mode="bilinear", align_corners=False, size=(side, side))
    theirs = square.reshape(side, side, 12)[: new[0], : new[1]].reshape(-1, 12)
    assert torch.equal(resample.positions(stored, old, new, "radio"), theirs)
    if new[0] != new[1]:
        assert not torch.equal(theirs, resample.positions(stored, old, new, "pe"))


@pytest.mark.parametrize("name", ["deit", "mae", "beit", "mmpretrain", "eva", "internvit", "none"])
def test_plain_bicubic_recipes(name: str) -> None:
    stored = torch.from_numpy(table((6, 6)))
    theirs = interpolated(stored, (6, 6), mode="bicubic", align_corners=False, size=(4, 9))
    assert torch.equal(resample.positions(stored, (6, 6), (4, 9), name), theirs)


def test_shape_decides_and_not_the_count() -> None:
    stored = table((2, 8))
    assert resample.positions(stored, (2, 8), (2, 8), "dinov2") is stored
    resized = resample.positions(stored, (2, 8), (4, 4), "dinov2")
    assert resized.shape == stored.shape and np.abs(resized - stored).max() > 0.1


@pytest.mark.parametrize("name", list(resample.RECIPES))
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_kind_and_type_stay_and_numpy_agrees_with_torch(name: str, dtype: str) -> None:
    stored = table((6, 5)).astype(np_dtype(dtype))
    before = stored.copy()
    stored.flags.writeable = False
    tensor = torch.from_numpy(before.astype(np.float64)).to(getattr(torch, dtype))
    ours = resample.positions(stored, (6, 5), (4, 7), name)
    theirs = resample.positions(tensor, (6, 5), (4, 7), name)
    assert isinstance(ours, np.ndarray) and ours.dtype == stored.dtype and ours.shape == (28, 12)
    assert theirs.dtype == tensor.dtype and tuple(theirs.shape) == (28, 12) and theirs.is_contiguous()
    np.testing.assert_allclose(ours.astype(np.float64), theirs.double().numpy(), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(stored, before)


def test_sixteen_bits_are_computed_in_float32() -> None:
    stored = torch.from_numpy(table((6, 6))).bfloat16()
    wide = resample.positions(stored.float(), (6, 6), (4, 7), "hf")
    assert torch.equal(resample.positions(stored, (6, 6), (4, 7), "hf"), wide.bfloat16())


@pytest.mark.parametrize("name", list(resample.RECIPES))
@settings(max_examples=15, deadline=None)
@given(old=st.tuples(st.integers(1, 9), st.integers(1, 9)), new=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_without_torch_the_numbers_are_the_same(name: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    stored = table(old)
    with_torch = resample.positions(stored, old, new, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        without = resample.positions(stored, old, new, name)
    assert without.shape == (new[0] * new[1], 12) and without.dtype == np.float32
    np.testing.assert_allclose(without, with_torch, rtol=0, atol=1e-5)


def test_one_column_of_one_channel_is_not_left_to_torch() -> None:
    stored = table((5, 2), dim=1)
    ours = resample.positions(stored, (5, 2), (3, 1), "timm")
    both = resample.positions(np.repeat(stored, 2, axis=1), (5, 2), (3, 1), "timm")
    np.testing.assert_allclose(ours, both[:, :1], atol=1e-6)
    np.testing.assert_allclose(resample.positions(np.ones((10, 1)), (5, 2), (3, 1), "timm"), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["dinov2", "google", "flexivit", "radio"])
def test_gradients_reach_the_table(name: str) -> None:
    stored = torch.from_numpy(table((6, 6))).requires_grad_()
    resample.positions(stored, (6, 6), (4, 5), name).sum().backward()
    assert stored.grad is not None and float(stored.grad.abs().sum()) > 1


@pytest.mark.parametrize("name", list(resample.RECIPES))
def test_a_constant_stays_constant_where_no_zeros_are_written(name: str) -> None:
    np.testing.assert_allclose(resample.positions(np.ones((36, 3)), (6, 6), (4, 9), name), 1, atol=1e-6)


def test_wrong_arguments() -> None:
    with pytest.raises(BadArgument, match="another shape"):
        resample.positions(table((4, 4)), (4, 5), (2, 2), "hf")
    with pytest.raises(BadArgument, match="rows, columns"):
        resample.positions(table((4, 4)), (4, 4), (0, 2), "hf")
    with pytest.raises(BadArgument, match="only real numbers"):
        resample.positions(np.zeros((16, 3), np.int8), (4, 4), (2, 2), "hf")
    with pytest.raises(BadArgument, match="no way to resize a patch kernel"):
        resample.kernel(np.zeros((2, 3, 16, 16)), (8, 8), "area")
    with pytest.raises(BadArgument, match="another shape"):
        resample.kernel(np.zeros((2, 3 * 16 * 16)), (8, 8))
    with pytest.raises(BadArgument, match="a patch size"):
        resample.kernel(np.zeros((2, 3, 16, 16)), (8, 0))


def test_caveats_are_silent_where_nothing_is_to_be_said() -> None:
    for name, recipe in resample.RECIPES.items():
        assert resample.caveat(name, (6, 6), (6, 6)) is None
        assert (resample.caveat(name, (6, 6), (8, 8)) is not None) == recipe.assumed


SIZES = [((16, 16), (14, 14)), ((16, 16), (8, 8)), ((16, 16), (32, 32)), ((14, 14), (16, 16)), ((16, 16), (20, 12))]


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.usefixtures("peers")
def test_kernel_is_timms(old: tuple[int, int], new: tuple[int, int]) -> None:
    from timm.layers.patch_embed import resample_patch_embed

    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, *old)).astype(np.float32))
    theirs = resample_patch_embed(weight, list(new))
    scale = float(theirs.abs().max())
    torch.testing.assert_close(resample.kernel(weight, new), theirs, rtol=0, atol=1e-5 * scale)
    assert torch.equal(resample.kernel(weight, new), resample.kernel(weight, new, "timm"))
    theirs = resample_patch_embed(weight, list(new), interpolation="bilinear", antialias=False)
    for name in ("timm-npz", "flexivit"):
        ours = resample.kernel(weight, new, name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize(("name", "options"), [
    ("eva", {"mode": "bicubic", "align_corners": False}),
    ("radio", {"mode": "bicubic", "align_corners": True}),
    ("bicubic", {"mode": "bicubic"}),
    ("bilinear", {"mode": "bilinear"}),
])  # fmt: skip
def test_plain_kernels_are_torchs(name: str, options: dict, old: tuple[int, int], new: tuple[int, int]) -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, *old)).astype(np.float32))
    theirs = torch.nn.functional.interpolate(weight, size=new, **options)
    torch.testing.assert_close(resample.kernel(weight, new, name), theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("name", "mode", "antialias"), [("pinv", "bicubic", True), ("flexivit", "bilinear", False)])
def test_a_larger_kernel_sees_in_the_resized_patch_what_the_old_one_saw(name: str, mode: str, antialias: bool) -> None:
    random = np.random.default_rng(0)
    weight, patch = (random.standard_normal((1, 1, 8, 8)) for _ in range(2))
    picture = torch.nn.functional.interpolate(torch.from_numpy(patch), size=(20, 12), mode=mode, antialias=antialias)
    response = float((resample.kernel(weight, (20, 12), name) * picture.numpy()).sum())
    assert response == pytest.approx(float((weight * patch).sum()), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_kernel_keeps_kind_and_type(dtype: str) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np_dtype(dtype))
    tensor = torch.from_numpy(weight.astype(np.float64)).to(getattr(torch, dtype))
    ours, theirs = resample.kernel(weight, (6, 7)), resample.kernel(tensor, (6, 7))
    assert ours.dtype == weight.dtype and ours.shape == (4, 3, 6, 7) and theirs.dtype == tensor.dtype
    np.testing.assert_allclose(ours.astype(np.float64), theirs.double().numpy(), rtol=0, atol=1e-14)
    assert resample.kernel(weight, (8, 8)) is weight


def test_the_doc_holds_the_tables_as_they_are() -> None:
    assert resample.markdown() in (ROOT / "docs" / "resampling.md").read_text(encoding="utf-8")


@needs_shared
def test_the_doc_holds_the_figures_that_its_script_measures() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "resample_recipes.py"))
    table_ = script["read"](SHARED / "real" / "dinov2-small-hf" / "model.safetensors", "position_embeddings", 1)
    assert script["tables"](table_) in (ROOT / "docs" / "resampling.md").read_text(encoding="utf-8")
