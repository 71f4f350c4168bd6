"""Whether pixels are normalised, told from their values."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are trained")

from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402
from anyvit.training.pixels import odd, sample  # noqa: E402

RAW = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1), torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def vit(**options: Any) -> ViT:
    return ViT(Spec(embed_dim=16, depth=1, num_heads=2, mlp_dim=16, patch_size=4, image_size=8, **options))


@pytest.mark.parametrize(("pixels", "word"), [
    ((RAW - MEAN) / STD, None), (torch.randn(4, 3, 8, 8), None), (RAW * 2 - 1, None),
    (RAW, "0 … 1"), (RAW * 255, "0 … 255"), (RAW * 255 - 128, "0 … 255"),
    (torch.zeros(2, 3, 8, 8), "all pixels are 0"), (torch.full((2, 3, 8, 8), torch.nan), "NaN"),
])  # fmt: skip
def test_values_tell_what_was_forgotten(pixels: Any, word: str | None) -> None:
    found = odd(list(pixels), vit())
    assert (found is None) if word is None else (found is not None and word in found.cause)


def test_a_model_of_plain_pixels_takes_them() -> None:
    plain = vit(mean=(0.0,) * 3, std=(1.0,) * 3)
    assert odd(list(RAW), plain) is None
    found = odd(list(RAW * 255), plain)
    assert found is not None and "wrong preprocessing" in found.cause


def test_a_sample_is_spread() -> None:
    assert sample(100)[0] == 0 and sample(100)[-1] == 93 and len(sample(100)) == 16
