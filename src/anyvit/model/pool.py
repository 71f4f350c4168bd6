"""What comes after the blocks: pooling, projections, the linear probe's norm and SAM's neck."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyvit.errors import BadArgument
from anyvit.model.features import Features
from anyvit.model.layers import ACTIVATIONS, TwoLinear, bare, choose, empty, linear, make_norm
from anyvit.spec import Spec

POOLS = {"cls": 1, "cls+dist": 1, "avg": 1, "map": 1, "attn_pool": 1, "cls+avg": 2, "none": 0}
"""Widths of the pooled vector in widths of a token."""

NECK_EPS = 1e-6
"""Source: github.com/facebookresearch/segment-anything@dca509f:segment_anything/modeling/common.py LayerNorm2d"""

PROBE_EPS = 1e-6
"""Source: github.com/facebookresearch/mae@efb2a80:main_linprobe.py"""


class AttentionPool(nn.Module):
    """Learned queries attend to the tokens; SigLIP's MAP, PE's, CoCa's and AIMv2's pools are all this.

    The first query's answer is the pooled vector. The query itself is not normed unless the Spec says so, and is added
    to nothing: the residual is around the MLP only.

    Source: github.com/google-research/big_vision@0127fb6:big_vision/models/vit.py MAPHead;
    github.com/facebookresearch/perception_models@3e352cc:core/vision_encoder/pe.py AttentionPooling;
    github.com/mlfoundations/open_clip@89fb801:src/open_clip/transformer.py AttentionalPooler;
    github.com/apple/ml-aim@bd9e068:aim-v2/aim/v2/torch/models.py
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width, bias = spec.pool_dim or spec.embed_dim, spec.pool_bias
        self.heads = spec.pool_heads or spec.num_heads
        self.query = empty(max(1, spec.pool_queries), width)
        self.q = linear(width, width, bias) if spec.pool_has_q else nn.Identity()
        self.k, self.v = linear(spec.embed_dim, width, bias), linear(spec.embed_dim, width, bias)
        self.out = linear(width, width, spec.pool_out_bias)
        self.norm_q = make_norm(spec, width) if "q" in spec.pool_norms else nn.Identity()
        self.norm_kv = make_norm(spec, spec.embed_dim) if "kv" in spec.pool_norms else nn.Identity()
        self.norm = make_norm(spec, width) if "mlp" in spec.pool_norms else nn.Identity()
        act = choose("act", spec.act, ACTIVATIONS)
        self.mlp = TwoLinear(width, spec.pool_mlp_dim, width, act) if spec.pool_mlp_dim else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_kv(x)  # (B, N, D)
        q = self.q(self.norm_q(self.query)).expand(len(x), -1, -1)  # (B, S, D)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, self.k(x), self.v(x)))
        x = F.scaled_dot_product_attention(q, k, v)  # (B, h, S, e)
        x = self.out(x.transpose(1, 2).flatten(2))[:, 0]  # (B, D)
        return x if self.mlp is None else x + self.mlp(self.norm(x))


class HeadNorm(nn.Module):
    """The BatchNorm without affine in front of a linear probe's classifier."""

    mean: Tensor
    var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training, eps=PROBE_EPS)


class Whiten(nn.Module):
    """RADIO's feature normalizer: patch tokens without their mean, rotated.

    Source: github.com/NVlabs/RADIO@c0f3701:radio/feature_normalizer.py FeatureNormalizer
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("weight", torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x - self.mean, self.weight)  # (B, h·w, D)


class Neck(nn.Module):
    """SAM's neck: the patch tokens as a map, through two convolutions."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        kinds = ((spec.embed_dim, 1), (width, 3))
        self.conv1, self.conv2 = (bare(nn.Conv2d, i, width, size, padding=size // 2, bias=False) for i, size in kinds)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=NECK_EPS) for _ in kinds)

    def forward(self, features: Features) -> Tensor:
        return self.map(features.patches, features.grid)

    def map(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h·w, D) patch tokens to a map (B, o, h, w)."""
        x = patches.transpose(1, 2).unflatten(2, grid)  # (B, D, h, w)
        x = self.norm1(self.conv1(x).movedim(1, -1)).movedim(-1, 1)  # (B, o, h, w)
        return self.norm2(self.conv2(x).movedim(1, -1)).movedim(-1, 1)


def summary(spec: Spec) -> tuple[int, ...]:
    """Which class tokens are joined to `pooled`."""
    return tuple(range(spec.num_cls)) if spec.summary is None else tuple(spec.summary)


def pooled_width(spec: Spec) -> int:
    """Channels of what `pool_tokens` gives; 0 where nothing is pooled."""
    count = choose("pool", spec.pool, POOLS)
    if spec.pool == "cls":
        return spec.embed_dim * len(summary(spec))
    if spec.pool == "avg" and spec.neck_dim:
        return spec.neck_dim
    if spec.pool == "cls+avg":
        count = spec.pool_layers + 1
    return count * (spec.pool_dim or spec.embed_dim if spec.pool in ("map", "attn_pool") else spec.embed_dim)


def pool_tokens(
    spec: Spec, x: Tensor, grid: tuple[int, int], pool: nn.Module | None, neck: Neck | None
) -> Tensor | None:
    """One vector (B, D') of the tokens (B, N, D); None where the Spec pools nothing."""
    patches = x[:, spec.num_prefix :]
    everything = spec.pool == "attn_pool" if spec.pool_prefix is None else spec.pool_prefix
    seen = x if everything else patches
    if pool is not None:
        return pool(seen)
    if spec.pool == "cls":
        return x[:, list(summary(spec))].flatten(1) if spec.num_cls > 1 else x[:, 0]
    if spec.pool == "cls+dist":
        return x[:, :2].mean(1)
    if spec.pool == "cls+avg":
        return torch.cat((x[:, 0], patches.mean(1)), -1)
    if spec.pool == "avg":
        return seen.mean(1) if neck is None else neck.map(patches, grid).mean((2, 3))
    return None


def check_pool(spec: Spec) -> None:
    """Raises BadArgument where a Spec pools tokens that it does not have."""
    if spec.pool in ("cls", "cls+avg", "cls+dist") and not spec.num_cls:
        raise BadArgument(f"pool {spec.pool!r} needs a class token", found="num_cls=0", remedy='pool="avg"')
    if spec.pool == "cls+dist" and not spec.dist_token:
        raise BadArgument("pool 'cls+dist' needs a distillation token", found="dist_token=False")
    after = {"final_norm": spec.final_norm in ("fc_norm", "both"), "projection_dim": spec.projection_dim,
             "pre_logits_dim": spec.pre_logits_dim}  # fmt: skip
    if not 1 <= spec.pool_layers <= (spec.depth if spec.pool == "cls+avg" else 1):
        raise BadArgument("pool 'cls+avg' joins class tokens of 1 … depth blocks", found=spec.pool_layers)
    if spec.pool == "none" and any(after.values()):
        names = [name for name, there in after.items() if there]
        raise BadArgument(
            "what comes after a pool needs one", names=names, found="pool='none'", expected='pool="cls" …'
        )
    if any(i >= spec.num_cls for i in summary(spec)):
        raise BadArgument("summary names a class token that is not there", found=spec.summary, expected=spec.num_cls)


def projection(spec: Spec, width: int) -> nn.Module | None:
    """The projection into a joint space: a matrix, or open_clip's MLP.

    Source: github.com/mlfoundations/open_clip@89fb801:src/open_clip/timm_model.py
    """
    if not spec.projection_dim:
        return None
    if spec.projection == "mlp":
        hidden = spec.projection_mlp_dim or 2 * spec.projection_dim
        return TwoLinear(width, hidden, spec.projection_dim, F.gelu, spec.projection_bias)
    return linear(width, spec.projection_dim, spec.projection_bias)
