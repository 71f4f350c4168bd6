"""Meta's Perception Encoder: OpenAI CLIP's names with LayerScale and an attention pool."""

from __future__ import annotations

from anyvit.dialects.timm import QKV, B
from anyvit.rules import Dialect, R

T = "transformer.resblocks.{i}."

PE = Dialect(
    "pe",
    (
        R("conv1.{p}", "embed.patch.{p}"),
        R("class_embedding", "embed.cls", "d -> 1 d"),
        R("positional_embedding", "embed.[pos_prefix|pos]", "(k+n) d -> k d, n d"),
        R("<ln_pre|ln_post>.{p}", "<embed.norm|norm>.{p}"),
        R(T + "<ln_1|ln_2>.{p}", B + "<norm1|norm2>.{p}"),
        R(T + "attn.in_proj_<weight|bias>", B + "attn.[q|k|v].{p}", QKV),
        R(T + "attn.out_proj.{p}", B + "attn.out.{p}"),
        R(T + "<ls_1|ls_2>.gamma", B + "<ls1|ls2>"),
        R(T + "mlp.<c_fc|c_proj>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("attn_pool.probe", "pool.query", "1 s d -> s d"),
        R("attn_pool.attn.in_proj_<weight|bias>", "pool.[q|k|v].{p}", QKV),
        R("attn_pool.attn.out_proj.{p}", "pool.out.{p}"),
        R("attn_pool.layernorm.{p}", "pool.norm.{p}"),
        R("attn_pool.mlp.<c_fc|c_proj>.{p}", "pool.mlp.<fc1|fc2>.{p}"),
        R("proj", "proj.weight", "d o -> o d"),
    ),
    source="facebookresearch/perception_models core/vision_encoder/pe.py",
    title="Perception Encoder",
    lineage="pe",
    root="visual.",
    container="torch",
)

DIALECTS = (PE,)
