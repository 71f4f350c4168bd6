"""What an adaptation does to features: the same pictures through the model before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anyvit.errors import BadArgument
from anyvit.model import ViT
from anyvit.model.conditioning import modulations
from anyvit.spec import pair

NEIGHBOURS = 10
"""Neighbours of a patch that are compared; of a picture at most half of the others."""

SAMPLE = 2048
"""Patches of all pictures that are compared with each other at most, evenly spaced."""


@dataclass(frozen=True)
class LayerEffect:
    """How alike the features of one layer are: cosines, averaged over pictures.

    Arguments:
        name: "blocks.0" …, with the final norm applied.
        cls: of the class token; None without one.
        mean: of the mean patch token.
        patches: of the patch tokens place by place; grids of another size are first resized bilinearly to the smaller.
    """

    name: str
    cls: float | None
    mean: float
    patches: float


@dataclass(frozen=True)
class Effect:
    """What an adaptation did to features.

    Arguments:
        layers: one entry a block.
        knn_images: the share of a picture's nearest pictures that stay, by the class token (the mean patch without
            one); None with fewer than three pictures.
        knn_patches: the share of a patch's ten nearest patches, among those of all pictures, that stay.
        max_abs: max |Δ| of the final tokens; None where their number changed.
        images: how many pictures.
        grids: (rows, columns) of patches before and after.
    """

    layers: tuple[LayerEffect, ...]
    knn_images: float | None
    knn_patches: float
    max_abs: float | None
    images: int
    grids: tuple[tuple[int, int], tuple[int, int]]

    @property
    def last(self) -> LayerEffect:
        """The last block, which is what most users take."""
        return self.layers[-1]

    def __str__(self) -> str:
        grids = " → ".join(f"{h} × {w}" for h, w in self.grids)
        lines = [f"{self.images} pictures, patches {grids}; cosine before / after", ""]
        lines += ["| layer | cls | mean patch | patches |", "|---|---|---|---|"]
        for layer in self.layers:
            lines.append(f"| {layer.name} | {_figure(layer.cls)} | {_figure(layer.mean)} | {_figure(layer.patches)} |")
        pictures, patches = _figure(self.knn_images), _figure(self.knn_patches)
        lines += ["", f"nearest pictures kept: {pictures}, nearest patches kept: {patches}"]
        if self.max_abs is not None:
            lines.append(f"max |Δ| of the final tokens: {self.max_abs:.3g}")
        return "\n".join(lines)


def effect(before: Any, after: Any, images: Any, *, condition: Tensor | None = None) -> Effect:
    """What an adaptation does to features, so that its price is known before training.

    Each model sees the pictures at its own native size, resized bicubically where they have another; a model without a
    native size sees them as they are.

    Arguments:
        before, after: `ViT`s, or what `load` takes; of the same width and depth.
        images: normalised pixels (B, C, H, W), or a sequence of PIL pictures or uint8 arrays (H, W, C). A pair
            (pixels before, pixels after) where the channels differ.
        condition: (B, D) embedded or (batch, views, inputs) cameras, for a conditioned model; None: random, seeded.

    Returns:
        `Effect`; `str` of it is a table.

    Raises:
        BadArgument: models of another width or depth, or pictures that they cannot take.

    Example:
        >>> from anyvit.spec import Spec
        >>> vit = ViT(Spec(embed_dim=32, depth=2, num_heads=2, mlp_dim=48, image_size=32)).eval()
        >>> effect(vit, vit, torch.randn(3, 3, 32, 32)).max_abs
        0.0
    """
    models = [model if isinstance(model, ViT) else _loaded(model) for model in (before, after)]
    specs = [model.spec for model in models]
    if (specs[0].embed_dim, specs[0].depth) != (specs[1].embed_dim, specs[1].depth):
        found = " and ".join(f"{s.embed_dim} channels, {s.depth} blocks" for s in specs)
        raise BadArgument("features of models of another width or depth cannot be compared", found=found)
    pair_given = isinstance(images, tuple) and len(images) == 2
    given = images if pair_given else (images, images)
    first, second = (_features(m, some, condition) for m, some in zip(models, given, strict=True))
    layers = tuple(_layer(f"blocks.{i}", a, b) for i, (a, b) in enumerate(zip(first, second, strict=True)))
    a, b = first[-1], second[-1]
    same = a.tokens.shape == b.tokens.shape
    return Effect(
        layers,
        _neighbours_of_images(a, b),
        _neighbours_of_patches(a, b),
        float((a.tokens - b.tokens).abs().max()) if same else None,
        len(a.tokens),
        (a.grid, b.grid),
    )


@dataclass(frozen=True)
class _Layer:
    tokens: Tensor  # (B, N, D)
    grid: tuple[int, int]
    prefix: int
    has_cls: bool

    @property
    def cls(self) -> Tensor | None:
        return self.tokens[:, 0] if self.has_cls else None

    @property
    def patches(self) -> Tensor:
        return self.tokens[:, self.prefix :]

    def on(self, grid: tuple[int, int]) -> Tensor:
        """Patch tokens (B, h·w, D) on a grid."""
        if grid == self.grid:
            return self.patches
        picture = self.patches.transpose(1, 2).unflatten(2, self.grid)  # (B, D, h, w)
        return F.interpolate(picture, grid, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


def _loaded(path: Any) -> ViT:
    from anyvit.api import load

    return load(path)


@torch.inference_mode()
def _features(vit: ViT, images: Any, condition: Tensor | None) -> list[_Layer]:
    spec = vit.spec
    pixels = images if isinstance(images, Tensor) else torch.cat([vit.preprocess(picture) for picture in images])
    size = pair(spec.image_size) if spec.image_size else None
    if pixels.ndim == 4 and size and tuple(pixels.shape[2:]) != size:
        pixels = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
    if not spec.condition:
        condition = None
    elif condition is None:
        condition = torch.randn(len(pixels), spec.embed_dim, generator=torch.Generator().manual_seed(0))
    where = next(vit.parameters())
    pixels = pixels.to(where.device)
    condition = None if condition is None else condition.to(where.device, where.dtype)
    training = vit.training
    vit.eval()
    try:
        tokens = vit.layers(pixels, range(1, spec.depth + 1), condition, norm=True)
    finally:
        vit.train(training)
    grid = (pixels.shape[2] // spec.patch[0], pixels.shape[3] // spec.patch[1])
    return [_Layer(x.float().cpu(), grid, spec.num_prefix, spec.num_cls > 0) for x in tokens]


def _layer(name: str, a: _Layer, b: _Layer) -> LayerEffect:
    grid = _common(a, b)
    cls = None if a.cls is None or b.cls is None else _cosine(a.cls, b.cls)
    mean = _cosine(a.patches.mean(1), b.patches.mean(1))
    return LayerEffect(name, cls, mean, _cosine(a.on(grid), b.on(grid)))


def _common(a: _Layer, b: _Layer) -> tuple[int, int]:
    """The smaller of both grids."""
    return (min(a.grid[0], b.grid[0]), min(a.grid[1], b.grid[1]))


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double(), b.double(), dim=-1).mean())


def _neighbours_of_images(a: _Layer, b: _Layer) -> float | None:
    count = len(a.tokens)
    if count < 3:
        return None
    use_cls = a.cls is not None and b.cls is not None
    vectors = [x.cls if use_cls and x.cls is not None else x.patches.mean(1) for x in (a, b)]
    return _kept(vectors, min(NEIGHBOURS, (count - 1) // 2))


def _neighbours_of_patches(a: _Layer, b: _Layer) -> float:
    grid = _common(a, b)
    vectors = [x.on(grid).flatten(0, 1) for x in (a, b)]
    step = -(-len(vectors[0]) // SAMPLE)
    vectors = [v[::step] for v in vectors]
    return _kept(vectors, max(1, min(NEIGHBOURS, (len(vectors[0]) - 1) // 2)))


def _kept(vectors: Sequence[Tensor], count: int) -> float:
    """The mean share of the `count` nearest rows by cosine that two sets of vectors (N, D) agree on."""
    if len(vectors[0]) < 2:
        return 1.0
    near = []
    for rows in vectors:
        rows = F.normalize(rows.double(), dim=-1)
        near.append((rows @ rows.T).fill_diagonal_(-2.0).topk(count, dim=-1).indices)  # (N, k)
    return float((near[0][:, :, None] == near[1][:, None, :]).any(-1).double().mean())


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


@torch.no_grad()
def conditioning(vit: ViT) -> float:
    """Max |Δ| that the modulation of a conditioned model makes, under one random condition.

    All modulations are compared with none (shift and scale 0, gate 1), and the first block's tokens on random input
    with those of the same block without modulation; the weights of further blocks are not read.

    Arguments:
        vit: a conditioned model.

    Returns:
        The larger of both; 0.0 says that the condition changes nothing.

    Example:
        >>> from anyvit.spec import Spec
        >>> vit = ViT(Spec(embed_dim=32, depth=2, num_heads=2, mlp_dim=48, image_size=32, condition="instantmesh"))
        >>> conditioning(vit)
        0.0
    """
    spec, weight = vit.spec, vit.blocks[0].adaln.weight  # type: ignore[union-attr]
    noise = torch.Generator().manual_seed(0)
    vector = torch.randn(1, spec.embed_dim, generator=noise).to(weight.device, weight.dtype)  # type: ignore[arg-type]
    worst = 0.0
    for block in vit.blocks:
        for shift, scale, gate in modulations(block.adaln, vector, str(spec.condition)):  # type: ignore[arg-type]
            parts = [shift, scale] + ([] if gate is None else [gate - 1])
            worst = max(worst, *(float(part.abs().max()) for part in parts))
    pixels = torch.randn(1, spec.in_chans, *spec.patch, generator=noise).to(vector.device, vector.dtype)
    x, places, _ = vit.start(pixels, vector)
    delta = vit.blocks[0](x, places[0], vector) - vit.blocks[0](x, places[0], None)
    # a NaN stands first, where max keeps it
    return max(float(delta.abs().max()), worst)
