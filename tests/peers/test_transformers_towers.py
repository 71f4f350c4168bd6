"""transformers' image towers that have no dialect of their own, or one that is only read: disk, memory, other sizes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the peers need torch")

from support.peers import assert_close, pixels, shaken  # noqa: E402

from anyvit.api import inspect, load  # noqa: E402
from anyvit.errors import AnyvitError  # noqa: E402
from anyvit.model import ViT  # noqa: E402

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 48,
         "patch_size": 8}  # fmt: skip
RATIO = {**{key: value for key, value in SIZES.items() if key != "intermediate_size"}, "mlp_ratio": 2}
Entry = tuple[str, str, str, Mapping[str, Any]]
TOWERS: Mapping[str, Entry] = {
    "AltCLIP": ("altclip", "AltCLIPVisionModel", "AltCLIPVisionConfig", SIZES),
    "BLIP": ("blip", "BlipVisionModel", "BlipVisionConfig", SIZES),
    "BLIP-2": ("blip_2", "Blip2VisionModel", "Blip2VisionConfig", SIZES),
    "ChineseCLIP": ("chinese_clip", "ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", SIZES),
    "CLIPSeg": ("clipseg", "CLIPSegVisionModel", "CLIPSegVisionConfig", SIZES),
    "DPT": ("dpt", "DPTModel", "DPTConfig", SIZES),
    "FLAVA": ("flava", "FlavaImageModel", "FlavaImageConfig", SIZES),
    "GIT": ("git", "GitVisionModel", "GitVisionConfig", SIZES),
    "InstructBLIP": ("instructblip", "InstructBlipVisionModel", "InstructBlipVisionConfig", SIZES),
    "Janus": ("janus", "JanusVisionModel", "JanusVisionConfig", RATIO),
    "Kosmos-2": ("kosmos2", "Kosmos2VisionModel", "Kosmos2VisionConfig", SIZES),
    "MetaCLIP 2": ("metaclip_2", "MetaClip2VisionModel", "MetaClip2VisionConfig", SIZES),
    "OWL-ViT": ("owlvit", "OwlViTVisionModel", "OwlViTVisionConfig", SIZES),
    "OWLv2": ("owlv2", "Owlv2VisionModel", "Owlv2VisionConfig", SIZES),
    "Pixio": ("pixio", "PixioModel", "PixioConfig", RATIO),
    "Sapiens2": (
        "sapiens2",
        "Sapiens2Model",
        "Sapiens2Config",
        {**SIZES, "num_hidden_layers": 18, "num_key_value_attention_heads": 1},
    ),
    "SmolVLM": ("smolvlm", "SmolVLMVisionTransformer", "SmolVLMVisionConfig", SIZES),
    "ViT-MSN": ("vit_msn", "ViTMSNModel", "ViTMSNConfig", SIZES),
}
ONE_SIZE = ("Kosmos-2", "SmolVLM")
"""Towers that resize nothing, or by position ids that do not fit a rectangle."""

ANOTHER: Mapping[str, Entry] = {
    "PaddleOCR-VL": ("paddleocr_vl", "PaddleOCRVisionModel", "PaddleOCRVisionConfig", SIZES),
    "MLCD": ("mlcd", "MLCDVisionModel", "MLCDVisionConfig", SIZES),
    "ViTPose": (
        "vitpose_backbone",
        "VitPoseBackbone",
        "VitPoseBackboneConfig",
        {**SIZES, "image_size": [48, 48], "patch_size": [8, 8], "mlp_ratio": 2},
    ),
    "ViTDet": ("vitdet", "VitDetModel", "VitDetConfig", SIZES),
    "YOLOS": ("yolos", "YolosModel", "YolosConfig", {**SIZES, "image_size": [48, 48], "num_detection_tokens": 5}),
    "X-CLIP": ("x_clip", "XCLIPVisionModel", "XCLIPVisionConfig", {**SIZES, "num_frames": 2}),
    "TimeSformer": ("timesformer", "TimesformerModel", "TimesformerConfig", {**SIZES, "num_frames": 2}),
    "video": ("videomae", "VideoMAEModel", "VideoMAEConfig", SIZES),
}
"""A word of the refusal → a tower whose names are a ViT's and whose function is not."""


@pytest.fixture(scope="module")
def transformers(peers: None) -> Any:
    library = pytest.importorskip("transformers", reason="the peer is not installed")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    yield library
    library.logging.set_verbosity_warning()


def made(entry: Entry) -> Any:
    folder, model, config, sizes = entry
    modeling = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    configuration = importlib.import_module(f"transformers.models.{folder}.configuration_{folder}")
    return shaken(getattr(modeling, model)(getattr(configuration, config)(**sizes)))


@torch.no_grad()
def same(vit: ViT, model: Any, height: int, width: int, **asked: Any) -> None:
    """last_hidden_state is ours, before or after the final norm as the class has it."""
    theirs = model(pixel_values=pixels(height, width), **asked).last_hidden_state
    ours = vit(pixels(height, width))
    close = min((ours.tokens, ours.prenorm), key=lambda tokens: float((tokens - theirs).abs().max()))
    assert_close(close, theirs)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_computes_as_its_class_does(transformers: Any, name: str, tmp_path: Path) -> None:
    model = made(TOWERS[name])
    model.save_pretrained(tmp_path)
    vit = load(tmp_path)
    same(vit, model, 48, 48)
    if name not in ONE_SIZE:
        same(vit, model, 64, 40, **({} if name == "DPT" else {"interpolate_pos_encoding": True}))
    bare = load(model.state_dict(), heads=3)
    with torch.no_grad():
        assert_close(bare(pixels(48, 48)).prenorm, vit(pixels(48, 48)).prenorm, 2e-4)


def test_tokens_are_normed_where_the_class_norms_them(transformers: Any, tmp_path: Path) -> None:
    model = made(TOWERS["GIT"])
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert_close(load(tmp_path)(pixels(48, 48)).tokens, model(pixels(48, 48)).last_hidden_state)


@pytest.mark.parametrize("word", ANOTHER)
def test_a_tower_that_computes_otherwise_is_refused(transformers: Any, word: str, tmp_path: Path) -> None:
    made(ANOTHER[word]).save_pretrained(tmp_path)
    report = inspect(tmp_path)
    assert not report.ok and word in str(report.error())
    with pytest.raises(AnyvitError):
        load(tmp_path)


@pytest.mark.parametrize("memory", [False, True])
def test_molmo_2_takes_its_patches_as_rows(transformers: Any, memory: bool, tmp_path: Path) -> None:
    sizes = {**SIZES, "image_size": [48, 48], "num_key_value_heads": 3, "head_dim": 16, "num_position_embeddings": 36}
    model = made(("molmo2", "Molmo2VisionModel", "Molmo2VisionConfig", sizes))
    model.save_pretrained(tmp_path)
    vit = load(model.state_dict(), heads=3) if memory else load(tmp_path)
    with torch.no_grad():
        rows = pixels(48, 48).permute(0, 2, 3, 1).reshape(2, 6, 8, 6, 8, 3).transpose(2, 3).reshape(2, 36, 192)
        assert_close(vit(pixels(48, 48)).tokens, model(rows).last_hidden_state)


@pytest.mark.parametrize("memory", [False, True])
def test_radio_normalises_outside_of_us(transformers: Any, memory: bool, tmp_path: Path) -> None:
    model = made(("radio", "RadioModel", "RadioConfig", {**SIZES, "max_img_size": 96}))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.startswith("input_conditioner."):
            tensor.data.fill_(float(name.endswith("std")))
    model.save_pretrained(tmp_path)
    vit = load(model.state_dict(), heads=3) if memory else load(tmp_path)
    with torch.no_grad():
        theirs = model(pixel_values=pixels(48, 48)).last_hidden_state
        assert_close(vit(pixels(48, 48)).tokens, theirs)


@pytest.mark.parametrize("memory", [False, True])
def test_a_deit_with_one_head(transformers: Any, memory: bool, tmp_path: Path) -> None:
    model = shaken(transformers.DeiTForImageClassification(transformers.DeiTConfig(**SIZES, num_labels=5)))
    model.save_pretrained(tmp_path)
    vit = load(model.state_dict(), heads=3) if memory else load(tmp_path)
    with torch.no_grad():
        assert_close(vit(pixels(48, 48)).logits, model(pixels(48, 48)).logits)


def test_a_dinov3_without_registers(transformers: Any, tmp_path: Path) -> None:
    model = shaken(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=0)))
    model.save_pretrained(tmp_path)
    same(load(tmp_path), model, 48, 48)
