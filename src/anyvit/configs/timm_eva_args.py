"""Constructor arguments of timm's Eva, Beit, VisionTransformerSAM and VisionTransformerRelPos as tables.

Source: huggingface/pytorch-image-models v1.0.31
timm/models/{eva,beit,vision_transformer_sam,vision_transformer_relpos}.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyvit.configs.rows import (
    BOOL,
    COUNT,
    GATED,
    Row,
    Skip,
    Unsaid,
    Values,
    choice,
    ratio,
    to_float,
    to_int,
    to_size,
    written_only,
)
from anyvit.configs.timm_args import ACT, ALL_OR_NONE, EPS, HEAD_NORM, POOL, PREFIX, SHARED, mlp_ratio, switch, write_fc
from anyvit.spec import Rope, Spec, pair


def _write_beit_fc(value: Any, spec: Spec) -> bool:
    if value is None:
        raise Unsaid("the class always has a final norm")
    return write_fc(value, spec)


def _read_eva_final(_: Any, config: Mapping[str, Any]) -> str | None:
    after, before = config.get("use_fc_norm"), config.get("use_post_transformer_norm")
    after = config.get("global_pool") == "avg" if after is None else after
    before = not after if before is None else before
    return {(True, True): "both", (True, False): "norm", (False, True): "fc_norm"}.get((bool(before), bool(after)))


def _read_rope(value: Any, config: Mapping[str, Any]) -> Rope | None:
    if not value:
        return None
    base, kind = to_float(config["rope_temperature"]), config["rope_type"]
    layout = "half" if config["rope_rotate_half"] else "interleaved"
    if kind == "dinov3":
        return Rope(base, layout, coords="normalized", span="head")
    if kind != "cat":
        raise Skip
    first = "column" if config["rope_grid_indexing"] == "xy" else "row"
    offset, reference = to_float(config["rope_grid_offset"]), config["ref_feat_shape"]
    if offset not in (0, 1):
        raise ValueError("counts from another position than 0 or 1")
    side = None if reference is None else pair(to_size(reference))[0]
    coords = "index1" if offset else "index" if side is None else "scaled"
    return Rope(base, layout, first, coords, side)


def _rope_args(spec: Spec) -> dict[str, Any]:
    """Source: timm/layers/pos_embed_sincos.py create_rope_embed, RotaryEmbeddingCat, RotaryEmbeddingDinoV3."""
    rope = spec.rope
    if rope is None:
        return {"use_rot_pos_emb": False}
    half = rope.layout == "half"
    args: dict[str, Any] = {"use_rot_pos_emb": True, "rope_temperature": rope.base, "rope_rotate_half": half}
    if rope == Rope(rope.base, "half", coords="normalized", span="head"):
        return {**args, "rope_type": "dinov3"}
    if half or rope.span != "axes" or rope.mixed or rope.max_freq or rope.coords == "normalized":
        raise Unsaid("timm's Eva has no rotary embedding of this kind")
    reference = None if rope.reference is None else [rope.reference] * 2
    return {**args, "rope_type": "cat", "rope_grid_offset": float(rope.coords == "index1"), "ref_feat_shape": reference,
            "rope_grid_indexing": "xy" if rope.first == "column" else "ij"}  # fmt: skip


def rope_row(key: str) -> Row:
    def write(_: Any, spec: Spec) -> Any:
        args = _rope_args(spec)
        if key not in args:
            raise Skip
        return args[key]

    return Row(key, "rope", Values(_read_rope, write) if key == "use_rot_pos_emb" else written_only(write))


ROPE_KEYS = ("use_rot_pos_emb", "rope_type", "rope_temperature", "rope_rotate_half", "rope_grid_offset",
             "rope_grid_indexing", "ref_feat_shape")  # fmt: skip


def _read_eva_positions(value: Any, config: Mapping[str, Any]) -> str:
    words = (["learned"] if value else []) + (["rope"] if config.get("use_rot_pos_emb") else [])
    return "+".join(words) or "none"


def _write_eva_positions(value: Any, _: Spec) -> bool:
    words = set(value.split("+"))
    if not words <= {"learned", "sincos", "rope", "none"}:
        raise Unsaid(f"the class has no words for positions {value}")
    return bool(words & {"learned", "sincos"})


def _eva_act(value: Any, spec: Spec) -> bool:
    wanted = "silu" if spec.ffn in GATED else "gelu"
    if value != wanted:
        raise Unsaid(f"the class always uses {wanted}")
    return spec.ffn in GATED


def _attn_type(value: Any, _: Spec) -> str:
    """Source: EvaBlock; AttentionRope has a bias for the keys, EvaAttention none."""
    if value is False:
        raise Skip
    return "eva" if value == "qv" else "rope"


def _mapped(read: Callable[[Any, Mapping[str, Any]], Any], write: Callable[[Any, Spec], Any]) -> Values:
    """A row of the attention pool, which says nothing where there is none."""

    def reads(value: Any, config: Mapping[str, Any]) -> Any:
        if config["global_pool"] != "map":
            raise Skip
        return read(value, config)

    def writes(value: Any, spec: Spec) -> Any:
        if spec.pool != "map":
            raise Skip
        return write(value, spec)

    return Values(reads, writes)


def _read_pool_width(value: Any, config: Mapping[str, Any]) -> int:
    return int(to_int(config["embed_dim"]) * to_float(value))


POOLING = (
    Row("attn_pool_num_heads", "pool_heads",
        _mapped(lambda value, _: to_int(value), lambda value, spec: value or spec.num_heads)),
    Row("attn_pool_mlp_ratio", "pool_mlp_dim",
        _mapped(_read_pool_width, lambda value, spec: ratio(value or spec.mlp_dim, spec.embed_dim))),
)  # fmt: skip


def _read_eva_bias(value: Any, config: Mapping[str, Any]) -> bool | str:
    return True if value and config.get("attn_type") == "rope" else ("qv" if value else False)


EVA = (
    *SHARED,
    EPS,
    *PREFIX,
    Row("mlp_ratio", "mlp_dim", mlp_ratio(False)),
    Row("num_reg_tokens", "num_registers", COUNT),
    Row("global_pool", "pool", POOL),
    Row("qkv_bias", "qkv_bias", Values(_read_eva_bias, lambda value, _: bool(value))),
    Row("qk_norm", "qk_norm", HEAD_NORM),
    Row("scale_attn_inner", "attn_norm", BOOL),
    Row("scale_mlp", "mlp_norm", BOOL),
    Row("swiglu_mlp", "act", Values(lambda value, _: "silu" if value else "gelu", _eva_act)),
    Row("use_pre_transformer_norm", "pre_norm", BOOL),
    Row("use_fc_norm", "final_norm", Values(_read_eva_final, lambda value, _: value in ("fc_norm", "both"))),
    Row("use_post_transformer_norm", "final_norm", Values(_read_eva_final, lambda value, _: value in ("norm", "both"))),
    Row("use_post_norm", "block_norm", choice("place of the norms", {False: "pre", True: "post"})),
    Row("use_abs_pos_emb", "pos_embed", Values(_read_eva_positions, _write_eva_positions)),
    *(rope_row(key) for key in ROPE_KEYS),
    Row("attn_type", "qkv_bias", written_only(_attn_type)),
    *POOLING,
)


def _read_beit_positions(_: Any, config: Mapping[str, Any]) -> str:
    words = ["learned"] if config.get("use_abs_pos_emb") else []
    words += ["relpos_shared"] if config.get("use_shared_rel_pos_bias") else []
    words += ["relpos"] if config.get("use_rel_pos_bias") else []
    return "+".join(words) or "none"


def _write_beit_positions(value: Any, _: Spec) -> bool:
    words = set(value.split("+"))
    if not words <= {"learned", "sincos", "relpos", "relpos_shared", "none"}:
        raise Unsaid(f"the class has no words for positions {value}")
    return bool(words & {"learned", "sincos"})


BEIT = (
    *SHARED,
    EPS,
    Row("mlp_ratio", "mlp_dim", mlp_ratio(False)),
    Row("global_pool", "pool", POOL),
    Row("qkv_bias", "qkv_bias", Values(lambda value, _: "qv" if value else False, lambda value, _: bool(value))),
    Row("swiglu_mlp", "act", Values(lambda value, _: "silu" if value else "gelu", _eva_act)),
    Row("use_fc_norm", "final_norm", Values(_read_eva_final, _write_beit_fc)),
    Row("use_abs_pos_emb", "pos_embed", Values(_read_beit_positions, _write_beit_positions)),
    Row("use_rel_pos_bias", "pos_embed", written_only(lambda value, _: value.endswith("relpos"))),
    Row("use_shared_rel_pos_bias", "pos_embed", written_only(lambda value, _: "relpos_shared" in value)),
)


SAM = (
    *SHARED,
    EPS,
    Row("mlp_ratio", "mlp_dim", mlp_ratio(False)),
    Row("qkv_bias", "qkv_bias", switch(ALL_OR_NONE)),
    Row("act_layer", "act", ACT),
    Row("window_size", "window", Values(lambda value, _: to_int(value) or None, lambda value, _: value or 0)),
    Row("global_attn_indexes", "global_blocks",
        Values(lambda value, _: tuple(to_int(v) for v in value), lambda value, _: list(value))),
    Row("neck_chans", "neck_dim", Values(lambda value, _: to_int(value) or None, lambda value, _: value or 0)),
)  # fmt: skip


def _read_relative(value: Any, config: Mapping[str, Any]) -> str:
    kind = "relpos_mlp" if str(value).startswith("mlp") else "relpos"
    return kind + ("_shared" if config.get("shared_rel_pos") else "")


def _write_relative(value: Any, spec: Spec) -> str:
    if value in ("relpos_mlp", "relpos_mlp_shared"):
        return "mlp" if spec.rel_mlp_log == "log" else "mlp-swin"
    if value in ("relpos", "relpos_shared"):
        return "bias"
    raise Unsaid(f"the class has no words for positions {value}")


RELPOS = (
    *SHARED,
    EPS,
    PREFIX[0],
    Row("mlp_ratio", "mlp_dim", mlp_ratio(False)),
    Row("global_pool", "pool", POOL),
    Row("qkv_bias", "qkv_bias", switch(ALL_OR_NONE)),
    Row("qk_norm", "qk_norm", HEAD_NORM),
    Row("act_layer", "act", ACT),
    Row("fc_norm", "final_norm", Values(lambda value, _: "fc_norm" if value else "norm", _write_beit_fc)),
    Row("rel_pos_type", "pos_embed", Values(_read_relative, _write_relative)),
    Row("shared_rel_pos", "pos_embed", written_only(lambda value, _: value.endswith("_shared"))),
    Row(
        "rel_pos_dim", "rel_mlp_dim", Values(lambda value, _: to_int(value) if value else None, lambda value, _: value)
    ),
)
