"""open_clip_config.json of image towers that timm builds: the registered name, then pool and projection.

open_clip builds a trunk by its registered name alone, without arguments: only models that some name has exactly can be
said.

Source: mlfoundations/open_clip v3.3.0 src/open_clip/timm_model.py TimmModel, src/open_clip/model.py _build_vision_tower.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from anyvit.configs import timm
from anyvit.configs.rows import Given, brief, settle
from anyvit.configs.timm_forms import FORMS
from anyvit.spec import Fact, Spec

TRUNKS: Mapping[str, str] = {
    "open_clip-timm": "timm", "open_clip-eva": "timm-eva", "open_clip-eva-rope": "timm-eva-rope",
    "open_clip-eva-apart-swiglu": "timm-eva-apart-swiglu",
}  # fmt: skip
"""Dialect → how timm builds the trunk."""
POOLS = {"map": "map", "avg": "avg", "token": "cls", "": "none"}
"""timm_pool → Spec's pool."""


def read(model: Mapping[str, Any], vision: Mapping[str, Any], source: str) -> Given:
    """What a model_cfg says of a tower that timm builds.

    Arguments:
        model: the model_cfg.
        vision: its vision_cfg, which has a timm_model_name.
        source: where it stands, for the facts.
    """
    name, kind = vision["timm_model_name"], vision.get("timm_proj", "linear")
    args: dict[str, Any] = {}
    if vision.get("image_size") is not None:
        args["img_size"] = vision["image_size"]
    pool = POOLS.get(str(vision.get("timm_pool", "avg")) or "default")
    if kind not in ("linear", "mlp") and pool:
        args["global_pool"] = vision["timm_pool"]
    given = timm.of_name(name, args, f"{source}: vision_cfg")
    if not given.facts:
        given = Given(notes=(f"{source}: timm's {brief(name)} is no Vision Transformer known here",))
    facts = dict(given.facts)
    if pool:
        # With a projection of open_clip's the pool is changed after the model was made: its norms stay.
        facts["pool"] = Fact(pool, "given", f"{source}: timm_pool")
    if kind != "none" and isinstance(model.get("embed_dim"), int):
        facts["projection"] = Fact("mlp" if kind == "mlp" else "linear", "given", f"{source}: timm_proj")
        facts["projection_dim"] = Fact(model["embed_dim"], "given", f"{source}: embed_dim")
    return Given(facts, given.notes)


def write(spec: Spec, dialect: str, names: Collection[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """model_cfg's own keys and vision_cfg of a trunk, or both empty and why no registered name is it.

    Arguments:
        spec: the architecture.
        dialect: one of `TRUNKS`.
        names: canonical names of the tensors that are written.
    """
    spec = settle(spec, names)
    form = FORMS[TRUNKS[dialect]]
    proj, why = _projection(spec, names)
    bare = replace(spec, num_classes=0, projection_dim=None)
    wanted, unsaid = timm.arguments(bare, form, [name for name in names if not name.startswith("proj.")])
    name, other, wrong = timm.nearest(form, wanted)
    # with a projection of open_clip's own, the pool is changed when the norms are made already
    allowed = {"num_classes", "global_pool"} if proj == "none" else {"num_classes"}
    why += [f"{key} {brief(value)}" for key, value in other.items() if key not in allowed]
    why += list({**unsaid, **wrong}.values())
    if why:
        return {}, {}, why
    pool = next(word for word, ours in POOLS.items() if ours == spec.pool)
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": proj}
    if spec.projection_bias and proj != "none":
        vision["timm_proj_bias"] = True
    size = {"image_size": spec.image_size} if spec.image_size else {}
    outer = {"embed_dim": spec.projection_dim or spec.embed_dim, "custom_text": True}
    return outer, {**vision, **size}, []


def _projection(spec: Spec, names: Collection[str]) -> tuple[str, list[str]]:
    """timm_proj, and what it cannot say."""
    if "proj.fc1.weight" in names:
        wide = spec.projection_mlp_dim or 2 * (spec.projection_dim or 0)
        fits = wide == 2 * (spec.projection_dim or 0) and "proj.fc1.bias" in names
        return "mlp", [] if fits else [f"a projection MLP of {wide} channels"]
    return ("linear", []) if "proj.weight" in names else ("none", [])
