"""Hugging Face config.json and preprocessor_config.json, read and written by the tables of `hf_types`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from anyvit.configs import preprocess
from anyvit.configs.hf_rows import HIDDEN_ACT, LN_EPS, SIZES, WIDTH
from anyvit.configs.hf_types import TYPES, HFType
from anyvit.configs.rows import Given, brief, read_rows, settle, to_int, write_rows
from anyvit.spec import Fact, Spec

PARENTS = {
    "clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model",
    "aimv2": "aimv2_vision_model", "sam": "sam_vision_model", "internvl": "internvl_vision",
    "internvl_chat": "intern_vit_6b", "paligemma": "siglip_vision_model",
    "llava": "clip_vision_model", "llava_next": "clip_vision_model", "vipllava": "clip_vision_model",
    "video_llava": "clip_vision_model", "chinese_clip": "clip_vision_model",
    "altclip": "clip_vision_model", "altclip_vision_model": "clip_vision_model",
}  # fmt: skip
"""model_type of a config that holds a vision config → its type where it does not say so itself.

Source: transformers models/*/configuration_*.py, defaults of vision_config.
"""

DIALECTS = {
    "hf-vit": "vit", "hf-deit": "deit", "hf-vit-mae": "vit_mae", "hf-vit-msn": "vit_msn", "hf-ijepa": "ijepa",
    "hf-dinov2": "dinov2", "hf-dinov2-with-registers": "dinov2_with_registers", "hf-dinov3": "dinov3_vit",
    "hf-beit": "beit", "hf-data2vec-vision": "data2vec-vision",
    "hf-clip": "clip_vision_model", "hf-siglip": "siglip_vision_model",
    "hf-siglip2": "siglip2_vision_model",
    "hf-aimv2": "aimv2_vision_model", "hf-sam": "sam_vision_model", "hf-internvl": "internvl_vision",
    "internvit": "intern_vit_6b",
}  # fmt: skip
"""The model_type that a dialect's folders have."""

NESTED = ("vision_config_dict", "vision_config", "backbone_config", "encoder", "image_encoder", "vision_tower_config")
"""Keys that hold the config of an image tower; the first wins, as transformers' CLIPConfig has it."""

HEAD_POOL = {
    **{t.classifier: t.pool for t in TYPES.values() if t.classifier and t.pool},
    "DeiTForImageClassificationWithTeacher": "cls+dist",
}
PROJECTS = ("CLIPModel", "CLIPVisionModelWithProjection")


def model_type(dialect: str) -> str | None:
    """The model_type that folders of a dialect have, None where it is none of Hugging Face's.

    Example:
        >>> model_type("hf-clip-memory")
        'clip_vision_model'
    """
    for suffix in ("-memory", "-beside", "-gated"):
        dialect = dialect.removesuffix(suffix)
    return DIALECTS.get(dialect)


def read(config: Any, source: str = "config.json") -> Given:
    """What a config.json says of its image tower; defaults of the config's class stand for keys that are left out.

    Example:
        >>> given = read({"model_type": "vit", "hidden_size": 96})
        >>> given.facts["embed_dim"].source, given.facts["eps"].value, given.facts["eps"].source
        ('config.json: hidden_size', 1e-12, 'default of ViTConfig')
    """
    if not isinstance(config, Mapping):
        return Given(notes=(f"{source} is no table of keys",))
    tower, kind, where = _tower(config, source)
    described = TYPES.get(kind) if isinstance(kind, str) else None
    if described is None:
        return _undescribed(tower, kind, where)
    given = read_rows(described.rows, tower, where, described.defaults, described.config)
    facts = dict(given.facts)
    facts.update(_head(config, tower, described, source))
    facts.update(_pooling(config, tower, kind, where))
    notes = [*given.notes, *_activation_notes(tower, where)]
    return Given(facts, tuple(notes))


def _tower(config: Mapping[str, Any], source: str) -> tuple[Mapping[str, Any], Any, str]:
    """The config of the image tower, its model_type, and where it stands."""
    outer = config.get("model_type")
    if isinstance(outer, str) and outer in TYPES:
        return config, outer, source
    for key in NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            kind = inner.get("model_type") or (PARENTS.get(outer) if isinstance(outer, str) else None)
            if isinstance(kind, str) and kind in PARENTS and kind not in TYPES:
                kind = PARENTS[kind]
            return inner, kind, f"{source}: {key}"
    if isinstance(outer, str) and outer in PARENTS and "hidden_size" not in config:
        return {}, PARENTS[outer], source
    if isinstance(outer, str) and outer.endswith("_vision_model"):
        return config, PARENTS.get(outer, outer), source
    return config, outer, source


BILINEAR = {"mode": "bilinear", "antialias": False}
FUNCTIONS: Mapping[str, tuple[str, Any]] = {
    "git_vision_model": ("tokens_normed", True),
    "tipsv2_vision_model": ("resample", BILINEAR), "dpt": ("resample", BILINEAR),
}  # fmt: skip
"""model_type without a table → (Spec field, value) of what its class computes.

Source: transformers models/git (last_hidden_state stands after post_layernorm), models/tipsv2 and models/dpt (bilinear
positions).
"""


def model_types(config: Any) -> tuple[str, ...]:
    """The model_types that a config names, its own and those of the configs in it.

    Example:
        >>> model_types({"model_type": "paddleocr_vl", "vision_config": {"model_type": "paddleocr_vl_vision"}})
        ('paddleocr_vl', 'paddleocr_vl_vision')
    """
    if not isinstance(config, Mapping):
        return ()
    tables = [config, *(config[key] for key in NESTED if isinstance(config.get(key), Mapping))]
    return tuple(table["model_type"] for table in tables if isinstance(table.get("model_type"), str))


GENERAL = (*SIZES, LN_EPS, HIDDEN_ACT, WIDTH)
COGVLM = {"num_heads": "num_attention_heads", "in_channels": "num_channels"}
"""What CogVLM calls usual keys; its vision_config names no model_type. Source: zai-org/cogvlm-chat-hf config.json."""


def _undescribed(tower: Mapping[str, Any], kind: Any, where: str) -> Given:
    """Keys that mean the same everywhere, for a model_type without a table."""
    if not isinstance(kind, str | None):
        return Given(notes=(f"{where}: model_type = {brief(kind)} is no name",))
    if kind is None and "num_positions" in tower:
        tower = {COGVLM.get(key, key): value for key, value in tower.items()}
    if "patch_size" not in tower or "num_attention_heads" not in tower:
        return Given(notes=(f"{where}: model_type {kind!r} has no table here",)) if kind else Given()
    given = read_rows(GENERAL, tower, where)
    note = f"{where}: model_type {kind!r} has no table here; only usual keys were read"
    facts = dict(given.facts)
    if kind is not None and kind in FUNCTIONS:
        name, value = FUNCTIONS[kind]
        facts[name] = Fact(value, "given", f"{where}: model_type {kind!r}")
    return Given(facts, (*given.notes, note))


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list | tuple) else []


def _head(config: Mapping[str, Any], tower: Mapping[str, Any], described: HFType, source: str) -> dict[str, Fact]:
    """Classes, pool and projection, which only the model's class tells to be there."""
    facts: dict[str, Fact] = {}
    for name in _architectures(config):
        where = f"{source}: architectures = {name}"
        if name in HEAD_POOL:
            facts["pool"] = Fact(HEAD_POOL[name], "given", where)
        if "ForImageClassification" in name:
            labels, said = config.get("id2label"), config.get("num_labels")
            count = len(labels) if isinstance(labels, Mapping | list) else said
            whence = f"{source}: id2label" if count is not None else "default of PreTrainedConfig"
            try:
                facts["num_classes"] = Fact(to_int(2 if count is None else count), "given", whence)
            except ValueError:
                continue
        if name in PROJECTS:
            holder = config if name == "CLIPModel" and "projection_dim" in config else tower
            try:
                value = to_int(holder.get("projection_dim", described.defaults.get("projection_dim")))
                facts["projection_dim"] = Fact(value, "given", f"{source}: projection_dim")
            except ValueError:
                continue
    return facts


def _pooling(config: Mapping[str, Any], tower: Mapping[str, Any], kind: str, where: str) -> dict[str, Fact]:
    """BEiT's and InternVL's use_mean_pooling, which moves the final norm."""
    value = tower.get("use_mean_pooling", True)
    source = f"{where}: use_mean_pooling" if "use_mean_pooling" in tower else f"default of {TYPES[kind].config}"
    if not isinstance(value, bool):
        return {}
    if kind == "internvl_vision":
        return {"final_norm": Fact(None if value else "norm", "given", source)}
    if kind in ("beit", "data2vec-vision") and not any("MaskedImage" in name for name in _architectures(config)):
        pool, norm = ("avg", "fc_norm") if value else ("cls", "norm")
        return {"pool": Fact(pool, "given", source), "final_norm": Fact(norm, "given", source)}
    return {}


def _activation_notes(tower: Mapping[str, Any], where: str) -> list[str]:
    act = tower.get("pooler_act", "tanh")
    return [] if act == "tanh" else [f"{where}: pooler_act = {brief(act)}, and a pooler is read as Dense and tanh"]


def write(spec: Spec, dialect: str, names: Collection[str] = ()) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """config.json and preprocessor_config.json of a Hugging Face folder, and what they cannot say.

    Arguments:
        spec: the architecture.
        dialect: a dialect of Hugging Face's.
        names: canonical names of the tensors that are written; they tell which of the model's classes it is.
    """
    kind = model_type(dialect)
    assert kind is not None, dialect
    described = TYPES[kind]
    spec = settle(spec, names)
    config, unsaid = write_rows(described.rows, spec)
    unsaid.update(misfits(spec, described))
    config = {"model_type": kind, **config, **described.extra}
    if kind in ("beit", "data2vec-vision"):
        mean = spec.final_norm == "fc_norm" if spec.final_norm in ("norm", "fc_norm") else spec.pool == "avg"
        config["use_mean_pooling"] = mean
        if "head.weight" in names and mean != (spec.pool == "avg"):
            unsaid["pool"] = f"use_mean_pooling moves the final norm too; here {spec.pool} goes with {spec.final_norm}"
    if kind == "internvl_vision":
        config["use_mean_pooling"] = spec.final_norm is None
    if kind in ("beit", "data2vec-vision", "internvl_vision") and "embed.mask" in names:
        config["use_mask_token"] = True
    if "proj.weight" in names and kind == "clip_vision_model" and spec.projection_dim:
        config["projection_dim"] = spec.projection_dim
    architecture, config, more = _architecture(spec, described, config, names)
    unsaid.update(more)
    files: dict[str, dict[str, Any]] = {"config.json": {"architectures": [architecture], **config}}
    files["preprocessor_config.json"] = preprocess.write_hf(spec)
    return files, unsaid


def _architecture(
    spec: Spec, described: HFType, config: dict[str, Any], names: Collection[str]
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """The model's class, the config with what this class wants, and what it cannot do."""
    unsaid: dict[str, str] = {}
    if "head.weight" not in names:
        projects = "proj.weight" in names and described.config == "CLIPVisionConfig"
        return ("CLIPVisionModelWithProjection" if projects else described.model), config, unsaid
    if not described.classifier:
        return described.model, config, {"num_classes": f"transformers has no classifier over {described.model}"}
    architecture, pool = described.classifier, described.pool
    if "head_dist.weight" in names and described.model == "DeiTModel":
        architecture, pool = "DeiTForImageClassificationWithTeacher", "cls+dist"
    if pool and (spec.pool != pool or spec.pool_layers > 1):
        unsaid["pool"] = f"{architecture} feeds its classifier {pool}, and this one is fed {spec.pool}"
    labels = {"id2label": {str(i): f"LABEL_{i}" for i in range(spec.num_classes)},
              "label2id": {f"LABEL_{i}": i for i in range(spec.num_classes)}}  # fmt: skip
    if described.parent:
        return architecture, {"model_type": described.parent, "vision_config": config, **labels}, unsaid
    return architecture, {**config, **labels}, unsaid


def head_pool(dialect: str, names: Collection[str]) -> str | None:
    """What the class with a classifier feeds it, None where the dialect has no such class.

    Example:
        >>> head_pool("hf-dinov2", ()), head_pool("timm", ())
        ('cls+avg', None)
    """
    kind = model_type(dialect)
    if kind is None or not TYPES[kind].classifier:
        return None
    return "cls+dist" if kind == "deit" and "head_dist.weight" in names else TYPES[kind].pool


def misfits(spec: Spec, described: HFType) -> dict[str, str]:
    """Fields that the models of a config class always have otherwise, with the reason."""
    said = {row.field for row in described.rows}
    unsaid: dict[str, str] = {}
    for name, allowed in described.always.items():
        value = getattr(spec, name)
        if name not in said and value not in allowed:
            words = " or ".join(brief(choice) for choice in allowed)
            unsaid[name] = f"{described.config} has no key for it and its models have {words}, not {brief(value)}"
    if spec.num_heads and spec.heads_dim * spec.num_heads != spec.embed_dim:
        unsaid["head_dim"] = f"heads of {described.model} divide the width evenly"
    return unsaid
