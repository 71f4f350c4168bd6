"""Trains the Vision Transformer that `anyvit demo` ships with, on scikit-learn's handwritten digits.

Example: python scripts/train_demo.py            (six minutes on two busy cores)
A student learns the digits; a teacher, its running average, sets it a second task as in DINO: see a changed and partly
masked picture as the teacher sees another view of it. Both are saved as a DINOv2 training run leaves them: teacher
beside student, blocks in chunks, `module.` before the student's names, projection heads, arguments, all in float16.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import anyvit
from anyvit.containers import open_checkpoint
from anyvit.demo import CHECKPOINT, DIGITS, accuracy, pixels
from anyvit.spec import Spec

SPEC = Spec(
    embed_dim=128, depth=4, num_heads=2, patch_size=4, image_size=16, mlp_dim=128, num_classes=10, layer_scale=True,
    mask_token=True, pos_prefix=1, grid=(4, 4), resample="dinov2", mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)  # fmt: skip
HELD_OUT = 360
CHUNKS = 2


class DinoHead(nn.Module):
    """Three layers to a bottleneck of unit length, then prototypes whose weights are normed.

    Source: facebookresearch/dinov2 dinov2/layers/dino_head.py, for the names and the parts.
    """

    def __init__(self, width: int, hidden: int = 64, bottleneck: int = 16, prototypes: int = 64) -> None:
        super().__init__()
        layers = (nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.weight_v = nn.Parameter(torch.randn(prototypes, bottleneck) * 0.02)
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(self.mlp(x), dim=-1)  # (B, bottleneck)
        return x @ (self.weight_g * F.normalize(self.weight_v, dim=-1)).T  # (B, prototypes)


class Network(nn.Module):
    """A ViT with a classifier over cls, and a projection head. Gives logits (B, 10) and prototypes (B, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = anyvit.ViT(SPEC)
        self.dino = DinoHead(SPEC.embed_dim)
        for block in self.vit.blocks:
            nn.init.constant_(block.ls1, 0.3)
            nn.init.constant_(block.ls2, 0.3)
        nn.init.trunc_normal_(self.vit.embed.mask, std=0.02)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        def hide(module: nn.Module, inputs: tuple[Tensor, ...], x: Tensor) -> Tensor:
            return x if masked is None else torch.where(masked.unsqueeze(-1), self.vit.embed.mask, x)

        hook = self.vit.embed.patch_norm.register_forward_hook(hide)
        features = self.vit(x)
        hook.remove()
        return features.logits, self.dino(features.cls)


def view(digits: Tensor) -> Tensor:
    """Digits turned, sized, slanted and shifted a little, as 16 × 16 pixels. (B, 8, 8) in 0 … 16 → (B, 3, 16, 16)"""
    b = len(digits)
    turn, slant = (torch.rand(2, b) - 0.5) * 0.4
    size = 1 + (torch.rand(2, b) - 0.5) * 0.3
    shift = (torch.rand(2, b) - 0.5) * 0.5
    rows = (torch.stack([size[0] * turn.cos(), slant - turn.sin(), shift[0]], -1),
            torch.stack([turn.sin(), size[1] * turn.cos(), shift[1]], -1))  # fmt: skip
    grid = F.affine_grid(torch.stack(rows, 1), [b, 1, 16, 16], align_corners=False)
    x = F.grid_sample(digits.float().unsqueeze(1) / 16, grid, align_corners=False).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (SPEC.mean, SPEC.std))
    return (x - mean) / std


def train(digits: Tensor, labels: Tensor, args: argparse.Namespace) -> tuple[Network, Network, int]:
    """The student, its teacher and how many steps were made."""
    student = Network()
    teacher = copy.deepcopy(student).requires_grad_(False)
    decayed = [p for p in student.parameters() if p.ndim >= 2]
    rest = [p for p in student.parameters() if p.ndim < 2]
    adam = torch.optim.AdamW([{"params": decayed, "weight_decay": args.decay}, {"params": rest, "weight_decay": 0.0}])
    steps, centre, done = args.epochs * (len(digits) // args.batch), torch.zeros(1, 64), 0
    for epoch in range(args.epochs):
        order = torch.randperm(len(digits))
        for pick in order[: len(digits) // args.batch * args.batch].view(-1, args.batch):
            for group in adam.param_groups:
                group["lr"] = args.lr * min(1, done / 100) * 0.5 * (1 + math.cos(math.pi * done / steps))
            masked = (torch.rand(len(pick), 16) < 0.3) & (torch.rand(len(pick), 1) < 0.5)
            logits, seen = student(view(digits[pick]), masked)
            with torch.no_grad():
                told = teacher(view(digits[pick]))[1]
            target = ((told - centre) / 0.04).softmax(-1)
            loss = F.cross_entropy(logits, labels[pick], label_smoothing=0.1)
            loss = loss - args.dino * (target * (seen / 0.1).log_softmax(-1)).sum(-1).mean()
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            adam.step()
            centre = 0.9 * centre + 0.1 * told.mean(0, keepdim=True)
            with torch.no_grad():
                momentum = min(args.momentum, done / (done + 10))
                for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                    old.lerp_(new, 1 - momentum)
            done += 1
        print(f"epoch {epoch + 1:3d}  loss {loss.item():.3f}", flush=True)
    return student.eval(), teacher.eval(), done


def named(network: Network) -> dict[str, Tensor]:
    """The tensors under DINOv2's names, blocks in chunks, in float16."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit.pth"
        state = network.vit.state_dict()
        anyvit.convert(state, path, "dinov2-chunked", chunks=CHUNKS, dtype="float16", heads=SPEC.num_heads)
        found = {name: torch.from_numpy(t.read().copy()) for name, t in open_checkpoint(path).tensors.items()}
    for name, tensor in network.dino.state_dict().items():
        name = name if name.startswith("mlp") else f"last_layer.{name}"
        found[f"dino_head.{name}"] = tensor.half()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.99)
    parser.add_argument("--dino", type=float, default=0.05, help="weight of the second task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patch_size", type=int, default=SPEC.patch_size, choices=[SPEC.patch_size])
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)
    start = time.time()
    bunch = load_digits()
    order = np.random.default_rng(args.seed).permutation(len(bunch.target))
    images, labels = bunch.images.astype("uint8")[order], bunch.target.astype("uint8")[order]
    held, rest = slice(None, HELD_OUT), slice(HELD_OUT, None)
    student, teacher, done = train(torch.from_numpy(images[rest]), torch.from_numpy(labels[rest]).long(), args)
    file = {
        "teacher": named(teacher),
        "student": {f"module.{name}": tensor for name, tensor in named(student).items()},
        "iteration": done,
        "args": args,
    }
    torch.save(file, CHECKPOINT)
    vit = anyvit.load(CHECKPOINT, heads=SPEC.num_heads)
    with torch.no_grad():
        right = accuracy(vit(pixels(images[held], vit.preprocess.mean, vit.preprocess.std)).logits, labels[held])
    np.savez_compressed(DIGITS, digits=images[held], labels=labels[held], accuracy=np.float64(right))
    size, seconds = CHECKPOINT.stat().st_size / 1e6, time.time() - start
    print(f"{right:.4f} on {HELD_OUT} held-out digits, {size:.2f} MB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
