"""From pixels to tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anyvit.model.layers import bare, empty, make_norm
from anyvit.model.positions import (
    Grid,
    RelativeMlp,
    Resampled,
    kinds,
    native_grid,
    relative_rows,
    sincos,
    stored,
)  # fmt: skip
from anyvit.spec import Spec


class Embed(nn.Module):
    """From pixels to tokens: patches, positions, prefix tokens."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, d = spec, spec.embed_dim
        self.patch = bare(nn.Conv2d, spec.in_chans, d, spec.patch, stride=spec.patch, bias=spec.patch_bias)
        self.patch_norm = make_norm(spec, d) if spec.patch_norm else nn.Identity()
        self.cls = empty(spec.num_cls, d) if spec.num_cls else None
        self.dist = empty(d) if spec.dist_token else None
        self.reg = empty(spec.num_registers, d) if spec.num_registers else None
        self.mask = empty(d) if spec.mask_token else None
        self.native = native_grid(spec) if stored(spec) else None
        self.pos = empty(self.native[0] * self.native[1], d) if self.native else None
        self.pos_prefix = empty(spec.pos_prefix, d) if spec.pos_prefix else None
        self.resampled = Resampled(spec) if self.native else None
        self.norm = make_norm(spec, d) if spec.pre_norm else nn.Identity()
        if "relpos_shared" in kinds(spec):
            self.rel_pos = empty(relative_rows(native_grid(spec), spec.num_prefix > 0), spec.num_heads)
        self.rel_mlp = RelativeMlp(spec) if "relpos_mlp_shared" in kinds(spec) else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        x = self.patch(pixels.to(self.patch.weight.dtype))  # (B, D, h, w)
        grid = (x.shape[2], x.shape[3])
        x = self.patch_norm(x.flatten(2).transpose(1, 2))  # (B, h·w, D)
        positions = self.positions(grid, x.device)  # (h·w, D), or None
        x = x if positions is None else x + positions.to(self.patch.weight.dtype)
        prefix = self.prefix()  # (P, D), or None
        x = x if prefix is None else torch.cat((prefix.expand(len(x), -1, -1).to(x.dtype), x), 1)  # (B, N, D)
        return self.norm(x), grid

    def positions(self, grid: Grid, device: torch.device) -> Tensor | None:
        """The position of each patch, (h·w, D)."""
        if "sincos_unstored" in kinds(self.spec):
            return sincos(grid, self.spec.embed_dim, self.spec.sincos, device)
        if self.pos is None or self.resampled is None or self.native is None:
            return None
        return self.resampled(self.pos, self.native, grid)

    def prefix(self) -> Tensor | None:
        """Class tokens, distillation token, registers, (P, D); the table's prefix rows belong to the first of them."""
        dist = None if self.dist is None else self.dist.unsqueeze(0)
        parts = [part for part in (self.cls, dist, self.reg) if part is not None]
        if not parts:
            return None
        tokens = torch.cat(parts)
        if self.pos_prefix is None:
            return tokens
        k = len(self.pos_prefix)
        return torch.cat((tokens[:k] + self.pos_prefix, tokens[k:]))
