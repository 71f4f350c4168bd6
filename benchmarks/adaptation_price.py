"""What each adaptation does to the features of a real model, before any training.

    python benchmarks/adaptation_price.py dinov2-small-hf

prints the tables of docs/adaptations.md. The folder holds a ViT and, as `io.npz`, an array `input` of normalised
pictures (B, 3, H, W). Each row compares the last block, after the final norm, with the model that was not adapted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import anyvit
from anyvit import resample
from anyvit.effects import Effect

PICTURES = 448
"""Pixels of a side of the pictures that every model sees, resized to its own size from there."""

CASES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("image 518 → 224", {}, {"image_size": 224}),
    ("image 518 → 448", {}, {"image_size": 448}),
    ("image 518 → 392 × 560", {}, {"image_size": (392, 560)}),
    ("patch 14 → 16, grid 16 × 16 kept (224 → 256 pixels)", {"image_size": 224},
     {"patch_size": 16, "image_size": 256}),
    ("patch 14 → 16 at 224 pixels (grid 16 → 14)", {"image_size": 224}, {"patch_size": 16, "image_size": 224}),
    ("patch 14 → 28, grid 16 × 16 kept (224 → 448 pixels)", {"image_size": 224},
     {"patch_size": 28, "image_size": 448}),
    ("patch 14 → 28 at 448 pixels (grid 32 → 16)", {"image_size": 448}, {"patch_size": 28, "image_size": 448}),
    ("4 registers added", {"image_size": 224}, {"image_size": 224, "registers": 4}),
    ("class token removed", {"image_size": 224}, {"image_size": 224, "cls_token": False}),
    ("LayerScale and norms folded", {"image_size": 224}, {"image_size": 224, "layer_scale": False, "fuse_norms": True}),
    ("AdaLN, instantmesh", {"image_size": 224}, {"image_size": 224, "condition": anyvit.AdaLN()}),
    ("AdaLN, dit", {"image_size": 224}, {"image_size": 224, "condition": anyvit.AdaLN(scheme="dit")}),
)  # fmt: skip

KERNEL_CASES = [case for case in CASES if case[0].startswith("patch")]
METHODS = ("pinv", "flexivit", "bicubic")

RECIPES = ("dinov2", "hf", "timm", "flexivit", "torchvision")


def main() -> None:
    """Reads the folder named on the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder that anyvit loads, with io.npz")
    folder = parser.parse_args().folder
    pictures = torch.from_numpy(np.load(folder / "io.npz")["input"]).float()
    pictures = F.interpolate(pictures, (PICTURES, PICTURES), mode="bicubic", antialias=True)
    print(head("adaptation"))
    for name, before, after in CASES:
        print(row(name, compare(folder, before, after, pictures)))
    print(band_row(folder, F.interpolate(pictures, (224, 224), mode="bicubic", antialias=True)))
    print("\n" + head("patch kernel"))
    for name, before, after in KERNEL_CASES:
        for method in METHODS:
            print(row(f"{name}, `{method}`", compare(folder, before, after, pictures, method)))
    print("\n" + head("position recipe, 518 → 224"))
    for recipe in RECIPES:
        after = {"image_size": 224, "resample": recipe}
        print(row(f"`{recipe}`", compare(folder, {}, after, pictures)))


def compare(
    folder: Path, before: dict[str, Any], after: dict[str, Any], pictures: torch.Tensor, method: str | None = None
) -> Effect:
    """The effect of an adaptation, with another kernel method where one is named."""
    first, second = anyvit.load(folder, **before), anyvit.load(folder, **after)
    if method is not None:
        kernel = first.embed.patch.weight.detach()
        with torch.no_grad():
            second.embed.patch.weight.copy_(resample.kernel(kernel, second.spec.patch, method))
    return anyvit.effect(first, second, pictures)


def band_row(folder: Path, pictures: torch.Tensor) -> str:
    """Thirteen bands, three of which are the model's own; the others are noise."""
    bands = (None, 2, 1, 0, *(None,) * 9)
    first = anyvit.load(folder, image_size=224)
    second = anyvit.load(folder, image_size=224, in_chans=anyvit.Channels(13, bands=bands))
    noise = torch.randn(len(pictures), 13, *pictures.shape[2:], generator=torch.Generator().manual_seed(0))
    for place, band in enumerate(bands):
        if band is not None:
            noise[:, place] = pictures[:, band]
    return row("3 → 13 bands, new ones at zero", anyvit.effect(first, second, (pictures, noise)))


def head(what: str) -> str:
    """The head of a table."""
    return f"| {what} | cls | mean patch | patches | nearest patches kept | max \\|Δ\\| |\n|---|---|---|---|---|---|"


def row(name: str, found: Effect) -> str:
    """One row of a table."""
    last = found.last
    figures = [last.cls, last.mean, last.patches, found.knn_patches]
    cells = ["–" if value is None else f"{value:.4f}" for value in figures]
    cells.append("–" if found.max_abs is None else f"{found.max_abs:.2g}")
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
