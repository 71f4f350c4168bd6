"""Parts of a file that its model never uses, against transformers' own classes."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the peers need torch")

from support.peers import assert_close, pixels, shaken  # noqa: E402

from anyvit.api import load  # noqa: E402

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
         "image_size": 32, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
        "max_position_embeddings": 12, "projection_dim": 24, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


@pytest.fixture(scope="module")
def transformers(peers: None) -> Any:
    return pytest.importorskip("transformers", reason="the peer is not installed")


@torch.no_grad()
def test_siglips_classifier_passes_by_the_attention_pool(transformers: Any, tmp_path: Any) -> None:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=SIZES, num_labels=5)
    model = shaken(transformers.SiglipForImageClassification(config))
    model.save_pretrained(tmp_path)
    vit = load(tmp_path)
    assert_close(vit(pixels(32, 32)).logits, model(pixels(32, 32)).logits)
    fates = vit.report.fates
    assert {fate for name, fate in fates.items() if ".head." in name} == {"ignored"}
    assert vit.pool is None and vit.spec.pool == "avg"


@torch.no_grad()
def test_no_registers_are_none(transformers: Any, tmp_path: Any) -> None:
    model = shaken(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=0)))
    model.save_pretrained(tmp_path)
    vit = load(tmp_path)
    assert vit.spec.num_registers == 0 and vit(pixels(32, 32)).registers is None
    assert_close(vit(pixels(32, 32)).tokens, model(pixels(32, 32)).last_hidden_state)
