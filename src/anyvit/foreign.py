"""Architectures that are no plain Vision Transformer, by names that give them away, and what shapes say of the rest."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from anyvit.lazy import Lazy
from anyvit.report import Finding, fold

FAMILIES: tuple[tuple[str, str], ...] = (
    # vision-language towers and detectors whose attention or embedding is their own
    (r"patch_embedder\.position_embedding_table|patch_embed\.position_embedding_table",
     "Gemma 4's vision tower: four norms a block and rotary positions in two dimensions"),
    (r"gated_positional_embedding\.|tile_positional_embedding",
     "Mllama (Llama 3.2 Vision): gated position and tile embeddings"),
    (r"positional_embedding_vlm$|vision_adapter\.mlp\.", "Llama 4's vision tower: rotary positions and an adapter"),
    (r"(^|\.)patch_conv\.weight$",
     "Pixtral: rotary positions in two dimensions, patches of many pictures in a row"),
    (r"embeddings\.(row|column)_embedder\.", "Pix2Struct: row and column embeddings of variable grids"),
    (r"(^|\.)merger\.(mlp|ln_q|linear_fc\d|norm|gate_proj|up_proj|proj|fc\d)\b|visual\.merger\.",
     "a vision tower of Qwen's kind (Qwen2-VL, Qwen3-VL, GLM-4V): rotary positions in two dimensions, windows or merged patches"),
    (r"patch_merger\.(proj_conv|before_rms)\.",
     "HunYuan-VL's tower: positions for pictures of any size and a merger of neighbouring patches"),
    (r"cls_position_embedding$", "Inkling's tower: patches of any number with positions of their own, merged after the blocks"),
    (r"patch_embed\.pos_emb\.|\.wqkv\.|blocks\.\d+\.norm0\.weight$",
     "MoonViT (Kimi-VL): rotary positions in two dimensions beside a table, patches of many pictures in a row"),
    (r"attn_pool\.kv_proj\.", "Qwen-VL (the first): q, k and v are interleaved head by head, and there is no class token"),
    (r"(^|\.)embeddings\.pre_layernorm\.", "mPLUG-Owl's tower: q, k and v are interleaved head by head (query_key_value)"),
    (r"self_attn\.\w+_proj\.[AB]\.|ffn\.[AB]\.fc1",
     "BEiT-3 (multiway transformer): every block has two sets of weights, A for pictures and B for words"),
    (r"modality_(preprocessors|trunks)\.",
     "ImageBind: trunks of several modalities; that of pictures has a 3-D (video) patch kernel"),
    (r"modality_encoders\.", "data2vec 2 (and EAT): norms after each sum, and an encoder for each modality"),
    (r"grep_linear\.|(^|\.)pos_conv\.",
     "an audio model (BEATs, WavLM, wav2vec 2): a convolution for positions, gated relative bias"),
    (r"patch_embed(ding)?\.(fclayer|weight_generator)\.|weight_generator\.fc_weight",
     "DOFA, Clay or their kin: the patch kernel is generated from the wavelengths of the channels (weight_generator)"),
    (r"(^|\.)patch_embed\.\d+\.proj\.|channel_cls_embed$",
     "SatMAE for groups of channels: several patch embeddings, one a group, and positions of channels"),
    (r"(^|\.)patch2embed\.|pre_norm_attn\.g$",
     "Voltron: RMS norms with a gain g, SwishGLU and a linear map of patches under names of its own"),
    (r"(^|\.)embeddings\.projection\.weight$",
     "ViTDet: its windows are of another grid than its position table, which has a row for a class token that is not there"),
    (r"(^|\.)to_patch_embedding\.|layers\.\d+\.\d\.(fn\.)*(to_qkv|net\.\d)",
     "blocks of lucidrains' vit-pytorch (to_qkv, net), which norm raw patches before they are projected"),
    (r"(^|\.)tokens_to_token\.", "T2T-ViT: patches overlap and are folded into tokens by attention of their own"),
    (r"(^|\.)tokenizer\.conv_layers\.", "CCT: a convolutional tokenizer stands before the blocks"),
    (r"(^|\.)patch_emb\.\d+\.block\.conv\.", "MobileCLIP: a convolutional stem stands before the blocks"),
    (r"patch_embedding\.(patch_embeddings|position_embeddings)",
     "MONAI's ViT, made for volumes: patches are rows of voxels, or cut by a 3-D kernel"),
    (r"blocks\.\d+\.norm\d\.mlp\.", "OpenLRM's encoder: its norms are modulated by a camera (ModLN)"),
    (r"(^|\.)detection_tokens$|mid_position_embeddings$", "YOLOS: detection tokens with positions of their own"),
    (r"embeddings\.(segment_token|type_token)_", "SegGPT: two pictures and their segments side by side"),
    (r"(^|\.)group_token$", "GroupViT: group tokens and stages that merge patches"),
    (r"vit_merger\.", "MiniCPM-V's tower: patches are merged between its blocks"),
    (r"(^|\.)time_embed$|temporal_(attention|dense|layernorm|embedding|fc)",
     "a video model (TimeSformer, X-CLIP): attention along time"),
    (r"message_(attn|ln|fc)|prompts_generator\.", "X-CLIP: message tokens between frames"),
    (r"(^|\.)diffloss\.", "MAR: a generative model that draws its tokens by a diffusion loss; it encodes no picture"),
    (r"skip_linear\.", "U-ViT, a diffusion model: long skips join its early and late blocks"),
    (r"latent_token_positional_embedding|(^|\.)latent_tokens$",
     "TiTok, an image tokenizer: latent tokens are read beside the patches"),
    (r"t_embedder\.mlp|(^|\.)time_embed(ding)?\.|x_embedder\.|scale_shift_table$|adaln_single\.|(double|single|joint)_blocks\.",
     "a diffusion model (DiT or U-Net): it denoises at a time step, it encodes no picture"),
    (r"(^|\.)(quant_conv|quantizer?)\.(embedding|codebook|weight)",
     "an image tokenizer (VQGAN and its kin): a convolutional encoder and decoder around a quantiser"),
    (r"(^|\.)(down|up|mid)_blocks?\.", "a diffusion U-Net or autoencoder (down_blocks, up_blocks): convolutional"),
    # attention of another kind
    (r"class_attn|cls_attn_blocks\.", "XCiT: cross-covariance attention and class-attention blocks"),
    (r"attn\.temperature$", "XCiT: cross-covariance attention over channels"),
    (r"(^|\.)post_network\.|network\.\d+\.\d+\.attn\.v\b", "VOLO: outlook attention"),
    (r"(^|\.)(pixel_pos|pixel_embed\.)|attn_in\.qk\b|outer_tokens",
     "TNT: transformer in transformer, inner and outer blocks"),
    (r"(^|\.)serial_blocks\d+\.|(^|\.)c?rpe\d+\.|factoratt_crpe",
     "CoaT: co-scale convolutional attention, several resolutions"),
    (r"gamma_xca$|\.xca\.", "EdgeNeXt: a convolutional network with transposed attention"),
    (r"attn\.to_query\.|attn\.w_g$", "SwiftFormer: convolutional stages with additive attention"),
    (r"context_module\.main\.(qkv|aggreg)", "EfficientViT (MIT): linear attention in convolutional stages"),
    (r"mixer\.m\.attn\.qkvs\.", "EfficientViT (Microsoft): cascaded group attention in several stages"),
    (r"(^|\.)attention_biases$|attention_bias_idxs$",
     "a hierarchical model with attention biases (LeViT, TinyViT or EfficientFormer)"),
    (r"mixer\.m\.(pre_norm|qkv)", "SHViT: single-head attention in convolutional stages"),
    (r"mixer\.(A|A_log|BCdt_proj|hz_proj|in_proj|x_proj|dt_proj)\b",
     "a state-space model (Vision Mamba, EfficientViM): there is no attention"),
    (r"rnn_tokens\.", "Sequencer: tokens are mixed by LSTMs, there is no attention"),
    (r"modulation\.(f|h|projection_in)\b", "FocalNet: focal modulation, there is no attention"),
    (r"spatial_block\.|channel_block\.|blocks\.\d+\.\d+\.cpe\d",
     "DaViT: a hierarchical model with attention over windows and channels"),
    (r"blocks\.\d+\.mhca\.|e_mhsa\.", "Next-ViT: convolutional stages with attention inside"),
    (r"sequence_reduction|attn(ention)?(\.self)?\.sr\b|attention\.self\.sr\b|dwconv\.dwconv\.",
     "PVT or SegFormer: a hierarchical model with spatial reduction of keys and values"),
    (r"convolution_projection_(query|key)|attn\.conv_proj_[qkv]", "CvT: convolutional projections in a hierarchical model"),
    (r"attn\.(meta_mlp|logit_scale|cpb_mlp)", "Swin V2: a hierarchical model with shifted windows, no plain ViT"),
    (r"(layers\.\d+\.blocks|features\.\d+)\.\d+\.(attn|attention)\.|layers\.\d+\.downsample\.",
     "Swin: a hierarchical model with shifted windows, no plain ViT"),
    (r"(^|\.)q_global_gen\.|global_block\.|stem\.down\.conv_block\.",
     "GC ViT: global context attention in convolutional stages"),
    (r"pos_embed_win(dow)?$", "Hiera, SAM 2's image encoder: a hierarchical model whose width grows between stages"),
    (r"unit_attn|mask_unit|stages\.\d+\.layers\.\d+\.attn\.qkv|blocks\.\d+\.proj\.(weight|bias)$",
     "Hiera: a hierarchical model whose width grows between stages"),
    (r"stages?\d*\.\d+\.(blocks\.\d+\.)?attn\.qkv.*|stage\d\.\d+\.attn\.qkv",
     "a hierarchical model with attention in convolutional stages (CoAtNet, MaxViT, Visformer)"),
    (r"token_mixer\.(pwconv|dwconv|qkv|pool|mixer|conv|reparam)|block\.\d+\.\d+\.(before|after)_norm",
     "a MetaFormer (PoolFormer, ConvFormer, CAFormer, FastViT, RepViT): token mixers in several stages, no plain ViT"),
    # no attention
    (r"mlp_channels\.gate\.|\.gate\.proj\.", "gMLP: there is no attention, a gate mixes tokens"),
    (r"blocks\.\d+\.0\.fn\.0\.", "ConvMixer: a convolutional network, there is no attention"),
    (r"downsample_layers\.|stages\.\d+\.\d+\.dwconv\.|stages\.\d+\.blocks\.\d+\.conv_dw\.",
     "ConvNeXt: a convolutional network (downsample_layers, stages, dwconv), no Vision Transformer"),
    (r"stages\.\d+\.(blocks|layers)\.\d+\.(dwconv|conv_dw|layer_scale_parameter)|features\.\d+\.\d+\.block\.0\.",
     "a convolutional network of ConvNeXt's or EfficientNet's kind, no Vision Transformer"),
    (r"conv_stem\.|squeeze_excite\.",
     "a convolutional network of EfficientNet's or MobileNet's kind, no Vision Transformer"),
    (r"dense_?(block|stage)s?\w*\.|denselayer\d+\.", "DenseNet: a convolutional network, no Vision Transformer"),
    (r"(^|\.)layer\d\.\d+\.conv\d|encoder\.stages\.\d+\.layers\.\d+\.layer\.\d+\.convolution",
     "a convolutional ResNet, no Vision Transformer"),
)  # fmt: skip
"""Pattern, searched in names, and what it shows; the first that is found is said.

Source: timm 1.0.31 timm/models/*.py and transformers 5.23.0 models/*/modeling_*.py, by their own parameter names.
"""

ALONE: tuple[tuple[str, str], ...] = (
    (r"(^|\.)last_layer\.(weight_g|weight_v|parametrizations)",
     "a projection head (DINO, iBOT): there are no transformer blocks"),
    (r"(^|\.)(word_embeddings|embed_tokens|wte|tok_embeddings)\.weight$|token_embedding\.weight$",
     "a text or language model (token embeddings) without an image tower of a known kind"),
    (r"encoder_attn\.|sampling_offsets\.|query_position_embeddings|(^|\.)(bbox_embed|query_embed|reference_points)\.",
     "a part of a detector (DETR and its kin) or a decoder beside its encoder: it takes features, not pictures"),
)  # fmt: skip
"""What a file is where no image tower at all is found in it; beside one these names are common."""

OTHERWISE: tuple[tuple[str, str], ...] = (
    (r"vit_merger\.", "MiniCPM-V merges patches between the blocks of its tower"),
    (r"(^|\.)(mlp_AR|projector\.pre_norm)\.|packing_position_embedding",
     "PaddleOCR-VL rotates positions in its SigLIP tower"),
    (r"backbone\.(0\.)?projector\.(stages|projector_layer|layers)\.", "RF-DETR runs its DINOv2 backbone in windows"),
    (r"(^|\.)last_norm\.",
     "ViTPose pads pictures by two pixels before its patch kernel and adds the class token's row to every position"),
    (r"(^|\.)tokenizer\.(blocks\.|w_cls$|local_pos_embed$)",
     "Sapiens2's models for 4K pictures gather windows of patches before the blocks"),
    (r"attn_mask_probs$", "EoMT sends queries through the last blocks, beside the patches"),
    (r"simfp_\d", "ViTDet's windows and relative positions are of another grid than its position table"),
    (r"interactions\.\d+\.(injector|extractor)", "ViT-Adapter adds features of a convolutional branch between the blocks"),
    (r"prompt_embeddings$", "prompt tokens (VPT) go through the blocks beside the patches"),
    (r"conv1_alpha\.", "Alpha-CLIP adds a second patch kernel, for a mask"),
    (r"token_emb\.word_embeddings", "MAGE's blocks take tokens of a VQGAN, not patches"),
    (r"prompts_generator\.|message_attn", "X-CLIP's tower passes messages between frames"),
)  # fmt: skip
"""Names beside a tower that show that its model computes with more than the tower's own tensors."""


TYPES: Mapping[str, str] = {
    "paddleocr_vl_vision": "PaddleOCR-VL rotates positions in its SigLIP tower",
    "paddleocr_vl": "PaddleOCR-VL rotates positions in its SigLIP tower",
    "video_llama_3_vision": "VideoLLaMA 3 rotates positions in its SigLIP tower",
    "video_llama_3": "VideoLLaMA 3 rotates positions in its SigLIP tower",
    "mlcd_vision_model": "MLCD rotates positions in its CLIP tower",
    "vitpose_backbone": "ViTPose pads pictures by two pixels before its patch kernel",
    "vitpose": "ViTPose pads pictures by two pixels before its patch kernel",
    "rf_detr_dinov2": "RF-DETR runs its DINOv2 backbone in windows",
    "rf_detr": "RF-DETR runs its DINOv2 backbone in windows",
    "glm_image_vision": "GLM-Image rotates positions in two dimensions",
}
"""model_type of a config.json → how the model computes where its names are those of another.

Source: transformers 5.23.0 models/*/modeling_*.py.
"""


def of_type(kinds: Collection[str]) -> Finding | None:
    """What a config's model_type says against the plain reading of its names."""
    said = next((kind for kind in kinds if kind in TYPES), None)
    if said is None:
        return None
    return Finding("not a ViT", (said,), f"{TYPES[said]}: the reference ViT has no such step", None, True)


def family(names: Collection[str]) -> Finding | None:
    """The architecture that some name gives away.

    Example:
        >>> family(["blocks.0.attn.qkv.weight", "cls_attn_blocks.0.norm1.weight"]).cause
        'XCiT: cross-covariance attention and class-attention blocks; no plain Vision Transformer'
    """
    return _first(names, FAMILIES, "; no plain Vision Transformer")


def alone(names: Collection[str]) -> Finding | None:
    """What a file without an image tower is: an architecture, a text model, a head."""
    return family(names) or _first(names, ALONE, "") or otherwise(names)


def otherwise(names: Collection[str]) -> Finding | None:
    """What shows that a tower is computed otherwise than its own names say."""
    return _first(names, OTHERWISE, ": the reference ViT has no such step")


def _first(names: Collection[str], table: tuple[tuple[str, str], ...], tail: str) -> Finding | None:
    for pattern, text in table:
        find = re.compile(pattern).search
        hits = [name for name in names if find(name)]
        if hits:
            tail = "" if "no plain" in text or "no Vision" in text or "no transformer" in text else tail
            return Finding("not a ViT", fold(hits)[:6], text + tail, None, True)
    return None


def by_shape(tensors: Mapping[str, Lazy]) -> Finding | None:
    """What kernels and norms say of a file whose names are not known: convolutional, or of several widths."""
    running = [name for name in tensors if name.endswith("running_mean")]
    kernels = [name for name, t in tensors.items() if len(t.shape) == 4 and t.shape[2] > 1]
    if len(running) > 7:
        cause = f"a convolutional network ({len(kernels)} kernels, {len(running)} batch norms), no Vision Transformer"
        return Finding("not a ViT", fold(kernels)[:4], cause, None, True)
    norms = {t.shape[0] for name, t in tensors.items() if "norm" in name and len(t.shape) == 1 and t.shape[0] > 1}
    staged = [n for n in tensors if re.search(r"(^|[._/])(stages?|layers?|blocks?)[._]?\d+[._]\D*\d+[._]", n)]
    if len(norms) > 3 and len(staged) * 2 > len(tensors):
        widths = ", ".join(map(str, sorted(norms)[:6]))
        what = f"its width changes between stages (norms of {widths} channels)"
        cause = f"a hierarchical model: {what}, no plain Vision Transformer"
        return Finding("not a ViT", fold(staged)[:4], cause, None, True)
    if len(kernels) > 4 and not any(re.search(r"qkv|q_proj|query|attn\.q", name) for name in tensors):
        cause = f"a convolutional network ({len(kernels)} kernels larger than 1 × 1), no Vision Transformer"
        return Finding("not a ViT", fold(kernels)[:4], cause, None, True)
    return None
