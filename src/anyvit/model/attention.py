"""Multi-head self-attention with every kind of position that acts inside it, and windows over the grid."""

from __future__ import annotations

from math import exp
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from anyvit.errors import BadArgument
from anyvit.expected import LAMBDAS
from anyvit.model.layers import choose, empty, linear, make_norm
from anyvit.model.positions import (
    Grid,
    RelativeBias,
    RelativeMlp,
    decomposed_bias,
    kinds,
    native_grid,
    relative_rows,
)  # fmt: skip
from anyvit.model.rope import Turn, rotate
from anyvit.spec import Spec


class Place(NamedTuple):
    """Where the tokens of a block stand.

    Arguments:
        grid: rows and columns of patches.
        turn: cosines and sines of a rotary embedding.
        index: (N, N) rows of a relative table.
        bias: (1, h, N, N) attention bias that all blocks share.
    """

    grid: Grid
    turn: Turn | None = None
    index: Tensor | None = None
    bias: Tensor | None = None


class Attention(nn.Module):
    """Self-attention; queries, keys and values of all heads are one matrix, rows in that order.

    Arguments:
        spec: the architecture.
        native: rows and columns of the decomposed relative tables, None where there are none.
    """

    def __init__(self, spec: Spec, native: Grid | None = None) -> None:
        super().__init__()
        self.heads, self.rope, self.qk_norm = spec.num_heads, spec.rope, spec.qk_norm
        self.normed = spec.heads_dim // (2 if spec.diff_attn else 1)
        width = spec.num_heads * spec.heads_dim
        self.qkv = linear(spec.embed_dim, 3 * width, bool(spec.qkv_bias))
        self.out = linear(width, spec.embed_dim, spec.proj_bias)
        self.norm = make_norm(spec, width) if spec.attn_norm else nn.Identity()
        if self.qk_norm:
            # InternViT's norm over the full width is RMS whatever the blocks' norm is (modeling_intern_vit.py).
            wide = choose("qk_norm", self.qk_norm, {"head": False, "full": True})
            self.q_norm, self.k_norm = (
                make_norm(spec, width, "rmsnorm") if wide else make_norm(spec, self.normed) for _ in "qk"
            )
        self.rel_mlp = RelativeMlp(spec) if "relpos_mlp" in kinds(spec) else None
        if "relpos" in kinds(spec):
            grid = native_grid(spec)
            self.rel_pos = empty(relative_rows(grid, spec.num_prefix > 0), spec.num_heads)
            self.relative = RelativeBias(spec)
        self.decomposed = native is not None
        if native is not None:
            self.rel_pos_h = empty(2 * native[0] - 1, spec.heads_dim)
            self.rel_pos_w = empty(2 * native[1] - 1, spec.heads_dim)

    def forward(self, x: Tensor, place: Place) -> Tensor:
        q, k, v = self.project(x)  # (B, h, N, e) each
        bias = self.bias(q, place)
        q, k = self.turned(q, place.turn), self.turned(k, place.turn)
        return self.join(self.attend(q, k, v, bias))  # (B, N, D)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the heads, (B, h, N, e) each, not turned yet."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, N, h·e) each
        if self.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if self.qk_norm == "head":
            q, k = (n(t.unflatten(-1, (-1, self.normed))).flatten(-2) for n, t in ((self.q_norm, q), (self.k_norm, k)))
        return q, k, v

    def turned(self, x: Tensor, turn: Turn | None) -> Tensor:
        """Queries or keys (B, h, N, e) at their positions."""
        return x if self.rope is None or turn is None else rotate(x, turn, self.rope)

    def join(self, x: Tensor) -> Tensor:
        """The heads' answers (B, h, N, e) to tokens (B, N, D)."""
        return self.out(self.norm(x.transpose(1, 2).flatten(2)))

    @property
    def plain(self) -> bool:
        """Whether it is one softmax over q·k, to which no table of its own adds."""
        return not self.decomposed and self.rel_mlp is None and not hasattr(self, "rel_pos")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Values mixed by attention: queries, keys and values (B, h, N, e) each to (B, h, N, e)."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    def bias(self, q: Tensor, place: Place) -> Tensor | None:
        """What is added to the attention logits: None or (1 or B, h, N, N)."""
        bias = place.bias
        if place.index is not None and hasattr(self, "rel_pos"):
            own = self.relative(self.rel_pos, place.index, place.grid)
            bias = own if bias is None else bias + own
        if self.decomposed:
            own = decomposed_bias(q, self.rel_pos_h, self.rel_pos_w, place.grid)
            bias = own if bias is None else bias + own
        if self.rel_mlp is not None:
            own = self.rel_mlp(place.grid)
            bias = own if bias is None else bias + own
        return None if bias is None else bias.to(q.dtype)


class DifferentialAttention(Attention):
    """Attention as the difference of two softmax maps, the second weighed by a learned λ; each head's output is normed.

    Source: Ye et al. 2024, "Differential Transformer", https://arxiv.org/abs/2410.05258; timm 1.0.31:
    layers/diff_attention.py DiffAttention

    Arguments:
        spec: the architecture.
        number: the block's number, from 0, which the start of λ depends on.
    """

    EPS = 1e-5
    lambda_a: Tensor
    lambda_b: Tensor
    lambda_q1: Tensor
    lambda_k1: Tensor
    lambda_q2: Tensor
    lambda_k2: Tensor

    @property
    def plain(self) -> bool:
        """False: it is two softmax maps."""
        return False

    def __init__(self, spec: Spec, number: int) -> None:
        super().__init__(spec)
        if spec.rope or spec.pos_embed not in ("learned", "none"):
            raise BadArgument("differential attention is for learned positions", found=spec.pos_embed)
        self.start = 0.8 - 0.6 * exp(-0.3 * number)
        self.sub_norm = nn.RMSNorm(spec.heads_dim, eps=self.EPS)
        self.vectors = choose("diff_attn", spec.diff_attn, {"vectors": True, "scalars": False})
        for name in LAMBDAS[str(spec.diff_attn)]:
            self.register_parameter(name, empty(*(spec.heads_dim // 2,) * self.vectors))

    def weight(self) -> Tensor:
        """λ, one number."""
        if self.vectors:
            first, second = (self.lambda_q1 * self.lambda_k1).sum(), (self.lambda_q2 * self.lambda_k2).sum()
            return first.exp() - second.exp() + self.start
        return self.lambda_a.exp() - self.lambda_b.exp() + self.start

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        (q1, q2), (k1, k2) = (t.chunk(2, dim=-1) for t in (q, k))  # (B, h, N, e / 2) each
        x = F.scaled_dot_product_attention(q1, k1, v, attn_mask=bias)  # (B, h, N, e)
        x = x - self.weight().to(x.dtype) * F.scaled_dot_product_attention(q2, k2, v, attn_mask=bias)
        return self.sub_norm(x) * (1 - self.start)


def to_windows(x: Tensor, grid: Grid, size: int) -> Tensor:
    """Tokens of a grid, cut into windows, padded with zeros at the bottom and the right.

    Arguments:
        x: (B, h·w, D) tokens, row by row.
        grid: (h, w).
        size: tokens per side of a window.

    Returns:
        (B · windows, size², D)

    Example:
        >>> import torch
        >>> to_windows(torch.arange(6.0).view(1, 6, 1), (2, 3), 2).squeeze(-1).int().tolist()
        [[0, 1, 3, 4], [2, 0, 5, 0]]
    """
    x = x.unflatten(1, grid)  # (B, h, w, D)
    x = F.pad(x, (0, 0, 0, -grid[1] % size, 0, -grid[0] % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, down, size, across, size, D)
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def from_windows(x: Tensor, grid: Grid, size: int) -> Tensor:
    """The inverse of `to_windows`: (B · windows, size², D) to (B, h·w, D), the padding cut off.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 15, 4)
        >>> torch.equal(from_windows(to_windows(x, (3, 5), 2), (3, 5), 2), x)
        True
    """
    down, across = -(-grid[0] // size), -(-grid[1] // size)
    x = (
        x.unflatten(1, (size, size)).unflatten(0, (-1, down, across)).transpose(2, 3)
    )  # (B, down, size, across, size, D)
    x = x.flatten(3, 4).flatten(1, 2)  # (B, h + padding, w + padding, D)
    return x[:, : grid[0], : grid[1]].flatten(1, 2)
