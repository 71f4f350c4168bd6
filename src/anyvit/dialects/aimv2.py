"""Apple's AIM and AIMv2: a norm after the patch kernel; in AIMv2 RMSNorm, fc1 gates, fc3 is multiplied, fc2 goes back."""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.timm import QKV, B
from anyvit.rules import Dialect, R

T = "trunk.blocks.{i}."

AIMV2 = Dialect(
    "aimv2",
    (
        R("preprocessor.patchifier.proj.{p}", "embed.patch.{p}"),
        R("preprocessor.patchifier.norm.{p}", "embed.patch_norm.{p}"),
        R("preprocessor.pos_embed", "embed.pos", "1 n d -> n d"),
        R(T + "<norm_1|norm_2>.{p}", B + "<norm1|norm2>.{p}"),
        R(T + "attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
        R(T + "attn.proj.{p}", B + "attn.out.{p}"),
        # SwiGLUFFN computes fc2(silu(fc1 x) * fc3 x): aim-v2/aim/v2/torch/layers.py
        R(T + "mlp.<fc1|fc3|fc2>.{p}", B + "mlp.<gate|up|down>.{p}"),
        R("trunk.post_trunk_norm.{p}", "norm.{p}"),
        R("head.cls_token", "pool.query", "1 s d -> s d"),
        R("head.<k|v>.{p}", "pool.<k|v>.{p}"),
        R("head.linear.{p}", "pool.out.{p}"),
        R("../image_projector.weight", "proj.weight"),
    ),
    source="apple/ml-aim aim-v2/aim/v2/torch/{models,layers}.py",
    title="AIMv2",
    lineage="aimv2",
    tower="image_encoder.",
)

PROBE = "outside: the attention probe, which norms the mean of several blocks with a batch norm of its own"

AIM = replace(
    AIMV2,
    name="aim",
    rules=(
        *(rule for rule in AIMV2.rules if not rule.theirs.startswith(("head.", "../", T + "mlp."))),
        R(T + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
        R("head.<cls_token|k.weight|v.weight|linear.weight>", None, why=PROBE),
        R("head.bn.<running_mean|running_var|num_batches_tracked>", None, why=PROBE),
    ),
    source="apple/ml-aim aim-v1/aim/v1/torch/{models,layers}.py",
    title="AIM (the first)",
    lineage="aim",
    tower="",
)

DIALECTS = (AIM, AIMV2)
