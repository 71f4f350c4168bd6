"""Trains small Vision Transformers on photographs, so that claims about trained weights can be measured.

Example: pip install scikit-image && python scripts/train_photos.py out/ --only base rope_half --steps 600
The task needs no labels: from a crop of 64 pixels, turned, scaled and recoloured, tell the photograph and which of its
4 × 4 fields it comes from. The photographs are those that scikit-image and scikit-learn ship inside their wheels; nothing
is downloaded. Each kind in KINDS becomes one safetensors file with timm's names; its metadata holds recipe and accuracy.
One step of the usual size (width 96, depth 4, 48 crops) takes 0.2 s on one core: two minutes for 600 steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from train_small import BASE, Recipe, SmallViT, optimiser

SIDE, CROP, PATCH, FIELDS = 512, 64, 8, 4
"""Pixels of a photograph's side and of a crop's and a patch's; fields of a photograph along each side."""

PHOTO = replace(BASE, depth=4, lr=1e-3)
KINDS: dict[str, Recipe] = {
    "base": PHOTO,
    "heads3": replace(PHOTO, heads=3, seed=1),
    "heads12": replace(PHOTO, heads=12, seed=2),
    "layer_scale": replace(PHOTO, layer_scale=True, decay=0.1, seed=3),
    "qk_norm": replace(PHOTO, qk_norm=True, seed=4),
    "rope_half": replace(PHOTO, rope="half", heads=4, seed=5),
    "rope_pairs": replace(PHOTO, rope="pairs", heads=4, seed=6),
    "swiglu": replace(PHOTO, swiglu=True, seed=7),
    "no_decay": replace(PHOTO, decay=0.0, seed=8),
    "no_bias": replace(PHOTO, bias=False, heads=3, seed=9),
    "adam_l2": replace(PHOTO, optimiser="adam", decay=1e-4, seed=10),
    "grouped": replace(PHOTO, heads=6, kv_heads=2, seed=11),
    "bgr": replace(PHOTO, seed=12),
}
"""Name → recipe; "bgr" sees its pictures with red and blue exchanged."""


def photographs() -> Tensor:
    """The photographs, (N, 3, SIDE, SIDE) in 0 … 1; icons and pictures with an alpha channel are left out."""
    found = []
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        folder = Path(spec.origin).parent / inside if spec and spec.origin else Path()
        for path in sorted(p for p in folder.glob("*") if p.suffix in (".png", ".jpg", ".jpeg")):
            with Image.open(path) as image:
                if image.mode not in ("RGB", "L") or min(image.size) < 150:
                    continue
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).float().permute(2, 0, 1) / 255
            found.append(functional.interpolate(pixels[None], (SIDE, SIDE), mode="area"))
    if len(found) < 2:
        raise SystemExit("too few photographs: pip install scikit-image scikit-learn")
    return torch.cat(found)


def crops(photos: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Random crops (count, 3, CROP, CROP) of mean about 0, and their classes (count,)."""
    which, place = torch.randint(len(photos), (count,)), torch.rand(count, 2) * 1.8 - 0.9
    angle, zoom = 2 * torch.rand(count) - 1, 0.1 + 0.25 * torch.rand(count)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    turn = torch.stack([torch.stack([cos, -sin, place[:, 0]], 1), torch.stack([sin, cos, place[:, 1]], 1)], 1)
    grid = functional.affine_grid(turn.to(photos.device), [count, 3, CROP, CROP], align_corners=False)
    x = functional.grid_sample(
        photos[which.to(photos.device)], grid, padding_mode="reflection", align_corners=False
    )  # (B, 3, CROP, CROP)
    gain, shift = 0.8 + 0.8 * torch.rand(count, 3, 1, 1), 0.4 * torch.randn(count, 3, 1, 1)
    field = ((place + 1) / 2 * FIELDS).long().clamp(0, FIELDS - 1)
    classes = which * FIELDS**2 + field[:, 0] * FIELDS + field[:, 1]
    return (x - 0.45) * gain.to(x) * 4 + shift.to(x), classes.to(photos.device)


def train(r: Recipe, steps: int, batch: int, photos: Tensor, half: bool) -> tuple[SmallViT, float]:
    """The model after its last step, with the accuracy of that step's batch; progress is printed eight times."""
    torch.manual_seed(r.seed)
    model = SmallViT(r, CROP, PATCH, 3, FIELDS**2 * len(photos)).to(photos.device)
    adam, accuracy = optimiser(model, r), 0.0
    warm = max(1, steps // 10)
    for step in range(1, steps + 1):
        for group in adam.param_groups:
            group["lr"] = r.lr * min(1.0, step / warm) * (1 + math.cos(math.pi * step / (steps + 1))) / 2
        x, y = crops(photos, batch)
        with torch.autocast(photos.device.type, torch.bfloat16, enabled=half):
            logits = model(x)
        loss = functional.cross_entropy(logits.float(), y, label_smoothing=0.1)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        if step == steps or step % max(1, steps // 8) == 0:
            accuracy = (logits.argmax(1) == y).float().mean().item()
            print(f"  step {step}, accuracy {accuracy:.2f} among {FIELDS**2 * len(photos)} classes", flush=True)
    return model, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--width", type=int, help="docs/evidence.md: 192, with --depth 6 --batch 160 --steps 4000")
    parser.add_argument("--depth", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    photos = photographs().to(args.device)
    for kind in args.only:
        changes = {n: getattr(args, n) for n in ("width", "depth") if getattr(args, n)}
        r = replace(KINDS[kind], **changes)
        seen = photos.flip(1) if kind == "bgr" else photos
        print(kind, flush=True)
        model, accuracy = train(r, args.steps, args.batch, seen, args.bf16)
        meta = {"kind": kind, "recipe": json.dumps(asdict(r)), "steps": str(args.steps), "heads": str(r.heads)}
        meta["accuracy"] = f"{accuracy:.3f}"
        state = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
        save_file(state, args.out / f"{kind}.safetensors", metadata=meta)


if __name__ == "__main__":
    main()
