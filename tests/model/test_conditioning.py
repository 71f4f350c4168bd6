from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model.vit_mapping import picture, randomise

from anyvit.errors import BadArgument
from anyvit.model import ViT
from anyvit.spec import Spec

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_dim": 48, "image_size": 32}


@torch.no_grad()
def test_instantmesh_starts_as_the_unconditioned_model_and_dit_as_the_identity() -> None:
    plain = ViT(Spec(**SMALL))
    pixels, condition = picture(32, 32), torch.randn(2, 32)
    for kind in ("instantmesh", "dit"):
        vit = ViT(Spec(**SMALL, condition=kind))
        missing = vit.load_state_dict(plain.state_dict(), strict=False).missing_keys
        assert missing == ["blocks.0.adaln.weight", "blocks.0.adaln.bias"]
        out = vit(pixels, condition)
        expected = plain(pixels).prenorm if kind == "instantmesh" else vit.embed(pixels)[0]
        assert torch.equal(out.prenorm, expected)


@torch.no_grad()
def test_dit_block_in_plain_words() -> None:
    vit = randomise(ViT(Spec(**SMALL, condition="dit")))
    pixels, condition = picture(32, 32), torch.randn(2, 32)
    block, (x, _) = vit.blocks[0], vit.embed(pixels)
    shift1, scale1, gate1, shift2, scale2, gate2 = block.adaln(F.silu(condition))[:, None].chunk(6, -1)
    x = x + gate1 * block.attn(block.norm1(x) * (1 + scale1) + shift1, vit.places((2, 2), x.device)[0])
    x = x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)
    assert torch.allclose(vit(pixels, condition).prenorm, x, atol=1e-5)
    assert torch.allclose(vit.layers(pixels, [1], condition)[0], x, atol=1e-5)


@torch.no_grad()
def test_each_picture_gets_the_condition_of_its_own_view() -> None:
    vit = randomise(ViT(Spec(**SMALL, condition="instantmesh", condition_inputs=16)))
    pixels, cameras = picture(32, 32, batch=6), torch.randn(2, 3, 16)
    out = vit(pixels, cameras).tokens
    for i in range(6):
        alone = vit(pixels[i : i + 1], cameras[i // 3, i % 3].view(1, 1, 16)).tokens
        assert torch.allclose(out[i], alone[0], atol=1e-5)


@pytest.mark.parametrize(
    "shape", [None, (2, 16), (2, 1, 8), (3, 32), (1, 3, 16), (32,), (1, 2, 32)], ids=lambda shape: str(shape)
)
def test_a_missing_or_odd_condition_is_refused(shape: tuple[int, ...] | None) -> None:
    vit = ViT(Spec(**SMALL, condition="instantmesh", condition_inputs=16))
    with pytest.raises(BadArgument, match=r"\(2, 32\) embedded, or cameras \(batch, views, 16\)"):
        vit(picture(32, 32), None if shape is None else torch.zeros(shape))


def test_a_condition_that_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(BadArgument, match="takes no condition"):
        ViT(Spec(**SMALL))(picture(32, 32), torch.zeros(2, 32))
    with pytest.raises(BadArgument, match="condition"):
        ViT(Spec(**SMALL, condition="film"))


@torch.no_grad()
def test_a_flat_condition_is_embedded_even_where_cameras_are_as_wide() -> None:
    vit = randomise(ViT(Spec(**SMALL, condition="instantmesh", condition_inputs=32)))
    pixels, rows = picture(32, 32), torch.randn(2, 32)
    assert torch.equal(vit(pixels, vit.condition(rows)).tokens, vit(pixels, rows.view(1, 2, 32)).tokens)
    assert not torch.allclose(vit(pixels, rows).tokens, vit(pixels, rows.view(1, 2, 32)).tokens, atol=1e-3)
