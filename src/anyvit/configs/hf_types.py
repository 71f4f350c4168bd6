"""Hugging Face's vision configs: which rows each has, its class's defaults, what its models always do.

Source: huggingface/transformers @ 5.23.0 models/*/configuration_*.py (keys, defaults) and modeling_*.py (the rest);
OpenGVLab/InternVL @ b9b1bb8 internvl_chat/internvl/model/internvl_chat/configuration_intern_vit.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anyvit.configs.hf_rows import (
    AIMV2,
    BEIT,
    CLASSIC,
    DINOV2,
    DINOV3,
    HIDDEN_ACT,
    LN_EPS,
    NUM_PATCHES,
    REGISTERS,
    SAM,
    SIZES,
    USE_HEAD,
    VISION,
    WIDTH,
    intern,
)
from anyvit.configs.rows import GATED, Row


@dataclass(frozen=True)
class HFType:
    """One vision config class.

    Arguments:
        config: the class's name.
        rows: what it says.
        defaults: its defaults for the keys of the rows.
        always: Spec field → the values that its models can have where no row says it.
        model: the class of the bare model.
        classifier: the class with a classifier; "" where there is none.
        pool: what that classifier is fed.
        parent: model_type of the config that a classifier wants around this one.
        extra: keys that are written as they are.
    """

    config: str
    rows: tuple[Row, ...]
    defaults: Mapping[str, Any]
    always: Mapping[str, tuple[Any, ...]]
    model: str
    classifier: str = ""
    pool: str = "cls"
    parent: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


BASE = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3,
    "qkv_bias": True,
}  # fmt: skip


PLAIN: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm",), "ffn": ("mlp",), "qk_norm": (False,), "layer_scale": (False,), "pre_norm": (False,),
    "num_cls": (1,), "dist_token": (False,), "num_registers": (0,), "rope": (None,), "block_norm": ("pre",),
    "patch_bias": (True,), "patch_norm": (False,), "proj_bias": (True,), "mlp_bias": (True,), "norm_bias": (True,),
    "attn_norm": (False,), "mlp_norm": (False,), "window": (None,), "condition": (None,), "cls_norm": (False,),
    "pos_embed": ("learned", "sincos"), "final_norm": ("norm",), "qkv_bias": (True,), "head_norm": (False,),
    "neck_dim": (None,), "whiten": (False,),
}  # fmt: skip


def _but(**other: Any) -> dict[str, tuple[Any, ...]]:
    return {**PLAIN, **{name: value if isinstance(value, tuple) else (value,) for name, value in other.items()}}


def _without(values: Mapping[str, Any], *keys: str, **other: Any) -> dict[str, Any]:
    return {**{key: value for key, value in values.items() if key not in keys}, **other}


DINOV2_DEFAULTS = _without(
    BASE, "intermediate_size", layer_norm_eps=1e-6, patch_size=14, mlp_ratio=4, use_swiglu_ffn=False
)


BEIT_DEFAULTS = _without(
    BASE, "qkv_bias", use_relative_position_bias=False, use_shared_relative_position_bias=False,
    use_absolute_position_embeddings=False, layer_scale_init_value=0.1, use_mean_pooling=True,
)  # fmt: skip


BEIT_ALWAYS = _but(qkv_bias="qv", final_norm=("norm", "fc_norm", "both"), layer_scale=(True, False))


VISION_DEFAULTS = _without(BASE, "qkv_bias", layer_norm_eps=1e-6)


SAM_DEFAULTS = _without(
    BASE, "intermediate_size", layer_norm_eps=1e-6, image_size=1024, mlp_ratio=4.0, window_size=14,
    global_attn_indexes=(2, 5, 8, 11), output_channels=256, use_rel_pos=True, use_abs_pos=True,
)  # fmt: skip


INTERN_ALWAYS = _but(layer_scale=True, final_norm=None, norm_bias=(True, False))


AIMV2_DEFAULTS = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 8,
    "num_channels": 3, "image_size": 224, "patch_size": 14, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "qkv_bias": False, "mlp_bias": False, "use_head": True, "is_native": False,
}  # fmt: skip


TYPES: dict[str, HFType] = {
    "vit": HFType("ViTConfig", CLASSIC, BASE, PLAIN, "ViTModel", "ViTForImageClassification"),
    "deit": HFType("DeiTConfig", CLASSIC, BASE, _but(dist_token=True), "DeiTModel", "DeiTForImageClassification"),
    "vit_mae": HFType("ViTMAEConfig", CLASSIC, BASE, PLAIN, "ViTMAEModel"),
    "vit_msn": HFType("ViTMSNConfig", CLASSIC, {**BASE, "layer_norm_eps": 1e-6}, PLAIN, "ViTMSNModel",
                      "ViTMSNForImageClassification"),
    "ijepa": HFType("IJepaConfig", CLASSIC, BASE, _but(num_cls=0), "IJepaModel", "IJepaForImageClassification", "avg"),
    "dinov2": HFType("Dinov2Config", DINOV2, DINOV2_DEFAULTS, _but(layer_scale=True), "Dinov2Model",
                     "Dinov2ForImageClassification", "cls+avg"),
    "dinov2_with_registers": HFType(
        "Dinov2WithRegistersConfig", (*DINOV2, REGISTERS),
        {**DINOV2_DEFAULTS, "patch_size": 16, "num_register_tokens": 4}, _but(layer_scale=True),
        "Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification", "cls+avg"),
    "dinov3_vit": HFType(
        "DINOv3ViTConfig", DINOV3,
        _without(BASE, "qkv_bias", hidden_size=384, intermediate_size=1536, num_attention_heads=6, layer_norm_eps=1e-5,
                 query_bias=True, key_bias=False, value_bias=True, proj_bias=True, mlp_bias=True, use_gated_mlp=False,
                 num_register_tokens=0, rope_theta=100.0),
        _but(layer_scale=True, pos_embed="rope"), "DINOv3ViTModel"),
    "beit": HFType("BeitConfig", BEIT, BEIT_DEFAULTS, BEIT_ALWAYS, "BeitModel", "BeitForImageClassification", ""),
    "data2vec-vision": HFType("Data2VecVisionConfig", BEIT, BEIT_DEFAULTS, BEIT_ALWAYS, "Data2VecVisionModel",
                              "Data2VecVisionForImageClassification", ""),
    "clip_vision_model": HFType(
        "CLIPVisionConfig", VISION,
        _without(VISION_DEFAULTS, patch_size=32, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512),
        _but(pre_norm=True, patch_bias=False), "CLIPVisionModel", "CLIPForImageClassification", "avg", "clip"),
    "siglip_vision_model": HFType(
        "SiglipVisionConfig", (*VISION, USE_HEAD),
        _without(VISION_DEFAULTS, hidden_act="gelu_pytorch_tanh", vision_use_head=True),
        _but(num_cls=0), "SiglipVisionModel", "SiglipForImageClassification", "avg", "siglip"),
    "siglip2_vision_model": HFType(
        "Siglip2VisionConfig",
        (*SIZES, WIDTH, HIDDEN_ACT, LN_EPS, USE_HEAD,
         NUM_PATCHES),
        _without(VISION_DEFAULTS, "image_size", hidden_act="gelu_pytorch_tanh", vision_use_head=True, num_patches=256),
        _but(num_cls=0), "Siglip2VisionModel", "Siglip2ForImageClassification", "avg", "siglip2"),
    "aimv2_vision_model": HFType(
        "Aimv2VisionConfig", AIMV2, AIMV2_DEFAULTS,
        _but(norm="rmsnorm", ffn=GATED, num_cls=0, patch_norm=True, norm_bias=False, proj_bias=(True, False)),
        "Aimv2VisionModel"),
    "sam_vision_model": HFType("SamVisionConfig", SAM, SAM_DEFAULTS, _but(num_cls=0, final_norm=None),
                               "SamVisionModel"),
    "internvl_vision": HFType(
        "InternVLVisionConfig", intern("attention_bias", "use_qk_norm"),
        _without(VISION_DEFAULTS, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
                 intermediate_size=4096, image_size=(448, 448), patch_size=(14, 14), norm_type="layer_norm",
                 attention_bias=False,
                 use_qk_norm=False, use_mean_pooling=True),
        {**INTERN_ALWAYS, "final_norm": (None, "norm")}, "InternVLVisionModel"),
    "intern_vit_6b": HFType(
        "InternVisionConfig", intern("qkv_bias", "qk_normalization"),
        _without(VISION_DEFAULTS, hidden_size=3200, num_hidden_layers=48, num_attention_heads=25,
                 intermediate_size=12800, patch_size=14, norm_type="rms_norm", qkv_bias=False, qk_normalization=True),
        INTERN_ALWAYS, "InternVisionModel", extra={"use_flash_attn": True}),
}  # fmt: skip
"""By model_type."""
