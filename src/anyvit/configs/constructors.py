"""The lines to type for a module that can hold a model, in every library that has one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from anyvit.configs import hf, open_clip, timm
from anyvit.configs.hf_types import TYPES
from anyvit.configs.rows import GATED, ratio, settle
from anyvit.configs.timm_forms import FORMS
from anyvit.spec import Spec

HF_ORDER = ("hf-vit", "hf-deit", "hf-dinov2", "hf-dinov2-with-registers", "hf-dinov3", "hf-beit", "hf-ijepa", "hf-clip",
            "hf-siglip", "hf-aimv2", "hf-sam", "hf-internvl")  # fmt: skip
"""Dialects whose models differ in what they can hold."""


def constructors(spec: Spec, names: Collection[str] = (), file: str = "FILE") -> dict[str, str]:
    """Python expressions that build a module for these tensors, by library; only those that can hold the model exactly.

    Arguments:
        spec: the architecture.
        names: canonical names of the tensors.
        file: the path to print.

    Example:
        >>> lines = constructors(Spec(image_size=224, pos_prefix=1, qkv_bias=True))
        >>> lines["timm"]
        'timm.create_model("vit_base_patch16_224", num_classes=0)'
        >>> lines["hf-vit"]
        'transformers.ViTModel(transformers.ViTConfig(layer_norm_eps=1e-06), add_pooling_layer=False)'
    """
    # Blocks are alike: what the first one holds tells as much as all of them.
    names = {name for name in names if not name.startswith("blocks.") or name.startswith("blocks.0.")}
    spec = settle(spec, names)
    lines = {"anyvit": f'anyvit.load("{file}")'}
    if spec.condition or spec.head_norm:
        return lines
    for dialect in sorted(FORMS, key=lambda name: name != spec.dialect):
        if line := _timm(spec, dialect, names):
            lines["timm"] = line
            break
    for dialect in HF_ORDER:
        if line := _hf(spec, dialect, names):
            lines[dialect] = line
    if line := _dinov2(spec, names):
        lines["dinov2"] = line
    if line := _open_clip(spec, names):
        lines["open_clip"] = line
    return lines


def _call(name: str, *first: str, **kwargs: Any) -> str:
    return f"{name}({', '.join([*first, *(f'{key}={_literal(value)}' for key, value in kwargs.items())])})"


def _literal(value: Any) -> str:
    return '"' + value + '"' if isinstance(value, str) else repr(value)


def _timm(spec: Spec, dialect: str, names: Collection[str]) -> str | None:
    form = timm.form_of(spec, dialect)
    if form is None:
        return None
    spec, names = _as_timm_has_it(spec, names)
    if {"pre_logits.weight", "proj.weight", "proj.fc1.weight", "neck.conv1.weight"} & set(names):
        return None
    wanted, unsaid = timm.arguments(spec, form, names)
    if unsaid:
        return None
    name, args, missing = timm.nearest(form, wanted)
    code: dict[str, str] = {}
    if set(missing) <= {"eps", "norm"} and missing:
        layer = {"layernorm": "LayerNorm", "rmsnorm": "RmsNorm"}[spec.norm]
        args.pop("norm_layer", None)
        code["norm_layer"] = f"functools.partial(timm.layers.{layer}, eps={spec.eps!r})"
        missing = {}
    if missing:
        return None
    args["num_classes"] = spec.num_classes if "head.weight" in names or not names else 0
    if None in args.values():
        # create_model drops an argument that is None.
        return None
    line = _call("timm.create_model", f'"{name}"', **args)
    return line[:-1] + "".join(f", {key}={text}" for key, text in code.items()) + ")"


def _as_timm_has_it(spec: Spec, names: Collection[str]) -> tuple[Spec, Collection[str]]:
    """CLIP's projection as a classifier, prefix rows of the position table for all prefix tokens or for none.

    Both are what a conversion to timm and a fill of timm's model do, without a change of the function.

    Source: timm/models/vision_transformer.py, *_clip_* (`num_classes` = width of the joint space), *_reg4_dinov2
    (`no_embed_class`); checkpoint_filter_fn
    """
    if "proj.weight" in names and "proj.bias" not in names and "head.weight" not in names:
        spec = replace(spec, num_classes=spec.projection_dim or 0, projection_dim=None)
        names = {*(name for name in names if name != "proj.weight"), "head.weight", "head.bias"}
    if spec.pos_prefix not in (0, spec.num_prefix):
        spec = replace(spec, pos_prefix=0)
    return spec, names


def _hf(spec: Spec, dialect: str, names: Collection[str]) -> str | None:
    files, unsaid = hf.write(spec, dialect, names)
    kind = hf.model_type(dialect)
    described = TYPES[kind or ""]
    if unsaid or not _fits(spec, dialect, names):
        return None
    config = dict(files["config.json"])
    model = config.pop("architectures")[0]
    if "vision_config" in config:
        return None
    labels = len(config.pop("id2label", ()))
    config.pop("label2id", None)
    config.pop("model_type")
    kwargs = {key: value for key, value in config.items() if _differs(key, value, described.defaults)}
    if labels:
        kwargs["num_labels"] = labels
    made = _call(f"transformers.{described.config}", **kwargs)
    return f"transformers.{model}({made}{_pooling_layer(model, names)})"


def _pooling_layer(model: str, names: Collection[str]) -> str:
    """The argument that leaves out a pooler that there is no tensor for, or adds one."""
    usual = {"ViTModel": True, "DeiTModel": True, "BeitModel": True, "IJepaModel": False}.get(model)
    pooled = bool({"pre_logits.weight", "fc_norm.weight"} & set(names))
    return "" if usual is None or usual == pooled else f", add_pooling_layer={pooled}"


def _differs(key: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    default = defaults.get(key)
    return (list(default) if isinstance(default, tuple) else default) != value or key not in defaults


def _fits(spec: Spec, dialect: str, names: Collection[str]) -> bool:
    """Whether the tensors that there are all have a place in the model."""
    have = set(names)
    if spec.image_size is None and spec.pos_embed != "rope":
        return False
    if spec.num_registers == 0 and dialect == "hf-dinov2-with-registers":
        return False
    rows = {"hf-ijepa": 0, "hf-deit": 2, "hf-siglip": 0, "hf-aimv2": 0, "hf-sam": 0, "hf-beit": None, "hf-dinov3": None}
    prefix = rows.get(dialect, 1)
    if prefix is not None and spec.pos_prefix != prefix:
        return False
    allowed = {"hf-clip": ("proj.weight",), "hf-vit": ("pre_logits.weight",), "hf-sam": ("neck.conv1.weight",),
               "hf-deit": ("pre_logits.weight", "head_dist.weight")}.get(dialect, ())  # fmt: skip
    extra = {"proj.weight", "proj.fc1.weight", "pre_logits.weight", "neck.conv1.weight", "head_dist.weight"} & have
    pool = any(name.startswith("pool.") for name in have)
    if pool and (dialect not in ("hf-siglip", "hf-aimv2") or "head.weight" in have):
        return False
    return extra <= set(allowed)


DINOV2 = {
    (384, 12, 6): "vit_small",
    (768, 12, 12): "vit_base",
    (1024, 24, 16): "vit_large",
    (1536, 40, 24): "vit_giant2",
}
"""Source: facebookresearch/dinov2 dinov2/models/vision_transformer.py."""


def _dinov2(spec: Spec, names: Collection[str]) -> str | None:
    """DINOv2's own constructor, whose eps, activation and norms are fixed."""
    act = "silu" if spec.ffn in GATED else "gelu"
    plain = (spec.norm, spec.eps, spec.act, spec.num_cls, spec.pos_prefix, spec.final_norm, spec.block_norm, spec.rope)
    if plain != ("layernorm", 1e-6, act, 1, 1, "norm", "pre", None) or spec.ffn not in ("mlp", *GATED):
        return None
    odd = (spec.dist_token, spec.pre_norm, spec.qk_norm, spec.attn_norm, spec.mlp_norm, spec.patch_norm, spec.window)
    extra = {"head.weight", "fc_norm.weight", "pre_logits.weight", "proj.weight", "embed.rel_pos"} & set(names)
    even = spec.heads_dim * spec.num_heads == spec.embed_dim
    if any(odd) or extra or not spec.patch_bias or spec.qkv_bias == "qv" or not even or not spec.image_size:
        return None
    return _dinov2_call(spec)


def _dinov2_call(spec: Spec) -> str | None:
    sizes = (spec.embed_dim, spec.depth, spec.num_heads)
    name = DINOV2.get(sizes)
    kwargs: dict[str, Any] = {"patch_size": spec.patch_size, "img_size": spec.image_size}
    if name is None:
        kwargs.update(zip(("embed_dim", "depth", "num_heads"), sizes, strict=True))
    if spec.ffn in GATED:
        kwargs["ffn_layer"] = "swiglufused"
    if spec.mlp_dim != _dinov2_hidden(spec, 4 * spec.embed_dim):
        hidden = next((h for h in range(2 * spec.mlp_dim, 0, -1) if _dinov2_hidden(spec, h) == spec.mlp_dim), 0)
        if name is not None or not hidden:
            return None
        kwargs["mlp_ratio"] = ratio(hidden, spec.embed_dim)
    off = {"qkv_bias": spec.qkv_bias, "proj_bias": spec.proj_bias, "ffn_bias": spec.mlp_bias}
    kwargs.update({key: False for key, on in off.items() if not on})
    if spec.in_chans != 3:
        kwargs["in_chans"] = spec.in_chans
    if spec.layer_scale:
        kwargs["init_values"] = 1.0
    kwargs["block_chunks"] = 0
    if spec.num_registers:
        kwargs["num_register_tokens"] = spec.num_registers
    return _call(name or "DinoVisionTransformer", **kwargs)


def _dinov2_hidden(spec: Spec, hidden: int) -> int:
    """Inputs of the last MLP matrix. Source: facebookresearch/dinov2 dinov2/layers/swiglu_ffn.py SwiGLUFFNFused."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if spec.ffn in GATED else hidden


def _open_clip(spec: Spec, names: Collection[str]) -> str | None:
    """open_clip's image tower; a whole CLIP wants a text tower beside it."""
    files, unsaid = open_clip.write(spec, names)
    if unsaid or "proj.weight" not in names or spec.image_size is None or spec.pos_prefix != 1:
        return None
    if any(name.startswith(("pool.", "proj.fc")) or name in ("proj.bias", "pre_logits.weight") for name in names):
        return None
    model = files["open_clip_config.json"]["model_cfg"]
    vision = {key: value for key, value in model["vision_cfg"].items() if value != open_clip.DEFAULTS.get(key)}
    made = _call("open_clip.CLIPVisionCfg", **vision)
    quick = ", quick_gelu=True" if model.get("quick_gelu") else ""
    return f"open_clip.model._build_vision_tower({model['embed_dim']}, {made}{quick})"
