"""Whether pixels are what the model's preprocessing makes, told from their values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anyvit.model import ViT
from anyvit.report import Finding

SAMPLE = 16
"""Pictures that are looked at."""
LARGEST = 20.0
"""Normalised pixels are a few standard deviations at most: (1 - mean) / std is 2.64 for ImageNet's."""


def sample(count: int) -> list[int]:
    """Some pictures, evenly spaced.

    Example:
        >>> sample(3), len(sample(1000))
        ([0, 1, 2], 16)
    """
    return sorted({n * count // SAMPLE for n in range(SAMPLE)} if count > SAMPLE else range(count))


def odd(some: Sequence[Tensor], vit: ViT) -> Finding | None:
    """What is wrong with pixels (C, H, W), None where nothing is.

    Arguments:
        some: of several pictures.
        vit: whose mean and standard deviation they should be normalised with.
    """
    values = torch.cat([t.detach().float().flatten() for t in some])
    remedy = "vit.preprocess(picture) makes the pixels, or (pixels / 255 - mean) / std"
    if not bool(torch.isfinite(values).all()):
        many = int((~torch.isfinite(values)).sum())
        return Finding("pixels", (), f"{many} pixels are NaN or infinite", "look at the pictures")
    low, high = float(values.min()), float(values.max())
    if low == high:
        return Finding("pixels", (), f"all pixels are {low:g}", "look at the pictures")
    if high - low > 2 * LARGEST:
        cause = (
            f"wrong preprocessing: pixels lie between {low:.4g} and {high:.4g}, as 0 … 255 do; they are not normalised"
        )
        return Finding("pixels", (), cause, remedy)
    spec = vit.spec
    # 0 … 1 is what a model with mean 0 and deviation 1 takes
    plain = max(spec.mean) < 0.05 and min(spec.std) > 0.9
    if low >= 0 and high <= 1 and not plain:
        cause = (
            f"wrong preprocessing: pixels lie between {low:.4g} and {high:.4g}, as 0 … 1 do; they are not normalised"
        )
        return Finding("pixels", (), cause, remedy)
    return None
