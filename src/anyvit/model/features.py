"""What goes into a ViT and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree

from anyvit.errors import BadArgument
from anyvit.spec import Spec


@dataclass(repr=False)
class Features:
    """The outputs of a ViT for B pictures of N tokens (prefix first), D channels each.

    Arguments:
        tokens: (B, N, D) all tokens as the source's feature function returns them.
        prenorm: (B, N, D) the last block's output.
        cls: (B, D) the first class token; None without one.
        registers: (B, R, D) the registers; None without any.
        patches: (B, h·w, D) the patch tokens, row by row; whitened where the source whitens its features (RADIO).
        pooled: (B, D') what the source feeds its head; None where it pools nothing.
        logits: (B, C) of the classification head; None without one.
        embedding: (B, E) in the joint space, not L2-normalised; None without a projection.
        grid: (h, w) patches per side.
    """

    tokens: Tensor
    prenorm: Tensor
    cls: Tensor | None
    registers: Tensor | None
    patches: Tensor
    pooled: Tensor | None
    logits: Tensor | None
    embedding: Tensor | None
    grid: tuple[int, int]

    def __repr__(self) -> str:
        shapes = {name: tuple(value.shape) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return f"Features({', '.join(f'{name} {shape}' for name, shape in shapes.items())}, grid {self.grid})"


_NAMES = tuple(f.name for f in fields(Features))

# torch.compile, torch.export and data-parallel gathering take a dataclass apart only when it is registered.
_pytree.register_pytree_node(
    Features,
    lambda features: ([getattr(features, name) for name in _NAMES], None),
    lambda values, _: Features(*values),
    serialized_type_name="anyvit.model.features.Features",
)


@dataclass(frozen=True)
class Preprocess:
    """From a picture to the pixels that a ViT takes: resize the shorter side, cut the centre, normalise.

    Arguments:
        mean: per channel, of values in 0 … 1.
        std: per channel, of values in 0 … 1.
        size: (height, width) in pixels; None: the picture's own, cut to multiples of the patch.
        patch: (height, width) of a patch in pixels.
        crop_pct: the fraction of the resized picture's shorter side that the cut keeps.
        interpolation: "bicubic", "bilinear" or "nearest".

    Source: the evaluation transform of timm (timm/data/transforms_factory.py), in torch's 8-bit arithmetic.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None
    patch: tuple[int, int] = (16, 16)
    crop_pct: float = 1.0
    interpolation: str = "bicubic"

    def __call__(self, picture: Any) -> Tensor:
        """Normalised pixels of one picture.

        Arguments:
            picture: a PIL image, or a uint8 array or tensor of shape (H, W, C) or (H, W).

        Returns:
            (1, C, height, width), float32.

        Raises:
            BadArgument: not 8-bit, another number of channels, or smaller than one patch.

        Example:
            >>> Preprocess((0.5,) * 3, (0.5,) * 3, (32, 48))(np.zeros((50, 60, 3), np.uint8)).shape
            torch.Size([1, 3, 32, 48])
        """
        x = self._cut(self._resize(self._read(picture)))  # (1, C, height, width)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (x.float() / 255 - mean) / std

    def _read(self, picture: Any) -> Tensor:
        channels = len(self.mean)
        if hasattr(picture, "convert") and channels in (1, 3):
            picture = picture.convert("RGB" if channels == 3 else "L")
        x = picture if isinstance(picture, Tensor) else torch.from_numpy(np.array(picture))
        if x.ndim == 2:
            x = x.unsqueeze(-1)
        if x.dtype != torch.uint8 or x.ndim != 3 or x.shape[-1] != channels:
            raise BadArgument(
                "preprocess takes one 8-bit picture",
                found=f"{x.dtype} of shape {tuple(x.shape)}",
                expected=f"a PIL image, or uint8 of shape (H, W, {channels})",
                usual="values already scaled to 0 … 1, or channels first",
            )
        return x.permute(2, 0, 1).unsqueeze(0)

    def _resize(self, x: Tensor) -> Tensor:
        if self.size is None:
            return x
        old: tuple[int, int] = tuple(x.shape[-2:])  # type: ignore[assignment]
        goal = tuple(math.floor(side / self.crop_pct) for side in self.size)
        tight = max((0, 1), key=lambda axis: goal[axis] / old[axis])  # the axis that decides the scale
        new = tuple(max(goal[axis], old[axis] * goal[tight] // old[tight]) for axis in (0, 1))
        if new == old:
            return x
        if self.interpolation == "nearest":
            return F.interpolate(x, size=new, mode="nearest")
        return F.interpolate(x, size=new, mode=self.interpolation, antialias=True)

    def _cut(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = self.size or (height // self.patch[0] * self.patch[0], width // self.patch[1] * self.patch[1])
        if not rows or not columns:
            raise BadArgument("the picture is smaller than one patch", found=(height, width), expected=self.patch)
        top, left = (height - rows) // 2, (width - columns) // 2
        return x[..., top : top + rows, left : left + columns]


def check_pixels(spec: Spec, pixels: Tensor) -> None:
    """Raises BadArgument for pixels that a model of this Spec cannot take."""
    (p, q), c = spec.patch, spec.in_chans
    if not isinstance(pixels, Tensor):
        raise BadArgument(
            "a ViT takes a batch of normalised pixels", found=type(pixels).__name__,
            expected=f"a tensor, floating point, of shape (B, {c}, H, W)", remedy="vit(vit.preprocess(picture))",
        )  # fmt: skip
    if pixels.ndim != 4 or pixels.shape[1] != c or not pixels.is_floating_point():
        raise BadArgument(
            "a ViT takes a batch of normalised pixels",
            found=f"{pixels.dtype} of shape {tuple(pixels.shape)}",
            expected=f"floating point, of shape (B, {c}, H, W)",
            remedy="vit(vit.preprocess(picture))",
        )
    h, w = pixels.shape[2:]
    if h % p or w % q or not h * w:
        near = max(p, round(h / p) * p), max(q, round(w / q) * q)
        raise BadArgument(
            "the picture is not a whole number of patches",
            found=f"{h} by {w} pixels",
            expected=f"multiples of the patch, {p} by {q} pixels",
            remedy=f"resize to {near[0]} by {near[1]}",
        )
