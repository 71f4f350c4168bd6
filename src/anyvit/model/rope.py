"""Rotary position embeddings of every lineage: which angle each channel turns by, and which channels turn together."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyvit.errors import BadArgument
from anyvit.model.layers import empty
from anyvit.model.positions import Memo
from anyvit.spec import Rope, Spec

Turn = tuple[Tensor, Tensor]
"""Cosines and sines, each (N, e) or (h, N, e), of N tokens and e channels of a head."""


def periods(base: float, count: int) -> Tensor:
    """DINOv3's periods, from 1 to nearly `base` in patches of a picture that spans -1 … 1.

    Source: github.com/facebookresearch/dinov3@6876159:dinov3/layers/rope_position_encoding.py
    """
    return base ** (torch.arange(count, dtype=torch.float32, device="cpu") / count)


def coordinates(rope: Rope, size: int, device: torch.device | None = None) -> Tensor:
    """Where the patches of one axis stand, (size,), float32.

    Source: DINOv3 (normalized), github.com/baaivision/EVA@5623d08:EVA-02/asuka/rope.py (scaled),
    github.com/facebookresearch/perception_models@3e352cc:core/vision_encoder/rope.py (index1).

    Example:
        >>> coordinates(Rope(coords="scaled", reference=16), 4).tolist()
        [0.0, 4.0, 8.0, 12.0]
        >>> coordinates(Rope(coords="normalized"), 2).tolist()
        [-0.5, 0.5]
    """
    if rope.max_freq is not None:
        return torch.linspace(-1.0, 1.0, size, device=device)
    places = torch.arange(size, dtype=torch.float32, device=device)
    if rope.coords == "normalized":
        return (places + 0.5) / size * 2 - 1
    if rope.coords == "index1":
        places = places + 1
    return places if rope.reference is None else places / size * rope.reference


def rotate(x: Tensor, turn: Turn, rope: Rope) -> Tensor:
    """Queries or keys (B, h, N, e), turned by their positions in the precision of the angles."""
    cos, sin = turn
    if rope.layout == "interleaved":
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, h, N, e/2) each
        quarter = torch.stack((-second, first), -1).flatten(-2)  # x after a quarter turn, (B, h, N, e)
    else:
        first, second = x.unflatten(-1, (1 if rope.span == "head" else 2, 2, -1)).unbind(-2)
        quarter = torch.stack((-second, first), -2).flatten(-3)
    return (x * cos + quarter * sin).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Cosines and sines for any grid; prefix tokens stand at angle 0 and are not turned."""

    def __init__(self, spec: Spec, rope: Rope) -> None:
        super().__init__()
        if spec.heads_dim % 4:
            raise BadArgument("RoPE needs a head width that 4 divides", found=spec.heads_dim)
        if rope.coords == "scaled" and rope.reference is None:
            raise BadArgument("scaled RoPE coordinates need `reference`", found=rope, expected="patches per side, 16")
        self.rope, self.depth, self.prefix, self.quarter = rope, spec.depth, spec.num_prefix, spec.heads_dim // 4
        self.memo = Memo()
        if rope.mixed:
            self.freqs = empty(2, spec.depth, spec.num_heads, 2 * self.quarter)
        elif rope.coords == "normalized":
            self.register_buffer("periods", periods(rope.base, self.quarter))

    def reset_parameters(self) -> None:
        """Sets what has no values yet; mixed frequencies as rope-vit: axes at right angles, a random angle per head.

        Source: github.com/naver-ai/rope-vit:deit/models_v2_rope.py init_random_2d_freqs
        """
        if self.rope.mixed:
            size = self.rope.base ** -(torch.arange(self.quarter, device=self.freqs.device) / self.quarter)
            angle = torch.rand(*self.freqs.shape[1:3], 1, device=self.freqs.device) * 2 * math.pi
            both = torch.cat(
                (angle.expand(-1, -1, self.quarter), (angle + math.pi / 2).expand(-1, -1, self.quarter)), -1
            )
            self.freqs.data.copy_(torch.stack((both.cos(), both.sin())) * size.repeat(2))
        elif self.rope.coords == "normalized":
            self.periods = periods(self.rope.base, self.quarter).to(self.periods.device)

    def _apply(self, fn, recurse: bool = True):
        """Moves the periods but keeps them in float32: at 16 bits the angles are off by whole patches."""
        kept = self._buffers.get("periods")
        super()._apply(fn, recurse)
        if kept is not None:
            self.periods = kept.to(self.periods.device)
        return self

    def forward(self, grid: tuple[int, int], device: torch.device) -> list[Turn]:
        """One pair of cosines and sines per block for a grid of (rows, columns)."""
        if self.rope.mixed:
            angles = self._mixed(grid, device)  # (depth, h, N, e)
            return list(zip(angles.cos(), angles.sin(), strict=True))
        table = self._buffers.get("periods")
        angles = self.memo(table, (grid, str(device)), lambda: self._turn(self._axial(grid, device)))
        return [angles] * self.depth

    def _turn(self, angles: Tensor) -> Turn:
        return angles.cos(), angles.sin()

    def _frequencies(self, device: torch.device) -> Tensor:
        if self.rope.coords == "normalized":
            return 2 * math.pi / self.periods.to(device, torch.float32)
        if self.rope.max_freq is not None:
            return torch.linspace(1.0, self.rope.max_freq / 2, self.quarter, device=device) * math.pi
        return 1.0 / self.rope.base ** (torch.arange(self.quarter, dtype=torch.float32, device=device) / self.quarter)

    def _places(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        rows, columns = (coordinates(self.rope, size, device) for size in grid)
        rows, columns = rows.repeat_interleave(grid[1]), columns.repeat(grid[0])  # (h·w,) each
        return (rows, columns) if self.rope.first == "row" else (columns, rows)

    def _axial(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        frequencies = self._frequencies(device)  # (e/4,)
        one, two = (places[:, None] * frequencies for places in self._places(grid, device))  # (h·w, e/4) each
        if self.rope.layout == "interleaved":
            angles = torch.cat((one, two), -1).repeat_interleave(2, -1)
        elif self.rope.span == "head":
            angles = torch.cat((one, two, one, two), -1)
        else:
            angles = torch.cat((one, one, two, two), -1)
        return F.pad(angles, (0, 0, self.prefix, 0))  # (N, e)

    def _mixed(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        one, two = self._places(grid, device)
        freqs = self.freqs.float()
        angles = one[:, None] * freqs[0].unsqueeze(-2) + two[:, None] * freqs[1].unsqueeze(-2)  # (depth, h, h·w, e/2)
        if self.rope.layout == "interleaved":
            angles = angles.repeat_interleave(2, -1)
        else:
            angles = angles.repeat(1, 1, 1, 2)
        return F.pad(angles, (0, 0, self.prefix, 0))
