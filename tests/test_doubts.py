"""What a file leaves open is refused or named: positions, tokens and embeddings that a table does not explain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.peers import assert_close, pixels, state

from anyvit import api
from anyvit.errors import AnyvitError


def without(tensors: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def test_positions_that_no_file_holds_are_not_taken_for_none() -> None:
    report = api.inspect(without(state(), "pos_embed"))
    assert not report.ok
    assert "holds no positions" in str(report.error())
    with pytest.raises(AnyvitError, match="holds no positions"):
        api.load(without(state(), "pos_embed"), heads=3)


@pytest.mark.parametrize(
    "name", ["class_pos_emb", "pos_embed_y", "embeddings.position_embedding.weight", "pre_layernorm.weight",
             "detection_tokens", "rope.freqs_t", "patch_embed.norm2.weight", "encoder.global_tokens"],
)  # fmt: skip
def test_what_stands_before_the_blocks_must_be_explained(name: str) -> None:
    report = api.inspect({**state(), name: torch.ones(12)})
    assert not report.ok and name in str(report.error()), name


@pytest.mark.parametrize(
    "name", ["decoder.pos_embed", "head.mlp.0.weight", "neck.pos.weight", "text.token_embedding.weight", "projector.0.bias",
             "predictor.embeddings.weight", "merger.norm.weight", "mask_embedding"],
)  # fmt: skip
def test_what_stands_after_or_beside_them_need_not(name: str) -> None:
    report = api.inspect({**state(), name: torch.ones(12)})
    assert report.ok and [f.names for f in report.of("outside")] == [(name,)]


def linen(**extra: np.ndarray) -> dict[str, np.ndarray]:
    """A ViT in flax's names without a table of positions."""
    generator = np.random.default_rng(0)
    width, heads, hidden = 12, 3, 24
    shapes: dict[str, tuple[int, ...]] = {"embedding/kernel": (4, 4, 3, width), "embedding/bias": (width,)}
    block = "Transformer/encoderblock_0/"
    for part in ("query", "key", "value"):
        shapes[f"{block}MultiHeadDotProductAttention_0/{part}/kernel"] = (width, heads, width // heads)
        shapes[f"{block}MultiHeadDotProductAttention_0/{part}/bias"] = (heads, width // heads)
    shapes[f"{block}MultiHeadDotProductAttention_0/out/kernel"] = (heads, width // heads, width)
    shapes[f"{block}MultiHeadDotProductAttention_0/out/bias"] = (width,)
    for name, sizes in (("Dense_0", (width, hidden)), ("Dense_1", (hidden, width))):
        shapes |= {f"{block}MlpBlock_0/{name}/kernel": sizes, f"{block}MlpBlock_0/{name}/bias": sizes[1:]}
    norms = (f"{block}LayerNorm_0", f"{block}LayerNorm_1", "Transformer/encoder_norm")
    shapes |= {f"{norm}/{part}": (width,) for norm in norms for part in ("scale", "bias")}
    return {name: generator.standard_normal(shape).astype("float32") for name, shape in shapes.items()} | extra


def test_positions_that_big_vision_computes_are_not_lost() -> None:
    report = api.inspect(linen())
    assert report.ok and report.match is not None and report.spec is not None
    assert report.spec.pos_embed == "sincos_unstored" and report.spec.lineage == "big_vision"
    table = {"Transformer/posembed_input/pos_embedding": np.zeros((1, 9, 12), "float32")}
    stored = api.inspect(linen(**table))
    assert stored.spec is not None and (stored.spec.pos_embed, stored.spec.lineage) == ("learned", "google")


def distilled(**extra: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = state(classes=5)
    tensors["dist_token"] = torch.full((1, 1, 12), 0.5)
    tensors["pos_embed"] = torch.cat([tensors["pos_embed"], torch.ones(1, 1, 12)], 1)
    return {**tensors, **extra}


def test_two_heads_are_averaged_whatever_a_config_says(tmp_path: Path) -> None:
    """timm's hub config of a distilled DeiT says global_pool "token"."""
    heads = {"head_dist.weight": torch.ones(5, 12), "head_dist.bias": torch.ones(5)}
    save_file(distilled(**heads), tmp_path / "model.safetensors")
    config: dict[str, Any] = {"architecture": "deit_tiny_distilled_patch16_224", "global_pool": "token", "num_classes": 5,
                              "model_args": {"img_size": 12, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3,
                                             "mlp_ratio": 2}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    vit = api.load(tmp_path)
    assert vit.spec.pool == "cls+dist"


def test_one_head_beside_a_distillation_token_reads_the_class_token() -> None:
    vit = api.load(distilled(), heads=3)
    assert vit.spec.pool == "cls"
    out = vit(pixels(12, 12))
    assert out.cls is not None and out.logits is not None and vit.head is not None
    assert_close(out.logits, vit.head(out.cls))


def test_no_registers_may_be_saved_as_an_empty_tensor() -> None:
    tensors = {**state(layer_scale=True), "register_tokens": torch.ones(1, 0, 12), "mask_token": torch.ones(1, 12)}
    report = api.inspect(tensors)
    assert report.ok and report.spec is not None and report.spec.num_registers == 0
    assert report.fates["register_tokens"] == "ignored"
    assert torch.isfinite(api.load(tensors, heads=3)(pixels(12, 12)).tokens).all()


def test_a_hierarchical_model_without_a_patch_kernel_is_named(tmp_path: Path) -> None:
    """Swin's first stage looks like a relative BEiT that lost its embedding."""
    tensors: dict[str, torch.Tensor] = {}
    for stage, width in enumerate((16, 32)):
        for block in range(2):
            base = f"layers.{stage}.blocks.{block}."
            tensors |= {
                f"{base}{norm}.{part}": torch.ones(width) for norm in ("norm1", "norm2") for part in ("weight", "bias")
            }
            tensors |= {f"{base}attn.relative_position_bias_table": torch.ones(49, 2),
                        f"{base}attn.qkv.weight": torch.ones(3 * width, width),
                        f"{base}attn.qkv.bias": torch.ones(3 * width), f"{base}attn.proj.weight": torch.ones(width, width),
                        f"{base}attn.proj.bias": torch.ones(width), f"{base}mlp.fc1.weight": torch.ones(2 * width, width),
                        f"{base}mlp.fc1.bias": torch.ones(2 * width), f"{base}mlp.fc2.weight": torch.ones(width, 2 * width),
                        f"{base}mlp.fc2.bias": torch.ones(width)}  # fmt: skip
    tensors |= {"patch_embed.proj.weight": torch.ones(16, 3, 4, 4), "patch_embed.norm.weight": torch.ones(16)}
    report = api.inspect(tensors)
    assert not report.ok and "Swin" in str(report.error())


def test_names_that_only_some_blocks_have_are_put_into_a_table() -> None:
    mixed = {name.replace("blocks.1.mlp.fc1", "blocks.1.mlp.lin1"): tensor for name, tensor in state().items()}
    with pytest.raises(AnyvitError, match="lin1") as caught:
        api.load(mixed, heads=3)
    assert "--json > mine.json" in (caught.value.remedy or "") and 'dialect="mine.json"' in (caught.value.remedy or "")
    regular = {name.replace("mlp.fc1", "mlp.lin1"): tensor for name, tensor in state().items()}
    with pytest.raises(AnyvitError, match="lin1") as caught:
        api.load(regular, heads=3)
    assert 'dialect="draft"' in (caught.value.remedy or "")
    assert api.load(regular, heads=3, dialect="draft")
