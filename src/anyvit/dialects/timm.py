"""timm's VisionTransformer names, which DINO, MAE, MoCo v3, DeiT and others share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from anyvit.rules import Dialect, R, Rule, without

B = "blocks.{i}."
QKV = "(parts o) ... -> parts o ..."
POS = "1 (k+n) d -> k d, n d"
SOURCE = "huggingface/pytorch-image-models v1.0.31: timm/"

ROWS = ("embed.cls", "embed.pos_prefix")
"""A class token with a row of its own in the position table."""

BIASES = (B + "attn.k.bias", B + "attn.out.bias", B + "mlp.fc1.bias", B + "mlp.fc2.bias")
"""Biases of a plain block whose q, k and v have either all a bias or none."""

ALL_BIASES = (B + "attn.q.bias", B + "attn.v.bias", *BIASES)
"""Biases of a plain block where q, k and v always have one."""

LAMBDAS = "<lambda_q1|lambda_k1|lambda_q2|lambda_k2|lambda_a|lambda_b>"
"""What differential attention weighs its second map by; timm/layers/diff_attention.py."""

MLP = R(B + "mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}")

BASE = (
    R("patch_embed.proj.{p}", "embed.patch.{p}"),
    R("cls_token", "embed.cls", "1 t d -> t d"),
    R("dist_token", "embed.dist", "1 1 d -> d"),
    R("pos_embed", "embed.[pos_prefix|pos]", POS),
    R(B + "<norm1|norm2>.{p}", B + "<norm1|norm2>.{p}"),
    R(B + "attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
    R(B + "attn.proj.{p}", B + "attn.out.{p}"),
    MLP,
    R("norm.{p}", "norm.{p}"),
    R("head.{p}", "head.{p}"),
)

POOL = (
    R("attn_pool.latent", "pool.query", "1 s d -> s d"),
    R("attn_pool.q.{p}", "pool.q.{p}"),
    R("attn_pool.kv.{p}", "pool.[k|v].{p}", QKV),
    R("attn_pool.proj.{p}", "pool.out.{p}"),
    R("attn_pool.norm.{p}", "pool.norm.{p}"),
    R("attn_pool.mlp.<fc1|fc2>.{p}", "pool.mlp.<fc1|fc2>.{p}"),
)

RULES = (
    *BASE,
    R("reg_token", "embed.reg", "1 r d -> r d"),
    R("patch_embed.norm.{p}", "embed.patch_norm.{p}"),
    R("norm_pre.{p}", "embed.norm.{p}"),
    R(B + "attn.<q_norm|k_norm>.{p}", B + "attn.<q_norm|k_norm>.{p}"),
    R(B + "attn.norm.{p}", B + "attn.norm.{p}"),
    R(B + "attn.sub_norm.weight", B + "attn.sub_norm.weight"),
    R(B + f"attn.{LAMBDAS}", B + f"attn.{LAMBDAS}"),
    R(B + "<ls1|ls2>.gamma", B + "<ls1|ls2>"),
    R(B + "<ls1|ls2>.scale_factor", B + "<ls1|ls2>", why="gamma, renamed by Prismatic and OpenVLA", reads_only=True),
    R(B + "mlp.norm.{p}", B + "mlp.norm.{p}"),
    R("fc_norm.{p}", "fc_norm.{p}"),
    R("head_dist.{p}", "head_dist.{p}"),
    R("pre_logits.fc.{p}", "pre_logits.{p}", reads_only=True, why="timm before 0.8"),
    *POOL,
)


def glu(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules with a gated MLP whose two first matrices are one, gate first.

    Source: timm/layers/mlp.py, SwiGLUPacked = GluMlp with gate_last=False.
    """
    return (
        *(rule for rule in rules if rule != MLP),
        R(B + "mlp.fc1.{p}", B + "mlp.[gate|up].{p}", QKV),
        R(B + "mlp.fc2.{p}", B + "mlp.down.{p}"),
    )


def swiglu(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules with a gated MLP of three matrices.

    Source: timm/layers/mlp.py, SwiGLU.forward: fc2(norm(act(fc1_g(x)) * fc1_x(x))).
    """
    return (
        *(rule for rule in rules if rule != MLP),
        R(B + "mlp.<fc1_g|fc1_x|fc2>.{p}", B + "mlp.<gate|up|down>.{p}"),
    )


EVAS = tuple("timm-eva" + end for end in ("", "-swiglu", "-glu", "-rope", "-rope-glu", "-apart-swiglu", "-apart-glu"))

TIMM = Dialect(
    "timm",
    RULES,
    SOURCE + "models/vision_transformer.py",
    "timm VisionTransformer",
    "timm",
    prefix_rows="all",
    also=(
        *("timm-glu", "timm-swiglu", "timm-parallel", "timm-parallel-biased", "timm-parallel-diff"),
        *("timm-beit", "timm-sam", *EVAS, "timm-relpos"),
    ),
)

TIMM_GLU = Dialect(
    "timm-glu",
    glu(RULES),
    SOURCE + "models/vision_transformer.py, layers/mlp.py",
    "timm VisionTransformer with a packed gated MLP (DINOv2 giant, TIPSv2 giant)",
    "timm",
    prefix_rows="all",
)

TIMM_SWIGLU = Dialect(
    "timm-swiglu",
    swiglu(RULES),
    SOURCE + "models/vision_transformer.py, layers/mlp.py",
    "timm VisionTransformer with a gated MLP of three matrices (AIMv2)",
    "timm",
    prefix_rows="all",
)

SECOND = "the second of two branches that stand side by side; the canonical vocabulary has one"

SERIAL = (
    B + "<norm1|norm2>.{p}", B + "attn.qkv.{p}", B + "attn.proj.{p}", MLP.theirs, B + "<ls1|ls2>.gamma",
    B + "attn.<q_norm|k_norm>.{p}", B + "attn.norm.{p}", B + "mlp.norm.{p}", B + "attn.sub_norm.weight",
    B + f"attn.{LAMBDAS}",
)  # fmt: skip
"""Rows of blocks whose MLP follows their attention."""

MLP_BIAS = R(B + "mlp_bias", B + "mlp.fc1.bias", why="of a block whose in_proj has no bias")
IN_BIAS = R(B + "in_proj.bias", B + "[mlp.fc1|attn.q|attn.k|attn.v].bias", "(m+d1+d2+d3) -> m, d1, d2, d3")
IN_BIASES = (B + "attn.q.bias", B + "attn.k.bias", B + "attn.v.bias", B + "mlp.fc1.bias")
"""What in_proj.bias holds; all of them or none."""

SIDE_BY_SIDE = (
    *without(RULES, *SERIAL),
    R(B + "in_norm.{p}", B + "norm1.{p}", why="one norm feeds both branches, so there is no norm2"),
    R(B + "in_proj.weight", B + "[mlp.fc1|attn.q|attn.k|attn.v].weight", "(m+d1+d2+d3) d -> m d, d1 d, d2 d, d3 d"),
    R(B + "<q_norm|k_norm>.{p}", B + "attn.<q_norm|k_norm>.{p}"),
    R(B + "ls.gamma", B + "ls1", why="scales the sum of both branches"),
)
OUT_APART = (R(B + "attn_out_proj.{p}", B + "attn.out.{p}"), R(B + "mlp_out_proj.{p}", B + "mlp.fc2.{p}"))

TIMM_PARALLEL = Dialect(
    "timm-parallel",
    (*SIDE_BY_SIDE, *OUT_APART, MLP_BIAS, replace(IN_BIAS, reads_only=True)),
    SOURCE + "models/vision_transformer.py, ParallelScalingBlock",
    "timm VisionTransformer whose attention and MLP run side by side",
    "timm-parallel",
    requires=(B + "mlp.fc1.bias",),
    prefix_rows="all",
    also=("timm-parallel-biased", "timm-parallel-diff"),
)

TIMM_PARALLEL_BIASED = Dialect(
    "timm-parallel-biased",
    (*SIDE_BY_SIDE, *OUT_APART, IN_BIAS, replace(MLP_BIAS, reads_only=True)),
    SOURCE + "models/vision_transformer.py, ParallelScalingBlock(qkv_bias=True)",
    "timm VisionTransformer whose attention and MLP run side by side, with biases of q, k and v",
    "timm-parallel",
    requires=IN_BIASES,
    prefix_rows="all",
)

TIMM_PARALLEL_DIFF = Dialect(
    "timm-parallel-diff",
    (
        *SIDE_BY_SIDE,
        IN_BIAS,
        replace(MLP_BIAS, reads_only=True),
        R(B + "out_proj.weight", B + "[attn.out|mlp.fc2].weight", "d (d1+m) -> d d1, d m"),
        R(B + "out_proj.bias", B + "attn.out.bias", why="of the sum of both branches"),
        R(B + "sub_norm.weight", B + "attn.sub_norm.weight"),
        R(B + LAMBDAS, B + f"attn.{LAMBDAS}"),
    ),
    SOURCE + "models/vision_transformer.py, DiffParallelScalingBlock",
    "timm VisionTransformer whose differential attention and MLP run side by side",
    "timm-parallel",
    requires=(*IN_BIASES, B + "attn.sub_norm.weight"),
    prefix_rows="all",
)

TIMM_TWINS = Dialect(
    "timm-parallel-things",
    tuple(
        replace(rule, reads_only=True)
        for rule in (
            *without(RULES, *SERIAL),
            R(B + "<attns|ffns>.0.norm.{p}", B + "<norm1|norm2>.{p}"),
            R(B + "<attns|ffns>.0.ls.gamma", B + "<ls1|ls2>"),
            R(B + "attns.0.attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
            R(B + "attns.0.attn.proj.{p}", B + "attn.out.{p}"),
            R(B + "ffns.0.mlp.<fc1|fc2>.{p}", B + "mlp.<fc1|fc2>.{p}"),
            R(B + "<attns|ffns>.1.norm.{p}", None, why=SECOND),
            R(B + "<attns|ffns>.1.ls.gamma", None, why=SECOND),
            R(B + "attns.1.attn.<qkv|proj>.{p}", None, why=SECOND),
            R(B + "ffns.1.mlp.<fc1|fc2>.{p}", None, why=SECOND),
        )
    ),
    SOURCE + "models/vision_transformer.py, ParallelThingsBlock",
    "timm VisionTransformer with two attentions and two MLPs side by side in every block (read only)",
    "timm",
    prefix_rows="all",
)

TIMM_NAFLEX = Dialect(
    "timm-naflex",
    (
        *without(RULES, "patch_embed.proj.{p}", "cls_token", "dist_token", "reg_token", "pos_embed", "head_dist.{p}",
                 "patch_embed.norm.{p}", "pre_logits.fc.{p}"),
        R("embeds.proj.weight", "embed.patch.weight", "o (p1 p2 c) -> o c p1 p2"),
        R("embeds.proj.bias", "embed.patch.bias"),
        R("embeds.norm.{p}", "embed.patch_norm.{p}"),
        R("embeds.<cls_token|reg_token>", "embed.<cls|reg>", "1 t d -> t d"),
        R("embeds.pos_embed", "embed.pos", "1 gh gw d -> (gh gw) d"),
    ),
    SOURCE + "models/naflexvit.py, checkpoint_filter_fn",
    "timm NaFlexViT",
    "timm",
    sizes={"c": 3},
    prefix_rows="all",
)  # fmt: skip

DIALECTS = (TIMM, TIMM_GLU, TIMM_SWIGLU, TIMM_PARALLEL, TIMM_PARALLEL_BIASED, TIMM_PARALLEL_DIFF,
            TIMM_TWINS, TIMM_NAFLEX)  # fmt: skip
