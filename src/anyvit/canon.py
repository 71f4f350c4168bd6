"""The canonical vocabulary: the finest names there are, each with its shape in letters, its role and its meaning.

Every dialect translates to these names and from them. The set of names that is present *is* the architecture: a model
without a cls token has no `embed.cls`, one without a key bias no `blocks.{i}.attn.k.bias`.

Letters: d width · n patches of the stored table · k prefix rows of the table · r registers · t class tokens · c
channels ·
p q patch height and width · h heads · e width of one head · m inputs of the last MLP matrix · o outputs of a head or
projection · s anything else. Linear weights are (out, in), convolutions (out, in, height, width).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

B = "blocks.{i}."


@dataclass(frozen=True)
class Name:
    """One canonical name.

    Arguments:
        pattern: the name; `{i}` stands for the block number, `{p}` for weight and bias.
        weight: axes of the weight (or of the tensor, where the pattern has no `{p}`).
        bias: axes of the bias.
        role: embed | attention | mlp | norm | scale | position | pool | head | condition | neck.
        means: one line.
        backbone: whether a model that has it cannot do without it.
    """

    pattern: str
    weight: str
    role: str
    means: str
    bias: str = "d"
    backbone: bool = True


NAMES: tuple[Name, ...] = (
    Name("embed.patch.{p}", "d c p q", "embed", "patch kernel"),
    Name("embed.patch_norm.{p}", "d", "norm", "norm right after the patch kernel (AIMv2)"),
    Name("embed.cls", "t d", "embed", "class tokens, the first is `cls`"),
    Name("embed.dist", "d", "embed", "distillation token (DeiT), second in order"),
    Name("embed.reg", "r d", "embed", "registers, after cls, without a position"),
    Name("embed.mask", "d", "embed", "mask token of pre-training; features do not use it", backbone=False),
    Name("embed.pos", "n d", "position", "position table of the patches, row by row"),
    Name("embed.pos_prefix", "k d", "position", "rows of the position table that belong to prefix tokens"),
    Name("embed.norm.{p}", "d", "norm", "norm before block 0 (CLIP's ln_pre)"),
    Name("embed.rel_pos", "s h", "position", "relative position table that all blocks share (BEiT)"),
    Name("embed.rel_mlp.fc1.{p}", "s s", "position", "MLP from offsets to relative biases, shared (timm)", bias="s"),
    Name("embed.rel_mlp.fc2.{p}", "h s", "position", "its last matrix, one output a head", bias="h"),
    Name("rope.periods", "s", "position", "periods of DINOv3's rotary embedding", backbone=False),
    Name(
        "rope.freqs", "s s h s", "position", "learned frequencies of a mixed rotary embedding: axis, block, head, pair"
    ),
    Name(B + "norm1.{p}", "d", "norm", "norm of the attention branch"),
    Name(B + "norm2.{p}", "d", "norm", "norm of the MLP branch"),
    Name(B + "attn.q.{p}", "d d", "attention", "queries, heads in order"),
    Name(B + "attn.k.{p}", "d d", "attention", "keys"),
    Name(B + "attn.v.{p}", "d d", "attention", "values"),
    Name(B + "attn.out.{p}", "d d", "attention", "output projection"),
    Name(B + "attn.q_norm.{p}", "e", "norm", "norm of the queries, per head (e) or over the full width (d)", bias="e"),
    Name(B + "attn.k_norm.{p}", "e", "norm", "norm of the keys", bias="e"),
    Name(B + "attn.norm.{p}", "d", "norm", "norm between attention and its output projection (EVA sub-norm)"),
    Name(B + "attn.sub_norm.weight", "e", "norm", "RMS norm of every head's output (differential attention)"),
    Name(B + "attn.lambda_q1", "s", "attention", "differential attention: λ = exp(q1·k1) − exp(q2·k2) + its start"),
    Name(B + "attn.lambda_k1", "s", "attention", "see lambda_q1"),
    Name(B + "attn.lambda_q2", "s", "attention", "see lambda_q1"),
    Name(B + "attn.lambda_k2", "s", "attention", "see lambda_q1"),
    Name(
        B + "attn.lambda_a", "", "attention", "differential attention with two numbers: λ = exp(a) − exp(b) + its start"
    ),
    Name(B + "attn.lambda_b", "", "attention", "see lambda_a"),
    Name(B + "attn.rel_pos", "s h", "position", "relative position table of this block (BEiT)"),
    Name(B + "attn.rel_mlp.fc1.{p}", "s s", "position", "MLP from offsets to relative biases of this block", bias="s"),
    Name(B + "attn.rel_mlp.fc2.{p}", "h s", "position", "its last matrix, one output a head", bias="h"),
    Name(B + "attn.rel_pos_h", "s e", "position", "decomposed relative positions, rows (SAM)"),
    Name(B + "attn.rel_pos_w", "s e", "position", "decomposed relative positions, columns (SAM)"),
    Name(B + "ls1", "d", "scale", "LayerScale of the attention branch"),
    Name(B + "ls2", "d", "scale", "LayerScale of the MLP branch"),
    Name(B + "mlp.fc1.{p}", "m d", "mlp", "MLP, first matrix", bias="m"),
    Name(B + "mlp.fc2.{p}", "d m", "mlp", "MLP, last matrix"),
    Name(B + "mlp.gate.{p}", "m d", "mlp", "gated MLP, the half that goes through the activation", bias="m"),
    Name(B + "mlp.up.{p}", "m d", "mlp", "gated MLP, the half that is multiplied", bias="m"),
    Name(B + "mlp.down.{p}", "d m", "mlp", "gated MLP, last matrix"),
    Name(B + "mlp.norm.{p}", "m", "norm", "norm before the last MLP matrix (EVA sub-norm)", bias="m"),
    Name(B + "adaln.shift1.{p}", "d d", "condition", "AdaLN shift after norm1"),
    Name(B + "adaln.scale1.{p}", "d d", "condition", "AdaLN scale after norm1"),
    Name(B + "adaln.gate1.{p}", "d d", "condition", "AdaLN gate of the attention branch (DiT)"),
    Name(B + "adaln.shift2.{p}", "d d", "condition", "AdaLN shift after norm2"),
    Name(B + "adaln.scale2.{p}", "d d", "condition", "AdaLN scale after norm2"),
    Name(B + "adaln.gate2.{p}", "d d", "condition", "AdaLN gate of the MLP branch (DiT)"),
    Name("condition.fc1.{p}", "d s", "condition", "camera embedder, first matrix"),
    Name("condition.fc2.{p}", "d d", "condition", "camera embedder, second matrix"),
    Name("norm.{p}", "d", "norm", "final norm"),
    Name("cls_norm.{p}", "d", "norm", "final norm of cls and registers where it differs (DINOv3)"),
    Name(
        "local_cls_norm.{p}", "d", "norm", "DINOv3's cls norm for local crops; features do not use it", backbone=False
    ),
    Name("fc_norm.{p}", "d", "norm", "norm after pooling"),
    Name("pool.query", "s d", "pool", "learned queries of an attention pool (MAP probe)"),
    Name("pool.q.{p}", "d d", "pool", "attention pool, queries"),
    Name("pool.k.{p}", "d d", "pool", "attention pool, keys"),
    Name("pool.v.{p}", "d d", "pool", "attention pool, values"),
    Name("pool.out.{p}", "d d", "pool", "attention pool, output projection"),
    Name("pool.norm_q.{p}", "d", "pool", "attention pool, norm of the queries"),
    Name("pool.norm_kv.{p}", "d", "pool", "attention pool, norm of the tokens"),
    Name("pool.norm.{p}", "d", "pool", "attention pool, norm of its MLP"),
    Name("pool.mlp.fc1.{p}", "m d", "pool", "attention pool, MLP", bias="m"),
    Name("pool.mlp.fc2.{p}", "d m", "pool", "attention pool, MLP"),
    Name("pre_logits.{p}", "o d", "head", "Dense and tanh after pooling (pre-logits, pooler)", "o", backbone=False),
    Name("proj.{p}", "o d", "head", "projection into a joint space", "o", backbone=False),
    Name("proj.fc1.{p}", "m d", "head", "projection MLP, first matrix", "m", backbone=False),
    Name("proj.fc2.{p}", "o m", "head", "projection MLP, second matrix", "o", backbone=False),
    Name("head.{p}", "o d", "head", "classifier", "o", backbone=False),
    Name("head_dist.{p}", "o d", "head", "classifier of the distillation token", "o", backbone=False),
    Name("head_norm.mean", "d", "head", "running mean of a linear probe's BatchNorm", backbone=False),
    Name("head_norm.var", "d", "head", "running variance of a linear probe's BatchNorm", backbone=False),
    Name("whiten.mean", "d", "head", "mean of the patch tokens, taken off the features (RADIO)", backbone=False),
    Name("whiten.weight", "d d", "head", "rotation of the patch tokens of the features (RADIO)", backbone=False),
    Name("neck.conv1.weight", "o d s s", "neck", "SAM's neck, 1 by 1 convolution", backbone=False),
    Name("neck.norm1.{p}", "o", "neck", "SAM's neck, norm over channels", "o", backbone=False),
    Name("neck.conv2.weight", "o s s s", "neck", "SAM's neck, 3 by 3 convolution", backbone=False),
    Name("neck.norm2.{p}", "o", "neck", "SAM's neck, norm over channels", "o", backbone=False),
)


@cache
def _table() -> Mapping[str, tuple[Name, str]]:
    entries: dict[str, tuple[Name, str]] = {}
    for name in NAMES:
        if "{p}" in name.pattern:
            entries[name.pattern.replace("{p}", "weight")] = (name, name.weight)
            entries[name.pattern.replace("{p}", "bias")] = (name, name.bias)
        else:
            entries[name.pattern] = (name, name.weight)
    return entries


@lru_cache(maxsize=8192)
def lookup(name: str) -> tuple[Name, str] | None:
    """The vocabulary's entry for a canonical name, and its axes; None for a name that is not canonical.

    Example:
        >>> entry, axes = lookup("blocks.11.attn.q.weight")
        >>> entry.role, axes
        ('attention', 'd d')
    """
    if name.startswith("blocks."):
        number, _, rest = name[7:].partition(".")
        name = B + rest if number.isdecimal() else name
    return _table().get(name)


def block_of(name: str) -> int | None:
    """The block number of a canonical name, None outside the blocks.

    Example:
        >>> block_of("blocks.11.attn.q.weight"), block_of("norm.bias")
        (11, None)
    """
    if not name.startswith("blocks."):
        return None
    number, dot, _ = name[7:].partition(".")
    return int(number) if dot and number.isdecimal() else None


def role(name: str) -> str:
    """The role of a canonical name; "other" where it has none."""
    found = lookup(name)
    return found[0].role if found else "other"


def is_backbone(name: str) -> bool:
    """Whether a model that has this tensor cannot do without it (heads, projections and mask tokens it can)."""
    found = lookup(name)
    return bool(found and found[0].backbone)
