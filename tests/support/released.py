"""Released models that are in no other test: names and shapes from their own code, and what is true of them.

`READ` are Vision Transformers with their facts; `REFUSED` are none, or none that the reference model can hold, with words
that the refusal must hold. The sources are the projects' repositories and hub pages, by the name in each row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from support.layouts import (
    BLOCKS,
    LAYER_SCALE,
    MLPS,
    RESBLOCKS,
    Shapes,
    clip,
    croco,
    dinov2,
    hf_clip,
    hf_dinov2,
    hf_siglip,
    hf_vit,
    internvit,
    language_model,
    mae_decoder,
    respelt,
    sam,
    spread,
    timm,
    under,
    without,
)  # fmt: skip


@dataclass(frozen=True)
class Released:
    """One file.

    Arguments:
        name: the model.
        shapes: name → shape.
        facts: Spec field → value.
        words: what a refusal must hold, in small letters.
        container: the container that its project saves.
        file: the file's name.
    """

    name: str
    shapes: Shapes
    facts: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    container: str = "torch"
    file: str = "pytorch_model.bin"


def facts(d: int, depth: int, heads: int, p: int, m: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "embed_dim": d, "depth": depth, "num_heads": heads, "patch_size": p, "mlp_dim": m or 4 * d, "num_registers": 0,
        "qkv_bias": True, "layer_scale": False, "pre_norm": False, "norm": "layernorm", "ffn": "mlp", **more,
    }  # fmt: skip


SCALED = {"layer_scale": True}
PACKED = {"layer_scale": True, "ffn": "glu_fused"}
QUICK = {"pre_norm": True, "act": "quick_gelu", "eps": 1e-5}
SIGLIP = facts(1152, 27, 16, 14, 4304, act="gelu_tanh", eps=1e-6)
L14 = facts(1024, 24, 16, 14, **SCALED)


def regs(count: int) -> str:
    return f"reg_token: 1 {count} d"


def giant(side: int, **more: Any) -> Shapes:
    return timm(1536, 40, 4096, grid=(side, side), scale=LAYER_SCALE, mlp="packed", **more)


MAP = """
attn_pool.latent: 1 1 d
attn_pool.q.{p}: d d
attn_pool.kv.{p}: 2*d d
attn_pool.proj.{p}: d d
attn_pool.norm.{p}: d
attn_pool.mlp.fc1.{p}: m d
attn_pool.mlp.fc2.{p}: d m
norm.{p}: d
"""
BEIT = """
blocks.{i}.attn.q_bias: d
blocks.{i}.attn.v_bias: d
"""
MOLMO = "\n".join(f"transformer.resblocks.{{i}}.{part}" for part in (
    "attention.wq.{p}: d d", "attention.wk.{p}: d d", "attention.wv.{p}: d d", "attention.wo.{p}: d d", "attention_norm.{p}: d",
    "ffn_norm.{p}: d", "feed_forward.w1.{p}: m d", "feed_forward.w2.{p}: d m"))  # fmt: skip
EVA_02 = """
cls_token: 1 1 d
pos_embed: 1 1025 d
patch_embed.proj.{p}: d 3 14 14
rope.freqs_cos: 1024 64
rope.freqs_sin: 1024 64
blocks.{i}.attn.q_proj.weight: d d
blocks.{i}.attn.k_proj.weight: d d
blocks.{i}.attn.v_proj.weight: d d
blocks.{i}.attn.proj.{p}: d d
blocks.{i}.attn.inner_attn_ln.{p}: d
blocks.{i}.norm1.{p}: d
blocks.{i}.norm2.{p}: d
blocks.{i}.mlp.w1.{p}: m d
blocks.{i}.mlp.w2.{p}: m d
blocks.{i}.mlp.ffn_ln.{p}: m
blocks.{i}.mlp.w3.{p}: d m
norm.{p}: d
"""
AIM = """
preprocessor.patchifier.proj.{p}: d 3 14 14
preprocessor.patchifier.norm.{p}: d
trunk.blocks.{i}.norm_1.{p}: d
trunk.blocks.{i}.norm_2.{p}: d
trunk.blocks.{i}.attn.qkv.weight: 3*d d
trunk.blocks.{i}.attn.proj.weight: d d
trunk.blocks.{i}.mlp.fc1.weight: 4*d d
trunk.blocks.{i}.mlp.fc2.weight: d 4*d
trunk.post_trunk_norm.{p}: d
"""
JEONSWORLD = """
transformer.embeddings.cls_token: 1 1 d
transformer.embeddings.position_embeddings: 1 197 d
transformer.embeddings.patch_embeddings.{p}: d 3 16 16
transformer.encoder.layer.{i}.attention_norm.{p}: d
transformer.encoder.layer.{i}.ffn_norm.{p}: d
transformer.encoder.layer.{i}.ffn.fc1.{p}: 4*d d
transformer.encoder.layer.{i}.ffn.fc2.{p}: d 4*d
transformer.encoder.layer.{i}.attn.query.{p}: d d
transformer.encoder.layer.{i}.attn.key.{p}: d d
transformer.encoder.layer.{i}.attn.value.{p}: d d
transformer.encoder.layer.{i}.attn.out.{p}: d d
transformer.encoder.encoder_norm.{p}: d
"""
LUKEMELAS = """
class_token: 1 1 d
patch_embedding.{p}: d 3 16 16
positional_embedding.pos_embedding: 1 577 d
transformer.blocks.{i}.attn.proj_q.{p}: d d
transformer.blocks.{i}.attn.proj_k.{p}: d d
transformer.blocks.{i}.attn.proj_v.{p}: d d
transformer.blocks.{i}.proj.{p}: d d
transformer.blocks.{i}.norm1.{p}: d
transformer.blocks.{i}.norm2.{p}: d
transformer.blocks.{i}.pwff.fc1.{p}: 4*d d
transformer.blocks.{i}.pwff.fc2.{p}: d 4*d
norm.{p}: d
fc.{p}: 1000 d
"""
ASYML = "cls_token: 1 1 d\nembedding.{p}: d 3 16 16\ntransformer.pos_embedding.pos_embedding: 1 197 d\n" + "".join(
    f"transformer.encoder_layers.{{i}}.attn.{part}.weight: d 12 64\ntransformer.encoder_layers.{{i}}.attn.{part}.bias: 12 64\n"
    for part in ("query", "key", "value")
)
ASYML += """
transformer.encoder_layers.{i}.attn.out.weight: 12 64 d
transformer.encoder_layers.{i}.attn.out.bias: d
transformer.encoder_layers.{i}.norm1.{p}: d
transformer.encoder_layers.{i}.norm2.{p}: d
transformer.encoder_layers.{i}.mlp.fc1.{p}: 4*d d
transformer.encoder_layers.{i}.mlp.fc2.{p}: d 4*d
transformer.norm.{p}: d
classifier.{p}: 1000 d
"""
MMSEG = """
cls_token: 1 1 d
pos_embed: 1 1025 d
patch_embed.projection.{p}: d 3 16 16
layers.{i}.ln1.{p}: d
layers.{i}.ln2.{p}: d
layers.{i}.attn.attn.in_proj_weight: 3*d d
layers.{i}.attn.attn.in_proj_bias: 3*d
layers.{i}.attn.attn.out_proj.{p}: d d
layers.{i}.ffn.layers.0.0.{p}: 4*d d
layers.{i}.ffn.layers.1.{p}: d 4*d
"""
SAPIENS = """
cls_token: 1 1 d
storage_tokens: 1 8 d
patch_embed.projection.{p}: d 3 16 16
rope_embed.periods: 16
blocks.{i}.ln1.weight: d
blocks.{i}.ln2.weight: d
blocks.{i}.attn.wq.{p}: d d
blocks.{i}.attn.wk.{p}: d d
blocks.{i}.attn.wv.{p}: d d
blocks.{i}.attn.proj.{p}: d d
blocks.{i}.attn.q_norm.weight: 64
blocks.{i}.attn.k_norm.weight: 64
blocks.{i}.attn.gamma.weight: d
blocks.{i}.ffn.w12.{p}: 8*d d
blocks.{i}.ffn.w3.{p}: d 4*d
ln1.weight: d
"""


GOOGLE = """
embedding/kernel: 16 16 3 d
embedding/bias: d
cls: 1 1 d
Transformer/posembed_input/pos_embedding: 1 197 d
Transformer/encoder_norm/scale: d
Transformer/encoder_norm/bias: d
""" + "".join(
    f"Transformer/encoderblock_{{i}}/{line}\n"
    for line in (
        "LayerNorm_0/scale: d", "LayerNorm_0/bias: d", "LayerNorm_2/scale: d", "LayerNorm_2/bias: d",
        *(f"MultiHeadDotProductAttention_1/{part}/{axes}" for part in ("query", "key", "value") for axes in ("kernel: d 12 64", "bias: 12 64")),
        "MultiHeadDotProductAttention_1/out/kernel: 12 64 d", "MultiHeadDotProductAttention_1/out/bias: d",
        "MlpBlock_3/Dense_0/kernel: d 3072", "MlpBlock_3/Dense_0/bias: 3072", "MlpBlock_3/Dense_1/kernel: 3072 d", "MlpBlock_3/Dense_1/bias: d",
    )
)  # fmt: skip
GAMMAS = LAYER_SCALE.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")
DEIT_3 = timm(rows=0, scale=GAMMAS)
IJEPA = without(hf_vit(), "cls_token") | {"embeddings.position_embeddings": (1, 196, 768)}


def eva_giant() -> Shapes:
    shapes = timm(1408, 39, 6144, 14, (16, 16), more=BEIT)
    return without(shapes, r"qkv\.bias")


def blip_2() -> Shapes:
    beside = (
        "ln_vision.{p}: 1408\nquery_tokens: 1 32 768\nQformer.bert.encoder.layer.{i}.attention.self.query.{p}: 768 768"
    )
    return under("model.", under("visual_encoder.", eva_giant()) | spread(beside, 2))


def beit_512() -> Shapes:
    tables = (
        BEIT
        + "blocks.{i}.attn.relative_position_bias_table: 2212 16\nblocks.{i}.gamma_1: d\nblocks.{i}.gamma_2: d\nfc_norm.{p}: d"
    )
    return without(timm(1024, 24, grid=(24, 24), more=tables), r"qkv\.bias|^pos_embed")


def sapiens(d: int, depth: int) -> Shapes:
    halves = set(range(8, depth - 8))
    shapes = spread(SAPIENS, depth, d=d)
    grouped = [name for name in shapes if re.search(r"\.w[kv]\.", name) and int(name.split(".")[1]) in halves]
    return shapes | {name: (shapes[name][0] // 2, *shapes[name][1:]) for name in grouped}


def qwen_free() -> Shapes:
    return spread("model.embed_tokens.weight: 9 8\nmodel.layers.{i}.mlp.gate_proj.weight: 8 8", 2)


PATHOLOGY = (
    Released("MahmoodLab/UNI", timm(1024, 24, scale=LAYER_SCALE), facts(1024, 24, 16, 16, eps=1e-6, act="gelu", **SCALED)),
    Released("MahmoodLab/UNI2-h", timm(1536, 24, 4096, 14, (16, 16), rows=0, registers=regs(8), scale=LAYER_SCALE, mlp="packed"),
             facts(1536, 24, 24, 14, 4096, **{**PACKED, "num_registers": 8, "act": "silu"})),
    Released("paige-ai/Virchow", timm(1280, 32, 3416, 14, (16, 16), scale=LAYER_SCALE, mlp="packed"), facts(1280, 32, 16, 14, 3416, **PACKED)),
    Released("paige-ai/Virchow2", timm(1280, 32, 3416, 14, (16, 16), rows=5, registers=regs(4), scale=LAYER_SCALE, mlp="packed"),
             facts(1280, 32, 16, 14, 3416, **{**PACKED, "num_registers": 4, "pos_prefix": 5})),
    Released("prov-gigapath/prov-gigapath", giant(14), facts(1536, 40, 24, 16, 4096, **PACKED)),
    Released("bioptimus/H-optimus-0", giant(16, p=14, rows=0, registers=regs(4)), facts(1536, 40, 24, 14, 4096, **{**PACKED, "num_registers": 4})),
    Released("bioptimus/H0-mini", timm(768, 12, 2048, 14, (16, 16), rows=0, registers=regs(4), scale=LAYER_SCALE, mlp="packed"),
             facts(768, 12, 12, 14, 2048, **{**PACKED, "num_registers": 4}), container="safetensors", file="model.safetensors"),
    Released("owkin/phikon-v2", hf_dinov2(1024, 24, 16, 14), facts(1024, 24, 16, 16, **SCALED)),
    Released("histai/hibou-L", hf_dinov2(1024, 24, 14, 16, r=4), facts(1024, 24, 16, 14, **{**SCALED, "num_registers": 4})),
    Released("kaiko-ai/midnight", hf_dinov2(1536, 40, 14, 16, m=4096, gated=True), facts(1536, 40, 24, 14, 4096, **{**SCALED, "ffn": "swiglu_fused"})),
    Released("MahmoodLab/CONCH", under("visual.trunk.", timm(grid=(28, 28))) | spread(
        "visual.attn_pool_contrast.query: 1 512\nvisual.ln_contrast.{p}: 512\nvisual.proj_contrast: 512 512"), facts(768, 12, 12, 16)),
    Released("lunit DINO ViT-S/8", timm(384, 12, p=8, grid=(28, 28)), facts(384, 12, 6, 8)),
)  # fmt: skip

MEDICAL = (
    Released("RETFound, MAE", under("model.", timm(1024, 24) | mae_decoder()), facts(1024, 24, 16, 16)),
    Released("RETFound, fine-tuned", under("model.", timm(1024, 24, more="fc_norm.{p}: d\nhead.{p}: 5 d")), facts(1024, 24, 16, 16, pool="avg")),
    Released("RETFound, DINOv2", under("teacher.backbone.", dinov2(1024, 24, 14, 16)) | under("student.backbone.", dinov2(1024, 24, 14, 16))
             | spread("teacher.dino_head.last_layer.weight_g: 65536 1\nteacher.dino_head.last_layer.weight_v: 65536 256"), L14),
    Released("MedSAM", under("image_encoder.", sam()) | {"mask_decoder.iou_token.weight": (1, 256)}, facts(768, 12, 12, 16)),
    Released("BiomedCLIP", under("visual.trunk.", timm()) | {"visual.head.proj.weight": (512, 768), "logit_scale": ()}, facts(768, 12, 12, 16, projection_dim=512)),
    Released("microsoft/rad-dino", under("backbone.", dinov2(768, 12)), facts(768, 12, 12, 14, **SCALED)),
)  # fmt: skip

EARTH = (
    Released("RemoteCLIP ViT-L-14", clip(1024, 24, 14, 16, 768), facts(1024, 24, 16, 14, pre_norm=True, eps=1e-5)),
    Released("SSL4EO-S12 MAE", under("model.", timm(384, 12, c=13) | mae_decoder(384)), facts(384, 12, 6, 16, in_chans=13)),
    Released("SSL4EO-S12 DINO", under("teacher.backbone.", timm(384, 12, c=13)) | under("student.module.backbone.", timm(384, 12, c=13)),
             facts(384, 12, 6, 16, in_chans=13)),
    Released("SSL4EO-S12 MoCo v3", under("state_dict.module.base_encoder.", timm(384, 12, c=13)) | under("state_dict.module.momentum_encoder.", timm(384, 12, c=13)),
             facts(384, 12, 12, 16, in_chans=13)),
)  # fmt: skip

GEOMETRY = (
    Released("DUSt3R ViT-L", under("model.", croco() | spread("dec_blocks2.{i}.norm1.{p}: 768", 12)), facts(1024, 24, 16, 16)),
    Released("CroCo v2 ViT-B, small decoder", under("model.", croco(768, 12, 512, 8)), facts(768, 12, 12, 16)),
    Released("VGGT-1B", under("aggregator.patch_embed.", dinov2(r=4)) | under("aggregator.", spread(
        (BLOCKS + MLPS["mlp"]).replace("blocks", "frame_blocks") + "frame_blocks.{i}.attn.q_norm.{p}: 64\nframe_blocks.{i}.attn.k_norm.{p}: 64\n"
        "camera_token: 1 2 1 d\nregister_token: 1 2 4 d", 24, d=1024, m=4096)), {**L14, "num_registers": 4}),
    Released("MoGe", under("model.backbone.", dinov2()) | {"model.head.projects.0.weight": (512, 1024, 1, 1)}, L14),
    Released("UniDepth v2", under("pixel_encoder.", dinov2()) | {"pixel_decoder.latents_pos": (1, 2)}, L14),
    Released("Metric3D v2", under("model_state_dict.depth_model.encoder.", respelt(dinov2(r=4), (r"blocks\.", "blocks.0."))), {**L14, "num_registers": 4}),
    Released("Pi3", under("encoder.", dinov2(r=4)) | spread("decoder.{i}.attn.qkv.{p}: 3072 1024\nregister_token: 1 1 5 1024", 36), {**L14, "num_registers": 4}),
    Released("MiDaS DPT-L", under("pretrained.model.", timm(1024, 24, grid=(24, 24), more="norm.{p}: d\nhead.{p}: 1000 d"))
             | {"scratch.layer1_rn.weight": (256, 256, 3, 3)}, facts(1024, 24, 16, 16)),
    Released("MiDaS BEiT-L 384", under("pretrained.model.", beit_512()) | {"scratch.layer1_rn.weight": (256, 256, 3, 3)},
             facts(1024, 24, 16, 16, **{**SCALED, "qkv_bias": "qv"})),
)  # fmt: skip

ROBOTS = (
    Released("VC-1 ViT-L", under("model.", timm(1024, 24)), facts(1024, 24, 16, 16)),
    Released("Theia-B", under("backbone.model.", hf_vit()) | {"translator.x.weight": (3, 3)}, facts(768, 12, 12, 16)),
    Released("SPA-L", under("state_dict.img_backbone.", timm(1024, 24)), facts(1024, 24, 16, 16)),
    Released("pi0", under("paligemma_with_expert.paligemma.vision_tower.vision_model.", hf_siglip(side=16)) | language_model("paligemma_with_expert.x."), SIGLIP),
)  # fmt: skip

TOWERS = (
    Released("LLaVA-1.5", under("model.vision_tower.vision_tower.vision_model.", hf_clip()) | language_model("model."), facts(1024, 24, 16, 14, **QUICK)),
    Released("LLaVA-OneVision", under("vision_tower.vision_model.", hf_siglip(depth=26)) | language_model(), {**SIGLIP, "depth": 26}),
    Released("InternVL2.5-78B", under("vision_model.", internvit(3200, 45, 12800, big=True)) | language_model(),
             facts(3200, 45, 25, 14, 12800, **{**SCALED, "qkv_bias": False, "norm": "rmsnorm", "qk_norm": "full"})),
    Released("InternVL3.5", under("vision_model.", internvit()) | language_model(), L14),
    Released("MiniCPM-V 2", under("vpm.", timm(1152, 26, 4304, 14, (27, 27), cls=0)) | {"resampler.query": (64, 2304)}, {**SIGLIP, "depth": 26}),
    Released("MiniCPM-V 2.6", under("vpm.", hf_siglip(side=70)) | {"resampler.query": (64, 3584)}, SIGLIP),
    Released("SmolVLM-256M", under("model.vision_model.", hf_siglip(768, 12, 16, 32, 3072)), facts(768, 12, 12, 16, act="gelu_tanh")),
    Released("DeepSeek-VL2", under("vision.", timm(1152, 27, 4304, 14, (27, 27), cls=0, more=MAP)) | language_model("language.model."), SIGLIP),
    Released("Janus-Pro", under("vision_model.vision_tower.", timm(1024, 24, grid=(24, 24), cls=0, more=MAP))
             | spread("gen_vision_model.encoder.conv_in.{p}: 128 3 3 3\ngen_vision_model.quantize.embedding.weight: 16384 8"),
             facts(1024, 24, 16, 16, act="gelu_tanh")),
    Released("Phi-4-multimodal", under("model.embed_tokens_extend.image_embed.img_processor.", hf_siglip(side=32))
             | spread("model.layers.{i}.qkv_proj.lora_A.vision.weight: 256 3072", 2), SIGLIP),
    Released("Molmo-7B", under("model.vision_backbone.image_vit.", spread(
        "class_embedding: d\npositional_embedding: 577 d\npatch_embedding.weight: d 588\npre_ln.{p}: d\n" + MOLMO, 23, d=1024, m=4096))
        | {"model.transformer.wte.embedding": (152064, 3584)}, facts(1024, 23, 16, 14, **QUICK)),
    Released("Molmo2-8B", under("model.vision_backbone.image_vit.", spread(
        "positional_embedding: 729 d\npatch_embedding.{p}: d 588\n" + MOLMO, 25, d=1152, m=4304)), {**SIGLIP, "depth": 25}),
    Released("BLIP-2, LAVIS", blip_2(), facts(1408, 39, 16, 14, 6144, qkv_bias="qv")),
    Released("BLIP, pre-training", under("model.", under("visual_encoder.", timm()) | under("visual_encoder_m.", timm())), facts(768, 12, 12, 16)),
    Released("ALBEF", under("visual_encoder.", timm(grid=(16, 16))) | under("visual_encoder_m.", timm(grid=(16, 16))), facts(768, 12, 12, 16)),
    Released("jina-clip-v2", under("vision_model.", spread(EVA_02 + BEIT, 24, d=1024, m=2730)), facts(1024, 24, 16, 14, 2730, qkv_bias="qv", ffn="swiglu")),
)  # fmt: skip

OTHERS = (
    Released("SLIP ViT-B", under("state_dict.module.", under("visual.", timm()) | {"image_projection": (768, 512)}), facts(768, 12, 12, 16)),
    Released("DeCLIP ViT-B/32", under("state_dict.module.", clip(p=32, side=7)), facts(768, 12, 12, 32, pre_norm=True)),
    Released("MetaCLIP ViT-H/14", clip(1280, 32, 14, 16, 1024), facts(1280, 32, 16, 14, pre_norm=True, act="gelu"), file="metaclip_h14_fullcc2.5b.pt"),
    Released("IP-Adapter's image encoder", under("vision_model.", hf_clip(1280, 32, 14, 16)), facts(1280, 32, 16, 14, pre_norm=True)),
    Released("CLIP4Clip", under("clip.", clip(p=32, side=7)) | spread("transformerClip.resblocks.{i}.ln_1.{p}: 512", 4), facts(768, 12, 12, 32, pre_norm=True)),
    Released("Franca ViT-g/14", dinov2(1536, 40, 14, 16, m=4096, mlp="w12"), facts(1536, 40, 24, 14, 4096, **{**SCALED, "ffn": "swiglu_fused"})),
    Released("DINOv2 with a linear classifier", under("backbone.", dinov2(384, 12)) | spread("linear_head.{p}: 1000 768"), facts(384, 12, 6, 14, **SCALED)),
    Released("DINO.txt", under("visual_model.backbone.", dinov2(r=4)) | under("visual_model.head.", spread(BLOCKS + MLPS["mlp"], 2, d=1024, m=4096)),
             {**L14, "num_registers": 4}),
    Released("SynCLR", under("model.module.visual.", timm()) | {"model.module.image_mlp.0.weight": (4096, 768)}, facts(768, 12, 12, 16)),
    Released("CrossMAE", under("model.", timm() | mae_decoder(768) | spread("decoder_blocks.{i}.cross_attn.q.weight: 512 512", 8)), facts(768, 12, 12, 16)),
    Released("AIM-600M", spread(AIM, 24, d=1536), facts(1536, 24, 12, 14, qkv_bias=False, eps=1e-6, pos_embed="sincos_unstored")),
    Released("Sapiens2-0.4b", sapiens(1024, 24), facts(1024, 24, 16, 16, 4096, norm="rmsnorm", ffn="swiglu_fused", layer_scale=True, num_registers=8,
                                                        qk_norm="head"), container="safetensors"),
    Released("jeonsworld ViT-B_16", spread(JEONSWORLD, 12, d=768), facts(768, 12, 12, 16, eps=1e-6, act="gelu")),
    Released("lukemelas B_16_imagenet1k", spread(LUKEMELAS, 12, d=768), facts(768, 12, 12, 16, eps=1e-6, num_classes=1000)),
    Released("Google's ViT-B_16", spread(GOOGLE, 12, d=768), facts(768, 12, 12, 16, eps=1e-6, act="gelu_tanh"), container="npz"),
    Released("DeiT-III ViT-B", under("model.", DEIT_3), facts(768, 12, 12, 16, **SCALED)),
    Released("I-JEPA in transformers' names", IJEPA, facts(768, 12, 12, 16, num_cls=0)),
    Released("asyml ViT-B_16", spread(ASYML, 12, d=768), facts(768, 12, 12, 16, eps=1e-5, num_classes=1000)),
    Released("mmsegmentation SETR", under("state_dict.backbone.", spread(MMSEG, 12, d=768)), facts(768, 12, 12, 16, final_norm=None)),
    Released("Segmenter", under("model.encoder.", timm(grid=(32, 32))) | under("model.decoder.", spread(BLOCKS, 2, d=768)), facts(768, 12, 12, 16)),
    Released("TripoSR", under("image_tokenizer.model.", hf_vit()) | {"tokenizer.embeddings": (1024, 3, 32, 32)}, facts(768, 12, 12, 16, eps=1e-12)),
    Released("Hunyuan3D-2", under("conditioner.main_image_encoder.model.", hf_dinov2(1024, 24)) | spread("model.t_embedder.mlp.0.{p}: 9 9"), L14),
    Released("Stable Diffusion unCLIP", under("embedder.model.", clip(1280, 32, 14, 16, 1024))
             | spread("model.diffusion_model.time_embed.0.{p}: 9 9\nfirst_stage_model.quant_conv.{p}: 8 8 1 1"), facts(1280, 32, 16, 14, pre_norm=True)),
    Released("SALAD", under("state_dict.backbone.model.", dinov2(768, 12)) | spread("state_dict.aggregator.x.0.{p}: 512 768"), facts(768, 12, 12, 14, **SCALED)),
)  # fmt: skip

READ = (*PATHOLOGY, *MEDICAL, *EARTH, *GEOMETRY, *ROBOTS, *TOWERS, *OTHERS)


def refused(name: str, shapes: Shapes, *words: str) -> Released:
    return Released(name, shapes, words=words)


VIDEO = {"patch_embed.proj.weight": (768, 3, 2, 16, 16)}
PROJ = "patch_embed.proj.{p}: 768 4 2 2\n"

REFUSED = (
    # towers of another kind
    refused("OpenVLA", under("vision_backbone.featurizer.", timm(1024, 24, p=14, grid=(16, 16)))
            | under("vision_backbone.fused_featurizer.", timm(1152, 27, 4304, 14, (16, 16), cls=0)), "several towers", "weights="),
    refused("Depth Pro", under("encoder.patch_encoder.", timm(1024, 24)) | under("encoder.image_encoder.", timm(1024, 24)), "several towers", "weights="),
    refused("Kimi-VL", under("vision_tower.", spread("patch_embed.proj.{p}: 8 3 14 14\npatch_embed.pos_emb.weight: 64 64 8\n"
            "encoder.blocks.{i}.norm0.{p}: 8\nencoder.blocks.{i}.wqkv.{p}: 24 8", 3)) | qwen_free(), "moonvit", "rotary"),
    refused("Qwen-VL", under("transformer.visual.", respelt(spread(
        "conv1.weight: 64 3 14 14\npositional_embedding: 256 64\nln_pre.{p}: 64\nattn_pool.kv_proj.weight: 96 64" + RESBLOCKS, 3, d=64),
        (r"in_proj_(weight|bias)", r"in_proj.\1"))), "interleaved head by head"),
    refused("mPLUG-Owl2", under("model.vision_model.", spread("embeddings.patch_embed.weight: 8 3 14 14\nembeddings.pre_layernorm.{p}: 8\n"
            "encoder.layers.{i}.self_attn.query_key_value.{p}: 24 8", 3)) | qwen_free(), "interleaved head by head"),
    refused("BEiT-3, MUSK", under("beit3.", spread("vision_embed.proj.{p}: 8 3 16 16\nencoder.layers.{i}.self_attn.k_proj.A.{p}: 8 8\n"
            "encoder.layers.{i}.self_attn.k_proj.B.{p}: 8 8", 3)), "beit-3", "two sets of weights"),
    refused("Alpha-CLIP", clip(tower="") | {"conv1_alpha.weight": (768, 1, 16, 16)}, "second patch kernel"),
    refused("EoMT", under("network.encoder.backbone.", timm(scale=LAYER_SCALE)) | spread("network.q.weight: 200 768\nnetwork.attn_mask_probs: 4"), "queries"),
    refused("ViT-Adapter", under("state_dict.backbone.", timm() | spread("interactions.0.injector.gamma: 768\nspm.stem.0.weight: 64 3 3 3")), "vit-adapter"),
    refused("VPT", under("model.enc.transformer.", timm()) | {"model.enc.transformer.prompt_embeddings": (1, 50, 768)}, "prompt"),
    refused("SAM-Med2D", under("image_encoder.", sam(side=16) | spread("blocks.{i}.Adapter.channel.0.weight: 192 768", 12)), "adapter"),
    refused("TransReID", under("base.", timm() | {"sie_embed": (6, 1, 768)}), "sie_embed"),
    refused("OpenLRM", under("encoder.model.", respelt(dinov2(768, 12), (r"(norm\d)\.(weight|bias)", r"\1.norm.\2"))
            | spread("blocks.{i}.norm1.mlp.1.{p}: 1536 768", 12)), "modulated"),
    refused("data2vec 2", under("model.", spread(BLOCKS + MLPS["mlp"] + "modality_encoders.IMAGE.local_encoder.proj.{p}: 768 3 16 16", 12, d=768, m=9)), "data2vec 2"),
    refused("ViTDet", under("model.backbone.", under("net.", respelt(without(sam(), "neck|pos_embed"), ("lin", "fc")) | {"pos_embed": (1, 197, 768)})
            | {"simfp_2.0.weight": (768, 384, 2, 2)}), "vitdet", "another grid"),
    refused("EfficientSAM", under("model.image_encoder.", without(respelt(sam(), ("lin", "fc")), "rel_pos|^pos_embed") | {"pos_embed": (1, 197, 768)}),
            "14 × 14 and one for a class token"),
    refused("ViTPose", under("state_dict.backbone.", without(timm(grid=(16, 12), cls=0, rows=1), "^norm") | spread("last_norm.{p}: 768")), "vitpose", "pads"),
    refused("PARSeq", under("encoder.", timm(384, 12, p=4, grid=(8, 16), cls=0)), "128", "grid="),
    refused("MONAI ViT", spread("patch_embedding.patch_embeddings.1.{p}: 8 64\nblocks.{i}.attn.qkv.weight: 24 8\nblocks.{i}.norm1.{p}: 8", 3), "monai"),
    refused("vit-pytorch", spread("to_patch_embedding.2.{p}: 8 48\ntransformer.layers.{i}.0.to_qkv.weight: 24 8\ntransformer.layers.{i}.1.net.1.{p}: 8 8", 3), "vit-pytorch"),
    refused("T2T-ViT", without(timm(), "patch_embed") | spread("tokens_to_token.attention1.w.{p}: 64 147"), "t2t-vit"),
    refused("MobileCLIP-B", under("image_encoder.model.", without(timm(), "patch_embed") | {"patch_emb.0.block.conv.weight": (192, 3, 4, 4)}), "convolutional stem"),
    # channels and wavelengths
    refused("SatMAE, Sentinel-2", under("model.", without(timm(), "patch_embed") | spread("patch_embed.0.proj.{p}: 768 4 8 8\npatch_embed.1.proj.{p}: 768 4 8 8")),
            "several patch embeddings"),
    refused("DOFA", without(timm(), "patch_embed") | {"patch_embed.weight_generator.weight_tokens": (128, 128)}, "wavelengths"),
    refused("Scale-MAE", under("model.", without(timm() | mae_decoder(768), "pos_embed")), "positions"),
    refused("Prithvi-100M", timm(c=6) | mae_decoder(768) | {"patch_embed.proj.weight": (768, 6, 1, 16, 16)}, "3-d"),
    # video, sound, several senses
    refused("V-JEPA 2", under("target_encoder.module.backbone.", without(timm(cls=0), "pos_embed") | VIDEO), "3-d"),
    refused("TimeSformer", under("model.", timm() | spread("time_embed: 1 8 768\nblocks.{i}.temporal_attn.qkv.{p}: 9 9", 12)), "timesformer"),
    refused("Frozen in Time", under("video_model.", timm() | spread("temporal_embed: 1 4 768\nblocks.{i}.timeattn.qkv.{p}: 9 9", 12)), "temporal_embed"),
    refused("ImageBind", spread("modality_preprocessors.vision.cls_token: 1 1 8\nmodality_trunks.vision.blocks.{i}.norm_1.{p}: 8", 3), "imagebind"),
    refused("BEATs", under("model.", spread("patch_embedding.weight: 8 1 16 16\nencoder.layers.{i}.self_attn.grep_linear.{p}: 8 64", 3)), "beats"),
    refused("AudioMAE", under("model.", timm(c=1, grid=(64, 8))), "512", "grid="),
    # generators and tokenizers
    refused("DiT, SiT, REPA", spread("x_embedder.proj.{p}: 9 4 2 2\nt_embedder.mlp.0.{p}: 9 9\npos_embed: 1 256 9\n" + BLOCKS, 3, d=9), "diffusion"),
    refused("PixArt", spread("pos_embed.proj.{p}: 9 4 2 2\ntransformer_blocks.{i}.scale_shift_table: 6 9", 3), "diffusion"),
    refused("FLUX", spread("img_in.{p}: 9 9\ndouble_blocks.{i}.img_attn.qkv.{p}: 27 9", 3), "diffusion"),
    refused("U-ViT", spread(PROJ + "pos_embed: 1 258 768\nin_blocks.{i}.norm1.{p}: 768\nout_blocks.{i}.skip_linear.{p}: 768 1536", 6), "u-vit"),
    refused("MAR", spread("encoder_blocks.{i}.norm1.{p}: 768\nz_proj.{p}: 768 16\ndiffloss.net.time_embed.mlp.0.{p}: 9 9", 6), "mar:", "no picture"),
    refused("MAGE", under("model.", timm(grid=(16, 16)) | {"token_emb.word_embeddings.weight": (2025, 768)}), "mage"),
    refused("TiTok", spread("latent_tokens: 32 768\nencoder.patch_embed.{p}: 768 3 16 16\nencoder.transformer.{i}.ln_1.{p}: 768", 3), "titok", "tokenizer"),
    refused("LlamaGen's tokenizer", spread("encoder.conv_in.{p}: 128 3 3 3\nquantize.embedding.weight: 16384 8"), "tokenizer"),
    # a detector's decoder, a list, masks, adapters
    refused("DETR's decoder", spread("layers.{i}.encoder_attn.q_proj.{p}: 256 256\nlayers.{i}.fc1.{p}: 9 9", 6), "detector"),
    refused("an EMA's list", {f"ema.shadow_params.{n}": (4, 4) for n in range(20)}, "without names"),
    refused("a pruned ViT", respelt(timm(), (r"fc1\.weight", "fc1.weight_orig")) | spread("blocks.{i}.mlp.fc1.weight_mask: 3072 768", 12), "weight_mask", "prune.remove"),
    refused("a weight-normed ViT", respelt(timm(), (r"fc1\.weight", "fc1.weight_v")) | spread("blocks.{i}.mlp.fc1.weight_g: 3072 1", 12), "weight norm"),
    refused("quanto", respelt(timm(), (r"(qkv|fc\d)\.weight", r"\1.weight._data")), "quantised"),
    refused("HQQ", respelt(timm(), (r"(qkv|fc\d)\.weight", r"\1.W_q")), "quantised"),
    refused("PEFT, not merged", under("base_model.model.", respelt(hf_vit(), (r"query\.(weight|bias)", r"query.base_layer.\1"))
            | spread("encoder.layer.{i}.attention.attention.query.lora_A.default.weight: 16 768", 12)), "lora", "merge"),
    # near misses
    refused("a block too few", without(timm(), r"blocks\.5\."), "block 5 is missing"),
    refused("half a block too many", timm() | {"blocks.12.norm1.weight": (768,)}, "block 12"),
    refused("two models", under("vit_b.", timm()) | under("vit_s.", timm(384)), "several towers"),
    refused("half of the names behind a prefix", {("module." if n % 2 else "") + k: s for n, (k, s) in enumerate(timm().items())}, "pos_embed"),
    refused("a cut table", timm() | {"pos_embed": (1, 150, 768)}, "150 rows"),
    refused("CLIP without its last norm", under("vision_model.", without(hf_clip(), "post_layernorm")), "no final norm"),
    refused("DINOv2 with registers without its last norm", without(hf_dinov2(r=4), "^layernorm"), "no final norm"),
    refused("OpenCLIP without its last norm", without(clip(1280, 32, 14, 16, 1024), "ln_post"), "no final norm"),
    refused("DeiT-III without its class token", under("model.", without(DEIT_3, "cls_token")), "the class token is missing"),
    refused("DeiT-III without its table", under("model.", without(DEIT_3, "pos_embed")), "positions"),
    refused("EVA-02 without its table", without(spread(EVA_02 + BEIT, 24, d=1024, m=2730), "pos_embed"), "the position table is missing"),
    refused("SAM without its table", under("image_encoder.", without(sam(), "^pos_embed")), "the position table is missing"),
    Released("Google's ViT-B without its table", without(spread(GOOGLE, 12, d=768), "posembed"), words=("positions",), container="npz"),
    Released("Google's ViT-B with one bias turned", spread(GOOGLE, 12, d=768) | {"Transformer/encoderblock_3/MultiHeadDotProductAttention_1/key/bias": (64, 12)},
             words=("disagree on the head count: 12, 64", "encoderblock_3"), container="npz"),
    refused("I-JEPA with a tensor more in a block", IJEPA | {"encoder.layer.7.layernorm_after.new_thing": (4,)}, "new_thing", "inside the blocks"),
    refused("no class token beside its row", without(timm(), "cls_token"), "no class token"),
)  # fmt: skip
