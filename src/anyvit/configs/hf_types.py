"""Hugging Face's vision configs as tables: their keys, their classes' defaults, what their models always do.

Source: huggingface/transformers @ 5.23.0 models/*/configuration_*.py (keys, defaults) and modeling_*.py (the rest);
OpenGVLab/InternVL @ b9b1bb8 internvl_chat/internvl/model/internvl_chat/configuration_intern_vit.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from anyvit.configs.rows import (
    BOOL,
    COUNT,
    EPS,
    GATED,
    INT,
    SIZE,
    Row,
    Skip,
    Unsaid,
    Values,
    choice,
    to_float,
    to_int,
    to_size,
)
from anyvit.spec import Rope, Spec, pair, single

ACT = choice(
    "activation",
    {
        "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu", "swish": "silu",
        "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
        "gelu_python_tanh": "gelu_tanh",
    },
)  # fmt: skip
"""Source: transformers activations.py ACT2CLS."""
NORM = choice("norm", {"layer_norm": "layernorm", "rms_norm": "rmsnorm"})


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
        processor: its image processor; "" for a general one.
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
    processor: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


SIZES = (
    Row("hidden_size", "embed_dim", INT),
    Row("num_hidden_layers", "depth", COUNT),
    Row("num_attention_heads", "num_heads", INT),
    Row("patch_size", "patch_size", SIZE),
    Row("num_channels", "in_chans", INT),
)
IMAGE = Row("image_size", "image_size", SIZE)
WIDTH = Row("intermediate_size", "mlp_dim", INT)
HIDDEN_ACT = Row("hidden_act", "act", ACT)
LN_EPS = Row("layer_norm_eps", "eps", EPS)


def _write_bias(value: Any, _: Spec) -> bool:
    if value == "qv":
        raise Unsaid("the config has one switch for all three biases, and here only the keys have none")
    return bool(value)


QKV_BIAS = Values(BOOL.read, _write_bias)
CLASSIC = (*SIZES, IMAGE, WIDTH, HIDDEN_ACT, LN_EPS, Row("qkv_bias", "qkv_bias", QKV_BIAS))

BASE = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3, "qkv_bias": True,
}  # fmt: skip

PLAIN: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm",), "ffn": ("mlp",), "qk_norm": (False,), "layer_scale": (False,), "pre_norm": (False,),
    "num_cls": (1,), "dist_token": (False,), "num_registers": (0,), "rope": (None,), "block_norm": ("pre",),
    "patch_bias": (True,), "patch_norm": (False,), "proj_bias": (True,), "mlp_bias": (True,), "norm_bias": (True,),
    "attn_norm": (False,), "mlp_norm": (False,), "window": (None,), "condition": (None,), "cls_norm": (False,),
    "pos_embed": ("learned", "sincos"), "final_norm": ("norm",), "qkv_bias": (True,), "head_norm": (False,),
    "neck_dim": (None,),
}  # fmt: skip


def _but(**other: Any) -> dict[str, tuple[Any, ...]]:
    return {**PLAIN, **{name: value if isinstance(value, tuple) else (value,) for name, value in other.items()}}


def _without(values: Mapping[str, Any], *keys: str, **other: Any) -> dict[str, Any]:
    return {**{key: value for key, value in values.items() if key not in keys}, **other}


def _dinov2_hidden(config: Mapping[str, Any], width: int, factor: int) -> int:
    hidden = int(width * factor)
    # Source: transformers models/dinov2/modeling_dinov2.py Dinov2SwiGLUFFN.
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if config.get("use_swiglu_ffn") else hidden


def _read_dinov2_width(value: Any, config: Mapping[str, Any]) -> int:
    factor = to_float(value)
    return _dinov2_hidden(config, to_int(config["hidden_size"]), factor)  # type: ignore[arg-type]


def _write_dinov2_width(value: Any, spec: Spec) -> int:
    guess = value / spec.embed_dim * (1.5 if spec.ffn in GATED else 1)
    for factor in (round(guess), int(guess), int(guess) + 1):
        if factor and _dinov2_hidden({"use_swiglu_ffn": spec.ffn in GATED}, spec.embed_dim, factor) == value:
            return factor
    raise Unsaid(f"mlp_ratio is a whole number, and no whole number gives {value} at width {spec.embed_dim}")


def _read_dinov2_act(value: Any, config: Mapping[str, Any]) -> str:
    return "silu" if config.get("use_swiglu_ffn") is True else ACT.read(value, config)


def _write_dinov2_act(value: Any, spec: Spec) -> str:
    if spec.ffn not in GATED:
        return ACT.write(value, spec)
    if value != "silu":
        raise Unsaid("the gated MLP of these models always uses SiLU")
    return "gelu"


def _gated(word: str) -> Values:
    def write(value: Any, _: Spec) -> bool:
        if value not in ("mlp", *GATED):
            raise Unsaid(f"the config knows a plain and a gated MLP, and this one is {value}")
        return value in GATED

    return Values(lambda value, config: word if BOOL.read(value, config) else "mlp", write)


DINOV2 = (
    *SIZES, IMAGE, LN_EPS, Row("qkv_bias", "qkv_bias", QKV_BIAS), Row("mlp_ratio", "mlp_dim", Values(_read_dinov2_width, _write_dinov2_width)),
    Row("hidden_act", "act", Values(_read_dinov2_act, _write_dinov2_act)), Row("use_swiglu_ffn", "ffn", _gated("swiglu_fused")),
)  # fmt: skip
DINOV2_DEFAULTS = _without(BASE, "intermediate_size", layer_norm_eps=1e-6, patch_size=14, mlp_ratio=4, use_swiglu_ffn=False)


def _read_dinov3_bias(_: Any, config: Mapping[str, Any]) -> bool | str:
    q, k, v = (BOOL.read(config[f"{name}_bias"], config) for name in ("query", "key", "value"))
    if q != v:
        raise ValueError("differs from value_bias")
    if k and not q:
        raise ValueError("leaves a bias to the keys alone")
    return True if k else ("qv" if q else False)


def _part(*with_bias: Any) -> Values:
    return Values(_read_dinov3_bias, lambda value, _: value in with_bias)


def _silent(values: Values) -> Values:
    """A row that is written only; another one reads the field."""

    def read(value: Any, config: Mapping[str, Any]) -> Any:
        raise Skip

    return Values(read, values.write)


def _read_theta(value: Any, _: Mapping[str, Any]) -> Rope:
    base = to_float(value)
    if base <= 0:
        raise ValueError("is no base")
    return Rope(base=base, layout="half", coords="normalized", span="head")


def _write_theta(value: Any, _: Spec) -> float:
    if value is None or value != Rope(base=value.base, layout="half", coords="normalized", span="head"):
        raise Unsaid("the models always rotate as DINOv3 does: normalised coordinates, half of a head a partner of the other")
    return value.base


DINOV3 = (
    *SIZES, IMAGE, WIDTH, HIDDEN_ACT, LN_EPS,
    Row("query_bias", "qkv_bias", _part(True, "qv")),
    Row("key_bias", "qkv_bias", _silent(_part(True))),
    Row("value_bias", "qkv_bias", _silent(_part(True, "qv"))),
    Row("proj_bias", "proj_bias", BOOL), Row("mlp_bias", "mlp_bias", BOOL),
    Row("use_gated_mlp", "ffn", _gated("swiglu")), Row("num_register_tokens", "num_registers", COUNT),
    Row("rope_theta", "rope", Values(_read_theta, _write_theta)),
)  # fmt: skip


def _read_beit_positions(_: Any, config: Mapping[str, Any]) -> str:
    kinds = {"use_absolute_position_embeddings": "learned", "use_relative_position_bias": "relpos",
             "use_shared_relative_position_bias": "relpos_shared"}  # fmt: skip
    on = [word for key, word in kinds.items() if config.get(key) is True]
    if len(on) > 1:
        raise ValueError("and another kind of position are both on")
    return on[0] if on else "none"


def _position(*words: str, reads: bool = False) -> Values:
    def write(value: Any, _: Spec) -> bool:
        if value not in ("learned", "sincos", "relpos", "relpos_shared", "none"):
            raise Unsaid(f"the config has no words for positions {value}")
        return value in words

    values = Values(_read_beit_positions, write)
    return values if reads else _silent(values)


def _read_scale(value: Any, _: Mapping[str, Any]) -> bool:
    return to_float(value) > 0


LAYER_SCALE = Values(_read_scale, lambda value, _: 0.1 if value else 0)
BEIT = (
    *SIZES, IMAGE, WIDTH, HIDDEN_ACT, LN_EPS,
    Row("use_relative_position_bias", "pos_embed", _position("relpos", reads=True)),
    Row("use_shared_relative_position_bias", "pos_embed", _position("relpos_shared")),
    Row("use_absolute_position_embeddings", "pos_embed", _position("learned", "sincos")),
    Row("layer_scale_init_value", "layer_scale", LAYER_SCALE),
)  # fmt: skip
BEIT_DEFAULTS = _without(
    BASE, "qkv_bias", use_relative_position_bias=False, use_shared_relative_position_bias=False,
    use_absolute_position_embeddings=False, layer_scale_init_value=0.1, use_mean_pooling=True,
)  # fmt: skip
BEIT_ALWAYS = _but(qkv_bias="qv", final_norm=("norm", "fc_norm", "both"), layer_scale=(True, False))

VISION = (*SIZES, IMAGE, WIDTH, HIDDEN_ACT, LN_EPS)
VISION_DEFAULTS = _without(BASE, "qkv_bias", layer_norm_eps=1e-6)


def _read_patches(value: Any, config: Mapping[str, Any]) -> int | tuple[int, int]:
    side = isqrt(to_int(value))
    if side * side != value:
        raise Skip
    p, q = pair(to_size(config["patch_size"]))
    return single((side * p, side * q))


def _write_patches(value: Any, spec: Spec) -> int:
    if value is None:
        raise Skip
    (height, width), (p, q) = pair(value), pair(spec.patch_size)
    if height // p != width // q:
        raise Unsaid("num_patches is read as a square grid")
    return (height // p) * (width // q)


def _read_sam_width(value: Any, config: Mapping[str, Any]) -> int:
    if config.get("mlp_dim") is not None:
        return to_int(config["mlp_dim"])
    return int(to_int(config["hidden_size"]) * to_float(value))


def _unwritten(read: Callable[[Any, Mapping[str, Any]], Any]) -> Values:
    """A row that is read only; another one writes the field."""

    def write(value: Any, spec: Spec) -> Any:
        raise Skip

    return Values(read, write)


def _blocks(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("is no list of block numbers")
    return tuple(to_int(number) for number in value)


def _read_sam_positions(value: Any, config: Mapping[str, Any]) -> str:
    words = (["learned"] if config.get("use_abs_pos") is not False else []) + (["relpos_decomposed"] if value else [])
    return "+".join(words) or "none"


SAM = (
    *SIZES, IMAGE, HIDDEN_ACT, LN_EPS, Row("qkv_bias", "qkv_bias", QKV_BIAS),
    Row("mlp_ratio", "mlp_dim", _unwritten(_read_sam_width)),
    Row("mlp_dim", "mlp_dim", INT),
    Row("window_size", "window", Values(lambda value, _: to_int(value) or None, lambda value, _: value or 0)),
    Row("global_attn_indexes", "global_blocks", Values(lambda value, _: _blocks(value), lambda value, _: list(value))),
    Row("output_channels", "neck_dim", INT),
    Row("use_rel_pos", "pos_embed", Values(_read_sam_positions, lambda value, _: "relpos_decomposed" in value)),
    Row("use_abs_pos", "pos_embed", _silent(Values(lambda value, _: value, lambda value, _: "learned" in value))),
)  # fmt: skip
SAM_DEFAULTS = _without(
    BASE, "intermediate_size", layer_norm_eps=1e-6, image_size=1024, mlp_ratio=4.0, window_size=14,
    global_attn_indexes=(2, 5, 8, 11), output_channels=256, use_rel_pos=True, use_abs_pos=True,
)  # fmt: skip

FULL = Values(lambda value, config: "full" if BOOL.read(value, config) else False, lambda value, _: _full(value))


def _full(value: Any) -> bool:
    if value == "head":
        raise Unsaid("the models norm queries and keys over the full width, and here it is done per head")
    return bool(value)


def _intern(bias: str, qk: str) -> tuple[Row, ...]:
    return (*VISION, Row("norm_type", "norm", NORM), Row(bias, "qkv_bias", QKV_BIAS), Row(qk, "qk_norm", FULL))


INTERN_ALWAYS = _but(layer_scale=True, final_norm=None)

def _use_head(word: str) -> Values:
    return Values(lambda value, config: word if BOOL.read(value, config) else "none", lambda value, _: value == word)


AIMV2 = (
    *SIZES, IMAGE, WIDTH, HIDDEN_ACT, Row("rms_norm_eps", "eps", EPS), Row("qkv_bias", "qkv_bias", QKV_BIAS),
    Row("mlp_bias", "mlp_bias", BOOL),
    Row("is_native", "pos_embed", choice("position", {False: "learned", True: "sincos_unstored"})),
    Row("use_head", "pool", _use_head("attn_pool")),
)  # fmt: skip
AIMV2_DEFAULTS = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 8, "num_channels": 3,
    "image_size": 224, "patch_size": 14, "hidden_act": "silu", "rms_norm_eps": 1e-5, "qkv_bias": False, "mlp_bias": False,
    "use_head": True, "is_native": False,
}  # fmt: skip
USE_HEAD = Row("vision_use_head", "pool", _use_head("map"))

TYPES: dict[str, HFType] = {
    "vit": HFType("ViTConfig", CLASSIC, BASE, PLAIN, "ViTModel", "ViTForImageClassification"),
    "deit": HFType("DeiTConfig", CLASSIC, BASE, _but(dist_token=True), "DeiTModel", "DeiTForImageClassification"),
    "vit_mae": HFType("ViTMAEConfig", CLASSIC, BASE, PLAIN, "ViTMAEModel"),
    "vit_msn": HFType("ViTMSNConfig", CLASSIC, {**BASE, "layer_norm_eps": 1e-6}, PLAIN, "ViTMSNModel",
                      "ViTMSNForImageClassification"),
    "ijepa": HFType("IJepaConfig", CLASSIC, BASE, _but(num_cls=0), "IJepaModel", "IJepaForImageClassification", "avg"),
    "dinov2": HFType("Dinov2Config", DINOV2, DINOV2_DEFAULTS, _but(layer_scale=True), "Dinov2Model",
                     "Dinov2ForImageClassification", "cls+avg", processor="BitImageProcessor"),
    "dinov2_with_registers": HFType(
        "Dinov2WithRegistersConfig", (*DINOV2, Row("num_register_tokens", "num_registers", COUNT)),
        {**DINOV2_DEFAULTS, "patch_size": 16, "num_register_tokens": 4}, _but(layer_scale=True),
        "Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification", "cls+avg", processor="BitImageProcessor"),
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
        _but(pre_norm=True, patch_bias=False), "CLIPVisionModel", "CLIPForImageClassification", "avg", "clip",
        "CLIPImageProcessor"),
    "siglip_vision_model": HFType(
        "SiglipVisionConfig", (*VISION, USE_HEAD),
        _without(VISION_DEFAULTS, hidden_act="gelu_pytorch_tanh", vision_use_head=True),
        _but(num_cls=0), "SiglipVisionModel", "SiglipForImageClassification", "avg", "siglip", "SiglipImageProcessor"),
    "siglip2_vision_model": HFType(
        "Siglip2VisionConfig",
        (*SIZES, WIDTH, HIDDEN_ACT, LN_EPS, Row("num_patches", "image_size", Values(_read_patches, _write_patches)), USE_HEAD),
        _without(VISION_DEFAULTS, "image_size", hidden_act="gelu_pytorch_tanh", vision_use_head=True, num_patches=256),
        _but(num_cls=0), "Siglip2VisionModel", "Siglip2ForImageClassification", "avg", "siglip2"),
    "aimv2_vision_model": HFType(
        "Aimv2VisionConfig", AIMV2, AIMV2_DEFAULTS,
        _but(norm="rmsnorm", ffn=GATED, num_cls=0, patch_norm=True, norm_bias=False, proj_bias=(True, False)),
        "Aimv2VisionModel", processor="CLIPImageProcessor"),
    "sam_vision_model": HFType("SamVisionConfig", SAM, SAM_DEFAULTS, _but(num_cls=0, final_norm=None), "SamVisionModel"),
    "internvl_vision": HFType(
        "InternVLVisionConfig", _intern("attention_bias", "use_qk_norm"),
        _without(VISION_DEFAULTS, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
                 image_size=(448, 448), patch_size=(14, 14), norm_type="layer_norm", attention_bias=False,
                 use_qk_norm=False, use_mean_pooling=True),
        {**INTERN_ALWAYS, "final_norm": (None, "norm")}, "InternVLVisionModel"),
    "intern_vit_6b": HFType(
        "InternVisionConfig", _intern("qkv_bias", "qk_normalization"),
        _without(VISION_DEFAULTS, hidden_size=3200, num_hidden_layers=48, num_attention_heads=25, intermediate_size=12800,
                 patch_size=14, norm_type="rms_norm", qkv_bias=False, qk_normalization=True),
        INTERN_ALWAYS, "InternVisionModel", processor="CLIPImageProcessor", extra={"use_flash_attn": True}),
}  # fmt: skip
"""By model_type."""

PARENTS = {
    "clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model", "aimv2": "aimv2_vision_model",
    "sam": "sam_vision_model", "internvl": "internvl_vision", "internvl_chat": "intern_vit_6b", "paligemma": "siglip_vision_model",
    "llava": "clip_vision_model", "llava_next": "clip_vision_model", "vipllava": "clip_vision_model",
    "video_llava": "clip_vision_model", "chinese_clip": "clip_vision_model",
}  # fmt: skip
"""model_type of a config that holds a vision config → its type where it does not say so itself.

Source: transformers models/*/configuration_*.py, defaults of vision_config.
"""

DIALECTS = {
    "hf-vit": "vit", "hf-deit": "deit", "hf-vit-mae": "vit_mae", "hf-vit-msn": "vit_msn", "hf-ijepa": "ijepa",
    "hf-dinov2": "dinov2", "hf-dinov2-with-registers": "dinov2_with_registers", "hf-dinov3": "dinov3_vit",
    "hf-beit": "beit", "hf-data2vec-vision": "data2vec-vision", "hf-data2vec": "data2vec-vision",
    "hf-clip": "clip_vision_model", "hf-siglip": "siglip_vision_model", "hf-siglip2": "siglip2_vision_model",
    "hf-aimv2": "aimv2_vision_model", "hf-sam": "sam_vision_model", "hf-internvl": "internvl_vision",
    "internvit": "intern_vit_6b",
}  # fmt: skip
"""The model_type that a dialect's folders have."""

