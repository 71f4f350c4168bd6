"""open_clip_config.json: the image tower's part of it.

Source: mlfoundations/open_clip v3.3.0 src/open_clip/model.py CLIPVisionCfg, _build_vision_tower;
src/open_clip/transform.py PreprocessCfg.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from anyvit.configs import open_clip_trunk, preprocess
from anyvit.configs.rows import (
    BOOL,
    COUNT,
    INT,
    SIZE,
    Given,
    Row,
    Skip,
    Unsaid,
    Values,
    brief,
    choice,
    ratio,
    read_rows,
    settle,
    to_float,
    to_int,
    write_rows,
    written_only,
)
from anyvit.spec import Fact, Spec

DIALECTS = ("open_clip", "openai-clip")
"""Dialects of open_clip's own VisionTransformer."""


def _read_heads(value: Any, config: Mapping[str, Any]) -> int:
    heads = to_int(config["width"]) // to_int(value)
    if heads < 1:
        raise ValueError(f"is more than the width {config['width']}")
    return heads


def _write_head_width(value: Any, spec: Spec) -> int:
    if spec.embed_dim % value or spec.heads_dim * value != spec.embed_dim:
        raise Unsaid("heads divide the width evenly there")
    return spec.embed_dim // value


def _read_act(value: Any, config: Mapping[str, Any]) -> str:
    if BOOL.read(value, config):
        return "quick_gelu"
    kwargs = config.get("act_kwargs")
    return "gelu_tanh" if isinstance(kwargs, Mapping) and kwargs.get("approximate") == "tanh" else "gelu"


def _write_act(value: Any, _: Spec) -> bool:
    if value not in ("gelu", "gelu_tanh", "quick_gelu"):
        raise Unsaid(f"there is GELU, its tanh form and QuickGELU, no {value}")
    return value == "quick_gelu"


def _write_act_kwargs(value: Any, _: Spec) -> Any:
    if value != "gelu_tanh":
        raise Skip
    return {"approximate": "tanh"}


def _read_eps(value: Any, _: Mapping[str, Any]) -> float:
    if not isinstance(value, Mapping):
        raise ValueError("is no table of keys")
    return to_float(value.get("eps", 1e-5))


def _write_eps(value: Any, _: Spec) -> dict[str, float]:
    return {"eps": value} if value != 1e-5 else {}


def _read_layers(value: Any, _: Mapping[str, Any]) -> int:
    if isinstance(value, list):
        raise ValueError("is a ResNet's")
    return to_int(value)


ROWS = (
    Row("layers", "depth", Values(_read_layers, COUNT.write)),
    Row("width", "embed_dim", INT),
    Row("head_width", "num_heads", Values(_read_heads, _write_head_width)),
    Row("mlp_ratio", "mlp_dim", Values(lambda value, config: int(to_int(config["width"]) * to_float(value)),
                                       lambda value, spec: ratio(value, spec.embed_dim))),
    Row("patch_size", "patch_size", SIZE),
    Row("image_size", "image_size", SIZE),
    Row("ls_init_value", "layer_scale", Values(lambda value, _: True, lambda value, _: 1e-5 if value else None)),
    Row("quick_gelu", "act", Values(_read_act, _write_act)),
    Row("act_kwargs", "act", written_only(_write_act_kwargs)),
    Row("norm_kwargs", "eps", Values(_read_eps, _write_eps)),
    Row("no_ln_pre", "pre_norm", choice("switch", {False: True, True: False})),
    Row("pool_type", "pool", choice("pool", {"tok": "cls", "avg": "avg", "none": "none"})),
    Row("final_ln_after_pool", "final_norm", choice("place of the final norm", {False: "norm", True: "fc_norm"})),
    Row("pos_embed_type", "pos_embed", choice("position", {"learnable": "learned", "sin_cos_2d": "sincos"})),
    Row("embed_dim", "projection_dim", INT),
)  # fmt: skip
DEFAULTS = {
    "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224,
    "quick_gelu": False, "norm_kwargs": {}, "no_ln_pre": False, "pool_type": "tok", "final_ln_after_pool": False,
    "pos_embed_type": "learnable",
}  # fmt: skip
OUTER = ("quick_gelu", "embed_dim")
"""Keys of model_cfg; the others stand in its vision_cfg."""
ALWAYS: dict[str, tuple[Any, ...]] = {
    "in_chans": (3,), "norm": ("layernorm",), "ffn": ("mlp",), "patch_bias": (False,), "qkv_bias": (True,),
    "rope": (None,),
    "num_cls": (1,), "num_registers": (0,), "dist_token": (False,), "block_norm": ("pre",), "qk_norm": (False,),
    "window": (None,), "condition": (None,), "projection": ("linear",),
}  # fmt: skip


def read(config: Any, source: str = "open_clip_config.json") -> Given:
    """What open_clip_config.json says of the image tower, timm's towers included.

    Example:
        >>> model = {"embed_dim": 512, "quick_gelu": True, "vision_cfg": {"layers": 12, "width": 768}}
        >>> given = read({"model_cfg": model})
        >>> given.facts["num_heads"].value, given.facts["act"].value
        (12, 'quick_gelu')
    """
    if not isinstance(config, Mapping):
        return Given(notes=(f"{source} is no table of keys",))
    model = config.get("model_cfg", config)
    pixels = config.get("preprocess_cfg")
    given = read_rows(preprocess.OPEN_CLIP, pixels, source) if isinstance(pixels, Mapping) else Given()
    vision = model.get("vision_cfg") if isinstance(model, Mapping) else None
    if not isinstance(vision, Mapping):
        return given.under(Given(notes=(f"{source} has no vision_cfg",)))
    if isinstance(vision.get("timm_model_name"), str):
        return given.under(open_clip_trunk.read(model, vision, source))
    whole = {**vision, **{key: model[key] for key in OUTER if key in model}}
    facts = read_rows(ROWS, whole, source, DEFAULTS, "CLIPVisionCfg")
    if vision.get("attentional_pool"):
        kept = {name: fact for name, fact in facts.facts.items() if name not in ("pool", "final_norm")}
        facts = Given({**kept, **_attentional(vision, source)}, facts.notes)
    return given.under(facts)


def _attentional(vision: Mapping[str, Any], source: str) -> dict[str, Fact]:
    try:
        heads, queries = (
            to_int(vision.get(f"attn_pooler_{key}", usual)) for key, usual in (("heads", 8), ("queries", 256))
        )
    except ValueError:
        return {}
    return {"pool_heads": Fact(heads, "given", f"{source}: attn_pooler_heads"),
            "pool_queries": Fact(queries, "given", f"{source}: attn_pooler_queries")}  # fmt: skip


def write(spec: Spec, names: Collection[str] = ()) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """open_clip_config.json with the image tower alone, and what it cannot say.

    open_clip builds no model from it without a text_cfg: its vision_cfg and preprocess_cfg are what
    `open_clip.model._build_vision_tower` and a config that adds a text tower need.
    """
    spec = settle(spec, names)
    flat, unsaid = write_rows(ROWS, spec)
    for field, allowed in ALWAYS.items():
        if getattr(spec, field) not in allowed:
            words = " or ".join(brief(choice) for choice in allowed)
            unsaid[field] = f"open_clip's VisionTransformer has {words}, not {brief(getattr(spec, field))}"
    if spec.projection_dim is None:
        unsaid["projection_dim"] = "open_clip's VisionTransformer ends in a projection, and there is none"
    if "head.weight" in names:
        unsaid["num_classes"] = "open_clip's VisionTransformer has no classifier"
    flat = {key: value for key, value in flat.items() if value is not None and value != {}}
    outer = {key: flat.pop(key) for key in OUTER if key in flat}
    return _file(spec, outer, flat), unsaid


def write_trunk(spec: Spec, dialect: str, names: Collection[str]) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The same for a tower that timm builds; no file, and why, where no registered name is this model."""
    outer, vision, why = open_clip_trunk.write(spec, dialect, names)
    if not vision:
        cause = f"no open_clip_config.json was written: open_clip builds timm's models by name alone; none has {'; '.join(why)}"
        return {}, (cause,)
    return _file(spec, outer, vision), ()


def _file(spec: Spec, outer: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    pixels, _ = write_rows(preprocess.OPEN_CLIP, spec)
    size = {"size": vision["image_size"]} if "image_size" in vision else {}
    model = {**outer, "vision_cfg": dict(vision)}
    return {"open_clip_config.json": {"model_cfg": model, "preprocess_cfg": {**size, "mode": "RGB", **pixels}}}
