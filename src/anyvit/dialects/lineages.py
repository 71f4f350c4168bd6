"""What tensors do not say, by lineage: each fact with its source.

A dialect is a spelling; a lineage is where weights come from. DINO, MoCo v3, MAE and DeiT share one spelling and
differ in
heads, recipes for positions and preprocessing. A lineage is chosen by its signs, the first in the table whose signs all
hold; the last lineage of a dialect has no signs.

Signs: `has R` a full name of the file matches the regular expression R; `lacks R` none does; `under R`, `bare R` the
same
for names below the prefix; `prefix R`; `file R` the file's name; `canon N` / `no N` a canonical name is present /
absent
(blocks by block 0); `container C`; `width N` embed_dim is N; `stores N T …` canonical N is stored as element type T.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyvit.spec import Rope

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}

OPENAI = {"eps": 1e-5, "act": "quick_gelu", "resample": "open_clip", **CLIP}
OPEN_CLIP = {"eps": 1e-5, "act": "gelu", "resample": "open_clip", **CLIP}

OPEN_CLIP_WIDTHS = (256, 384, 512, 640, 896, 1280, 1408, 1664, 1792)
"""Widths that OpenAI's own models do not have (theirs are 768 and 1024).

Source: open_clip model_configs ViT-{S,M,B-plus,H,g,bigG,e}*.
"""

EVA_ROPE = Rope(layout="interleaved", coords="scaled", reference=16)
EVA_MIM_ROPE = Rope(layout="interleaved", coords="index")
DINOV3_ROPE = Rope(base=100.0, layout="half", coords="normalized", span="head")
CROCO_ROPE = Rope(base=100.0, layout="half", coords="index")
PE_ROPE = Rope(layout="interleaved", coords="index1", first="column")
TIMM_PE_ROPE = Rope(layout="interleaved", coords="index1", first="column", reference=0)
"""timm scales the positions of other grids to the model's own (ref_feat_shape); 0 stands for its rows."""
AXIAL_ROPE = Rope(base=100.0, layout="interleaved", coords="index", first="column")
MIXED_ROPE = Rope(base=10.0, layout="interleaved", coords="index", first="column", mixed=True)


@dataclass(frozen=True)
class Lineage:
    """Where weights come from and what that tells.

    Arguments:
        name: short and stable.
        dialects: the spellings in which such files come.
        facts: Spec field → value.
        source: where the facts stand.
        when: signs, all of which must hold.
        heads: width → head count where it is not width / 64.
        head_dim: channels of one head otherwise.
    """

    name: str
    dialects: tuple[str, ...]
    facts: Mapping[str, Any]
    source: str
    when: tuple[str, ...] = ()
    heads: Mapping[int, int] = field(default_factory=dict)
    head_dim: int = 64


WIDE = {64: 2, 96: 3, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16, 1792: 16, 2432: 32, 3200: 25, 4096: 32}
"""Head counts of wide models, whose heads are not 64 channels.

Source: Zhai et al. 2022 (arXiv:2106.04560) table 2 (g 1408, G 1664, 16 heads), MAE models_mae.py (huge, 16 heads),
big_vision configs so400m (1152, 16 heads), EVA-CLIP configs (1408: 88, 1792: 112), InternVL configs (3200, 25 heads),
DINOv2 and C-RADIO giant (1536, 24 heads).
"""

GIANT = {**WIDE, 1536: 16}
"""The same for the giant models of SigLIP 2 and Perception Encoder, 16 heads at width 1536.

Source: big_vision configs g-opt, perception_models core/vision_encoder/config.py (PE-Core-G14-448).
"""


@dataclass(frozen=True)
class Scene:
    """What signs are looked up in."""

    names: Collection[str]
    prefix: str
    canon: Mapping[str, Any]
    container: str
    file: str
    width: int

    def holds(self, sign: str) -> bool:
        """Whether a sign holds.

        Example:
            >>> Scene(["a.mask_token"], "a.", {"embed.cls": None}, "torch", "x.pth", 384).holds("under mask_token")
            True
        """
        kind, _, what = sign.partition(" ")
        below = (name[len(self.prefix) :] for name in self.names if name.startswith(self.prefix))
        if kind in ("has", "lacks"):
            return any(map(re.compile(what).search, self.names)) == (kind == "has")
        if kind in ("under", "bare"):
            return any(map(re.compile(what).fullmatch, below)) == (kind == "under")
        if kind in ("canon", "no"):
            return (what.replace("{i}", "0") in self.canon) == (kind == "canon")
        if kind == "prefix":
            return bool(re.search(what, self.prefix))
        if kind == "file":
            return bool(re.search(what, self.file, re.IGNORECASE))
        if kind == "width":
            return self.width == int(what)
        if kind == "stores":
            pairs = zip(*[iter(what.split())] * 2, strict=True)
            return all(name in self.canon and self.canon[name].dtype == dtype for name, dtype in pairs)
        if kind == "container":
            return self.container in what.split("|")
        raise ValueError(f"no such sign: {sign}")


PLAIN = ("timm", "dino", "dinov2", "mae", "deit", "ibot", "moco", "ijepa", "msn")
"""The spellings that differ in extras only."""
V2 = ("dinov2", "dinov2-chunked", "timm", "tipsv2")
TORCH = "container torch|torch-legacy|dcp"
UNDER_MODEL = "prefix ^model(_ema)?\\.(module\\.)?$"
"""The key under which DeiT's and MAE's scripts save; timm's own say `state_dict`, DINO's `teacher`."""
BARE = ("no blocks.{i}.ls1", "no embed.reg", "no embed.norm.weight", "no blocks.{i}.mlp.gate.weight")
"""Without anything that came after the first ViTs."""

LINEAGES: tuple[Lineage, ...] = (
    Lineage(
        "hf-ijepa", ("hf-ijepa", "hf-ijepa-memory"),
        {"eps": 1e-6, "resample": "hf", **IMAGENET, "pos_embed": "sincos", "pool": "avg"},
        "transformers IJepaConfig; facebook/ijepa_* config.json: layer_norm_eps 1e-6", ("no embed.cls",), heads=WIDE,
    ),
    Lineage(
        "hf-siglip", ("hf-siglip", "hf-siglip-memory"),
        {"eps": 1e-6, "act": "gelu_tanh", "resample": "hf", **HALF},
        "transformers SiglipVisionConfig: hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-6",
        ("no embed.cls", "no embed.norm.weight"), heads=GIANT,
    ),
    Lineage(
        "pe", ("pe",), {"eps": 1e-5, "act": "gelu", "rope": PE_ROPE, "resample": "pe", "pool_heads": 8, **HALF},
        "perception_models core/vision_encoder/{config,pe,rope}.py: PE-Lang and PE-Spatial have neither a final norm nor a projection",
        ("canon embed.norm.weight", "no norm.weight", "no proj.weight"), heads=GIANT,
    ),
    Lineage(
        "pe", ("pe",), {"eps": 1e-5, "act": "gelu", "rope": PE_ROPE, "pool_heads": 8, **HALF},
        "perception_models core/vision_encoder/pe.py: use_abs_posemb=False leaves the rotary positions",
        ("canon embed.norm.weight", "no embed.pos"), heads=GIANT,
    ),
    Lineage(
        "open_clip-siglip", ("open_clip-timm",),
        {"eps": 1e-6, "act": "gelu_tanh", "resample": "timm", "projection": "identity", **HALF},
        "open_clip model_configs ViT-*-SigLIP*: timm_pool map, timm_proj none",
        ("prefix (^|\\.)visual\\.trunk\\.$", "canon pool.query", "no proj.weight", "no proj.fc2.weight", "no head.weight",
         "no embed.norm.weight"), heads=GIANT,
    ),
    Lineage(
        "timm-pe", ("timm-eva",), {"eps": 1e-5, "rope": TIMM_PE_ROPE, "resample": "timm", **HALF},
        "timm/models/eva.py vit_pe_spatial_*", ("canon embed.norm.weight", "no norm.weight"), heads=GIANT,
    ),
    Lineage(
        "timm-pe", ("timm-eva",),
        {"eps": 1e-5, "rope": TIMM_PE_ROPE, "resample": "timm", "pool_prefix": True, "pool_heads": 8, **HALF},
        "timm/models/eva.py vit_pe_core_*: attn_pool_num_heads=8", ("canon embed.norm.weight", "canon pool.query"), heads=GIANT,
    ),
    Lineage(
        "timm-sapiens2", ("timm-eva",), {"eps": 1e-6, "rope": DINOV3_ROPE, "resample": "timm", **IMAGENET},
        "timm/models/eva.py vit_*_sapiens2: eps 1e-6, LayerScale on the attention branch alone",
        ("canon blocks.{i}.attn.q_norm.weight", "canon blocks.{i}.ls1", "no blocks.{i}.ls2", "no embed.pos"),
    ),
    Lineage(
        "timm-rope-mixed", ("timm-eva",), {"eps": 1e-6, "rope": MIXED_ROPE, "resample": "timm", **IMAGENET},
        "timm/models/eva.py vit_*_rope_mixed_*", ("canon rope.freqs",),
    ),
    Lineage(
        "timm-rope-axial", ("timm-eva",), {"eps": 1e-6, "rope": AXIAL_ROPE, "resample": "timm", **IMAGENET},
        "timm/models/eva.py vit_*_rope_ape_*",
        ("container safetensors", "under blocks\\.0\\.gamma_1", "canon blocks.{i}.attn.k.bias", "no embed.reg"),
    ),
    Lineage(
        "timm-rope-axial", ("timm-eva",), {"eps": 1e-6, "rope": AXIAL_ROPE, "resample": "timm", **IMAGENET},
        "timm/models/eva.py vit_*_rope_224: all have LayerScale; without it, a plain ViT may have lost its table",
        ("canon blocks.{i}.ls1", "no embed.pos", "no blocks.{i}.attn.rel_pos", "no embed.rel_pos", "no embed.reg",
         "prefix ^(?!model(_ema)?\\.)"),
    ),
    Lineage(
        "timm-rope", ("timm-eva",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "timm", **IMAGENET},
        "timm/models/eva.py vit_*_rope_reg*_gap_*: registers without a class token, ref_feat_shape 16",
        ("canon embed.reg", "no embed.pos", "no embed.cls"),
    ),
    Lineage(
        "timm-rpn", ("timm",), {"eps": 1e-6, "act": "gelu", "resample": "timm", "block_norm": "post"},
        "timm/models/vision_transformer.py vit_base_patch16_rpn_224: ResPostBlock, under the names of pre-norm models",
        ("no blocks.{i}.attn.q.bias", "canon fc_norm.weight", "canon embed.pos", "no blocks.{i}.ls1", "no embed.cls",
         "no embed.reg", "no embed.patch_norm.weight"), heads=WIDE,
    ),
    Lineage(
        "eva-clip-enormous", ("eva-clip", "timm-eva", "open_clip-eva"), {"eps": 1e-6, "resample": "eva", "block_norm": "post", **CLIP},
        "EVA-CLIP model_configs EVA02-CLIP-bigE-14.json: postnorm, under the names of pre-norm models",
        ("width 1792", "no blocks.{i}.attn.k.bias"), heads=WIDE,
    ),
    *(
        Lineage(
            "eva-clip", ("eva-clip",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "eva", **facts, **CLIP},
            "EVA-CLIP/rei/eva_clip/eva_vit_model.py, EVA-CLIP-18B/shinji; model_configs (head_width 64, 88, 112, 128): "
            "the mean is that of all tokens, cls too; 18B is postnorm",
            ("prefix (^|\\.)visual\\.$", "no blocks.{i}.attn.k.bias", *signs), heads=WIDE, head_dim=channels,
        )
        for facts, signs, channels in (
            ({"block_norm": "post"}, ("width 5120", "no blocks.{i}.norm1.bias"), 128),
            ({"block_norm": "post"}, ("file CLIP[-_]E[-_]|bigE", "canon blocks.{i}.norm1.bias"), 112),
            ({}, ("no blocks.{i}.norm1.bias",), 128),
            ({"pool_prefix": True}, ("canon fc_norm.weight",), 64),
            ({}, (), 64),
        )
    ),
    Lineage(
        "eva", ("eva",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "eva", **CLIP},
        "EVA-01/eva/modeling_finetune.py: BEiT's blocks with a position table",
        (TORCH, "prefix ^((model|model_ema|module)\\.)?$", "canon embed.pos", "canon blocks.{i}.attn.q.bias", "no blocks.{i}.attn.k.bias",
         "no blocks.{i}.attn.rel_pos", "no embed.rel_pos"), heads=WIDE,
    ),
    Lineage(
        "eva-clip", ("open_clip-eva",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "timm", **CLIP},
        "open_clip model_configs EVA0*: timm's eva trunks", ("prefix visual\\.trunk", "no blocks.{i}.attn.k.bias"),
        heads=WIDE,
    ),
    Lineage(
        "pe", ("open_clip-eva",), {"eps": 1e-5, "rope": TIMM_PE_ROPE, "resample": "timm", "pool_heads": 8, **HALF},
        "open_clip model_configs PE-Core-*: timm's vit_pe trunks", ("canon embed.norm.weight", "canon pool.query"),
        heads=GIANT,
    ),
    Lineage(
        "timm-eva", ("timm-eva",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "timm", **CLIP},
        "timm/models/eva.py", ("canon embed.pos", "no blocks.{i}.attn.k.bias", "no embed.norm.weight",
                               "no blocks.{i}.attn.rel_pos", "no embed.rel_pos"), heads=WIDE,
    ),
    Lineage(
        "dinov2-registers", ("dinov2", "dinov2-chunked", "tipsv2"), {"eps": 1e-6, "resample": "dinov2-registers", **IMAGENET},
        "dinov2/hub/backbones.py: interpolate_antialias=True, interpolate_offset=0.0 for the models with registers",
        ("canon embed.reg",), head_dim=64,
    ),
    Lineage(
        "dinov2", ("dinov2", "dinov2-chunked"), {"eps": 1e-6, "resample": "dinov2", **IMAGENET},
        "dinov2/models/vision_transformer.py: eps=1e-6, interpolate_offset=0.1, no antialias",
        ("under mask_token",),
    ),
    Lineage(
        "dinov2", ("dinov2", "dinov2-chunked"), {"eps": 1e-6, "resample": "dinov2", **IMAGENET},
        "dinov2/models/vision_transformer.py: eps=1e-6, interpolate_offset=0.1, no antialias",
        ("canon blocks.{i}.ls1", TORCH, "no head.weight"),
    ),
    Lineage(
        "dinov2", ("dinov2", "dinov2-chunked"), {"eps": 1e-6, "resample": "dinov2", **IMAGENET},
        "dinov2/models/vision_transformer.py: eps=1e-6, interpolate_offset=0.1, no antialias",
        ("canon blocks.{i}.mlp.gate.weight",),
    ),
    Lineage(
        "dinov2", ("dinov2-chunked",), {"eps": 1e-6, "resample": "dinov2", **IMAGENET},
        "dinov2/models/vision_transformer.py: eps=1e-6, interpolate_offset=0.1, no antialias",
    ),
    Lineage(
        "dinov2", ("dinov2", "dinov2-chunked"), {"eps": 1e-6, "resample": "dinov2", **IMAGENET},
        "dinov2/train/ssl_meta_arch.py: backbone, dino_head, ibot_head", ("has (^|\\.)ibot_head\\.",),
    ),
    Lineage(
        "ibot", PLAIN, {"eps": 1e-6, "resample": "dino", **IMAGENET},
        "ibot/models/vision_transformer.py interpolate_pos_encoding",
        ("has masked_embed$|(^|\\.)ibot_loss\\.",),
    ),
    Lineage(
        "ibot", ("ibot",), {"eps": 1e-6, "resample": "dino", **IMAGENET},
        "ibot/models/vision_transformer.py: gamma_1, gamma_2 beside a row for cls in the position table",
    ),
    Lineage(
        "moco-v3", PLAIN, {"eps": 1e-6, "resample": "mae", **IMAGENET, "pos_embed": "sincos"},
        "moco-v3/vits.py: vit_small has 12 heads at width 384; fixed sin-cos positions",
        ("prefix (base|momentum)_encoder",), heads={384: 12},
    ),
    Lineage(
        "ijepa", PLAIN, {"eps": 1e-6, "resample": "none", **IMAGENET, "pos_embed": "sincos", "pool": "avg"},
        "ijepa/src/models/vision_transformer.py: sin-cos positions, no cls token",
        ("has (^|\\.)(target_encoder|predictor)\\.", "prefix target_encoder|(^|\\.)encoder\\.", "no embed.cls"),
        heads=WIDE,
    ),
    Lineage(
        "msn", PLAIN, {"eps": 1e-6, "resample": "msn", **IMAGENET},
        "facebookresearch/msn src/deit.py", ("has (^|\\.)target_encoder\\.", "canon embed.cls"),
    ),
    Lineage(
        "mae", ("mae", "timm"), {"eps": 1e-6, "resample": "mae", **IMAGENET, "pos_embed": "sincos"},
        "mae/models_mae.py: eps=1e-6, fixed sin-cos positions", ("has decoder_(blocks|embed)",), heads=WIDE,
    ),
    Lineage(
        "mae-finetuned", ("mae",), {"eps": 1e-6, "resample": "mae", **IMAGENET},
        "mae/models_vit.py, util/pos_embed.py interpolate_pos_embed", heads=WIDE,
    ),
    Lineage(
        "deit", ("deit", "timm"), {"eps": 1e-6, "resample": "deit", **IMAGENET},
        "deit/main.py: bicubic without antialias to size=", ("canon embed.dist", TORCH),
    ),
    Lineage(
        "deit", ("deit3",), {"eps": 1e-6, "resample": "deit", **IMAGENET}, "deit/models_v2.py",
        ("canon blocks.{i}.ls1", "canon embed.pos", "canon blocks.{i}.attn.k.bias"), heads=WIDE,
    ),
    Lineage("deit", ("deit", "deit3"), {"eps": 1e-6, "resample": "deit", **IMAGENET}, "deit/main.py", heads=WIDE),
    Lineage(
        "mae-finetuned", ("mae", *PLAIN), {"eps": 1e-6, "resample": "mae", **IMAGENET},
        "mae/main_finetune.py saves {'model': …}; models_vit.py global_pool: fc_norm takes the place of norm",
        (TORCH, UNDER_MODEL, "canon fc_norm.weight", "no norm.weight", "canon embed.cls", *BARE), heads=WIDE,
    ),
    Lineage(
        "deit", ("deit", *PLAIN), {"eps": 1e-6, "resample": "deit", **IMAGENET},
        "deit/main.py and mae/main_finetune.py save {'model': …}, and both resize with bicubic without antialias to size=",
        (TORCH, UNDER_MODEL, "canon embed.cls", "canon norm.weight", *BARE), heads=WIDE,
    ),
    Lineage(
        "dino", PLAIN, {"eps": 1e-6, "resample": "dino", **IMAGENET},
        "dino/vision_transformer.py: eps=1e-6, scale_factor=(g+0.1)/sqrt(N)",
        (TORCH, "no head.weight", "no fc_norm.weight", "no embed.norm.weight", "no blocks.{i}.ls1", "no embed.reg",
         "canon embed.cls", "no blocks.{i}.mlp.gate.weight"), heads=WIDE,
    ),
    Lineage(
        "timm-clip", ("timm", "timm-glu", "open_clip-timm"), {"eps": 1e-5, "act": "gelu", "resample": "timm", **CLIP},
        "timm/models/vision_transformer.py: *_clip_* models, norm_layer eps 1e-5",
        ("canon embed.norm.weight",), heads=GIANT,
    ),
    Lineage(
        "timm-naflex-radio", ("timm-naflex",), {"eps": 1e-6, "act": "gelu", "resample": "radio", **CLIP},
        "timm/models/naflexvit.py _radio_vit_cfg: no final norm, positions resized to a square and cut",
        ("no norm.weight", "no fc_norm.weight"), heads=WIDE,
    ),
    Lineage(
        "timm-naflex-siglip", ("timm-naflex",), {"eps": 1e-6, "act": "gelu_tanh", "resample": "naflex-hf", **HALF},
        "timm/models/naflexvit.py naflexvit_*_siglip: bilinear with antialias",
        ("canon pool.query", "no embed.reg", "no embed.cls"), heads=GIANT,
    ),
    Lineage(
        "timm-naflex", ("timm-naflex",), {"eps": 1e-6, "act": "gelu", "resample": "naflex-timm", **IMAGENET},
        "timm/models/naflexvit.py NaFlexVitCfg", heads=WIDE,
    ),
    Lineage(
        "timm-aimv2", ("timm", "timm-glu"), {"eps": 1e-5, "act": "silu", "resample": "timm", **CLIP, "pool": "avg"},
        "timm/models/vision_transformer.py aimv2_*: 8 to 24 heads of 128 channels",
        ("canon embed.patch_norm.weight",), head_dim=128,
    ),
    Lineage(
        "timm-siglip", ("timm",), {"eps": 1e-6, "act": "gelu_tanh", "resample": "timm", **HALF},
        "timm/models/vision_transformer.py *_siglip_gap_*: 16 heads at width 1536", ("no embed.cls", "width 1536"),
        heads=GIANT,
    ),
    Lineage(
        "timm-siglip", ("timm",), {"eps": 1e-6, "act": "gelu_tanh", "resample": "timm", **HALF},
        "timm/models/vision_transformer.py *_siglip_gap_*", ("no embed.cls", "width 1152"), heads=GIANT,
    ),
    Lineage(
        "timm-beit3", ("timm",), {"eps": 1e-5, "act": "gelu", "resample": "timm", **HALF},
        "timm/models/vision_transformer.py beit3_*: norm_layer eps 1e-5, norms inside attention and MLP",
        ("canon blocks.{i}.attn.norm.weight", "canon blocks.{i}.mlp.norm.weight"), heads=WIDE,
    ),
    Lineage(
        "timm-so150m", ("timm",), {"eps": 1e-6, "act": "gelu", "resample": "timm", **IMAGENET},
        "timm/models/vision_transformer.py vit_so150m*_reg4_map_*: SigLIP's models have no registers",
        ("canon pool.query", "canon embed.reg"), heads=WIDE,
    ),
    Lineage(
        "timm-siglip", ("timm",), {"eps": 1e-6, "act": "gelu_tanh", "resample": "timm", **HALF},
        "timm/models/vision_transformer.py *_siglip_*: act_layer gelu_tanh in all but the first 224 px models",
        ("canon pool.query",), heads=GIANT,
    ),
    Lineage(
        "radio", ("timm",), {"eps": 1e-6, "resample": "radio", **CLIP},
        "timm/models/vision_transformer.py *_radio_*", ("file radio",), heads=WIDE,
    ),
    Lineage(
        "dinov2", ("timm", "timm-glu"), {"eps": 1e-6, "resample": "timm", **IMAGENET},
        "timm/models/vision_transformer.py *_dinov2", ("canon blocks.{i}.mlp.gate.weight", "width 1536"),
        heads={1536: 24},
    ),
    Lineage(
        "timm", ("timm", "timm-glu"), {"eps": 1e-6, "act": "gelu", "resample": "timm"},
        "timm/models/vision_transformer.py: norm_layer LayerNorm eps=1e-6, erf GELU, resample_abs_pos_embed",
        heads=WIDE,
    ),
    Lineage(
        "two_towers", ("two_towers",),
        {"eps": 1e-6, "act": "gelu_tanh", "resample": "big_vision", "sincos": "big_vision", **HALF},
        "big_vision/models/proj/image_text/two_towers.py: the image tower's head is a projection",
        ("prefix (^|/)img/$", "canon head.weight"), heads=GIANT,
    ),
    Lineage(
        "big_vision", ("big_vision", "big_vision-scan", "big_vision-old"),
        {"eps": 1e-6, "act": "gelu_tanh", "resample": "big_vision", "sincos": "big_vision", **HALF},
        "big_vision/models/vit.py: posemb='sincos2d' is computed and not stored", ("no embed.pos",), heads=GIANT,
    ),
    Lineage(
        "google", ("google-npz", "google-linen", "google-flax"), {"eps": 1e-6, "act": "gelu_tanh", "resample": "google", **HALF},
        "vision_transformer/vit_jax/models_vit.py: nn.gelu (tanh form), LayerNorm epsilon 1e-6; checkpoint.py zoom",
    ),
    Lineage(
        "big_vision", ("big_vision", "big_vision-scan", "big_vision-old"),
        {"eps": 1e-6, "act": "gelu_tanh", "resample": "flexivit", "sincos": "big_vision", **HALF},
        "big_vision/models/proj/flexi/vit.py", ("file flexi",), heads=GIANT,
    ),
    Lineage(
        "big_vision", ("big_vision", "big_vision-scan", "big_vision-old"),
        {"eps": 1e-6, "act": "gelu_tanh", "resample": "big_vision", "sincos": "big_vision", **HALF},
        "big_vision/models/vit.py: nn.gelu (tanh form), LayerNorm epsilon 1e-6, resample_posemb", heads=GIANT,
    ),
    Lineage(
        "hf-dpt", ("hf-vit", "hf-vit-memory"),
        {"eps": 1e-12, "act": "gelu", "resample": {"mode": "bilinear", "antialias": False}, **HALF},
        "transformers models/dpt/modeling_dpt.py: bilinear positions", ("prefix (^|\\.)dpt\\.",), heads=WIDE,
    ),
    Lineage(
        "two_towers", ("two_towers",),
        {"eps": 1e-6, "act": "gelu_tanh", "resample": "big_vision", "sincos": "big_vision", **HALF},
        "big_vision/models/proj/image_text/two_towers.py", heads=GIANT,
    ),
    Lineage(
        "hf-vit", ("hf-vit", "hf-vit-memory"), {"eps": 1e-12, "act": "gelu", "resample": "hf", **HALF},
        "transformers ViTConfig: layer_norm_eps=1e-12, hidden_act='gelu'", heads=WIDE,
    ),
    Lineage(
        "hf-deit", ("hf-deit", "hf-deit-memory"), {"eps": 1e-12, "act": "gelu", "resample": "hf", **IMAGENET},
        "transformers DeiTConfig",
    ),
    Lineage(
        "hf-dinov2-registers", ("hf-dinov2-with-registers", "hf-dinov2-with-registers-memory"),
        {"eps": 1e-6, "act": "gelu", "resample": "hf-registers", **IMAGENET},
        "transformers Dinov2WithRegistersEmbeddings.interpolate_pos_encoding: antialias=True",
    ),
    Lineage(
        "hf-dinov2", ("hf-dinov2", "hf-dinov2-memory"), {"eps": 1e-6, "act": "gelu", "resample": "hf", **IMAGENET},
        "transformers Dinov2Config: layer_norm_eps=1e-6",
    ),
    Lineage(
        "hf-git", ("hf-clip", "hf-clip-memory"),
        {"eps": 1e-5, "act": "quick_gelu", "resample": "hf", **CLIP},
        "transformers GitVisionModel: last_hidden_state stands after post_layernorm", ("prefix image_encoder\\.",), heads=WIDE,
    ),
    Lineage(
        "hf-clip", ("hf-clip", "hf-clip-memory"),
        {"eps": 1e-5, "act": "quick_gelu", "resample": "hf", "tokens_normed": False, "pool": "avg", **CLIP},
        "transformers CLIPForImageClassification: the mean of the patches before post_layernorm is classified",
        ("canon head.weight",), heads=WIDE,
    ),
    Lineage(
        "hf-clip", ("hf-clip", "hf-clip-memory", "hf-owlvit", "hf-altclip"),
        {"eps": 1e-5, "act": "quick_gelu", "resample": "hf", "tokens_normed": False, **CLIP},
        "transformers CLIPVisionConfig: hidden_act='quick_gelu'; last_hidden_state stands before post_layernorm",
        heads=WIDE,
    ),
    Lineage(
        "hf-blip", ("hf-blip",), {"eps": 1e-6, "act": "gelu", "resample": "hf", **CLIP},
        "transformers Blip2VisionConfig, InstructBlipVisionConfig: layer_norm_eps=1e-6, hidden_act='gelu'; width 1408",
        ("width 1408",), heads=WIDE,
    ),
    Lineage(
        "hf-blip", ("hf-blip",), {"eps": 1e-5, "act": "gelu", "resample": "hf", **CLIP},
        "transformers BlipVisionConfig: layer_norm_eps=1e-5, hidden_act='gelu'", heads=WIDE,
    ),
    Lineage(
        "hf-siglip", ("hf-siglip", "hf-siglip-memory"),
        {"eps": 1e-6, "act": "gelu_tanh", "resample": "hf", **HALF},
        "transformers SiglipVisionConfig: hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-6", heads=GIANT,
    ),
    Lineage(
        "hf-janus", ("hf-janus",), {"eps": 1e-6, "act": "gelu", "resample": "hf", **HALF},
        "transformers JanusVisionConfig: hidden_act='gelu', layer_norm_eps=1e-6",
    ),
    Lineage(
        "hf-pixio", ("hf-pixio",), {"eps": 1e-6, "act": "gelu", "resample": "hf", **IMAGENET},
        "transformers PixioConfig: layer_norm_eps=1e-6", heads=WIDE,
    ),
    Lineage(
        "hf-dinov3", ("hf-dinov3", "hf-dinov3-memory"), {"eps": 1e-5, "rope": DINOV3_ROPE, **IMAGENET},
        "transformers DINOv3ViTConfig: layer_norm_eps=1e-5, rope_theta=100", heads={4096: 32},
    ),
    Lineage(
        "hf-beit", ("hf-beit", "hf-beit-memory"),
        {"eps": 1e-12, "act": "gelu", "resample": "hf", "rel_resample": "hf", **HALF},
        "transformers BeitConfig: layer_norm_eps=1e-12",
    ),
    Lineage(
        "hf-mae", ("hf-vit-mae", "hf-vit-mae-memory"), {"eps": 1e-12, "resample": "hf", **IMAGENET, "pos_embed": "sincos"},
        "transformers ViTMAEConfig", heads=WIDE,
    ),
    Lineage(
        "hf-ijepa", ("hf-ijepa", "hf-ijepa-memory"),
        {"eps": 1e-6, "resample": "hf", **IMAGENET, "pos_embed": "sincos", "pool": "avg"},
        "transformers IJepaConfig; facebook/ijepa_* config.json: layer_norm_eps 1e-6", heads=WIDE,
    ),
    Lineage(
        "hf-msn", ("hf-vit-msn", "hf-vit-msn-memory"), {"eps": 1e-6, "resample": "hf", **IMAGENET},
        "transformers ViTMSNConfig: layer_norm_eps=1e-6",
    ),
    Lineage(
        "hf-internvl", ("hf-internvl", "hf-internvl-memory"), {"eps": 1e-6, "resample": "hf", **IMAGENET},
        "transformers InternVLVisionConfig: layer_norm_eps=1e-6", heads=WIDE,
    ),
    Lineage(
        "hf-aimv2", ("hf-aimv2", "hf-aimv2-memory"), {"eps": 1e-5, "act": "silu", "sincos": "mae", **CLIP},
        "transformers Aimv2VisionConfig: rms_norm_eps=1e-5, 128 channels a head", head_dim=128,
    ),
    Lineage(
        "hf-sam", ("hf-sam",), {"eps": 1e-6, "pool": "none", **IMAGENET},
        "transformers SamVisionConfig: layer_norm_eps=1e-6",
    ),
    *(
        Lineage(
            "open_clip-clipa", ("open_clip-clipa",), {**OPEN_CLIP, **IMAGENET, "pool": "avg"},
            "open_clip model_configs ViT-*-CLIPA*.json: no_ln_pre, pool_type avg, final_ln_after_pool", signs, heads=WIDE,
        )
        for signs in (("no embed.norm.weight", "canon embed.cls"), ())
    ),
    *(
        Lineage(
            "openai-clip", ("openai-clip",), OPENAI,
            "openai/CLIP clip/model.py: QuickGELU, nn.LayerNorm default eps 1e-5, width // 64 heads", (sign,),
        )
        for sign in ("container torchscript", "has input_resolution$", "stores norm.weight float32 embed.patch.weight float16")
    ),
    *(
        Lineage(
            "open_clip", ("open_clip",), OPEN_CLIP,
            "open_clip/model.py CLIPVisionCfg: GELU unless quick_gelu, LayerNorm eps 1e-5", (sign,), heads=WIDE,
        )
        for sign in ("container safetensors", "file open_?clip|laion|epoch|datacomp|metaclip", "prefix (^|\\.)state_dict\\.",
                     "canon blocks.{i}.ls1", "canon pool.query", *(f"width {width}" for width in OPEN_CLIP_WIDTHS))
    ),
    Lineage(
        "openai-clip", ("openai-clip",), OPENAI,
        "openai/CLIP clip/model.py: QuickGELU; open_clip's models with GELU have the same names (dialect=\"open_clip\")",
    ),
    Lineage(
        "open_clip", ("open_clip",), OPEN_CLIP,
        "open_clip/model.py CLIPVisionCfg: GELU unless quick_gelu, LayerNorm eps 1e-5", heads=WIDE,
    ),
    Lineage(
        "open_clip", ("open_clip-timm",), {"eps": 1e-6, "act": "gelu", "resample": "timm", **CLIP},
        "open_clip/timm_model.py", ("no pool.query",), heads=WIDE,
    ),
    Lineage(
        "open_clip-siglip", ("open_clip-timm",), {"eps": 1e-6, "act": "gelu_tanh", "resample": "timm", **HALF},
        "open_clip model_configs ViT-*-SigLIP*", heads=GIANT,
    ),
    Lineage(
        "instantmesh", ("instantmesh",),
        {"eps": 1e-12, "act": "gelu", "resample": "dino", "condition": "instantmesh", "pool": "none", **IMAGENET},
        "InstantMesh src/models/encoder/dino.py: layer_norm_eps of facebook/dino-vitb16 config.json, +0.1",
    ),
    Lineage(
        "internvit", ("internvit",), {"eps": 1e-6, "act": "gelu", "resample": "internvit", **IMAGENET},
        "InternVL configuration_intern_vit.py: layer_norm_eps=1e-6, hidden_act='gelu'", heads=WIDE,
    ),
    Lineage(
        "dinov3", ("dinov3",), {"eps": 1e-5, "rope": DINOV3_ROPE, **IMAGENET},
        "dinov3/models/vision_transformer.py: layernormbf16 eps 1e-5, rope base 100, coords separate",
        heads={4096: 32},
    ),
    Lineage(
        "eva02-mim", ("eva02",), {"eps": 1e-6, "rope": EVA_MIM_ROPE, "resample": "eva", **CLIP},
        "EVA-02/asuka/modeling_pretrain.py: positions 0 … g − 1", ("under lm_head\\..*",), heads=WIDE,
    ),
    Lineage(
        "eva02-finetuned", ("eva02",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "eva", **CLIP},
        "EVA-02/asuka/modeling_finetune.py: intp_freq, pt_hw_seq_len=16", heads=WIDE,
    ),
    Lineage(
        "eva-clip", ("eva-clip",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "eva", **CLIP},
        "EVA-CLIP/rei/eva_clip/eva_vit_model.py, model_configs (head_width 64, 88, 112)",
        ("has (^|\\.)(text\\.|logit_scale$)",), heads=WIDE,
    ),
    Lineage(
        "eva", ("eva",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "eva", **CLIP},
        "EVA-01/eva/modeling_finetune.py", heads=WIDE,
    ),
    Lineage(
        "eva-clip", ("eva-clip",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "eva", **CLIP},
        "EVA-CLIP/rei/eva_clip/eva_vit_model.py, model_configs (head_width 64, 88, 112)", heads=WIDE,
    ),
    Lineage(
        "timm-dinov3", ("timm-eva",), {"eps": 1e-5, "rope": DINOV3_ROPE, "resample": "timm", "pool": "avg", **IMAGENET},
        "timm/models/eva.py *_dinov3: eps 1e-5, rope_type dinov3", ("canon embed.reg", "no embed.pos"),
        heads={4096: 32},
    ),
    Lineage(
        "timm-pe", ("timm-eva",), {"eps": 1e-5, "rope": TIMM_PE_ROPE, "resample": "timm", **HALF},
        "timm/models/eva.py vit_pe_*", ("canon embed.norm.weight",), heads=GIANT,
    ),
    Lineage(
        "timm-eva", ("timm-eva",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "timm", **CLIP},
        "timm/models/eva.py", heads=WIDE,
    ),
    Lineage(
        "beit", ("beit", "timm-beit"), {"eps": 1e-6, "act": "gelu", "resample": "eva", "rel_resample": "beit-geometric", **HALF},
        "unilm/beit/modeling_finetune.py; run_class_finetuning.py (geometric resize; a table of positions: bicubic)",
        ("container torch|torch-legacy", "under .*rel(ative)?_pos(ition)?_.*"),
    ),
    Lineage(
        "timm-beit", ("beit", "timm-beit"), {"eps": 1e-6, "act": "gelu", "resample": "timm", "rel_resample": "timm", **HALF},
        "timm/models/beit.py",
    ),
    Lineage(
        "aimv2", ("aimv2",), {"eps": 1e-5, "act": "silu", "resample": "none", "sincos": "mae", "pool": "none", **CLIP},
        "ml-aim aim-v2/aim/v2/torch: RMSNorm 1e-5, SwiGLU, 128 channels a head", head_dim=128,
    ),
    Lineage(
        "pe", ("pe",), {"eps": 1e-5, "act": "gelu", "rope": PE_ROPE, "resample": "pe", "pool_heads": 8, **HALF},
        "perception_models core/vision_encoder/{config,pe,rope}.py", heads={1536: 16},
    ),
    Lineage(
        "radio", ("radio", "hf-radio-memory"), {"eps": 1e-6, "act": "gelu", "resample": "radio", **CLIP},
        "NVlabs/RADIO radio/vit_patch_generator.py, hubconf.py", heads=WIDE,
    ),
    Lineage(
        "sam", ("sam",), {"eps": 1e-6, "act": "gelu", "resample": "none", "pool": "none", **IMAGENET},
        "segment_anything/modeling/image_encoder.py, build_sam.py (eps=1e-6)",
    ),
    Lineage(
        "timm-sam", ("timm-sam",), {"eps": 1e-5, "act": "gelu", "resample": "timm", **IMAGENET},
        "timm/models/vision_transformer_sam.py: nn.LayerNorm with its default eps 1e-5",
    ),
    Lineage(
        "torchvision", ("torchvision",), {"eps": 1e-6, "act": "gelu", "resample": "torchvision", **IMAGENET},
        "torchvision/models/vision_transformer.py", heads=WIDE,
    ),
    Lineage(
        "croco", ("croco",), {"eps": 1e-6, "act": "gelu", "rope": CROCO_ROPE, **IMAGENET},
        "croco/models/croco.py, pos_embed.py RoPE2D(freq=100)",
    ),
    Lineage(
        "mmpretrain", ("mmpretrain",), {"eps": 1e-6, "act": "gelu", "resample": "mmpretrain", **IMAGENET},
        "mmpretrain/models/backbones/vision_transformer.py", heads=WIDE,
    ),
    Lineage(
        "timm-parallel", ("timm-parallel", "timm-parallel-biased", "timm-parallel-diff"), {"eps": 1e-6, "act": "gelu", "resample": "timm", **HALF},
        "timm/models/vision_transformer.py vit_*_xp_*, vit_pwee_*, vit_dpwee_*", heads=WIDE,
    ),
    Lineage(
        "timm-relpos-rpn", ("timm-relpos",), {"eps": 1e-6, "act": "gelu", "block_norm": "post", **IMAGENET},
        "timm/models/vision_transformer_relpos.py vit_relpos_*_rpn_*: ResPostRelPosBlock, the only one without LayerScale",
        ("no blocks.{i}.ls1", "has rel_pos\\."),
    ),
    Lineage(
        "timm-relpos", ("timm-relpos",), {"eps": 1e-6, "act": "gelu", **IMAGENET},
        "timm/models/vision_transformer_relpos.py",
    ),
    Lineage(
        "dino", ("dino",), {"eps": 1e-6, "resample": "dino", **IMAGENET},
        "dino/vision_transformer.py: eps=1e-6, scale_factor=(g+0.1)/sqrt(N)", heads=WIDE,
    ),
    Lineage(
        "moco-v3", ("moco",), {"eps": 1e-6, "resample": "mae", **IMAGENET, "pos_embed": "sincos"},
        "moco-v3/vits.py: vit_small has 12 heads at width 384; fixed sin-cos positions", heads={384: 12},
    ),
    Lineage(
        "ijepa", ("ijepa",), {"eps": 1e-6, "resample": "none", **IMAGENET, "pos_embed": "sincos", "pool": "avg"},
        "ijepa/src/models/vision_transformer.py: sin-cos positions, no cls token", heads=WIDE,
    ),
    Lineage("msn", ("msn",), {"eps": 1e-6, "resample": "msn", **IMAGENET}, "facebookresearch/msn src/deit.py"),
    Lineage(
        "eva-clip", ("open_clip-eva",), {"eps": 1e-6, "rope": EVA_ROPE, "resample": "timm", **CLIP},
        "open_clip model_configs EVA0*: timm's eva trunks", heads=WIDE,
    ),
    Lineage(
        "molmo2", ("molmo", "hf-molmo2-memory"), {"eps": 1e-6, "act": "gelu_tanh", "resample": "none", "pool": "none", **HALF},
        "transformers Molmo2VisionConfig: hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-6, no class token", ("no embed.cls",),
        heads=GIANT,
    ),
    Lineage(
        "molmo", ("molmo",), {"eps": 1e-5, "act": "quick_gelu", "resample": "none", "pool": "none", **CLIP},
        "allenai/Molmo-7B-D-0924 config_molmo.py: quick_gelu, image_norm_eps 1e-5, 23 of OpenAI's 24 blocks",
    ),
    Lineage(
        "sapiens2", ("sapiens2", "hf-sapiens2-memory"), {"eps": 1e-6, "rope": DINOV3_ROPE, **IMAGENET},
        "facebookresearch/sapiens2 sapiens2.py: RMSNorm 1e-6, rope base 100, coords separate", heads={**WIDE, 2432: 32},
    ),
    Lineage(
        "google-ports", ("jeonsworld", "lukemelas"), {"eps": 1e-6, "act": "gelu", "resample": "google", **HALF},
        "jeonsworld/ViT-pytorch models/modeling.py, lukemelas/PyTorch-Pretrained-ViT transformer.py: eps 1e-6, erf GELU, zoom",
        heads=WIDE,
    ),
    Lineage(
        "asyml", ("asyml",), {"eps": 1e-5, "act": "gelu", "resample": "none", **HALF},
        "asyml/vision-transformer-pytorch src/model.py: nn.LayerNorm with its default eps 1e-5, nn.GELU",
    ),
    Lineage(
        "aim", ("aim",), {"eps": 1e-6, "act": "gelu", "resample": "none", "sincos": "mae", "pool": "none", **IMAGENET},
        "ml-aim aim-v1/aim/v1/torch: LayerNorm 1e-6, 128 channels a head, sin-cos positions", head_dim=128,
    ),
    Lineage(
        "mmseg", ("mmseg",), {"eps": 1e-6, "act": "gelu", "resample": "mmpretrain", **IMAGENET},
        "mmsegmentation mmseg/models/backbones/vit.py: LN eps 1e-6, GELU, bicubic to size=", heads=WIDE,
    ),
    Lineage(
        "cogvlm", ("cogvlm",),
        {"eps": 1e-6, "act": "gelu", "block_norm": "post", "resample": "none", "pool": "none", **CLIP},
        "zai-org/cogvlm-chat-hf visual.py, config.json: layer_norm_eps 1e-6, hidden_act gelu, 16 heads at 1792; branches are "
        "normed before they are added, no norm after the last block", heads=WIDE,
    ),
    Lineage(
        "vit-keras", ("vit-keras",), {"eps": 1e-6, "act": "gelu", "resample": "google", **HALF},
        "vit-keras vit_keras/{vit,layers,utils}.py: epsilon=1e-6, gelu(approximate=False), zoom order 1; preprocess_inputs mode tf",
        heads=WIDE,
    ),
    Lineage(
        "keras-hub-dinov2", ("keras-hub-dinov2",), {"eps": 1e-6, "act": "gelu", "resample": "hf", **IMAGENET},
        "keras_hub/src/models/dinov2/{dinov2_backbone,dinov2_layers}.py: epsilon=1e-6, bicubic without antialias", heads=WIDE,
    ),
    Lineage(
        "keras-hub", ("keras-hub-deit",), {"eps": 1e-6, "act": "gelu", "resample": "none", **IMAGENET},
        "keras_hub/src/models/deit/{deit_backbone,deit_layers}.py: layer_norm_epsilon=1e-6, activation='gelu' (erf)",
    ),
    Lineage(
        "keras-hub", ("keras-hub-vit",), {"eps": 1e-6, "act": "gelu", "resample": "none", **HALF},
        "keras_hub/src/models/vit/{vit_backbone,vit_layers}.py: layer_norm_epsilon=1e-6, activation='gelu' (erf)", heads=WIDE,
    ),
    Lineage("anyvit", ("anyvit", "anyvit-dit"), {}, "anyvit's own state dict; its metadata holds the spec", heads=WIDE),
)  # fmt: skip

UNKNOWN = Lineage("unknown", (), {"eps": 1e-6, "act": "gelu"}, "common defaults", heads=WIDE)


def family(dialect: str) -> str:
    """The spelling in the lineage table that a dialect is a variant of.

    Example:
        >>> family("timm-eva-swiglu"), family("hf-dinov2-with-registers-memory")
        ('timm-eva', 'hf-dinov2-with-registers-memory')
    """
    known = {name for lineage in LINEAGES for name in lineage.dialects}
    fitting = [name for name in known if dialect == name or dialect.startswith(name + "-")]
    return max(fitting, key=len, default=dialect)


def lineage_of(dialect: str, scene: Scene, default: str = "") -> Lineage:
    """The lineage of a file in a dialect.

    Arguments:
        dialect: the dialect's name.
        scene: what signs are looked up in.
        default: the lineage that the dialect names itself, where the table knows no variant of it.
    """
    spelling = family(dialect)
    for lineage in LINEAGES:
        if spelling in lineage.dialects and all(scene.holds(sign) for sign in lineage.when):
            return lineage
    return next((lineage for lineage in LINEAGES if lineage.name == default and not lineage.when), UNKNOWN)


def prefer(rivals: Sequence[str], scene: Scene) -> str:
    """The dialect of equally good ones that the lineage table names first; the first one where it names none.

    Example:
        >>> prefer(["timm", "dinov2"], Scene(["mask_token"], "", {}, "torch", "", 384))
        'dinov2'
    """
    spellings = {name: family(name) for name in rivals}
    for lineage in LINEAGES:
        if not lineage.when or not set(spellings.values()) & set(lineage.dialects):
            continue
        if all(scene.holds(sign) for sign in lineage.when):
            order = (lineage.name, *lineage.dialects)
            ranked = sorted(rivals, key=lambda n: order.index(spellings[n]) if spellings[n] in order else len(order))
            return ranked[0]
    return rivals[0]
