"""A small random ViT in timm's names, for tests of adaptations."""

from __future__ import annotations

import torch

from anyvit.model import ViT
from anyvit.spec import Spec


@torch.no_grad()
def drawn(spec: Spec) -> ViT:
    """Our ViT with large random numbers in every parameter; the bias of keys that the source has none for stays zero."""
    torch.manual_seed(0)
    made = ViT(spec).eval()
    for parameter in made.parameters():
        parameter.normal_(std=0.4)
    for block in made.blocks:
        if spec.qkv_bias == "qv":
            block.attn.qkv.bias.chunk(3)[1].zero_()
    return made


def pixels(height: int = 12, width: int = 12, count: int = 2) -> torch.Tensor:
    """Random normalised pictures, (count, 3, height, width)."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def close(one: torch.Tensor, two: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal but for rounding, and not trivially so."""
    one, two = one.detach(), two.detach()
    assert one.shape == two.shape and float(one.std()) > 1e-3
    assert float((one - two).abs().max()) <= tolerance * max(1.0, float(one.abs().max()))


def state(
    *, classes: int = 0, registers: int = 0, layer_scale: bool = False, cls_row: bool = True, side: int = 3
) -> dict[str, torch.Tensor]:
    """Random weights: width 12, two blocks, patch 4, a square grid."""
    width, hidden = 12, 24
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, side * side + cls_row, width),
        "patch_embed.proj.weight": (width, 3, 4, 4), "patch_embed.proj.bias": (width,),
        "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    shapes |= {"reg_token": (1, registers, width)} if registers else {}
    for i in range(2):
        linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linears |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        for name, shape in {"norm1": (width,), "norm2": (width,), **linears}.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        shapes |= {f"blocks.{i}.ls{n}.gamma": (width,) for n in (1, 2)} if layer_scale else {}
    shapes |= {"head.weight": (classes, width), "head.bias": (classes,)} if classes else {}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
