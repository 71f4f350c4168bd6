"""OpenCLIP: its own image tower, the one with CoCa's pool, and timm models as trunk."""

from __future__ import annotations

from collections.abc import Iterable

from anyvit.dialects import timm
from anyvit.dialects.openai_clip import BLOCK
from anyvit.dialects.openai_clip import RULES as CLIP
from anyvit.dialects.timm import ALL_BIASES, QKV, ROWS, B
from anyvit.rules import Dialect, R, Rule, without

RULES = (
    *CLIP,
    R(BLOCK + "<ls_1|ls_2>.gamma", B + "<ls1|ls2>"),
    R(BLOCK + "attn.<ln_q|ln_k>.{p}", B + "attn.<q_norm|k_norm>.{p}"),
    R(BLOCK + "attn.ln_inner.{p}", B + "attn.norm.{p}"),
    R(BLOCK + "mlp.ln.{p}", B + "mlp.norm.{p}"),
)

OPEN_CLIP = Dialect(
    "open_clip",
    RULES,
    source="mlfoundations/open_clip v3.3.0: src/open_clip/transformer.py, VisionTransformer",
    title="OpenCLIP",
    lineage="open_clip",
    root="visual.",
    requires=(*ROWS, *ALL_BIASES),
    also=("open_clip-coca", "open_clip-clipa", "open_clip-timm"),
)

COCA = Dialect(
    "open_clip-coca",
    (
        *without(RULES, "ln_post.{p}"),
        R("attn_pool.query", "pool.query"),
        R("attn_pool.attn.<q_proj_weight|k_proj_weight|v_proj_weight>", "pool.<q|k|v>.weight"),
        R(
            "attn_pool.attn.in_proj_weight",
            "pool.[q|k|v].weight",
            QKV,
            reads_only=True,
            why="pool of the tower's width",
        ),
        R("attn_pool.attn.in_proj_bias", "pool.[q|k|v].bias", QKV),
        R("attn_pool.attn.out_proj.{p}", "pool.out.{p}"),
        R("attn_pool.<ln_q|ln_k>.{p}", "pool.<norm_q|norm_kv>.{p}"),
        R("ln_post.{p}", "fc_norm.{p}", why="comes after the pool and has its width"),
    ),
    source="mlfoundations/open_clip v3.3.0: src/open_clip/transformer.py, AttentionalPooler",
    title="OpenCLIP with an attention pool (CoCa)",
    lineage="open_clip",
    root="visual.",
    requires=(*ROWS, *ALL_BIASES, "pool.query"),
)


CLIPA = Dialect(
    "open_clip-clipa",
    (
        *without(RULES, "ln_pre.{p}", "ln_post.{p}"),
        R("ln_post.{p}", "fc_norm.{p}", why="final_ln_after_pool"),
    ),
    source="mlfoundations/open_clip v3.3.0: model_configs/ViT-*-CLIPA*.json, src/open_clip/transformer.py",
    title="OpenCLIP's CLIPA (no first norm, the last one after the mean)",
    lineage="open_clip-clipa",
    root="visual.",
    requires=(*ROWS, *ALL_BIASES, "fc_norm.weight"),
)


def trunk(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules of a timm model that is OpenCLIP's image tower: its head projects into the joint space.

    Source: mlfoundations/open_clip v3.3.0: src/open_clip/timm_model.py.
    """
    return (
        *(rule for rule in rules if rule.ours not in ("head.{p}", "head_dist.{p}", "pre_logits.{p}")),
        R("head.{p}", "proj.{p}", reads_only=True, why="timm_proj: null"),
        R("../head.proj.{p}", "proj.{p}", why="timm_proj: linear"),
        R("../head.mlp.<fc1|fc2>.{p}", "proj.<fc1|fc2>.{p}", why="timm_proj: mlp"),
    )


TRUNK = Dialect(
    "open_clip-timm",
    trunk(timm.RULES),
    source="mlfoundations/open_clip v3.3.0: src/open_clip/timm_model.py",
    title="OpenCLIP with a timm VisionTransformer (SigLIP)",
    lineage="open_clip",
    root="visual.trunk.",
    prefix_rows="all",
)

DIALECTS = (OPEN_CLIP, COCA, CLIPA, TRUNK)
