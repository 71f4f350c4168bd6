"""The model against live transformers and open_clip models at small odd sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model.vit_mapping import MHA, Rules, close, picture, randomise, translate
from torch import nn

from anyvit.model import ViT
from anyvit.spec import Rope, Spec

pytestmark = pytest.mark.usefixtures("peers")

NORMS = {"layernorm_before": "norm1", "layernorm_after": "norm2", "layer_norm1": "norm1", "layer_norm2": "norm2"}
NAMES: Rules = (
    (r"embeddings\.(?:cls_token|class_embedding)", "embed.cls"),
    (r"embeddings\.register_tokens", "embed.reg"),
    (r"embeddings\.mask_token", "embed.mask"),
    (r"embeddings\.position_embeddings?(?:\.weight)?", "embed.table"),
    (r"embeddings\.patch_embeddings?\.(?:projection\.)?(\w+)", r"embed.patch.\1"),
    (r"pre_layrnorm\.(\w+)", r"embed.norm.\1"),
    (r"(?:layernorm|norm|post_layernorm)\.(\w+)", r"norm.\1"),
    (r"pooler\.layernorm\.(\w+)", r"fc_norm.\1"),
    (r"visual_projection\.(\w+)", r"proj.\1"),
    *((rf"blocks\.(\d+)\.{their}\.(\w+)", rf"blocks.\1.{our}.\2") for their, our in NORMS.items()),
    (r"blocks\.(\d+)\.(?:attention|self_attn)\.([qkv])_proj\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"blocks\.(\d+)\.(?:attention|self_attn)\.(?:o_proj|out_proj|projection_layer)\.(\w+)", r"blocks.\1.attn.out.\2"),
    (r"blocks\.(\d+)\.attention\.([qk]_norm)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"blocks\.(\d+)\.relative_position_bias\.relative_position_bias_table", r"blocks.\1.attn.rel_pos"),
    (r"blocks\.(\d+)\.(?:layer_scale|lambda_)([12])(?:\.lambda1)?", r"blocks.\1.ls\2"),
    (r"blocks\.(\d+)\.mlp\.(gate|up|down)_proj\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (r"blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.(\w+)", r"blocks.\1.\2.\3"),
)
SMALL: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96,
                         "image_size": 64, "patch_size": 16}  # fmt: skip
PLAIN = Spec(embed_dim=48, depth=3, num_heads=3, mlp_dim=96, image_size=64, pos_prefix=1, resample="hf")


def ours(peer: nn.Module, **values: Any) -> ViT:
    randomise(peer)
    state = {n.removeprefix("vision_model.").removeprefix("model."): v for n, v in peer.state_dict().items()}
    for theirs in ("encoder.layers.", "encoder.layer.", "layers.", "layer."):
        state = {n.replace(theirs, "blocks.", 1) if n.startswith(theirs) else n: v for n, v in state.items()}
    vit = ViT(Spec(**{**PLAIN.values(), **values}))
    state = translate(state, NAMES, prefix_rows=vit.spec.pos_prefix)
    if vit.rope is not None:
        state["rope.periods"] = vit.rope.periods
    vit.load_state_dict(state, strict=True)
    return vit.eval()


@torch.no_grad()
@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_dinov2(swiglu: bool, size: tuple[int, int]) -> None:
    from transformers import Dinov2Config, Dinov2Model

    peer = Dinov2Model(Dinov2Config(**SMALL, use_swiglu_ffn=swiglu, mlp_ratio=2))
    gated = {"ffn": "swiglu", "act": "silu", "mlp_dim": (int(96 * 2 / 3) + 7) // 8 * 8} if swiglu else {}
    vit = ours(peer, layer_scale=True, mask_token=True, **gated)
    pixels = picture(*size)
    out, theirs = vit(pixels), peer(pixels)
    close(out.tokens, theirs.last_hidden_state)
    close(out.pooled, theirs.pooler_output)


@torch.no_grad()
def test_dinov2_with_registers() -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    peer = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, mlp_ratio=2, num_register_tokens=3))
    vit = ours(peer, layer_scale=True, mask_token=True, num_registers=3, resample="hf-registers")
    for size in ((64, 64), (48, 80)):
        close(vit(picture(*size)).tokens, peer(picture(*size)).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_clip(act: str) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    peer = CLIPVisionModelWithProjection(CLIPVisionConfig(**SMALL, hidden_act=act, projection_dim=24))
    vit = ours(peer, act=act, eps=1e-5, pre_norm=True, patch_bias=False, projection_dim=24, tokens_normed=False)
    out, theirs = vit(picture(64, 64)), peer(picture(64, 64))
    close(out.tokens, theirs.last_hidden_state)
    close(out.embedding, theirs.image_embeds)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_dinov3(size: tuple[int, int]) -> None:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    peer = DINOv3ViTModel(DINOv3ViTConfig(**SMALL, use_gated_mlp=True, hidden_act="silu", num_register_tokens=2))
    vit = ours(
        peer, layer_scale=True, mask_token=True, num_registers=2, eps=1e-5, ffn="swiglu", act="silu", qkv_bias="qv",
        pos_embed="rope", pos_prefix=0, rope=Rope(base=100.0, coords="normalized", span="head"),
    )  # fmt: skip
    out, theirs = vit(picture(*size)), peer(picture(*size))
    close(out.tokens, theirs.last_hidden_state)
    close(out.pooled, theirs.pooler_output)


@torch.no_grad()
def test_beit() -> None:
    from transformers import BeitConfig, BeitModel

    peer = BeitModel(BeitConfig(**SMALL, use_relative_position_bias=True))
    vit = ours(peer, eps=1e-12, layer_scale=True, qkv_bias="qv", pos_embed="relpos", pos_prefix=0, pool="avg",
               final_norm="fc_norm", rel_resample="hf")  # fmt: skip
    for size in ((64, 64), (48, 80)):
        theirs = peer(picture(*size), interpolate_pos_encoding=True)
        close(vit(picture(*size)).tokens, theirs.last_hidden_state)
        close(vit(picture(*size)).pooled, theirs.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_internvl(norm: str) -> None:
    """The norm of queries and keys is RMS in both."""
    from transformers import InternVLVisionConfig, InternVLVisionModel

    sizes = {**SMALL, "image_size": [64, 64], "patch_size": [16, 16]}
    peer = InternVLVisionModel(InternVLVisionConfig(**sizes, use_qk_norm=True, norm_type=norm))
    vit = ours(peer, layer_scale=True, qkv_bias=False, qk_norm="full", norm=norm.replace("_", ""),
               final_norm=None)  # fmt: skip
    close(vit(picture(64, 64)).tokens, peer(picture(64, 64)).last_hidden_state)


@torch.no_grad()
def test_coca_pool_is_wider_than_the_trunk_and_normed_after() -> None:
    from open_clip.transformer import VisionTransformer

    peer = VisionTransformer(
        image_size=64, patch_size=16, width=48, layers=2, heads=3, mlp_ratio=2.0, attentional_pool=True,
        attn_pooler_queries=5, attn_pooler_heads=2, output_dim=32,
    )  # fmt: skip
    randomise(peer)
    vit = ViT(Spec(embed_dim=48, depth=2, num_heads=3, mlp_dim=96, image_size=64, pos_prefix=1, eps=1e-5, pre_norm=True,
                   patch_bias=False, final_norm="fc_norm", pool="attn_pool", pool_dim=32, pool_heads=2, pool_queries=5,
                   pool_norms=("q", "kv"), projection_dim=32))  # fmt: skip
    rules = ((r"ln_post\.(\w+)", r"fc_norm.\1"), (r"attn_pool\.attn\.in_proj_bias", "pool.qkv.bias"))
    vit.load_state_dict(translate(peer.state_dict(), rules, MHA, prefix_rows=1), strict=True)
    close(vit.eval()(picture(64, 64)).embedding, peer(picture(64, 64)))


@torch.no_grad()
@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_open_clip(pool: str) -> None:
    from open_clip.transformer import VisionTransformer

    peer = randomise(VisionTransformer(
        image_size=64, patch_size=16, width=48, layers=2, heads=3, mlp_ratio=2.0, pool_type=pool, output_dim=32,
        final_ln_after_pool=pool == "avg"))  # fmt: skip
    vit = ViT(Spec(embed_dim=48, depth=2, num_heads=3, mlp_dim=96, image_size=64, pos_prefix=1, eps=1e-5, pre_norm=True,
                   patch_bias=False, projection_dim=32, pool="avg" if pool == "avg" else "cls",
                   final_norm="fc_norm" if pool == "avg" else "norm"))  # fmt: skip
    rules = ((r"ln_post\.(\w+)", r"fc_norm.\1"),) if pool == "avg" else ()
    vit.load_state_dict(translate(peer.state_dict(), rules, MHA, prefix_rows=1), strict=True)
    close(vit.eval()(picture(64, 64)).embedding, peer(picture(64, 64)))
