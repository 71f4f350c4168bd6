"""Constructor arguments of timm's VisionTransformer as a table, and what timm's registered names are made with.

Source: huggingface/pytorch-image-models v1.0.31 timm/models/{vision_transformer,deit}.py, timm/layers/mlp.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from anyvit.configs.rows import (
    BOOL,
    COUNT,
    INT,
    SIZE,
    Row,
    Unsaid,
    Values,
    choice,
    ratio,
    to_float,
    to_int,
    written_only,
)
from anyvit.spec import Spec

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


def mlp_ratio(packed: bool) -> Values:
    """An MLP's width as a factor; packed MLPs count both halves."""
    return Values(
        lambda _, config: _hidden(config), lambda value, spec: ratio(value * (2 if packed else 1), spec.embed_dim)
    )


FFN = choice("MLP", {"Mlp": "mlp", "SwiGLUPacked": "glu_fused", "SwiGLU": "swiglu"})


ACT = choice(
    "activation",
    {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu", "swish": "silu",
     "GELU": "gelu", "SiLU": "silu"},
)  # fmt: skip


POOL = choice("pool", {"token": "cls", "avg": "avg", "map": "map", "": "none"})


INIT = Values(lambda value, _: value is not None, lambda value, _: 1e-5 if value else None)


def _per_head(value: Any) -> bool:
    if value == "full":
        raise Unsaid("queries and keys are normed per head there, and here over the full width")
    return bool(value)


HEAD_NORM = Values(
    lambda value, config: "head" if BOOL.read(value, config) else False, lambda value, _: _per_head(value)
)


def switch(raises: str = "") -> Values:
    """A switch that has no word for biases without the keys'."""

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


def write_fc(value: Any, _: Spec) -> bool:
    """The switch of a class that norms before or after the pool."""
    if value == "both":
        raise Unsaid("the class has a norm before the pool or after it, not both")
    return value == "fc_norm"


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
    Row("no_embed_class", "pos_prefix", written_only(_no_embed_class)),
)


def vit(packed: bool = False) -> tuple[Row, ...]:
    """Rows of VisionTransformer, whose MLP may be packed."""
    return (
        *SHARED,
        EPS,
        *PREFIX,
        Row("mlp_ratio", "mlp_dim", mlp_ratio(packed)),
        Row("reg_tokens", "num_registers", COUNT),
        Row("global_pool", "pool", POOL),
        Row("qkv_bias", "qkv_bias", switch(ALL_OR_NONE)),
        Row("proj_bias", "proj_bias", BOOL),
        Row("proj_bias", "mlp_bias", Values(BOOL.read, _mlp_bias)),
        Row("qk_norm", "qk_norm", HEAD_NORM),
        Row("scale_attn_norm", "attn_norm", BOOL),
        Row("scale_mlp_norm", "mlp_norm", BOOL),
        Row("pre_norm", "pre_norm", BOOL),
        Row("fc_norm", "final_norm", Values(_read_final, write_fc)),
        Row("final_norm", "final_norm", Values(_read_final, lambda value, _: value is not None)),
        Row("act_layer", "act", ACT),
        Row("pos_embed", "pos_embed", Values(_read_learned, _write_learned)),
    )


def _mlp_bias(value: Any, spec: Spec) -> bool:
    """Source: Block passes proj_bias on as the MLP's bias."""
    if value != spec.proj_bias:
        raise Unsaid("one switch for the biases of the MLP and of the output projection, and here they differ")
    return value


def _read_learned(value: Any, _: Mapping[str, Any]) -> str:
    return "learned" if value == "learn" else "none"


def _write_learned(value: Any, _: Spec) -> str:
    if value not in ("learned", "sincos", "none"):
        raise Unsaid(f"the class has a learned table or none, and here positions are {value}")
    return "none" if value == "none" else "learn"
