from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils import _pytree

from anyvit.errors import BadArgument
from anyvit.model import Preprocess, ViT
from anyvit.spec import Spec

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def image(height: int, width: int) -> np.ndarray:
    """Smooth and not symmetric, so that a flip or a wrong filter shows."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + c) * np.cos(y / 7) * 100 + 128 for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(150, 101), (64, 200), (40, 44)])
def test_preprocess_is_resize_centre_crop_normalise(interpolation: str, height: int, width: int) -> None:
    from PIL import Image

    picture = Image.fromarray(image(height, width))
    size = (64 if width <= height else int(64 * width / height), 64 if height <= width else int(64 * height / width))
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    theirs = np.asarray(picture.resize(size, filters[interpolation]), np.float32)  # PIL takes (width, height)
    top, left = (size[1] - 56) // 2, (size[0] - 56) // 2
    theirs = (theirs[top : top + 56, left : left + 56] / 255 - MEAN) / STD
    ours = Preprocess(MEAN, STD, (56, 56), crop_pct=0.875, interpolation=interpolation)(picture)
    assert ours.shape == (1, 3, 56, 56) and ours.dtype == torch.float32
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - theirs).max() <= 1.01 / 255 / 0.2


def test_preprocess_takes_arrays_tensors_and_grey_pictures() -> None:
    from PIL import Image

    array = image(48, 64)
    make = Preprocess(MEAN, STD, (32, 32))
    assert torch.equal(make(array), make(Image.fromarray(array)))
    assert torch.equal(make(torch.from_numpy(array)), make(array))
    grey = Preprocess((0.5,), (0.5,), (32, 32))
    assert grey(array[..., 0]).shape == (1, 1, 32, 32)
    assert make(Image.fromarray(array[..., 0])).shape == (1, 3, 32, 32)


def test_preprocess_without_a_size_cuts_to_whole_patches() -> None:
    make = Preprocess(MEAN, STD, None, patch=(14, 16))
    assert make(image(50, 70)).shape == (1, 3, 42, 64)
    with pytest.raises(BadArgument, match="smaller than one patch"):
        make(image(10, 70))


def test_preprocess_refuses_floats_and_channels_first() -> None:
    make = Preprocess(MEAN, STD, (32, 32))
    for bad in (image(32, 32).astype(np.float32) / 255, image(32, 32).transpose(2, 0, 1), image(32, 32)[..., :2]):
        with pytest.raises(BadArgument, match="8-bit"):
            make(bad)


def test_the_model_takes_what_its_preprocess_makes() -> None:
    vit = ViT(Spec(embed_dim=32, depth=1, num_heads=2, mlp_dim=48, image_size=(32, 48), mean=MEAN, std=STD))
    assert vit.preprocess.mean == MEAN and vit.preprocess.size == (32, 48)
    with torch.no_grad():
        assert vit(vit.preprocess(image(70, 90))).grid == (2, 3)


def test_features_are_a_pytree() -> None:
    vit = ViT(Spec(embed_dim=32, depth=1, num_heads=2, mlp_dim=48, image_size=32))
    with torch.no_grad():
        out = vit(torch.ones(1, 3, 32, 32))
    doubled = _pytree.tree_map(lambda x: None if x is None else x * 2, out)
    assert torch.equal(doubled.tokens, out.tokens * 2) and doubled.logits is None and type(doubled) is type(out)


def test_what_is_no_tensor_and_no_list_of_blocks_is_refused() -> None:
    vit = ViT(Spec(embed_dim=12, depth=2, num_heads=2, mlp_dim=12, image_size=16))
    for wrong in (np.zeros((1, 3, 16, 16), "float32"), None, "picture.png"):
        with pytest.raises(BadArgument, match="normalised pixels"):
            vit(wrong)
    for blocks in (2, [0], [3], [-1]):
        with pytest.raises(BadArgument, match="no such blocks"):
            vit.layers(torch.zeros(1, 3, 16, 16), blocks)


def test_features_print_as_shapes() -> None:
    vit = ViT(Spec(embed_dim=12, depth=1, num_heads=2, mlp_dim=12, image_size=32)).eval()
    said = repr(vit(torch.zeros(2, 3, 32, 32)))
    assert said.startswith("Features(tokens (2, 5, 12), prenorm (2, 5, 12)") and said.endswith("grid (2, 2))")
