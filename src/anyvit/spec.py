"""The architecture of a Vision Transformer as plain values, each with where it is known from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

How = Literal["measured", "given", "assumed"]


@dataclass(frozen=True)
class Fact:
    """One value and why it is believed.

    Arguments:
        value: the value.
        how: "measured" (names, shapes or the weights themselves), "given" (a config, an argument) or "assumed".
        source: the evidence in words.
    """

    value: Any
    how: How
    source: str

    def __str__(self) -> str:
        return f"{self.value} ({self.how}: {self.source})"


PLAIN = ("mlp", "parallel_scaling", "mlp_x2")
"""Values of `ffn` whose MLP has two matrices and no gate."""


@dataclass(frozen=True)
class Rope:
    """A rotary position embedding; nothing of it but optional tables is in a file.

    Arguments:
        base: the base of the frequencies (10000, or 100).
        layout: "half" rotates channel j with j + e/4 inside each axis' half ("rotate_half"), "interleaved" rotates
            pairs.
        first: the axis that the first half of a head's channels encodes, "row" or "column".
        coords: "index" (0, 1, 2 …), "index1" (1, 2, 3 …), "normalized" ((i + 0.5) / size · 2 − 1, DINOv3),
            "scaled" (i / size · reference, EVA).
        reference: patches per side that "scaled" coordinates are scaled to.
        span: over which channels the halves are laid out: "axes" (each half has its own rotation pairs), or
            "head" (DINOv3: angles of both axes side by side, the rotation pairs channel j with j + e/2).
        mixed: learned frequencies per block and head (`rope.freqs`).
        max_freq: "pixel" frequencies are linspace(1, max_freq/2)·π (timm), None for `base`.
    """

    base: float = 10000.0
    layout: Literal["half", "interleaved"] = "half"
    first: Literal["row", "column"] = "row"
    coords: Literal["index", "index1", "normalized", "scaled"] = "index"
    reference: int | None = None
    span: Literal["axes", "head"] = "axes"
    mixed: bool = False
    max_freq: float | None = None


@dataclass(frozen=True)
class Spec:
    """The architecture; what names and shapes leave open stands in `facts` as given or assumed.

    Sizes are in pixels where they say so, in tokens or channels elsewhere; a size that is equal on both axes is an int,
    otherwise (height, width).
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    head_dim: int | None = None
    """Channels of one head where heads do not divide the width evenly; None: embed_dim / num_heads."""
    patch_size: int | tuple[int, int] = 16
    image_size: int | tuple[int, int] | None = None
    """Pixels of the native grid; None where no position table fixes one."""
    in_chans: int = 3
    mlp_dim: int = 3072
    num_classes: int = 0
    num_registers: int = 0
    num_cls: int = 1
    """Class tokens, 0 where there is none."""
    dist_token: bool = False
    mask_token: bool = False
    """Whether the mask token of pre-training is kept; features do not use it."""
    norm: str = "layernorm"
    eps: float = 1e-6
    act: str = "gelu"
    ffn: str = "mlp"
    qkv_bias: bool | str = True
    """True, False, or "qv" (no key bias)."""
    diff_attn: str | None = None
    """Differential attention, the difference of two softmax maps: None, "vectors" (λ of four vectors) or "scalars"."""
    qk_norm: bool | str = False
    """False, "head" (per head) or "full" (over the full width, before the heads are cut)."""
    layer_scale: bool = False
    mlp_layer_scale: bool = True
    """Whether LayerScale, where there is one, scales the MLP branch too."""
    pre_norm: bool = False
    final_norm: str | None = "norm"
    """None, "norm" (at or before the pool), "fc_norm" (after it) or "both"."""
    pos_embed: str = "learned"
    sincos: str = "big_vision"
    """Whose sine-cosine table it is where none is stored (see `relpos.sincos2d`)."""
    pool: str = "cls"
    patch_bias: bool = True
    patch_norm: bool = False
    proj_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    attn_norm: bool = False
    mlp_norm: bool = False
    block_norm: str = "pre"
    """"pre" (norm before each branch) or "post" (after it, before the sum)."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the stored position table."""
    pos_prefix: int = 0
    """Rows of the position table that belong to prefix tokens (cls, then dist, then registers)."""
    rope: Rope | None = None
    window: int | None = None
    """Tokens per side of windowed attention (SAM)."""
    global_blocks: tuple[int, ...] = ()
    cls_norm: bool = False
    tokens_normed: bool = True
    """Whether the source's feature function applies the final norm to the tokens."""
    pool_normed: bool = True
    """Whether the pool takes tokens after the final norm (CLIPForImageClassification's mean does not)."""
    pre_logits_dim: int | None = None
    projection_dim: int | None = None
    projection: str = "linear"
    """"linear", "mlp", or "identity" (SigLIP: the pooled vector stands in the joint space)."""
    projection_bias: bool = False
    """Whether the projection (the last matrix of an MLP) has a bias."""
    projection_mlp_dim: int | None = None
    """Inputs of the last matrix of a projection MLP; None: twice its outputs."""
    pool_layers: int = 1
    """Of how many blocks, counted from the last, "cls+avg" joins the class tokens (DINOv2's linear classifiers: 1 or 4)."""
    pool_heads: int | None = None
    pool_queries: int = 0
    pool_norms: tuple[str, ...] = ()
    """Which norms the attention pool has: "q", "kv", "mlp"."""
    pool_dim: int | None = None
    """Width of the attention pool where it is not that of the trunk (CoCa)."""
    pool_prefix: bool | None = None
    """Whether the pool sees the prefix tokens; None: "attn_pool" does, "map" and "avg" do not."""
    pool_mlp_dim: int | None = None
    pool_bias: bool = True
    pool_has_q: bool = True
    pool_out_bias: bool = True
    head_norm: bool = False
    """A BatchNorm without affine before the classifier (linear probes)."""
    whiten: bool = False
    """Whether the features' patches are centred and rotated after everything else (RADIO's feature normalizer)."""
    neck_dim: int | None = None
    condition: str | None = None
    """None, "instantmesh" (shift and scale of both branches) or "dit" (gates too)."""
    condition_inputs: int | None = None
    """Numbers per camera that the file's own embedder takes."""
    summary: tuple[int, ...] | None = None
    """Which class tokens are joined to `pooled` (RADIO); None: all."""
    resample: Mapping[str, Any] | str = "timm"
    """The recipe of the source for position tables of another size (see `resample`)."""
    rel_mlp_dim: int | None = None
    """Hidden width of the MLP from offsets to relative biases (`pos_embed` "relpos_mlp")."""
    rel_mlp_log: str = "log"
    """Its offsets: "log" (log of 1 + patches) or "swin" (log2 of offsets scaled to 8; sigmoid times 16 after it)."""
    rel_resample: str = "beit-geometric"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    dialect: str = ""
    lineage: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict, repr=False, compare=False)

    @property
    def patch(self) -> tuple[int, int]:
        """Patch height and width in pixels."""
        return pair(self.patch_size)

    @property
    def heads_dim(self) -> int:
        """Channels of one head."""
        return self.head_dim or self.embed_dim // self.num_heads

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches: class tokens, distillation token, registers."""
        return self.num_cls + int(self.dist_token) + self.num_registers

    def with_facts(self, how: How, source: str, **values: Any) -> Spec:
        """A copy with other values, each with its reason.

        Example:
            >>> Spec().with_facts("given", "config.json", eps=1e-12).facts["eps"].how
            'given'
        """
        facts = {**self.facts, **{name: Fact(value, how, source) for name, value in values.items()}}
        return replace(self, **values, facts=facts)

    def values(self) -> dict[str, Any]:
        """All values by field name, without the facts."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "facts"}


def pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """(height, width) of a size.

    Example:
        >>> pair(16), pair((2, 3))
        ((16, 16), (2, 3))
    """
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def single(size: tuple[int, int]) -> int | tuple[int, int]:
    """An int where both sides agree.

    Example:
        >>> single((16, 16)), single((2, 3))
        (16, (2, 3))
    """
    return size[0] if size[0] == size[1] else (size[0], size[1])
