"""Rows of Hugging Face's vision configs: their keys, Spec fields, value maps.

Source: huggingface/transformers @ 5.23.0 models/*/configuration_*.py and modeling_*.py.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    read_only,
    to_float,
    to_int,
    to_size,
    written_only,
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
    *SIZES, IMAGE, LN_EPS, Row("qkv_bias", "qkv_bias", QKV_BIAS),
    Row("mlp_ratio", "mlp_dim", Values(_read_dinov2_width, _write_dinov2_width)),
    Row("hidden_act", "act", Values(_read_dinov2_act, _write_dinov2_act)),
    Row("use_swiglu_ffn", "ffn", _gated("swiglu_fused")),
)  # fmt: skip


def _read_dinov3_bias(_: Any, config: Mapping[str, Any]) -> bool | str:
    q, k, v = (BOOL.read(config[f"{name}_bias"], config) for name in ("query", "key", "value"))
    if q != v:
        raise ValueError("differs from value_bias")
    if k and not q:
        raise ValueError("leaves a bias to the keys alone")
    return True if k else ("qv" if q else False)


REGISTERS = Row("num_register_tokens", "num_registers", COUNT)


def _part(*with_bias: Any) -> Values:
    return Values(_read_dinov3_bias, lambda value, _: value in with_bias)


def _read_theta(value: Any, _: Mapping[str, Any]) -> Rope:
    base = to_float(value)
    if base <= 0:
        raise ValueError("is no base")
    return Rope(base=base, layout="half", coords="normalized", span="head")


def _write_theta(value: Any, _: Spec) -> float:
    if value is None or value != Rope(base=value.base, layout="half", coords="normalized", span="head"):
        raise Unsaid("the models always rotate as DINOv3 does: normalised coordinates, pairs half a head apart")
    return value.base


DINOV3 = (
    *SIZES, IMAGE, WIDTH, HIDDEN_ACT, LN_EPS,
    Row("query_bias", "qkv_bias", _part(True, "qv")),
    Row("key_bias", "qkv_bias", written_only(_part(True).write)),
    Row("value_bias", "qkv_bias", written_only(_part(True, "qv").write)),
    Row("proj_bias", "proj_bias", BOOL), Row("mlp_bias", "mlp_bias", BOOL),
    Row("use_gated_mlp", "ffn", _gated("swiglu")), REGISTERS,
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
    return values if reads else written_only(write)


def _read_scale(value: Any, _: Mapping[str, Any]) -> bool:
    return to_float(value) > 0


LAYER_SCALE = Values(_read_scale, lambda value, _: 0.1 if value else 0.0)


BEIT = (
    *SIZES, IMAGE, WIDTH, HIDDEN_ACT, LN_EPS,
    Row("use_relative_position_bias", "pos_embed", _position("relpos", reads=True)),
    Row("use_shared_relative_position_bias", "pos_embed", _position("relpos_shared")),
    Row("use_absolute_position_embeddings", "pos_embed", _position("learned", "sincos")),
    Row("layer_scale_init_value", "layer_scale", LAYER_SCALE),
)  # fmt: skip


VISION = (*SIZES, IMAGE, WIDTH, HIDDEN_ACT, LN_EPS)


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


NUM_PATCHES = Row("num_patches", "image_size", Values(_read_patches, _write_patches))


def _read_sam_width(value: Any, config: Mapping[str, Any]) -> int:
    if config.get("mlp_dim") is not None:
        return to_int(config["mlp_dim"])
    return int(to_int(config["hidden_size"]) * to_float(value))


def _blocks(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("is no list of block numbers")
    return tuple(to_int(number) for number in value)


def _read_sam_positions(value: Any, config: Mapping[str, Any]) -> str:
    words = (["learned"] if config.get("use_abs_pos") is not False else []) + (["relpos_decomposed"] if value else [])
    return "+".join(words) or "none"


def _sam_positions(value: Any) -> tuple[bool, bool]:
    """Whether there is a table, and whether there are relative positions."""
    words = set(value.split("+"))
    if not words <= {"learned", "sincos", "relpos_decomposed", "none"}:
        raise Unsaid(f"the config has no words for positions {value}")
    return bool(words & {"learned", "sincos"}), "relpos_decomposed" in words


def _write_neck(value: Any, _: Spec) -> int:
    if value is None:
        raise Unsaid("the models always have a neck")
    return value


SAM = (
    *SIZES, IMAGE, HIDDEN_ACT, LN_EPS, Row("qkv_bias", "qkv_bias", QKV_BIAS),
    Row("mlp_ratio", "mlp_dim", read_only(_read_sam_width)),
    Row("mlp_dim", "mlp_dim", INT),
    Row("window_size", "window", Values(lambda value, _: to_int(value) or None, lambda value, _: value or 0)),
    Row("global_attn_indexes", "global_blocks", Values(lambda value, _: _blocks(value), lambda value, _: list(value))),
    Row("output_channels", "neck_dim", Values(INT.read, _write_neck)),
    Row("use_rel_pos", "pos_embed", Values(_read_sam_positions, lambda value, _: _sam_positions(value)[1])),
    Row("use_abs_pos", "pos_embed", written_only(lambda value, _: _sam_positions(value)[0])),
)  # fmt: skip


FULL = Values(lambda value, config: "full" if BOOL.read(value, config) else False, lambda value, _: _full(value))


def _full(value: Any) -> bool:
    if value == "head":
        raise Unsaid("the models norm queries and keys over the full width, and here it is done per head")
    return bool(value)


def intern(bias: str, qk: str) -> tuple[Row, ...]:
    return (*VISION, Row("norm_type", "norm", NORM), Row(bias, "qkv_bias", QKV_BIAS), Row(qk, "qk_norm", FULL))


def _use_head(word: str) -> Values:
    return Values(lambda value, config: word if BOOL.read(value, config) else "none", lambda value, _: value == word)


NATIVE = choice("position", {False: "learned", True: "sincos_unstored"})


def _table(value: Any) -> Any:
    """A stored sin-cos table is a table like any other."""
    return "learned" if value == "sincos" else value


AIMV2 = (
    *SIZES, IMAGE, WIDTH, HIDDEN_ACT, Row("rms_norm_eps", "eps", EPS), Row("qkv_bias", "qkv_bias", QKV_BIAS),
    Row("mlp_bias", "mlp_bias", BOOL),
    Row("is_native", "pos_embed", Values(NATIVE.read, lambda value, spec: NATIVE.write(_table(value), spec))),
    Row("use_head", "pool", _use_head("attn_pool")),
)  # fmt: skip


USE_HEAD = Row("vision_use_head", "pool", _use_head("map"))
