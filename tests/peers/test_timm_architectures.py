"""The registered models of timm on torch's meta device: each ViT told right, each other model refused by what it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the peers need torch")

from support.peer_truth import HARD, truth_of  # noqa: E402

from anyvit.api import inspect  # noqa: E402

VITS = ("vision_transformer", "deit", "beit", "eva", "naflexvit", "vision_transformer_relpos", "vision_transformer_sam")
EVERY = 15
"""Of the ViTs each fifteenth, and those below; scripts/sweep_peers.py takes all."""

SPECIAL = (
    "vit_base_patch16_clip_224", "vit_large_patch14_clip_336", "vit_giantopt_patch16_siglip_256", "aimv2_huge_patch14_224",
    "beit3_base_patch16_224", "vit_base_patch16_sapiens2", "eva02_base_patch14_224", "vit_pe_core_base_patch16_224",
    "vit_small_plus_patch16_dinov3_qkvb", "vit_giant_patch14_reg4_dinov2", "samvit_base_patch16_224", "vit_srelpos_small_patch16_224",
    "vit_dwee_patch16_reg1_gap_256", "vit_pwee_patch16_reg1_gap_256", "naflexvit_base_patch16_siglip",
)  # fmt: skip
UNDECIDABLE = {
    "vit_base_patch16_gap_224": "16 heads where every other ViT of that width has 12",
    "vit_base_patch16_18x2_224": "two attentions and two MLPs in a block; refused by name",
    "vit_small_patch16_18x2_224": "the same",
    "naflexvit_base_patch16_parfac_gap": "a table of rows and one of columns; refused by name",
}
OTHERS = {
    "swin_tiny_patch4_window7_224": "swin", "swinv2_tiny_window8_256": "swin", "pvt_v2_b0": "pvt", "xcit_nano_12_p16_224": "xcit",
    "volo_d1_224": "volo", "cait_xxs24_224": "cait", "tnt_s_patch16_224": "tnt", "crossvit_9_240": "crossvit", "coat_tiny": "coat",
    "convit_tiny": "convit", "levit_128": "levit", "hiera_tiny_224": "hiera", "hieradet_small": "hiera", "mvitv2_tiny": "mvit",
    "efficientformer_l1": "efficientformer", "davit_tiny": "davit", "maxvit_tiny_tf_224": "maxvit", "coatnet_0_224": "coatnet",
    "nest_tiny": "nest", "twins_svt_small": "twins", "pit_ti_224": "pit", "gcvit_xxtiny": "gc vit", "focalnet_tiny_srf": "focalnet",
    "edgenext_xx_small": "edgenext", "mobilevit_xxs": "mobilevit", "sequencer2d_s": "sequencer", "visformer_tiny": "visformer",
    "mixer_s32_224": "mlp-mixer", "gmlp_s16_224": "no attention", "resmlp_12_224": "resmlp", "convmixer_768_32": "convmixer",
    "convnext_atto": "convnext", "resnet18": "resnet", "regnetx_002": "convolutional", "efficientnet_b0": "efficientnet",
    "vgg11": "convolutional", "densenet121": "densenet", "vit_tiny_r_s16_p8_224": "hybrid", "vitamin_small_224": "hybrid",
    "caformer_s18": "metaformer", "fastvit_t8": "fastvit", "swiftformer_xs": "swiftformer", "efficientvit_b0": "efficientvit",
    "nfnet_f0": "convolutional", "mambaout_femto": "hierarchical", "gemma4_vit_167m": "gemma 4", "deepseek_vit_412m": "no positions",
    "qwen3_vit_88m": "positions",
}  # fmt: skip
"""A model that is no plain ViT → a word that its refusal holds, in small letters."""


@pytest.fixture(scope="module")
def timm(peers: None) -> Any:
    return pytest.importorskip("timm", reason="the peer is not installed")


def names() -> Iterator[str]:
    from timm.models import _registry

    known = sorted(n for module in VITS for n in _registry._module_to_models[module])
    known = [n for n in known if n not in _registry._deprecated_models and n not in UNDECIDABLE]
    yield from dict.fromkeys([*known[::EVERY], *SPECIAL])


def built(timm: Any, name: str) -> Any:
    with torch.device("meta"):
        return timm.create_model(name)


def test_every_vit_is_told_right(timm: Any) -> None:
    wrong: dict[str, Any] = {}
    count = 0
    for name in names():
        model = built(timm, name)
        report = inspect(model.state_dict())
        truth = truth_of(model)
        assert report.spec is not None, name
        found = {field: getattr(report.spec, field) for field in HARD}
        differing = {field: (found[field], truth[field]) for field in HARD if found[field] != truth[field]}
        if differing or not report.ok:
            wrong[name] = differing or str(report.error())
        count += 1
    assert not wrong
    assert count > 25


def test_every_other_model_is_refused_by_what_it_is(timm: Any) -> None:
    wrong = {}
    for name, word in OTHERS.items():
        report = inspect(built(timm, name).state_dict())
        if report.ok or word not in str(report.error()).lower():
            wrong[name] = str(report.error())[:200] if not report.ok else "ok"
    assert not wrong
