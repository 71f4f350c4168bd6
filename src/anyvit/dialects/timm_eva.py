"""timm's Eva: EVA, EVA-02, DINOv3, Perception Encoder, RoPE-ViT, Sapiens2 and others under one class.

Its attention is written in three ways (qkv with q_bias and v_bias, qkv with one bias, q, k, v apart), its MLP in
three too (see `timm.glu` and `timm.swiglu`); each pair that exists is a table of its own.
"""

from __future__ import annotations

from dataclasses import replace

from anyvit.dialects.open_clip import trunk
from anyvit.dialects.timm import BASE, EVAS, MLP, POOL, QKV, SOURCE, B, glu, swiglu
from anyvit.rules import Dialect, R, Rule, without

EVA = SOURCE + "models/eva.py, layers/{attention,mlp}.py"

REST = (
    *without(BASE, "dist_token", B + "attn.qkv.{p}", MLP.theirs),
    R("reg_token", "embed.reg", "1 r d -> r d"),
    R("norm_pre.{p}", "embed.norm.{p}"),
    R("rope.freqs", "rope.freqs"),
    R("rope.<pos_embed|periods>", None, why="follows from the grid; exporters store it, and it is computed again"),
    R(B + "attn.<q_norm|k_norm|norm>.{p}", B + "attn.<q_norm|k_norm|norm>.{p}"),
    R(B + "mlp.norm.{p}", B + "mlp.norm.{p}"),
    R(B + "<gamma_1|gamma_2>", B + "<ls1|ls2>"),
    R("fc_norm.{p}", "fc_norm.{p}"),
    *POOL,
    MLP,
)
FUSED = (
    *REST,
    R(B + "attn.qkv.weight", B + "attn.[q|k|v].weight", QKV),
    R(B + "attn.<q_bias|v_bias>", B + "attn.<q|v>.bias"),
    R(
        "../ln_vision.{p}",
        "norm.{p}",
        why="LAVIS' BLIP-2 and MiniGPT-4 norm beside their visual_encoder",
        reads_only=True,
    ),
)
ROPE = (*REST, R(B + "attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV))
APART = (*REST, R(B + "attn.<q_proj|k_proj|v_proj>.{p}", B + "attn.<q|k|v>.{p}"))


def _eva(suffix: str, rules: tuple[Rule, ...], models: str) -> Dialect:
    also = {"": EVAS[1:], "-rope": ("timm-eva-rope-glu",)}.get(suffix, ())
    return Dialect("timm-eva" + suffix, rules, EVA, f"timm Eva: {models}", "timm-eva", prefix_rows="all", also=also)


def _trunk(eva: Dialect) -> Dialect:
    """The same model as OpenCLIP's image tower."""
    return replace(
        eva,
        name=eva.name.replace("timm-eva", "open_clip-eva"),
        rules=trunk(eva.rules),
        source=EVA + "; mlfoundations/open_clip v3.3.0: src/open_clip/timm_model.py",
        title=eva.title.replace("timm", "OpenCLIP with timm's", 1),
        lineage="open_clip-timm",
        root="visual.trunk.",
        also=(),
    )


TIMM_EVA = _eva("", FUSED, "EVA-01, DINOv3 small to large, LingBot")
TIMM_EVA_SWIGLU = _eva("-swiglu", swiglu(FUSED), "DINOv3 small plus, huge plus, 7B")
TIMM_EVA_GLU = _eva("-glu", glu(FUSED), "EVA-02 tiny and small")
TIMM_EVA_ROPE = _eva("-rope", ROPE, "Perception Encoder, RoPE-ViT")
TIMM_EVA_ROPE_GLU = _eva("-rope-glu", glu(ROPE), "EVA-02 tiny and small whose biases an exporter joined")
TIMM_EVA_APART = _eva("-apart-swiglu", swiglu(APART), "EVA-02 base and large")
TIMM_EVA_APART_GLU = _eva("-apart-glu", glu(APART), "Sapiens2")

DIALECTS = (
    *(TIMM_EVA, TIMM_EVA_SWIGLU, TIMM_EVA_GLU, TIMM_EVA_ROPE, TIMM_EVA_ROPE_GLU, TIMM_EVA_APART, TIMM_EVA_APART_GLU),
    *(_trunk(TIMM_EVA), _trunk(TIMM_EVA_ROPE), _trunk(TIMM_EVA_APART)),
)
