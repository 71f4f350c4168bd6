"""NVIDIA's RADIO: timm's blocks behind a patch generator; class tokens and registers lie in one tensor.

How many of its rows are class tokens stands in the file's `args`, so the size of `t` is given.
"""

from __future__ import annotations

from anyvit.dialects.timm import BASE, QKV, B
from anyvit.rules import Dialect, R, without

G = "patch_generator."
SUMMARIES = "which class tokens are summaries; stands in the specification"
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
        R(B + "<layer_scale1|layer_scale2>.lambda1", B + "<ls1|ls2>", why="transformers' RadioModel", reads_only=True),
        R(B + "attn.<q_norm|k_norm|norm>.{p}", B + "attn.<q_norm|k_norm|norm>.{p}"),
        R(B + "mlp.norm.{p}", B + "mlp.norm.{p}"),
        R(B + "mlp.w12.{p}", B + "mlp.[gate|up].{p}", QKV),
        R(B + "mlp.w3.{p}", B + "mlp.down.{p}"),
        R("../input_conditioner.<norm_mean|norm_std>", None, why=PIXELS),
        R("../_feature_normalizer.<mean|tx>", "whiten.<mean|weight>"),
        R("../summary_idxs", None, why=SUMMARIES),
    ),
    source="NVlabs/RADIO radio/{vit_patch_generator,cls_token,enable_cpe_support,dinov2_arch}.py",
    title="RADIO",
    lineage="radio",
    tower="base_model.",
    container="torch",
    sizes={"c": 3},
)

L = "encoder.layer.{i}."

HF_RADIO_MEMORY = Dialect(
    "hf-radio-memory",
    (
        R("embeddings.patch_projection.weight", "embed.patch.weight", "d (c p1 p2) -> d c p1 p2"),
        R("embeddings.patch_projection.bias", "embed.patch.bias"),
        R("embeddings.cls_register_token", "embed.[cls|reg]", "(t+r) d -> t d, r d"),
        R("embeddings.position_embedding", "embed.pos", "1 n d -> n d"),
        R(L + "<norm1|norm2>.{p}", B + "<norm1|norm2>.{p}"),
        R(L + "attention.<q_proj|k_proj|v_proj|o_proj>.{p}", B + "attn.<q|k|v|out>.{p}"),
        R(L + "<layer_scale1|layer_scale2>.lambda1", B + "<ls1|ls2>"),
        R(L + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("input_conditioner.<norm_mean|norm_std>", None, why=PIXELS),
        R("summary_idxs", None, why=SUMMARIES),
    ),
    source="huggingface/transformers v5.23.0: models/radio/modeling_radio.py, conversion_mapping.py",
    title="transformers RadioModel, names in memory (transformers 5)",
    lineage="radio",
    sizes={"c": 3},
)

DIALECTS = (RADIO, HF_RADIO_MEMORY)
