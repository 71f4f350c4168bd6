from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit import relpos
from anyvit.errors import BadArgument

WINDOWS = [((4, 4), (6, 6)), ((14, 14), (24, 24)), ((14, 14), (7, 7)), ((5, 7), (6, 4))]


def table(window: tuple[int, int], extra: int = 3, heads: int = 3, seed: int = 0) -> np.ndarray:
    rows = (2 * window[0] - 1) * (2 * window[1] - 1) + extra
    return np.random.default_rng(seed).standard_normal((rows, heads)).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), WINDOWS)
def test_beit_geometric_is_the_bivariate_spline_over_its_offsets(old: tuple[int, int], new: tuple[int, int]) -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    stored = table(old)
    ours = relpos.relative_table(stored, old, new)
    high, wide = (2 * side - 1 for side in old)
    y, x = (relpos.geometric_offsets(2 * a - 1, 2 * b - 1) for a, b in zip(old, new, strict=True))
    to = [np.arange(1 - side, side, dtype=np.float64) for side in new]
    for head in range(3):
        grid = stored[:-3, head].reshape(high, wide).astype(np.float64)
        theirs = interpolate.RectBivariateSpline(y, x, grid)(*to)
        np.testing.assert_allclose(ours[:-3, head], theirs.ravel(), rtol=0, atol=3e-6 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize(("old", "new"), WINDOWS)
@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.filterwarnings("ignore::UserWarning:timm.layers.interpolate")
@pytest.mark.usefixtures("peers")
def test_timm_method_is_timms(old: tuple[int, int], new: tuple[int, int], extra: int) -> None:
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

    stored = torch.from_numpy(table(old, extra))
    rows = (2 * new[0] - 1) * (2 * new[1] - 1) + extra
    theirs = resize_rel_pos_bias_table(stored, new, (rows, 3), old_window_size=old)
    ours = relpos.relative_table(stored, old, new, "timm", extra)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [pair for pair in WINDOWS if pair[0][0] == pair[0][1]])
def test_hf_method_is_hugging_faces(old: tuple[int, int], new: tuple[int, int]) -> None:
    from transformers import BeitConfig
    from transformers.models.beit.modeling_beit import BeitRelativePositionBias

    theirs, wanted = (
        BeitRelativePositionBias(BeitConfig(hidden_size=12, num_attention_heads=3, image_size=16 * side, patch_size=16))
        for (side, _) in (old, new)
    )
    stored = torch.from_numpy(table(old))
    theirs.relative_position_bias_table.data.copy_(stored)
    wanted.relative_position_bias_table.data.copy_(relpos.relative_table(stored, old, new, "hf"))
    torch.testing.assert_close(wanted(new), theirs(new), rtol=0, atol=2e-6)


def test_methods_differ() -> None:
    stored = table((14, 14))
    made = [relpos.relative_table(stored, (14, 14), (24, 24), method) for method in relpos.RELATIVE]
    for i, first in enumerate(made):
        for second in made[i + 1 :]:
            assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("method", list(relpos.RELATIVE))
def test_last_rows_stay_and_the_centre_stays(method: str) -> None:
    stored = table((7, 7))
    resized = relpos.relative_table(stored, (7, 7), (10, 10), method)
    np.testing.assert_array_equal(resized[-3:], stored[-3:])
    np.testing.assert_allclose(resized[:-3][19 * 9 + 9], stored[:-3][13 * 6 + 6], atol=1e-6)


def test_near_offsets_stay_near() -> None:
    """BEiT's point: one patch away is one patch away whatever the window, so those rows hardly move."""
    stored = table((7, 7))
    resized = relpos.relative_table(stored, (7, 7), (10, 10), "beit-geometric")
    np.testing.assert_allclose(resized[19 * 10 + 9], stored[13 * 7 + 6], atol=1e-6)
    np.testing.assert_allclose(resized[19 * 9 + 8], stored[13 * 6 + 5], atol=1e-6)


@given(old=st.integers(2, 32), new=st.integers(2, 32))
@settings(max_examples=100, deadline=None)
def test_offsets_are_symmetric_and_reach_the_border_where_they_can(old: int, new: int) -> None:
    offsets = relpos.geometric_offsets(2 * old - 1, 2 * new - 1)
    assert offsets == sorted(offsets) and len(offsets) == 2 * old - 1
    np.testing.assert_allclose(offsets, -np.array(offsets)[::-1])
    within = sum(1.01**k for k in range(old - 1)), sum(1.5**k for k in range(old - 1))
    if within[0] <= new - 1 <= within[1]:
        assert offsets[-1] == pytest.approx(new - 1, rel=2e-5 * old)


def test_same_window_is_the_same_object_and_kind_stays() -> None:
    stored = table((4, 4))
    assert relpos.relative_table(stored, (4, 4), (4, 4)) is stored
    half = torch.from_numpy(stored).half()
    resized = relpos.relative_table(half, (4, 4), (5, 6))
    assert resized.dtype == torch.float16 and tuple(resized.shape) == (9 * 11 + 3, 3)


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(BadArgument, match="another shape"):
        relpos.relative_table(table((4, 4)), (4, 4), (6, 6), extra=0)
    with pytest.raises(BadArgument, match="no way to resize relative positions"):
        relpos.relative_table(table((4, 4)), (4, 4), (6, 6), "swin")
    with pytest.raises(BadArgument, match="four points"):
        relpos.relative_table(table((2, 2)), (2, 2), (6, 6))


@pytest.mark.parametrize(("size", "new"), [(14, 7), (14, 20), (5, 6), (3, 1)])
@pytest.mark.usefixtures("peers")
def test_decomposed_is_sams(size: int, new: int) -> None:
    from timm.models.vision_transformer_sam import get_rel_pos

    stored = torch.randn(2 * size - 1, 8, generator=torch.Generator().manual_seed(0))
    resized = relpos.decomposed(stored, new)
    assert tuple(resized.shape) == (2 * new - 1, 8)
    torch.testing.assert_close(get_rel_pos(new, new, resized), get_rel_pos(new, new, stored), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(relpos.decomposed(stored.numpy(), new), resized.numpy())
    assert relpos.decomposed(stored, size) is stored


def test_mae_sincos_counts_columns_first() -> None:
    made = relpos.sincos2d(3, 5, 16, kind="mae").reshape(3, 5, 16)
    column, row = np.meshgrid(np.arange(5), np.arange(3))
    for place, part in ((column, made[..., :8]), (row, made[..., 8:])):
        for k in range(4):
            np.testing.assert_allclose(part[..., k], np.sin(place * 10000.0 ** (-k / 4)), atol=1e-6)
            np.testing.assert_allclose(part[..., 4 + k], np.cos(place * 10000.0 ** (-k / 4)), atol=1e-6)


def test_hugging_faces_own_table_is_moco_v3s() -> None:
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    theirs = build_2d_sinusoidal_position_embedding(4, 6, embed_dim=64).numpy()
    np.testing.assert_allclose(relpos.sincos2d(4, 6, 64, kind="moco"), theirs, rtol=0, atol=1e-6)


def test_big_vision_reaches_the_temperature() -> None:
    made = relpos.sincos2d(2, 3, 16, kind="big_vision")
    np.testing.assert_allclose(made[1, 3], np.sin(1 / 10000), rtol=1e-6)
    assert made[1, 3] < relpos.sincos2d(2, 3, 16, kind="mae")[1, 3] / 5


@given(kind=st.sampled_from(list(relpos.SINCOS)), h=st.integers(1, 9), w=st.integers(2, 9), d=st.integers(2, 24))
@settings(max_examples=60, deadline=None)
def test_the_author_is_found(kind: str, h: int, w: int, d: int) -> None:
    made = relpos.sincos2d(h, w, 4 * d, kind=kind)
    assert relpos.sincos_author(made, h, w) == kind
    for dtype in (torch.float16, torch.bfloat16):
        assert relpos.sincos_author(torch.from_numpy(made).to(dtype), h, w) in (kind, None)


def test_no_author_for_other_tables() -> None:
    made = relpos.sincos2d(4, 4, 32)
    assert relpos.sincos_author(torch.from_numpy(made).bfloat16(), 4, 4) == "mae"
    assert relpos.sincos_author(made + 3e-4, 4, 4) is None
    assert relpos.sincos_author(made * np.float32(np.nan), 4, 4) is None
    assert relpos.sincos_author(relpos.sincos2d(2, 8, 32), 4, 4) is None
    assert relpos.sincos_author(relpos.sincos2d(1, 1, 32), 1, 1) is None, "at one patch all authors agree"
    assert relpos.sincos_author(np.zeros((4, 6), np.float32), 2, 2) is None


def test_bad_sincos_arguments() -> None:
    with pytest.raises(BadArgument, match="multiple of 4"):
        relpos.sincos2d(2, 2, 6)
    with pytest.raises(BadArgument, match="no sin-cos table"):
        relpos.sincos2d(2, 2, 8, kind="dit")
