"""Small modules that name and build their parts as well-known projects do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DinoAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DinoBlock(nn.Module):
    def __init__(self, width: int, heads: int, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = DinoAttention(width, heads), Mlp(width, 2 * width)
        self.ls1, self.ls2 = (Scale(width), Scale(width)) if scaled else (nn.Identity(), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class BlockChunk(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x)
        return x


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patches_resolution = grid
        self.proj = nn.Conv2d(3, width, patch, patch)


class Dino(nn.Module):
    """DINOv2's names; blocks in one list or in chunks whose first places are identities."""

    def __init__(
        self,
        width: int = 12,
        depth: int = 2,
        heads: int = 2,
        patch: int = 4,
        grid: tuple[int, int] = (3, 3),
        registers: int = 0,
        scaled: bool = True,
        chunks: int = 0,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width, patch, grid)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        blocks: list[nn.Module] = [DinoBlock(width, heads, scaled) for _ in range(depth)]
        self.chunked = chunks > 0
        if self.chunked:
            size = depth // chunks
            groups = [[nn.Identity()] * i + blocks[i : i + size] for i in range(0, depth, size)]
            self.blocks = nn.ModuleList(BlockChunk(group) for group in groups)
        else:
            self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(len(x), -1, -1)
        x = torch.cat([cls, x], 1) + self.pos_embed
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class HFSelf(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))


class HFOutput(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)


class HFAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.output = HFSelf(width), HFOutput(width, width)


class ConditionedLayer(nn.Module):
    """A layer of InstantMesh's encoder: AdaLN modulates the outputs of both norms."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.attention = HFAttention(width)
        self.intermediate, self.output = HFOutput(width, 2 * width), HFOutput(2 * width, width)
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 4 * width))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        shift1 = scale1 = shift2 = scale2 = torch.zeros(())
        if condition is not None:
            shift1, scale1, shift2, scale2 = self.adaLN_modulation(condition)[:, None].chunk(4, dim=2)
        y = self.layernorm_before(x) * (1 + scale1) + shift1
        parts = (getattr(self.attention.attention, name)(y) for name in ("query", "key", "value"))
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        x = x + self.attention.output.dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.layernorm_after(x) * (1 + scale2) + shift2
        return x + self.output.dense(F.gelu(self.intermediate.dense(y)))


class Holder(nn.Module):
    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class ConditionedViT(nn.Module):
    """Hugging Face's older ViT names with `adaLN_modulation` in every layer, initialised at random."""

    def __init__(self, width: int = 12, depth: int = 2, heads: int = 2, patch: int = 4, side: int = 3) -> None:
        super().__init__()
        projection = Holder(projection=nn.Conv2d(3, width, patch, patch))
        self.embeddings = Holder(
            cls_token=nn.Parameter(torch.zeros(1, 1, width)),
            position_embeddings=nn.Parameter(torch.zeros(1, side * side + 1, width)),
            patch_embeddings=projection,
        )
        self.encoder = Holder(layer=nn.ModuleList(ConditionedLayer(width, heads) for _ in range(depth)))
        self.layernorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, pixels: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.embeddings.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.embeddings.cls_token.expand(len(x), -1, -1), x], 1) + self.embeddings.position_embeddings
        for layer in self.encoder.layer:
            x = layer(x, condition)
        return self.layernorm(x)


class ClipBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        mlp = {"c_fc": nn.Linear(width, 4 * width), "gelu": nn.Identity(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential()
        for name, part in mlp.items():
            self.mlp.add_module(name, part)


def clip_stack(width: int, depth: int, heads: int) -> nn.Module:
    return Holder(resblocks=nn.Sequential(*(ClipBlock(width, heads) for _ in range(depth))))


class Clip(nn.Module):
    """OpenAI's CLIP by its names: image tower under `visual.`, text tower beside it; it is never run."""

    def __init__(self, width: int = 12, depth: int = 2, heads: int = 2, patch: int = 4, side: int = 3) -> None:
        super().__init__()
        self.visual = Holder(
            conv1=nn.Conv2d(3, width, patch, patch, bias=False),
            class_embedding=nn.Parameter(torch.randn(width)),
            positional_embedding=nn.Parameter(torch.randn(side * side + 1, width)),
            ln_pre=nn.LayerNorm(width),
            transformer=clip_stack(width, depth, heads),
            ln_post=nn.LayerNorm(width),
            proj=nn.Parameter(torch.randn(width, 7)),
        )
        self.transformer = clip_stack(8, 1, 2)
        self.token_embedding = nn.Embedding(11, 8)
        self.positional_embedding = nn.Parameter(torch.randn(5, 8))
        self.ln_final = nn.LayerNorm(8)
        self.text_projection = nn.Parameter(torch.randn(8, 7))
        self.logit_scale = nn.Parameter(torch.ones([]))
