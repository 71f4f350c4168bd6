"""open_clip: CLIP models with its own tower and with timm trunks, filled whole or in their image tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the peers need torch")

from support.peers import assert_accounted, assert_close, pixels, said, shaken, snapshot  # noqa: E402

from anyvit.api import convert, load_into  # noqa: E402

TEXT = {"context_length": 7, "vocab_size": 40, "width": 32, "heads": 2, "layers": 1}
OWN = {"image_size": 48, "patch_size": 8, "width": 96, "layers": 2, "head_width": 32}
NAMES = ["own", "quick", "trunk", "gated"]


@pytest.fixture(scope="module")
def open_clip(peers: None) -> Any:
    return pytest.importorskip("open_clip", reason="the peer is not installed")


def build(open_clip: Any, name: str, seed: int = 0) -> Any:
    vision: dict[str, Any] = dict(OWN)
    if name == "trunk":
        vision = {"image_size": 48, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map",
                  "timm_proj": "none"}  # fmt: skip
        return trunk(open_clip, vision, seed)
    if name == "gated":
        vision["ls_init_value"] = 0.1
    return shaken(open_clip.model.CLIP(24, vision, TEXT, quick_gelu=name == "quick"), seed)


def trunk(open_clip: Any, vision: dict[str, Any], seed: int) -> Any:
    """A CLIP whose image tower is a small timm model."""
    import timm

    model = open_clip.model.CLIP(96, dict(OWN), TEXT)
    model.visual = open_clip.timm_model.TimmModel(
        "vit_tiny_patch16_224", 96, image_size=48, pool="token", proj="linear"
    )
    sizes = {"img_size": 48, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 3, "num_classes": 0}
    model.visual.trunk = timm.create_model("vit_base_patch16_224", **sizes)
    model.visual.head.proj = torch.nn.Linear(96, 96, bias=False)
    return shaken(model, seed)


@pytest.fixture(scope="module")
def models(open_clip: Any) -> dict[str, Any]:
    return {name: build(open_clip, name) for name in NAMES}


def image(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_image(pixels(48, 48))


def text(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_text(torch.arange(1, 15).reshape(2, 7))


@pytest.mark.parametrize("name", NAMES)
def test_both_towers_are_carried(open_clip: Any, models: dict[str, Any], name: str) -> None:
    source, target = models[name], build(open_clip, name, 1)
    weights = {f"module.{key}": tensor for key, tensor in snapshot(source).items()}
    report = load_into(target, weights, heads=3)
    assert_accounted(report, weights, target)
    assert torch.equal(image(target), image(source))
    assert torch.equal(text(target), text(source))
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in target.state_dict().items())


@pytest.mark.parametrize(("name", "dialect"), [("own", "hf-clip"), ("quick", "openai-clip"), ("own", "timm"),
                                               ("gated", "timm"), ("trunk", "timm")])  # fmt: skip
def test_the_image_tower_of_another_project_is_carried(
    open_clip: Any, models: dict[str, Any], name: str, dialect: str
) -> None:
    source, target = models[name], build(open_clip, name, 2)
    before = text(target)
    weights = said(source, dialect, heads=3)
    report = load_into(target, weights, heads=3)
    assert_accounted(report, weights, target)
    if dialect != "timm" or name != "trunk":
        assert_close(image(target), image(source))
    with torch.no_grad():
        assert torch.equal(text(target), before)
    assert any("token_embedding.weight" in f.names for f in report.of("outside"))


def test_the_activation_that_differs_is_said(open_clip: Any, models: dict[str, Any]) -> None:
    target = build(open_clip, "own", 3)
    weights = said(models["quick"], "openai-clip", heads=3)
    report = load_into(target, weights, heads=3, dialect="openai-clip")
    assert [f.names for f in report.of("differs")] == [("act",)]
    assert "act gelu, the file's project with quick_gelu" in report.of("differs")[0].cause


def test_open_clip_takes_the_file_that_is_written(open_clip: Any, models: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    source = models["own"]
    convert(said(source, "timm", heads=3), tmp_path / "out.safetensors", "open_clip", heads=3)
    written = load_file(tmp_path / "out.safetensors")
    assert set(written) == {name for name in source.state_dict() if name.startswith("visual.")}
    target = build(open_clip, "own", 4)
    target.load_state_dict(written, strict=False)
    assert_close(image(target), image(source))
