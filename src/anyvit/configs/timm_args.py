"""Constructor arguments of timm's Vision Transformers as tables.

Source: huggingface/pytorch-image-models v1.0.31 timm/models/{vision_transformer,deit,eva,beit,vision_transformer_relpos,
vision_transformer_sam}.py and timm/layers/mlp.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from anyvit.configs.rows import (
    BOOL,
    COUNT,
    GATED,
    INT,
    SIZE,
    Row,
    Skip,
    Unsaid,
    Values,
    choice,
    ratio,
    to_float,
    to_int,
)
from anyvit.spec import Rope, Spec

CALLABLES = ("norm_layer", "mlp_layer", "block_fn", "embed_norm_layer", "attn_layer", "embed_layer")
"""Arguments that are classes: no JSON says them, only the choice of a registered name."""


@cache
def table() -> dict[str, Any]:
    """Registered names with class and arguments, and each class's defaults; made by scripts/timm_table.py."""
    return json.loads((Path(__file__).parent / "timm_names.json").read_text())


def registered(name: str) -> tuple[str, dict[str, Any]] | None:
    """The class of a registered name and everything it is made with; None for other names.

    Example:
        >>> registered("vit_base_patch16_224")[1]["num_heads"], registered("resnet50")
        (12, None)
    """
    name = name.split(".")[0]
    if name not in table()["models"]:
        return None
    cls, args = table()["models"][name]
    return cls, {**table()["classes"][cls], **args}


def norm_word(word: Any) -> tuple[str, float]:
    """Kind and eps of a norm layer's word; timm's own norms have eps 1e-6.

    Example:
        >>> norm_word("layernorm@1e-05"), norm_word("rms_norm"), norm_word(None)
        (('layernorm', 1e-05), ('rmsnorm', 1e-06), ('layernorm', 1e-06))
    """
    if word is None:
        return "layernorm", 1e-6
    if not isinstance(word, str):
        raise ValueError("is no norm")
    kind, _, eps = word.replace("_", "").lower().partition("@")
    kind = kind.removesuffix("fp32")
    if kind not in ("layernorm", "rmsnorm"):
        raise ValueError("is no norm known here")
    return kind, float(eps or 1e-6)


def _norm(part: int) -> Values:
    def write(value: Any, spec: Spec) -> str:
        if spec.norm not in ("layernorm", "rmsnorm"):
            raise Unsaid(f"there is no norm {spec.norm}")
        return f"{spec.norm}@{spec.eps:g}"

    return Values(lambda value, _: norm_word(value)[part], write)


def _hidden(config: Mapping[str, Any]) -> int:
    hidden = int(to_int(config["embed_dim"]) * to_float(config["mlp_ratio"]))
    if align := config.get("swiglu_align_to") or 0:
        hidden += -hidden % to_int(align)
    return hidden // 2 if config.get("mlp_layer") in ("SwiGLUPacked", "GluMlp") else hidden


def _ratio(packed: bool) -> Values:
    return Values(
        lambda _, config: _hidden(config), lambda value, spec: ratio(value * (2 if packed else 1), spec.embed_dim)
    )


FFN = choice("MLP", {"Mlp": "mlp", "SwiGLUPacked": "glu_fused", "SwiGLU": "swiglu"})
ACT = choice(
    "activation",
    {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu", "swish": "silu", "GELU": "gelu",
     "SiLU": "silu"},
)  # fmt: skip
POOL = choice("pool", {"token": "cls", "avg": "avg", "map": "map", "": "none"})
INIT = Values(lambda value, _: value is not None, lambda value, _: 1e-5 if value else None)
HEAD_NORM = Values(lambda value, config: "head" if BOOL.read(value, config) else False, lambda value, _: _per_head(value))


def _per_head(value: Any) -> bool:
    if value == "full":
        raise Unsaid("queries and keys are normed per head there, and here over the full width")
    return bool(value)


def _switch(raises: str = "") -> Values:
    def write(value: Any, _: Spec) -> bool:
        if value == "qv":
            raise Unsaid(raises)
        return bool(value)

    return Values(BOOL.read, write)


ALL_OR_NONE = "one switch for all three biases, and here only the keys have none"


def _read_final(_: Any, config: Mapping[str, Any]) -> str | None:
    """Source: VisionTransformer.__init__, use_fc_norm."""
    if not config.get("final_norm", True):
        return None
    after = config.get("fc_norm")
    after = config.get("global_pool") in ("avg", "avgmax", "max") if after is None else after
    return "fc_norm" if after else "norm"


def _write_fc(value: Any, _: Spec) -> bool:
    if value == "both":
        raise Unsaid("the class has a norm before the pool or after it, not both")
    return value == "fc_norm"


def _read_eva_final(_: Any, config: Mapping[str, Any]) -> str | None:
    after, before = config.get("use_fc_norm"), config.get("use_post_transformer_norm")
    after = config.get("global_pool") == "avg" if after is None else after
    before = not after if before is None else before
    return {(True, True): "both", (True, False): "norm", (False, True): "fc_norm"}.get((bool(before), bool(after)))


def _silent(write: Any) -> Values:
    def read(value: Any, config: Mapping[str, Any]) -> Any:
        raise Skip

    return Values(read, write)


def _no_embed_class(value: Any, spec: Spec) -> bool:
    if spec.pos_prefix not in (0, spec.num_prefix):
        raise Unsaid(f"{value} of {spec.num_prefix} prefix tokens have a position; there it is all of them or none")
    return spec.pos_prefix == 0 and spec.num_prefix > 0


SHARED = (
    Row("embed_dim", "embed_dim", INT),
    Row("depth", "depth", COUNT),
    Row("num_heads", "num_heads", INT),
    Row("patch_size", "patch_size", SIZE),
    Row("img_size", "image_size", SIZE),
    Row("in_chans", "in_chans", INT),
    Row("init_values", "layer_scale", INIT),
    Row("norm_layer", "norm", _norm(0)),
)
EPS = Row("norm_layer", "eps", Values(lambda value, _: norm_word(value)[1], _norm(1).write))
PREFIX = (
    Row("class_token", "num_cls", Values(lambda value, _: int(bool(value)), lambda value, _: value > 0)),
    Row("no_embed_class", "pos_prefix", _silent(_no_embed_class)),
)


def _vit(packed: bool = False) -> tuple[Row, ...]:
    return (
        *SHARED,
        EPS,
        *PREFIX,
        Row("mlp_ratio", "mlp_dim", _ratio(packed)),
        Row("reg_tokens", "num_registers", COUNT),
        Row("global_pool", "pool", POOL),
        Row("qkv_bias", "qkv_bias", _switch(ALL_OR_NONE)),
        Row("proj_bias", "proj_bias", BOOL),
        Row("qk_norm", "qk_norm", HEAD_NORM),
        Row("scale_attn_norm", "attn_norm", BOOL),
        Row("scale_mlp_norm", "mlp_norm", BOOL),
        Row("pre_norm", "pre_norm", BOOL),
        Row("fc_norm", "final_norm", Values(_read_final, _write_fc)),
        Row("final_norm", "final_norm", Values(_read_final, lambda value, _: value is not None)),
        Row("act_layer", "act", ACT),
        Row("pos_embed", "pos_embed", Values(_read_learned, _write_learned)),
    )


def _read_learned(value: Any, _: Mapping[str, Any]) -> str:
    return "learned" if value == "learn" else "none"


def _write_learned(value: Any, _: Spec) -> str:
    if value not in ("learned", "sincos", "none"):
        raise Unsaid(f"the class has a learned table or none, and here positions are {value}")
    return "none" if value == "none" else "learn"


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
    if reference is not None and not offset:
        return Rope(base, layout, first, "scaled", to_int(reference[0] if isinstance(reference, list) else reference))
    return Rope(base, layout, first, "index1" if offset == 1 else "index")


def _rope_args(spec: Spec) -> dict[str, Any]:
    """Source: timm/layers/pos_embed_sincos.py create_rope_embed, RotaryEmbeddingCat, RotaryEmbeddingDinoV3."""
    rope = spec.rope
    if rope is None:
        return {"use_rot_pos_emb": False}
    args: dict[str, Any] = {"use_rot_pos_emb": True, "rope_temperature": rope.base, "rope_rotate_half": rope.layout == "half"}
    if rope == Rope(rope.base, "half", coords="normalized", span="head"):
        return {**args, "rope_type": "dinov3"}
    if rope.layout != "interleaved" or rope.span != "axes" or rope.mixed or rope.max_freq or rope.coords == "normalized":
        raise Unsaid("timm's Eva has no rotary embedding of this kind")
    reference = [rope.reference] * 2 if rope.coords == "scaled" else None
    return {**args, "rope_type": "cat", "rope_grid_offset": float(rope.coords == "index1"), "ref_feat_shape": reference,
            "rope_grid_indexing": "xy" if rope.first == "column" else "ij"}  # fmt: skip


def _rope_row(key: str) -> Row:
    def write(_: Any, spec: Spec) -> Any:
        args = _rope_args(spec)
        if key not in args:
            raise Skip
        return args[key]

    read = _read_rope if key == "use_rot_pos_emb" else _silent(write).read
    return Row(key, "rope", Values(read, write))


ROPE_KEYS = ("use_rot_pos_emb", "rope_type", "rope_temperature", "rope_rotate_half", "rope_grid_offset",
             "rope_grid_indexing", "ref_feat_shape")  # fmt: skip


def _read_eva_positions(value: Any, config: Mapping[str, Any]) -> str:
    words = (["learned"] if value else []) + (["rope"] if config.get("use_rot_pos_emb") else [])
    return "+".join(words) or "none"


def _eva_act(value: Any, spec: Spec) -> bool:
    wanted = "silu" if spec.ffn in GATED else "gelu"
    if value != wanted:
        raise Unsaid(f"the class always uses {wanted}")
    return spec.ffn in GATED


def _read_eva_bias(value: Any, config: Mapping[str, Any]) -> bool | str:
    return True if value and config.get("attn_type") == "rope" else ("qv" if value else False)


EVA = (
    *SHARED,
    EPS,
    *PREFIX,
    Row("mlp_ratio", "mlp_dim", _ratio(False)),
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
    Row("use_post_norm", "block_norm", Values(lambda value, _: "post" if value else "pre", lambda value, _: value == "post")),
    Row("use_abs_pos_emb", "pos_embed", Values(_read_eva_positions, lambda value, _: "learned" in value or "sincos" in value)),
    *(_rope_row(key) for key in ROPE_KEYS),
)


def _read_beit_positions(_: Any, config: Mapping[str, Any]) -> str:
    words = ["learned"] if config.get("use_abs_pos_emb") else []
    words += ["relpos_shared"] if config.get("use_shared_rel_pos_bias") else []
    words += ["relpos"] if config.get("use_rel_pos_bias") else []
    return "+".join(words) or "none"


BEIT = (
    *SHARED,
    EPS,
    Row("mlp_ratio", "mlp_dim", _ratio(False)),
    Row("global_pool", "pool", POOL),
    Row("qkv_bias", "qkv_bias", Values(lambda value, _: "qv" if value else False, lambda value, _: bool(value))),
    Row("swiglu_mlp", "act", Values(lambda value, _: "silu" if value else "gelu", _eva_act)),
    Row("use_fc_norm", "final_norm", Values(_read_eva_final, _write_fc)),
    Row("use_abs_pos_emb", "pos_embed", Values(_read_beit_positions, lambda value, _: "learned" in value)),
    Row("use_rel_pos_bias", "pos_embed", _silent(lambda value, _: value.endswith("relpos"))),
    Row("use_shared_rel_pos_bias", "pos_embed", _silent(lambda value, _: "relpos_shared" in value)),
)
SAM = (
    *SHARED,
    EPS,
    Row("mlp_ratio", "mlp_dim", _ratio(False)),
    Row("qkv_bias", "qkv_bias", _switch(ALL_OR_NONE)),
    Row("act_layer", "act", ACT),
    Row("window_size", "window", Values(lambda value, _: to_int(value) or None, lambda value, _: value or 0)),
    Row("global_attn_indexes", "global_blocks",
        Values(lambda value, _: tuple(to_int(v) for v in value), lambda value, _: list(value))),
    Row("neck_chans", "neck_dim", INT),
)  # fmt: skip
RELPOS = (
    *SHARED,
    EPS,
    PREFIX[0],
    Row("mlp_ratio", "mlp_dim", _ratio(False)),
    Row("global_pool", "pool", POOL),
    Row("qkv_bias", "qkv_bias", _switch(ALL_OR_NONE)),
    Row("act_layer", "act", ACT),
)


@dataclass(frozen=True)
class Form:
    """How a dialect of timm's is built.

    Arguments:
        cls: timm's class.
        rows: its arguments.
        fixed: arguments that the dialect settles.
        always: Spec field → values that the class always has where no row says it.
    """

    cls: str
    rows: tuple[Row, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    always: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


ALWAYS: dict[str, tuple[Any, ...]] = {
    "block_norm": ("pre",), "rope": (None,), "window": (None,), "condition": (None,), "cls_norm": (False,),
    "mlp_bias": (True,), "norm_bias": (True,), "head_norm": (False,), "dist_token": (False,), "neck_dim": (None,),
    "patch_norm": (False,), "ffn": ("mlp",), "pre_logits_dim": (None,), "proj_bias": (True,),
}  # fmt: skip
VIT_ALWAYS = {**ALWAYS, "norm_bias": (True, False)}
EVA_ALWAYS = {**ALWAYS, "qkv_bias": ("qv", False)}
GATE = {"ffn": GATED}
BEIT_ALWAYS = {**ALWAYS, "num_cls": (1,), "num_registers": (0,), "pre_norm": (False,), "qkv_bias": ("qv", False)}


def _eva(always: Mapping[str, Any] | None = None, **fixed: Any) -> Form:
    return Form("Eva", EVA, {"attn_type": "eva", "qkv_fused": True, "swiglu_align_to": 0, **fixed}, {**EVA_ALWAYS, **(always or {})})


PLAIN_BLOCK = {"block_fn": "Block", "mlp_layer": "Mlp", "embed_norm_layer": None, "attn_layer": "Attention"}
FORMS: dict[str, Form] = {
    "timm": Form("VisionTransformer", _vit(), PLAIN_BLOCK, VIT_ALWAYS),
    "timm-glu": Form("VisionTransformer", _vit(True), {**PLAIN_BLOCK, "mlp_layer": "SwiGLUPacked"}, {**VIT_ALWAYS, **GATE}),
    "timm-swiglu": Form("VisionTransformer", _vit(), {**PLAIN_BLOCK, "mlp_layer": "SwiGLU"},
                        {**VIT_ALWAYS, **GATE, "patch_norm": (True, False)}),
    "timm-parallel": Form("VisionTransformer", _vit(), {**PLAIN_BLOCK, "block_fn": "ParallelScalingBlock"},
                          {**VIT_ALWAYS, "ffn": ("mlp", "parallel_scaling")}),
    "timm-distilled": Form("VisionTransformerDistilled", _vit(), PLAIN_BLOCK, {**VIT_ALWAYS, "dist_token": (True,)}),
    "timm-eva": _eva(),
    "timm-eva-swiglu": _eva(GATE, swiglu_align_to=1),
    "timm-eva-glu": _eva(GATE),
    "timm-eva-rope": _eva({"qkv_bias": (True, False)}, attn_type="rope"),
    "timm-eva-apart-swiglu": _eva(GATE, qkv_fused=False, swiglu_align_to=1),
    "timm-eva-apart-glu": _eva({**GATE, "qkv_bias": (True, "qv", False)}, qkv_fused=False),
    "timm-beit": Form("Beit", BEIT, {}, BEIT_ALWAYS),
    "timm-sam": Form("VisionTransformerSAM", SAM, {}, {**ALWAYS, "num_cls": (0,), "neck_dim": (None, *range(1, 2**16))}),
    "timm-relpos": Form("VisionTransformerRelPos", RELPOS, {}, ALWAYS),
}  # fmt: skip

READERS = {
    "VisionTransformer": _vit(), "VisionTransformerDistilled": _vit(), "Eva": EVA, "Beit": BEIT,
    "VisionTransformerSAM": SAM, "VisionTransformerRelPos": RELPOS,
}  # fmt: skip
FFN_ROW = Row("mlp_layer", "ffn", FFN)
