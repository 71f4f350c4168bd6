"""Trains small Vision Transformers on scikit-learn's digits, so that claims about trained weights can be measured.

Example: python scripts/train_small.py out/ --only base sgd --steps 1500
Each kind in KINDS becomes one safetensors file with timm's names; its metadata holds the recipe and the accuracy.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Recipe:
    """Architecture and optimiser of one small model; `kv_heads` 0 stands for as many as heads."""

    width: int = 96
    heads: int = 6
    kv_heads: int = 0
    depth: int = 3
    optimiser: str = "adamw"
    lr: float = 2e-3
    decay: float = 0.3
    qk_norm: bool = False
    rope: str = ""
    swiglu: bool = False
    bias: bool = True
    layer_scale: bool = False
    seed: int = 0


BASE = Recipe()
KINDS: dict[str, Recipe] = {
    "base": BASE,
    "heads3": replace(BASE, heads=3, seed=1),
    "heads12": replace(BASE, heads=12, seed=2),
    "wide": replace(BASE, width=192, heads=6, depth=2, seed=3),
    "wide12": replace(BASE, width=192, heads=12, depth=2, seed=4),
    "no_decay": replace(BASE, decay=0.0, seed=5),
    "strong_decay": replace(BASE, decay=1.0, seed=6),
    "sgd": replace(BASE, optimiser="sgd", lr=0.05, decay=5e-4, seed=7),
    "adam_l2": replace(BASE, optimiser="adam", decay=1e-4, seed=8),
    "qk_norm": replace(BASE, qk_norm=True, seed=9),
    "rope_half": replace(BASE, rope="half", heads=4, seed=10),
    "rope_pairs": replace(BASE, rope="pairs", heads=4, seed=11),
    "swiglu": replace(BASE, swiglu=True, seed=12),
    "swiglu_no_decay": replace(BASE, swiglu=True, decay=0.0, seed=17),
    "swiglu_sgd": replace(BASE, swiglu=True, optimiser="sgd", lr=0.05, decay=5e-4, seed=18),
    "no_bias": replace(BASE, bias=False, seed=13),
    "layer_scale": replace(BASE, layer_scale=True, seed=14),
    "one_block": replace(BASE, depth=1, seed=15),
    "one_head": replace(BASE, heads=1, seed=16),
    "grouped": replace(BASE, heads=6, kv_heads=2, seed=19),
}


def rotate(x: Tensor, angles: Tensor, style: str) -> Tensor:
    """Rotary positions. x: (B, H, N, K), angles: (N, K/2)."""
    if style == "pairs":
        a, b = x[..., ::2], x[..., 1::2]
    else:
        a, b = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    turned = (a * cos - b * sin, a * sin + b * cos)
    return torch.stack(turned, -1).flatten(-2) if style == "pairs" else torch.cat(turned, -1)


def axial_angles(size: int, grid: int, prefix: int) -> Tensor:
    """Angles of row and column, a quarter of the channels each; prefix tokens are not turned. (N, size/2)"""
    frequency = 100.0 ** (-torch.arange(size // 4) / (size // 4))
    place = torch.arange(grid).float()
    row, column = torch.meshgrid(place, place, indexing="ij")
    angles = torch.cat([row.reshape(-1, 1) * frequency, column.reshape(-1, 1) * frequency], 1)
    return torch.cat([torch.zeros(prefix, size // 2), angles])


class Attention(nn.Module):
    def __init__(self, r: Recipe) -> None:
        super().__init__()
        self.recipe = r
        size = r.width // r.heads
        self.shared = (r.kv_heads or r.heads) * size
        self.qkv = nn.Linear(r.width, r.width + 2 * self.shared, bias=r.bias)
        self.proj = nn.Linear(r.width, r.width, bias=r.bias)
        self.q_norm = nn.LayerNorm(size) if r.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(size) if r.qk_norm else nn.Identity()

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        b, n, d = x.shape
        parts = self.qkv(x).split([d, self.shared, self.shared], -1)
        q, k, v = (part.reshape(b, n, -1, d // self.recipe.heads).transpose(1, 2) for part in parts)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.recipe.rope:
            q, k = rotate(q, angles, self.recipe.rope), rotate(k, angles, self.recipe.rope)
        x = functional.scaled_dot_product_attention(q, k, v, enable_gqa=self.shared < d)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, r: Recipe) -> None:
        super().__init__()
        self.gated = r.swiglu
        self.fc1 = nn.Linear(r.width, 2 * r.width, bias=r.bias)
        self.fc2 = nn.Linear((1 if r.swiglu else 2) * r.width, r.width, bias=r.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.gated:
            gate, up = x.chunk(2, -1)
            return self.fc2(functional.silu(gate) * up)
        return self.fc2(functional.gelu(x))


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, r: Recipe) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(r.width), Attention(r)
        self.norm2, self.mlp = nn.LayerNorm(r.width), Mlp(r)
        self.ls1 = Scale(r.width) if r.layer_scale else nn.Identity()
        self.ls2 = Scale(r.width) if r.layer_scale else nn.Identity()

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), angles))
        return x + self.ls2(self.mlp(self.norm2(x)))


class SmallViT(nn.Module):
    """A ViT with timm's parameter names.

    Arguments:
        r: architecture.
        image, patch: sides in pixels.
        chans: channels of the pictures.
        classes: number of classes.
    """

    def __init__(self, r: Recipe, image: int = 8, patch: int = 2, chans: int = 1, classes: int = 10) -> None:
        super().__init__()
        grid = image // patch
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(chans, r.width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, r.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + 1, r.width)) if not r.rope else None
        self.blocks = nn.ModuleList(Block(r) for _ in range(r.depth))
        self.norm, self.head = nn.LayerNorm(r.width), nn.Linear(r.width, classes)
        self.register_buffer("angles", axial_angles(r.width // r.heads, grid, 1), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim >= 2:
                nn.init.trunc_normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)  # (B, N, D)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)  # (B, 1 + N, D)
        x = x if self.pos_embed is None else x + self.pos_embed
        for block in self.blocks:
            x = block(x, self.angles)
        return self.head(self.norm(x)[:, 0])


def optimiser(model: nn.Module, r: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": r.decay}, {"params": rest, "weight_decay": 0.0}]
    if r.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=r.lr, momentum=0.9)
    return (torch.optim.Adam if r.optimiser == "adam" else torch.optim.AdamW)(groups, lr=r.lr, betas=(0.9, 0.99))


def train(r: Recipe, steps: int) -> tuple[dict[str, Tensor], float]:
    """The state dict after training and the accuracy on 297 held-out digits."""
    torch.manual_seed(r.seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1, torch.tensor(digits.target)
    model = SmallViT(r)
    adam = optimiser(model, r)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, r.lr, steps + 1, pct_start=0.1)
    for _ in range(steps):
        pick = torch.randint(0, 1500, (64,))
        shift = torch.randint(-1, 2, (2,)).tolist()
        loss = functional.cross_entropy(model(x[pick].roll(shift, (2, 3))), y[pick], label_smoothing=0.1)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
    with torch.no_grad():
        accuracy = (model(x[1500:]).argmax(1) == y[1500:]).float().mean().item()
    return {k: v.detach().contiguous() for k, v in model.state_dict().items()}, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--tag", default="", help="added to the file names")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for kind in args.only:
        state, accuracy = train(KINDS[kind], args.steps)
        recipe = json.dumps(asdict(KINDS[kind]))
        meta = {"kind": kind, "recipe": recipe, "steps": str(args.steps), "accuracy": f"{accuracy:.3f}"}
        meta["heads"] = str(KINDS[kind].heads)
        save_file(state, args.out / f"{kind}{args.tag}.safetensors", metadata=meta)
        print(kind, f"accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
