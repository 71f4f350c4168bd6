"""The model against live timm models at small odd sizes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from model.vit_mapping import TIMM, close, picture, randomise, translate
from torch import nn

from anyvit.model import Features, ViT
from anyvit.spec import Rope, Spec

pytestmark = pytest.mark.usefixtures("peers")

BASE = {"img_size": (48, 64), "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 7}
PLAIN = Spec(embed_dim=48, depth=3, num_heads=3, mlp_dim=192, image_size=(48, 64), num_classes=7, pos_prefix=1)


def spec(**values: Any) -> Spec:
    return Spec(**{**PLAIN.values(), **values})


def ours(spec: Spec, peer: nn.Module, *rules: Any) -> ViT:
    """The model with a timm model's weights, which are drawn here."""
    randomise(peer)
    vit = ViT(spec)
    vit.load_state_dict(translate(peer.state_dict(), *rules, TIMM, prefix_rows=spec.pos_prefix), strict=True)
    return vit.eval()


@torch.no_grad()
def compare(vit: ViT, peer: nn.Module, size: tuple[int, int] = (48, 64)) -> Features:
    pixels = picture(*size)
    out = vit(pixels)
    tokens = peer.forward_features(pixels)
    close(out.tokens, tokens)
    close(out.pooled, peer.forward_head(tokens, pre_logits=True))
    if vit.head is not None:
        close(out.logits, peer(pixels))
    return out


VITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "avg": ({"global_pool": "avg"}, {"pool": "avg", "final_norm": "fc_norm"}),
    "avg after norm": ({"global_pool": "avg", "fc_norm": False}, {"pool": "avg"}),
    "registers": ({"reg_tokens": 4, "no_embed_class": True}, {"num_registers": 4, "pos_prefix": 0}),
    "registers with positions": ({"reg_tokens": 4}, {"num_registers": 4, "pos_prefix": 5}),
    "no class token": ({"class_token": False, "global_pool": "avg"}, {"num_cls": 0, "pos_prefix": 0, "pool": "avg",
                                                                      "final_norm": "fc_norm"}),
    "pre_norm": ({"pre_norm": True}, {"pre_norm": True, "patch_bias": False}),
    "LayerScale": ({"init_values": 1e-5}, {"layer_scale": True}),
    "no qkv bias": ({"qkv_bias": False}, {"qkv_bias": False}),
    "qk_norm": ({"qk_norm": True}, {"qk_norm": "head"}),
    "sub-norms": ({"scale_attn_norm": True, "scale_mlp_norm": True}, {"attn_norm": True, "mlp_norm": True}),
    "map": ({"class_token": False, "global_pool": "map"},
            {"num_cls": 0, "pos_prefix": 0, "pool": "map", "pool_norms": ("mlp",), "pool_mlp_dim": 192}),
    "map without registers": ({"class_token": False, "reg_tokens": 2, "global_pool": "map"},
                              {"num_cls": 0, "num_registers": 2, "pos_prefix": 2, "pool": "map",
                               "pool_norms": ("mlp",), "pool_mlp_dim": 192}),
}  # fmt: skip


@pytest.mark.parametrize("name", VITS)
def test_vision_transformer(name: str) -> None:
    from timm.models.vision_transformer import VisionTransformer

    theirs, values = VITS[name]
    peer = VisionTransformer(**BASE, **theirs)
    compare(ours(spec(**values), peer), peer)


def test_post_norm_blocks() -> None:
    from timm.models.vision_transformer import ResPostBlock, VisionTransformer

    peer = VisionTransformer(**BASE, block_fn=ResPostBlock)
    compare(ours(spec(block_norm="post"), peer), peer)


def test_swiglu() -> None:
    from timm.layers import GluMlp, SwiGLU
    from timm.models.vision_transformer import VisionTransformer

    rules = (
        (r"blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"blocks.\1.mlp.gate_up.\2"),
        (r"blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"blocks.\1.mlp.down.\2"),
    )
    peer = VisionTransformer(**BASE, mlp_layer=partial(GluMlp, gate_last=False), act_layer=nn.SiLU)
    compare(ours(spec(ffn="glu_fused", act="silu", mlp_dim=96), peer, rules), peer)
    peer = VisionTransformer(**BASE, mlp_layer=SwiGLU, act_layer=nn.SiLU)
    compare(ours(spec(ffn="swiglu", act="silu"), peer, rules), peer)


@pytest.mark.parametrize("size", [(64, 32), (96, 112)])
def test_another_size(size: tuple[int, int]) -> None:
    from timm.models.vision_transformer import VisionTransformer

    peer = VisionTransformer(**BASE, dynamic_img_size=True)
    compare(ours(spec(), peer), peer, size)


def test_distilled() -> None:
    from timm.models.deit import VisionTransformerDistilled

    peer = VisionTransformerDistilled(**BASE)
    compare(ours(spec(dist_token=True, pos_prefix=2, pool="cls+dist"), peer), peer)


EVA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "eva02": (
        {"swiglu_mlp": True, "scale_mlp": True, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16),
         "qkv_fused": False},
        {"ffn": "swiglu", "act": "silu", "mlp_norm": True, "pos_embed": "learned+rope", "qkv_bias": "qv",
         "rope": Rope(layout="interleaved", coords="scaled", reference=16)},
    ),
    "eva02 clip sub-norm": (
        {"scale_attn_inner": True, "use_rot_pos_emb": True},
        {"attn_norm": True, "pos_embed": "learned+rope", "qkv_bias": "qv", "rope": Rope(layout="interleaved")},
    ),
    "EVA post-norm": ({"use_post_norm": True}, {"block_norm": "post", "qkv_bias": "qv"}),
    "PE": (
        {"use_rot_pos_emb": True, "rope_grid_offset": 1.0, "rope_grid_indexing": "xy", "attn_type": "rope",
         "global_pool": "map", "attn_pool_num_heads": 4, "attn_pool_mlp_ratio": 4.0, "ref_feat_shape": (16, 16),
         "use_pre_transformer_norm": True},
        {"pre_norm": True, "pos_embed": "learned+rope", "pool": "map", "pool_prefix": True, "pool_heads": 4,
         "pool_norms": ("mlp",), "pool_mlp_dim": 192, "patch_bias": False,
         "rope": Rope(layout="interleaved", first="column", coords="index1", reference=16)},
    ),
    "DINOv3": (
        {"use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3", "rope_temperature": 100.0,
         "rope_rotate_half": True, "init_values": 1e-5, "num_reg_tokens": 4},
        {"pos_embed": "rope", "pos_prefix": 0, "layer_scale": True, "num_registers": 4, "qkv_bias": "qv",
         "rope": Rope(base=100.0, coords="normalized", span="head")},
    ),
    "mixed": (
        {"use_rot_pos_emb": True, "rope_type": "mixed", "rope_grid_indexing": "xy", "attn_type": "rope",
         "use_abs_pos_emb": False},
        {"pos_embed": "rope", "pos_prefix": 0, "rope": Rope(layout="interleaved", first="column", mixed=True)},
    ),
    "sapiens2": (
        {"use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3", "rope_temperature": 100.0,
         "rope_rotate_half": True, "attn_type": "rope", "qk_norm": True, "init_values": 1e-5,
         "attn_only_layer_scale": True, "qkv_fused": False},
        {"pos_embed": "rope", "pos_prefix": 0, "layer_scale": True, "mlp_layer_scale": False, "qk_norm": "head",
         "rope": Rope(base=100.0, coords="normalized", span="head")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EVA)
@pytest.mark.parametrize("size", [(48, 64), (64, 32)])
def test_eva(name: str, size: tuple[int, int]) -> None:
    from timm.models.eva import Eva

    theirs, values = EVA[name]
    gated = (
        (r"blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"blocks.\1.mlp.down.\2"),
    ) if "swiglu_mlp" in theirs else ()  # fmt: skip
    peer = Eva(**{"global_pool": "token", "dynamic_img_size": True, **BASE, **theirs})
    vit = ViT(spec(**values))
    state = translate(randomise(peer).state_dict(), gated, TIMM, prefix_rows=vit.spec.pos_prefix)
    if hasattr(vit.rope, "periods"):
        state["rope.periods"] = vit.rope.periods
    vit.load_state_dict(state, strict=True)
    compare(vit.eval(), peer, size)


@pytest.mark.parametrize("shared", [False, True])
def test_beit(shared: bool) -> None:
    from timm.models.beit import Beit

    kind = {"use_shared_rel_pos_bias": True} if shared else {"use_rel_pos_bias": True}
    peer = Beit(**BASE, **kind, init_values=0.1, use_abs_pos_emb=False)
    values = {"pos_embed": "relpos_shared" if shared else "relpos", "pos_prefix": 0, "qkv_bias": "qv",
              "layer_scale": True, "pool": "avg", "final_norm": "fc_norm"}  # fmt: skip
    compare(ours(spec(**values), peer, ((r"rel_pos_bias\.relative_position_index", None),)), peer)


@pytest.mark.parametrize("cls", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_relpos(cls: bool, shared: bool) -> None:
    from timm.models.vision_transformer_relpos import VisionTransformerRelPos

    pool = {"class_token": True, "global_pool": "token"} if cls else {}
    peer = VisionTransformerRelPos(**BASE, rel_pos_type="bias", shared_rel_pos=shared, **pool)
    rules = ((r"shared_rel_pos\.relative_position_bias_table", "embed.rel_pos"),)
    values = {"pos_embed": "relpos_shared" if shared else "relpos", "pos_prefix": 0, "num_cls": int(cls),
              "pool": "cls" if cls else "avg", "final_norm": "norm", "layer_scale": True}  # fmt: skip
    values["final_norm"] = "norm" if any(n.startswith("norm.") for n in peer.state_dict()) else "fc_norm"
    values["layer_scale"] = "blocks.0.ls1.gamma" in peer.state_dict()
    compare(ours(spec(**values), peer, rules), peer)


@pytest.mark.parametrize("neck", [0, 24])
def test_samvit(neck: int) -> None:
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    peer = randomise(
        VisionTransformerSAM(**{**BASE, "img_size": 80, "num_classes": 0}, window_size=3, global_attn_indexes=(1,),
                             use_rel_pos=True, neck_chans=neck, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    )  # fmt: skip
    vit = ViT(spec(
        image_size=80, num_cls=0, num_classes=0, pos_prefix=0, pos_embed="learned+relpos_decomposed", window=3,
        global_blocks=(1,), final_norm=None if neck else "norm", pool="avg", neck_dim=neck or None))  # fmt: skip
    rules = () if neck else ((r"neck\.(weight|bias)", r"norm.\1"),)
    vit.load_state_dict(translate(peer.state_dict(), rules, TIMM), strict=True)
    pixels = picture(80, 80)
    with torch.no_grad():
        out = vit.eval()(pixels)
        features = peer.forward_features(pixels)  # (B, C, h, w)
        maps = vit.neck(out) if neck else out.patches.transpose(1, 2).unflatten(2, out.grid)
        close(maps, features)
        close(out.pooled, peer.forward_head(features, pre_logits=True))
