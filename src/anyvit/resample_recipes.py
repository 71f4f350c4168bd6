"""The named recipes: how every ecosystem resizes its position table, and where that is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from anyvit.errors import BadArgument
from anyvit.resample_kernels import MODES

KINDS = ("torch", "factor", "square", "zoom", "jax")


@dataclass(frozen=True)
class Resample:
    """How a position table of one grid becomes one of another.

    Arguments:
        mode: "bicubic" or "bilinear".
        antialias: widen the filter when an axis shrinks; it also selects the cubic with a = -0.5 instead of -0.75.
        offset: patches added to the new size before it is divided by the old one (DINO: 0.1). Not zero means that torch
            is given this quotient as scale factor, which moves every coordinate; zero, that it is given the size.
        align_corners: the corner patches keep their rows.
        kind: "torch" (interpolate to the size), "factor" (interpolate by a scale factor even with offset 0), "square"
            (interpolate to a square of the longer side, cut at the top left), "zoom" (scipy.ndimage.zoom, order 1),
            "jax" (jax.image.resize).
        name: the key in `RECIPES`; "" for one's own.
        used_by: who does it so.
        source: where that is written.
        assumed: the source itself resizes nothing, so the recipe is anyvit's choice.
    """

    mode: str = "bicubic"
    antialias: bool = False
    offset: float = 0.0
    align_corners: bool = False
    kind: str = "torch"
    name: str = ""
    used_by: str = ""
    source: str = ""
    assumed: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.kind not in KINDS:
            raise BadArgument(
                "a recipe names an unknown interpolation",
                found=f"mode={self.mode!r}, kind={self.kind!r}",
                expected=f"mode: {', '.join(MODES)}; kind: {', '.join(KINDS)}",
            )
        if not isinstance(self.offset, (int, float)) or not math.isfinite(self.offset):
            raise BadArgument("a recipe's offset is a number of patches", found=self.offset, expected="0.0 or 0.1")
        if self.antialias and self.align_corners:
            raise BadArgument("antialias and align_corners exclude each other", found=str(self), expected="one of them")
        if self.kind == "zoom" and (self.mode, self.antialias, self.offset) != ("bilinear", False, 0.0):
            raise BadArgument("zoom of order 1 is bilinear without antialias or offset", found=str(self))


def _recipes() -> Mapping[str, Resample]:
    plain: dict[str, Any] = {}
    smooth: dict[str, Any] = {"antialias": True}
    tenth: dict[str, Any] = {"offset": 0.1}
    zoom: dict[str, Any] = {"mode": "bilinear", "kind": "zoom"}
    linear: dict[str, Any] = {"mode": "bilinear"}
    jax: dict[str, Any] = {"mode": "bilinear", "antialias": True, "kind": "jax"}
    rows: list[tuple[str, dict[str, Any], str, str]] = [
        ("dino", tenth, "DINO", "facebookresearch/dino@7c446df: vision_transformer.py interpolate_pos_encoding"),
        ("ibot", tenth, "iBOT", "bytedance/ibot@da316d8: models/vision_transformer.py interpolate_pos_encoding"),
        ("dinov2", tenth, "DINOv2 without registers",
         "facebookresearch/dinov2@b8931f7: dinov2/models/vision_transformer.py (interpolate_offset=0.1)"),
        ("depth_anything", tenth, "Depth Anything V2",
         "DepthAnything/Depth-Anything-V2@a561b84: depth_anything_v2/dinov2.py"),
        ("instantmesh", tenth, "InstantMesh", "TencentARC/InstantMesh@08822c5: src/models/encoder/dino.py"),
        ("dinov2-registers", smooth, "DINOv2 with registers",
         "facebookresearch/dinov2@b8931f7: dinov2/hub/backbones.py (interpolate_antialias=True, offset 0)"),
        ("msn", {"kind": "factor"}, "MSN",
         "facebookresearch/msn@db0d572: src/deit.py interpolate_pos_encoding (one factor √(n/N))"),
        ("deit", plain, "DeiT, DeiT-III", "facebookresearch/deit@7e160fe: main.py (finetune)"),
        ("mae", plain, "MAE, also its stored sin-cos table",
         "facebookresearch/mae@efb2a80: util/pos_embed.py interpolate_pos_embed"),
        ("beit", plain, "BEiT, BEiT v2: the absolute table",
         "microsoft/unilm@768a3c8: beit/run_class_finetuning.py"),
        ("mmpretrain", plain, "mmpretrain",
         "open-mmlab/mmpretrain@ee7f2e8: mmpretrain/models/utils/embed.py resize_pos_embed"),
        ("eva", plain, "EVA, EVA-02, EVA-CLIP", "baaivision/EVA@5623d08: EVA-CLIP/rei/eva_clip/utils.py"),
        ("internvit", plain, "InternViT",
         "OpenGVLab/InternVL@2410d1d: internvl_chat/internvl/model/internvl_chat/modeling_intern_vit.py"),
        ("hf", plain, "Hugging Face: ViT, DINOv2, CLIP, I-JEPA, MAE, BEiT's absolute table",
         "transformers 5.23.0: models/vit/modeling_vit.py interpolate_pos_encoding"),
        ("siglip-hf", plain, "Hugging Face: SigLIP", "transformers 5.23.0: models/siglip/modeling_siglip.py"),
        ("hf-registers", smooth, "Hugging Face: DINOv2 with registers",
         "transformers 5.23.0: models/dinov2_with_registers/modeling_dinov2_with_registers.py"),
        ("timm", smooth, "timm", "timm 1.0.31: timm/layers/pos_embed.py resample_abs_pos_embed"),
        ("timm-npz", linear, "timm, reading Google's npz",
         "timm 1.0.31: timm/models/vision_transformer.py _load_weights"),
        ("open_clip", smooth, "open_clip, also for OpenAI's CLIP",
         "mlfoundations/open_clip@89fb801: src/open_clip/model.py resize_pos_embed"),
        ("pe", linear, "Perception Encoder",
         "facebookresearch/perception_models@3e352cc: core/vision_encoder/pe.py _sample_abs_posemb"),
        ("radio", {**linear, "kind": "square"}, "RADIO with CPE",
         "NVlabs/RADIO@c0f3701: radio/vit_patch_generator.py _get_pos_embeddings"),
        ("torchvision", {"align_corners": True}, "torchvision",
         "torchvision 0.28.0: torchvision/models/vision_transformer.py interpolate_embeddings"),
        ("google", zoom, "Google's ViT, AugReg", "google-research/vision_transformer@c6de1e5: vit_jax/checkpoint.py"),
        ("big_vision", zoom, "big_vision, SigLIP",
         "google-research/big_vision@0127fb6: big_vision/models/vit.py resample_posemb"),
        ("flexivit", jax, "FlexiViT",
         "google-research/big_vision@0127fb6: big_vision/models/proj/flexi/vit.py _Model"),
        ("naflex", jax, "SigLIP 2 NaFlex",
         "google-research/big_vision@0127fb6: big_vision/models/proj/image_text/naflex_vit.py _pos_emb_resize"),
        ("naflex-hf", {**linear, **smooth}, "Hugging Face: SigLIP 2 NaFlex",
         "transformers 5.23.0: models/siglip2/modeling_siglip2.py resize_positional_embeddings"),
        ("naflex-timm", smooth, "timm's NaFlexViT", "timm 1.0.31: timm/models/naflexvit.py (defaults of NaFlexVitCfg)"),
        ("none", {"assumed": True}, "I-JEPA, MoCo v3, AIMv2, SAM: their code resizes nothing",
         "facebookresearch/ijepa@52c1ae9, facebookresearch/moco-v3@c349e6e, apple/ml-aim@bd9e068, "
         "facebookresearch/segment-anything@dca509f"),
    ]  # fmt: skip
    table = {name: Resample(**given, name=name, used_by=who, source=where) for name, given, who, where in rows}
    return MappingProxyType(table)


RECIPES: Mapping[str, Resample] = _recipes()
"""Every known recipe by its name."""


def resolve(recipe: str | Resample | Mapping[str, Any]) -> Resample:
    """A recipe from its name, its parameters or itself.

    Arguments:
        recipe: a key of `RECIPES`, a `Resample`, or its fields as a mapping (what is omitted has its default).

    Returns:
        The recipe.

    Raises:
        BadArgument: an unknown name or field.

    Example:
        >>> resolve("dinov2").offset, resolve({"antialias": True}).mode
        (0.1, 'bicubic')
    """
    if isinstance(recipe, Resample):
        return recipe
    if isinstance(recipe, str):
        if recipe in RECIPES:
            return RECIPES[recipe]
        same = recipe.lower().replace("_", "-")
        for name, known in RECIPES.items():
            if name.replace("_", "-") == same:
                return known
        mode = recipe if recipe in ("bicubic", "bilinear") else "bicubic"
        raise BadArgument(
            f"no resampling recipe is called {recipe!r}",
            expected=", ".join(RECIPES),
            remedy=f'resample={{"mode": "{mode}", "antialias": True}} gives the parameters instead',
        )
    if not isinstance(recipe, Mapping):
        raise BadArgument(
            "a resampling recipe is a name, a Resample or its fields",
            found=type(recipe).__name__,
            remedy='resample={"mode": "bicubic", "antialias": True}',
        )
    known_fields = [field.name for field in fields(Resample)]
    unknown = [str(key) for key in recipe if key not in known_fields]
    if unknown:
        raise BadArgument("a recipe has no such field", names=unknown, expected=", ".join(known_fields))
    return Resample(**recipe)


def formula(recipe: str | Resample | Mapping[str, Any]) -> str:
    """A recipe as the call that its source makes, for a table from (h, w) to (h', w') patches.

    Example:
        >>> formula("dino")
        "interpolate(bicubic, scale_factor=((h'+0.1)/h, (w'+0.1)/w))"
    """
    recipe = resolve(recipe)
    if recipe.kind == "zoom":
        return "scipy.ndimage.zoom(order=1), corners aligned"
    flags = (", antialias" if recipe.antialias else "") + (", align_corners" if recipe.align_corners else "")
    if recipe.kind == "jax":
        return f"jax.image.resize({recipe.mode}{flags})"
    high, wide = (f"({side}+{recipe.offset:g})" if recipe.offset else side for side in ("h'", "w'"))
    if recipe.kind == "square":
        return f"interpolate({recipe.mode}, size=(m, m){flags}), m = max(h', w'); rows [:h', :w']"
    if recipe.kind == "factor" or recipe.offset:
        return f"interpolate({recipe.mode}, scale_factor=({high}/h, {wide}/w){flags})"
    return f"interpolate({recipe.mode}, size=(h', w'){flags})"
