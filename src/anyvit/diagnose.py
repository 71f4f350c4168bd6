"""What a file is instead, in plain words, when it is no Vision Transformer that can be loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from anyvit import discover_blocks, discover_parts, foreign
from anyvit.conform import SPELT
from anyvit.dtypes import is_floating
from anyvit.lazy import Lazy
from anyvit.recognise import Match
from anyvit.report import Finding, fold


@dataclass(frozen=True)
class Sign:
    """A name that gives a kind of file away.

    Arguments:
        pattern: regular expression, searched in every name.
        kind: the kind of the finding.
        cause: what the file is, in plain words.
        remedy: what to do.
    """

    pattern: str
    kind: str
    cause: str
    remedy: str | None = None


SIGNS: tuple[Sign, ...] = (
    Sign(r"(^|\.)_?flat_param(_\d+)?$", "not a ViT",
         "FSDP flat parameters: the weights of many tensors are flattened into one and cannot be told apart",
         "unshard first: save with StateDictType.FULL_STATE_DICT, or with torch.distributed.checkpoint"),
    Sign(r"\.(qweight|qzeros|g_idx)$", "quantised", "quantised with GPTQ or AWQ (qweight, qzeros, scales)",
         "dequantise first, or get the original weights"),
    Sign(r"\.(quant_state\.|absmax$|quant_map$|nested_absmax$)", "quantised",
         "quantised with bitsandbytes to 4 bits (absmax, quant_map, quant_state)", "dequantise first: model.dequantize()"),
    Sign(r"\.(SCB|weight_format)$", "quantised", "quantised with bitsandbytes to 8 bits (LLM.int8: weight and SCB)",
         "dequantise first: model.dequantize()"),
    Sign(r"^v\.blk\.\d+\.", "not a ViT", "GGUF names of llama.cpp (v.blk.N, axes reversed): GGUF is not supported",
         "use the checkpoint that the GGUF file was made from"),
    Sign(r"\.(W_q|weight_packed|weight\._(data|scale|shift))$|\._packed_params\._packed_params$|\.zero_point$", "quantised",
         "quantised (HQQ, compressed-tensors, quanto or torch's own: integers with scales beside them)",
         "dequantise first, or get the original weights"),
    Sign(r"\.weight_mask$", "factored", "pruned by masks: a matrix is weight_orig times weight_mask",
         "torch.nn.utils.prune.remove multiplies them"),
    Sign(r"\.weight_u$", "factored", "matrices stored with a spectral norm (weight_orig, weight_u)",
         "torch.nn.utils.remove_spectral_norm divides by it"),
    Sign(r"\.(weight_scale(_inv)?|input_scale)$", "quantised", "float8 weights whose scales stand beside them (weight_scale), or int8 ones",
         "dequantise first, or get the original weights"),
    Sign(r"(^|\.)visual\.(merger|deepstack_merger_list)\.", "not a ViT",
         "the image tower of Qwen-VL (from Qwen2-VL on) or GLM-4V: a 3-D (video) patch embedding, two-dimensional rotary positions, a merger of "
         "neighbouring patches; no plain Vision Transformer", "use it in its own library"),
    Sign(r"(^|\.)embeddings\.text_embeddings\.", "not a ViT", "ViLT: words and patches go through the same blocks; no plain Vision Transformer"),
    Sign(r"(^|\.)lora_(A|B|up|down)\.|\.lora_[AB]\b", "not a ViT", "a LoRA adapter (lora_A, lora_B): differences to a base model that are not merged into it",
         "merge it into its base model first: model.merge_and_unload()"),
    Sign(r"(qkv|proj|out|fc\d|query|key|value|dense|linear\d?)\.(weight_[gv]$|parametrizations\.weight\.original[01]$)", "factored",
         "matrices stored with a weight norm, as length and direction (weight_g, weight_v)",
         "torch.nn.utils.remove_weight_norm (or parametrize.remove_parametrizations) multiplies them out"),
    Sign(r"patch_embed\.backbone\.|embeddings\.hybrid_model\.|(^|[./])conv_root[./]|^block1/unit1/", "not a ViT",
         "a hybrid: a convolutional stem (ResNet) stands before plain ViT blocks, the patch embedding works on its output"),
    Sign(r"(^|\.)visual\.(layer1\.|attnpool\.)", "not a ViT",
         "CLIP with a ModifiedResNet image tower (visual.layer1, visual.attnpool): convolutional, no Vision Transformer"),
    Sign(r"blocks_token_only\.|attn\.proj_[lw]\.", "not a ViT",
         "CaiT: class-attention blocks (blocks_token_only) and talking heads; another architecture"),
    Sign(r"to_patch_embedding\.2\.weight$", "unexplained", "vit-pytorch's ViT (lucidrains) norms the pixels of each patch before the patch "
         "matrix and what comes of it; the reference ViT has no such step", "use it in its own library"),
    Sign(r"(^|\.)attn_layers\.layers\.\d+\.1\.to_q\.", "unexplained", "x-transformers: attention and MLP stand by turns in one list, and "
         "patches are normed before and after their matrix; the reference ViT has no such steps", "use it in its own library"),
    Sign(r"attn\.gating_param$", "not a ViT", "ConViT: gated positional self-attention (gating_param); another architecture"),
    Sign(r"(^|\.)pos_embed_[xy]$", "unexplained", "positions in two factors, one table for rows and one for columns (timm's NaFlexVit, parfac); "
         "the reference ViT has none", "use timm for this model"),
    Sign(r"blocks\.\d+\.(fusion|projs|revert_projs)\.", "not a ViT", "CrossViT: two branches of different width"),
    Sign(r"mlp_tokens\.", "not a ViT", "MLP-Mixer: there is no attention, tokens are mixed by MLPs"),
    Sign(r"blocks\.\d+\.linear_tokens\.", "not a ViT", "ResMLP: there is no attention, tokens are mixed by a linear layer"),
    Sign(r"attn\.(pool_[qkv]|norm_[qkv]|rel_pos_[hw])$|attn\.pool_[qkv]\.", "not a ViT", "MViT: pooling attention (pool_q), several resolutions"),
    Sign(r"^transformers\.\d+\.(blocks|pool)\.", "not a ViT", "PiT: a pooling ViT whose width changes between stages"),
    Sign(r"stages\.\d+\.blocks\.\d+\.attn_(block|grid)\.", "not a ViT", "MaxViT: block and grid attention in convolutional stages"),
    Sign(r"stages\.\d+\.\d+\.transformer\.\d+\.", "not a ViT", "MobileViT: convolutional stages with transformers inside"),
    Sign(r"levels\.\d+\.transformer_encoder\.", "not a ViT", "NesT: nested hierarchical transformers"),
    Sign(r"^(patch_embeds|pos_block)\.\d+\.", "not a ViT", "Twins: a hierarchical model with several patch embeddings"),
    Sign(r"(^|\.)layer1\.0\.conv1\.weight$", "not a ViT",
         "a convolutional ResNet (conv1, layer1 to layer4, fc), no Vision Transformer"),
)  # fmt: skip

QUANTISED_TEXT = "quantised: backbone weights are stored as integers without a meaning that the file states"


def signs(names: Collection[str]) -> list[Finding]:
    """The findings of every sign that some name shows."""
    found = []
    for sign in SIGNS:
        pattern = re.compile(sign.pattern)
        hits = [name for name in names if pattern.search(name)]
        if hits:
            found.append(Finding(sign.kind, fold(hits)[:6], sign.cause, sign.remedy, fatal=True))
    return found


def unknown(tensors: Mapping[str, Lazy], extras: Collection[str]) -> list[Finding]:
    """What to say of a file in which no dialect finds a patch kernel or a block."""
    names = list(tensors)
    if not names:
        if "weight_map" in extras:
            cause = "a JSON weight map, no tensors: it only says which shard holds what"
            return [Finding("not a ViT", (), cause, "open the folder that holds the shards", True)]
        cause = "the file holds no tensors at all" + (
            f"; it holds {', '.join(sorted(map(str, extras))[:8])}" if extras else ""
        )
        return [Finding("not a ViT", (), cause, "get the file that holds the weights", True)]
    if told := signs(names):
        return told
    for test in (
        _optimizer,
        _decoder,
        _squashed,
        _nameless,
        foreign.alone,
        _head,
        foreign.by_shape,
        _video,
        _hollow,
        _layers,
    ):
        if finding := test(tensors):
            return [finding]
    cause = f"no known Vision Transformer layout fits these {len(names)} tensors"
    stack = discover_parts.find_stack({name: tensor.shape for name, tensor in tensors.items()})
    roles = discover_blocks.roles(discover_parts.parts(stack.tails), stack.width) if stack else {}
    if stack is None or not {"qkv", "q"} & set(roles):
        remedy = (
            'a ViT of your own: describe its names, dialect="mine.json" (anyvit dialects timm --json shows the form)'
        )
        return [Finding("not a ViT", fold(names)[:8], cause, remedy, True)]
    cause += f"; {stack.head}0 to {stack.depth - 1} look like transformer blocks in spellings of their own"
    return [Finding("not a ViT", fold(names)[:8], cause, SPELT, True)]


def placeholders(tensors: Mapping[str, Lazy]) -> Finding | None:
    """What to say of a file most of whose parameters were left empty: DeepSpeed's ZeRO-3 keeps them elsewhere."""
    hollow = [name for name, tensor in tensors.items() if tensor.shape == (0,)]
    if not hollow or len(hollow) * 2 < len(tensors):
        return None
    cause = "parameters without elements: DeepSpeed ZeRO stage 3 keeps them in parts, and saved only their places here"
    remedy = "python zero_to_fp32.py CHECKPOINT_FOLDER OUT (it lies in the checkpoint folder), then open OUT"
    return Finding("not a ViT", fold(hollow)[:6], cause, remedy, fatal=True)


def _optimizer(tensors: Mapping[str, Lazy]) -> Finding | None:
    hits = [n for n in tensors if re.search(r"(exp_avg|momentum_buffer|max_exp_avg_sq|\.step$)|(^|\.)(mu|nu)\.", n)]
    if len(hits) * 2 < len(tensors):
        return None
    cause = "only the state of an optimizer (Adam's moments): there are no model weights in it"
    return Finding("not a ViT", fold(hits)[:4], cause, "load the checkpoint that was saved beside it", True)


def _decoder(tensors: Mapping[str, Lazy]) -> Finding | None:
    hits = [n for n in tensors if re.search(r"(^|\.)(decoder_|decoder\.|predictor)", n)]
    telling = re.compile(r"decoder_(blocks|layers|pred|embed)|decoder\.blocks|predictor")
    if len(hits) * 10 < len(tensors) * 9 or not any(map(telling.search, hits)):
        return None
    cause = "only the decoder half of a masked autoencoder: decoder_blocks are not the encoder"
    return Finding("not a ViT", fold(hits)[:4], cause, "load the file with the encoder", True)


def _squashed(tensors: Mapping[str, Lazy]) -> Finding | None:
    hits = [n for n in tensors if ("." not in n and "/" not in n and re.search(r"\d", n) and n.count("_") > 1) or
            re.search(r"blocks\d+(attn|mlp|norm)", n)]  # fmt: skip
    if len(hits) * 2 < len(tensors):
        return None
    cause = (
        "names without dots (the shadow copy of an EMA writes them so): which module a tensor belongs to cannot be told"
    )
    return Finding("not a ViT", tuple(hits[:4]), cause, "load the model's own state dict beside it", True)


def _nameless(tensors: Mapping[str, Lazy]) -> Finding | None:
    hits = [name for name in tensors if re.search(r"(^|[./])\d+$", name)]
    if len(hits) < 3 or len(hits) * 10 < len(tensors) * 9:
        return None
    cause = "a list of tensors without names (the shadow_params of an EMA are one): which is which cannot be told"
    remedy = "load the model's own state dict, or copy the list into a model of the same class and save that"
    return Finding("not a ViT", fold(hits)[:4], cause, remedy, True)


def _head(tensors: Mapping[str, Lazy]) -> Finding | None:
    if len(tensors) > 8 or any(len(t.shape) > 2 for t in tensors.values()):
        return None
    shapes = [t.shape for t in tensors.values() if len(t.shape) == 2]
    cause = (
        f"no transformer blocks; looks like a linear head of shape {shapes[0]}" if shapes else "no transformer blocks"
    )
    return Finding("not a ViT", tuple(tensors), cause, "load the backbone's file, and this one as its head", True)


def _video(tensors: Mapping[str, Lazy]) -> Finding | None:
    hits = [n for n, t in tensors.items() if len(t.shape) == 5]
    cause = "a 3-D (video) patch embedding that a 2-D Vision Transformer cannot take"
    return Finding("not a ViT", tuple(hits[:2]), f"{cause}: {tensors[hits[0]].shape}", None, True) if hits else None


def _hollow(tensors: Mapping[str, Lazy]) -> Finding | None:
    kernels = [n for n, t in tensors.items() if "patch" in n and len(t.shape) == 4]
    if not kernels or any(re.search(r"[._/]\d+[._/]", n) for n in tensors):
        return None
    cause = "a patch embedding without transformer blocks"
    return Finding(
        "not a ViT", tuple(tensors)[:8], cause, "use the checkpoint of the whole model, not one that was filtered", True
    )


def short_floats(tensors: Mapping[str, Lazy]) -> list[Finding]:
    """Weights in 8-bit floats that no scales stand beside."""
    short = [o for n, t in tensors.items() if t.dtype.startswith("float8") for o in t.origin or (n,)]
    cause = "float8 weights without scales beside them are taken as they are; scales that were lost would change them"
    return (
        [Finding("assumed", fold(dict.fromkeys(short))[:6], cause, "compare with the original weights")]
        if short
        else []
    )


def _layers(tensors: Mapping[str, Lazy]) -> Finding | None:
    hits = [n for n in tensors if re.search(r"(^|[._/])(layers?|blocks?|resblocks)[._/]\d+[._/]", n)]
    attends = any(re.search(r"qkv|q_proj|query|in_proj|to_q\b", name) for name in hits)
    if len(hits) * 10 < len(tensors) * 8 or not attends or any(len(t.shape) == 4 for t in tensors.values()):
        return None
    cause = "transformer layers alone: there is neither a patch embedding nor anything else that takes pictures"
    return Finding("not a ViT", fold(hits)[:6], cause, "use the checkpoint of the whole model, not a part of it", True)


def element_types(tensors: Mapping[str, Lazy]) -> list[Finding]:
    """Weights whose element type is no floating-point type: quantised, and by whom is not said."""
    hits = {n: t.dtype for n, t in tensors.items() if not is_floating(t.dtype)}
    if not hits:
        return []
    origins = [o for n in hits for o in tensors[n].origin or (n,)]
    cause = f"{QUANTISED_TEXT} ({', '.join(sorted(set(hits.values())))})"
    if all(kind.startswith("complex") for kind in hits.values()):
        cause = (
            f"backbone weights are complex numbers ({', '.join(sorted(set(hits.values())))}); those of a ViT are real"
        )
        return [
            Finding(
                "shape", fold(dict.fromkeys(origins))[:6], cause, "save their real part, if that is what they are", True
            )
        ]
    return [
        Finding(
            "quantised", fold(dict.fromkeys(origins))[:6], cause, "dequantise first, or get the original weights", True
        )
    ]


BEFORE = re.compile(
    r"(?:(?:encoder|transformer|vision_model|model)[._/])?"
    r"(?:\w*embed(?:s|ding|dings|der)?[./].*|\w*pos(?:ition)?(?:_\w+|$).*|\w*(?:cls|class)_\w*(?:tok|emb|pos)\w*|"
    r"(?!mask|query|text|label|class_)\w*_embed(?:ding)?s?|(?!mask)\w*tokens?|rope\b.*|rotary\w*[./].*|\w*freqs\w*|"
    r"(?:norm_pre|ln_pre|pre_\w*norm|pre_?\w*layer_?norm)\b.*)"
)
"""Names that stand before the blocks: embeddings, positions, tokens, rotary tables, a norm before block 0."""

AFTER = re.compile(
    r"(?:^|[._/])(?:decoder|predictor|head|lm_head|text|language|neck|proj|projector|merger|token_embedding)"
)
"""Components of what comes after the blocks or beside the tower."""


def before_blocks(match: Match) -> tuple[str, ...]:
    """The unexplained names that stand before a tower's blocks, so that its tokens may hang on them."""
    names = {name: name[len(match.prefix) :] for name in match.unexplained}
    return tuple(name for name, rest in names.items() if BEFORE.fullmatch(rest) and not AFTER.search(rest))
