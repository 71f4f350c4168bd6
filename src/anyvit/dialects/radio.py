"""NVIDIA's RADIO: timm's blocks behind a patch generator; class tokens and registers lie in one tensor.

How many of its rows are class tokens stands in the file's `args`, so the size of `t` is given.
"""

from __future__ import annotations

from anyvit.dialects.timm import BASE, QKV, B
from anyvit.rules import Dialect, R, without

G = "patch_generator."
PIXELS = "normalises the pixels; stands in the specification as mean and std"

RADIO = Dialect(
    "radio",
    (
        *without(BASE, "patch_embed.proj.{p}", "cls_token", "dist_token", "pos_embed", "head.{p}"),
        R(G + "embedder.weight", "embed.patch.weight", "d (c p1 p2) -> d c p1 p2"),
        R(G + "embedder.bias", "embed.patch.bias"),
        R(G + "cls_token.token", "embed.[cls|reg]", "(t+r) d -> t d, r d"),
        R(G + "pos_embed", "embed.pos", "1 n d -> n d"),
        R(G + "patch_normalizer.{p}", "embed.norm.{p}"),
        R("reg_token", None, why="left over from the timm model inside; the patch generator has its own registers"),
        R(B + "<ls1|ls2>.gamma", B + "<ls1|ls2>"),
        R(B + "<ls1|ls2>.grandma", B + "<ls1|ls2>", why="gamma, renamed for the hub", reads_only=True),
        R(B + "attn.<q_norm|k_norm|norm>.{p}", B + "attn.<q_norm|k_norm|norm>.{p}"),
        R(B + "mlp.norm.{p}", B + "mlp.norm.{p}"),
        R(B + "mlp.w12.{p}", B + "mlp.[gate|up].{p}", QKV),
        R(B + "mlp.w3.{p}", B + "mlp.down.{p}"),
        R("../input_conditioner.<norm_mean|norm_std>", None, why=PIXELS),
        R("../_feature_normalizer.<mean|tx>", "whiten.<mean|weight>"),
        R("../summary_idxs", None, why="which class tokens are summaries; stands in the specification"),
    ),
    source="NVlabs/RADIO radio/{vit_patch_generator,cls_token,enable_cpe_support,dinov2_arch}.py",
    title="RADIO",
    lineage="radio",
    tower="base_model.",
    container="torch",
    sizes={"c": 3},
)

DIALECTS = (RADIO,)
