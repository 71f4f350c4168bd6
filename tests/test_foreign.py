"""Architectures that are no plain ViT are named by their own parameter names; the rest by shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.peers import state
from support.truth import never

from anyvit import api, foreign
from anyvit.errors import AnyvitError
from anyvit.lazy import Lazy

NAMES = {
    "XCiT": "cls_attn_blocks.0.norm1.weight", "VOLO": "network.0.0.attn.v.weight", "TNT": "blocks.0.attn_in.qk.weight",
    "CoaT": "serial_blocks1.0.norm1.weight", "EdgeNeXt": "stages.1.blocks.2.xca.qkv.weight",
    "SwiftFormer": "stages.0.blocks.2.attn.to_query.weight", "EfficientViT (MIT)": "stages.2.blocks.1.context_module.main.qkv.conv.weight",
    "EfficientViT (Microsoft)": "stages.0.blocks.0.mixer.m.attn.qkvs.0.conv.weight", "LeViT": "stages.0.blocks.0.attn.attention_biases",
    "SHViT": "stages.1.blocks.0.mixer.m.qkv.c.weight", "state-space": "layers.0.mixer.A_log", "LSTM": "stages.0.blocks.0.rnn_tokens.fc.weight",
    "FocalNet": "layers.0.blocks.0.modulation.f.weight", "DaViT": "stages.0.blocks.0.0.cpe1.proj.weight",
    "Next-ViT": "stages.0.blocks.0.mhca.projection.weight", "PVT or SegFormer": "stages.0.blocks.0.attn.sr.weight",
    "CvT": "cvt.encoder.stages.0.layers.0.attention.attention.convolution_projection_query.x", "Swin V2": "layers.0.blocks.0.attn.logit_scale",
    "Swin:": "layers.0.blocks.0.attn.relative_position_bias_table", "GC ViT": "stages.0.global_block.to_q_global.0.weight",
    "SAM 2": "trunk.pos_embed_window", "Hiera": "blocks.2.proj.weight", "CoAtNet": "stages.2.blocks.0.attn.qkv.weight",
    "MetaFormer": "stages.0.blocks.0.token_mixer.pwconv1.weight", "gMLP": "blocks.0.mlp_channels.gate.proj.weight",
    "ConvMixer": "blocks.0.0.fn.0.weight", "ConvNeXt": "stages.0.blocks.0.conv_dw.weight", "EfficientNet": "conv_stem.weight",
    "DenseNet": "features.denseblock1.denselayer1.norm1.weight", "ResNet": "layer1.0.conv1.weight", "Pixtral": "patch_conv.weight",
    "Gemma 4": "patch_embedder.position_embedding_table", "Mllama": "gated_positional_embedding.gate", "Pix2Struct": "embeddings.row_embedder.weight",
    "Qwen": "visual.merger.mlp.0.weight", "GroupViT": "encoder.stages.1.group_token", "TimeSformer": "embeddings.time_embed",
    "diffusion": "t_embedder.mlp.0.weight", "YOLOS": "vit.embeddings.detection_tokens",
}  # fmt: skip
"""A word of the answer → a name that its architecture has."""


@pytest.mark.parametrize("word", NAMES)
def test_an_architecture_is_named(word: str) -> None:
    found = foreign.family(["head.weight", NAMES[word]])
    assert found is not None and found.fatal and word in found.cause


def test_no_part_of_a_plain_vit_is_foreign() -> None:
    assert foreign.family(list(state())) is None
    assert foreign.otherwise([*state(), "head.fc.weight", "projector.weight", "decoder.pos_embed"]) is None


def test_a_text_model_is_one_only_without_an_image_tower() -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]
    assert foreign.family(names) is None
    found = foreign.alone(names)
    assert found is not None and "language model" in found.cause


def lazies(**shapes: tuple[int, ...]) -> dict[str, Lazy]:
    return {name.replace("__", "."): Lazy(shape, "float32", never, (name,)) for name, shape in shapes.items()}


def test_shapes_tell_convolutions_and_widths_apart() -> None:
    norms = {f"unit__{n}__bn__running_mean": (8,) for n in range(9)}
    convolutional = foreign.by_shape(lazies(**norms, unit__0__conv__weight=(8, 3, 3, 3)))
    assert convolutional is not None and "1 kernels, 9 batch norms" in convolutional.cause
    stages = {f"stages__{s}__blocks__{b}__norm__weight": (64 << s,) for s in range(4) for b in range(3)}
    hierarchical = foreign.by_shape(lazies(**stages))
    assert hierarchical is not None and "64, 128, 256, 512" in hierarchical.cause
    assert foreign.by_shape(lazies(**dict.fromkeys(stages, (64,)))) is None


def test_a_tower_that_its_model_computes_otherwise_is_refused() -> None:
    weights = {f"vision_tower.{name}": tensor for name, tensor in state().items()}
    assert api.inspect(weights).ok
    report = api.inspect({**weights, "vision_tower.vit_merger.norm.weight": weights["vision_tower.norm.weight"]})
    assert not report.ok and "MiniCPM-V merges patches" in str(report.error())


@pytest.mark.parametrize("inner", [False, True])
def test_a_model_type_is_believed_against_the_names(tmp_path: Path, inner: bool) -> None:
    from safetensors.torch import save_file

    save_file(state(), tmp_path / "model.safetensors")
    config = {"model_type": "rf_detr_dinov2"}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "x", "backbone_config": config} if inner else config)
    )
    report = api.inspect(tmp_path)
    assert not report.ok and "in windows" in str(report.error())
    with pytest.raises(AnyvitError, match="in windows"):
        api.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    assert api.inspect(tmp_path).ok
