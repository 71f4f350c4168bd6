"""transformers' DINOv3ViTModel: names on disk and in memory, with a plain and with a gated MLP.

`up_proj` and `down_proj` are fc1 and fc2 in the plain MLP, the multiplied half and the last matrix in the gated one, so
these are two tables.
"""

from __future__ import annotations

from anyvit.dialects.timm import B
from anyvit.rules import Dialect, R, Rule, respell

L = "layer.{i}."
SOURCE = "huggingface/transformers src/transformers/models/dinov3_vit/modeling_dinov3_vit.py"

COMMON = (
    R("embeddings.patch_embeddings.{p}", "embed.patch.{p}"),
    R("embeddings.cls_token", "embed.cls", "1 t d -> t d"),
    R("embeddings.mask_token", "embed.mask", "1 1 d -> d"),
    R("embeddings.register_tokens", "embed.reg", "1 r d -> r d"),
    R(L + "<norm1|norm2>.{p}", B + "<norm1|norm2>.{p}"),
    R(L + "attention.<q_proj|k_proj|v_proj|o_proj>.{p}", B + "attn.<q|k|v|out>.{p}"),
    R(L + "<layer_scale1|layer_scale2>.lambda1", B + "<ls1|ls2>"),
    R("norm.{p}", "norm.{p}"),
)
REQUIRES = ("embed.cls", "embed.mask", "embed.patch.bias", B + "ls1", B + "ls2")
PLAIN = (*COMMON, R(L + "mlp.<up_proj|down_proj>.{p}", B + "mlp.<fc1|fc2>.{p}"))
GATED = (
    *COMMON,
    R(L + "mlp.[gate_proj|up_proj].{p}", B + "mlp.[gate|up].{p}", "parts ... -> parts ..."),
    R(L + "mlp.down_proj.{p}", B + "mlp.down.{p}"),
)


def _dialect(
    name: str, rules: tuple[Rule, ...], where: str, *, gated: bool = False, also: tuple[str, ...] = ()
) -> Dialect:
    title = f"transformers DINOv3ViTModel{' with a gated MLP' if gated else ''}, names {where}"
    return Dialect(name, rules, source=SOURCE, title=title, lineage="hf-dinov3", requires=REQUIRES, also=also)


HF_DINOV3 = _dialect("hf-dinov3", PLAIN, "on disk", also=("hf-dinov3-gated",))
HF_DINOV3_GATED = _dialect("hf-dinov3-gated", GATED, "on disk", gated=True)
HF_DINOV3_MEMORY = _dialect("hf-dinov3-memory", respell(PLAIN, L, "model." + L), "in memory (transformers 5)")
HF_DINOV3_GATED_MEMORY = _dialect(
    "hf-dinov3-gated-memory", respell(GATED, L, "model." + L), "in memory (transformers 5)", gated=True
)

DIALECTS = (HF_DINOV3, HF_DINOV3_GATED, HF_DINOV3_MEMORY, HF_DINOV3_GATED_MEMORY)
