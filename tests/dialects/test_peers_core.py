"""The core tables against the peers' own constructors: names in memory and on disk, and outputs after a conversion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyvit import canon, rules
from anyvit.dialects import get
from anyvit.lazy import Lazy, from_array
from anyvit.rules import Run

torch = pytest.importorskip("torch", reason="the peers need torch")

VISION = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 32,
    "patch_size": 16,
}
DINO = {**{key: value for key, value in VISION.items() if key != "intermediate_size"}, "mlp_ratio": 2}
GATED = {**DINO, "use_swiglu_ffn": True}
CLIP = {**VISION, "projection_dim": 7}
INTERN = {**VISION, "image_size": [32, 32], "patch_size": [16, 16], "use_qk_norm": True, "use_mask_token": True}
MODELS: tuple[tuple[str, str, str, str, Mapping[str, Any]], ...] = (
    ("ViTModel", "ViTConfig", "hf-vit", "", VISION),
    ("ViTForImageClassification", "ViTConfig", "hf-vit", "vit.", VISION),
    ("ViTForMaskedImageModeling", "ViTConfig", "hf-vit", "vit.", VISION),
    ("Dinov2Model", "Dinov2Config", "hf-dinov2", "", GATED),
    ("Dinov2ForImageClassification", "Dinov2Config", "hf-dinov2", "dinov2.", DINO),
    ("Dinov2Backbone", "Dinov2Config", "hf-dinov2", "", DINO),
    ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "hf-dinov2-with-registers", "", GATED),
    ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", "hf-dinov2-with-registers",
     "dinov2_with_registers.", DINO),
    ("CLIPVisionModel", "CLIPVisionConfig", "hf-clip", "", CLIP),
    ("CLIPVisionModelWithProjection", "CLIPVisionConfig", "hf-clip", "vision_model.", CLIP),
    ("InternVLVisionModel", "InternVLVisionConfig", "hf-internvl", "", INTERN),
)  # fmt: skip


@pytest.fixture(scope="module")
def transformers(peers: None) -> Any:
    return pytest.importorskip("transformers", reason="the peer is not installed")


@pytest.fixture(scope="module")
def timm(peers: None) -> Any:
    return pytest.importorskip("timm", reason="the peer is not installed")


@pytest.fixture(scope="module")
def open_clip(peers: None) -> Any:
    return pytest.importorskip("open_clip", reason="the peer is not installed")


def shaken(module: Any) -> Any:
    """The module in eval mode with random values in every parameter, so that none is at rest at 0 or 1."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def lazies(module: Any) -> dict[str, Lazy]:
    return {name: from_array(tensor.detach().numpy(), name) for name, tensor in module.state_dict().items()}


def whole(run: Run) -> dict[str, Lazy]:
    assert not (run.leftover or run.faults or run.partial or run.conflicts)
    return dict(run.tensors)


def canonical(module: Any, name: str, prefix: str = "", k: int = 1) -> dict[str, Lazy]:
    tensors = whole(rules.read(lazies(module), get(name), prefix, {"k": k}))
    assert all(canon.lookup(target) for target in tensors)
    return tensors


def fill(module: Any, tensors: Mapping[str, Lazy], name: str, prefix: str = "", **sizes: int) -> Any:
    state = whole(rules.write(tensors, get(name), prefix, sizes))
    module.load_state_dict({key: torch.from_numpy(tensor.read().copy()) for key, tensor in state.items()}, strict=True)
    return module.eval()


def pixels() -> Any:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same(one: Any, two: Any) -> None:
    one, two = one.detach(), two.detach()
    assert one.shape == two.shape
    assert float(one.std()) > 0.01
    assert float((one - two).abs().max()) <= 1e-5 * float(one.abs().max())


@pytest.mark.parametrize(("model", "config", "name", "prefix", "sizes"), MODELS, ids=lambda value: str(value)[:40])
def test_transformers_names_in_memory_and_on_disk(
    transformers: Any, tmp_path: Path, model: str, config: str, name: str, prefix: str, sizes: Mapping[str, Any]
) -> None:
    from safetensors.numpy import load_file

    built = getattr(transformers, model)(getattr(transformers, config)(**sizes))
    built.save_pretrained(tmp_path)
    memory = name if name == "hf-internvl" else name + "-memory"
    one = canonical(built, memory, prefix)
    disk = {key: from_array(array, key) for key, array in load_file(tmp_path / "model.safetensors").items()}
    two = whole(rules.read(disk, get(name), prefix, {"k": 1}))
    assert set(one) == set(two)
    for target, tensor in one.items():
        np.testing.assert_array_equal(tensor.read(), two[target].read(), err_msg=target)
    back = whole(rules.write(two, get(name), prefix))
    assert set(back) == {key for key in disk if not key.startswith("decoder")}


def vit(timm: Any, **options: Any) -> Any:
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 12, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
    return shaken(timm.models.vision_transformer.VisionTransformer(**{**sizes, **options}))


def test_timm_to_transformers(timm: Any, transformers: Any) -> None:
    source = vit(timm, num_classes=0)
    config = transformers.ViTConfig(**{**VISION, "intermediate_size": 24}, layer_norm_eps=1e-6)
    target = transformers.ViTModel(config, add_pooling_layer=False)
    fill(target, canonical(source, "timm"), "hf-vit-memory")
    same(target(pixels()).last_hidden_state, source.forward_features(pixels()))


@pytest.mark.parametrize("layer", ["SwiGLUPacked", "SwiGLU"])
def test_gates_of_timm_to_transformers(timm: Any, transformers: Any, layer: str) -> None:
    hidden = (int(12 * 2 * 2 / 3) + 7) // 8 * 8
    ratio = hidden / 12 * (2 if layer == "SwiGLUPacked" else 1)
    options = {
        "mlp_layer": getattr(timm.layers, layer),
        "act_layer": torch.nn.SiLU,
        "mlp_ratio": ratio,
        "num_classes": 0,
    }
    source = vit(timm, init_values=1.0, **options)
    tensors = canonical(source, "timm-glu" if layer == "SwiGLUPacked" else "timm-swiglu")
    tensors["embed.mask"] = from_array(np.zeros(12, "float32"))
    target = transformers.Dinov2Model(transformers.Dinov2Config(**GATED, layer_norm_eps=1e-6))
    fill(target, tensors, "hf-dinov2-memory")
    same(target(pixels()).last_hidden_state, source.forward_features(pixels()))


def test_naflex_is_the_same_function(timm: Any) -> None:
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    options = {"class_token": True, "no_embed_class": True, "reg_tokens": 3, "num_classes": 5}
    source = vit(timm, **options)
    config = NaFlexVitCfg(
        patch_size=16, embed_dim=12, depth=2, num_heads=2, mlp_ratio=2, class_token=True, reg_tokens=3,
        pos_embed_grid_size=(2, 2), global_pool="token",
    )  # fmt: skip
    tensors = canonical(source, "timm", k=0)
    target = fill(NaFlexVit(config, num_classes=5), tensors, "timm-naflex", gh=2, gw=2)
    same(target(pixels()), source(pixels()))
    back = canonical(target, "timm-naflex", k=0)
    assert set(back) == set(tensors)
    np.testing.assert_array_equal(back["embed.patch.weight"].read(), tensors["embed.patch.weight"].read())


def test_attention_pool_of_timm(timm: Any) -> None:
    source = vit(timm, class_token=False, global_pool="map", num_classes=4)
    tensors = canonical(source, "timm", k=0)
    assert {"pool.query", "pool.k.weight", "pool.mlp.fc2.bias"} <= set(tensors)
    again = fill(vit(timm, class_token=False, global_pool="map", num_classes=4), tensors, "timm")
    same(again(pixels()), source(pixels()))


def test_npz_as_timm_reads_it(timm: Any, tmp_path: Path) -> None:
    source = vit(timm, num_classes=21)
    arrays = whole(rules.write(canonical(source, "timm"), get("google-npz"), "", {"heads": 2}))
    np.savez(tmp_path / "vit.npz", **{name: tensor.read() for name, tensor in arrays.items()})
    target = vit(timm, num_classes=21)
    target.head.weight.data.zero_()
    target.load_pretrained(str(tmp_path / "vit.npz"))
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name


def test_open_clip_to_transformers(open_clip: Any, transformers: Any) -> None:
    tower = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=16, width=12, layers=2, heads=2, mlp_ratio=20 / 12, output_dim=7
    )
    source = shaken(tower)
    target = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**CLIP, hidden_act="gelu"))
    tensors = canonical(source, "open_clip")
    assert set(canonical(source, "openai-clip")) == set(tensors)
    fill(target, tensors, "hf-clip-memory", "vision_model.")
    same(target(pixels()).image_embeds, source(pixels()))


OPTIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("open_clip", {"ls_init_value": 1e-5, "no_ln_pre": True}),
    ("open_clip", {"block_type": "custom", "qk_norm": True, "scale_attn_inner": True, "scale_fc": True}),
    ("open_clip-coca", {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5}),
)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_variants_of_open_clips_tower(open_clip: Any, name: str, options: Mapping[str, Any]) -> None:
    sizes = {
        "image_size": 32,
        "patch_size": 16,
        "width": 12,
        "layers": 2,
        "heads": 2,
        "mlp_ratio": 2.0,
        "output_dim": 8,
    }

    def build() -> Any:
        return shaken(open_clip.transformer.VisionTransformer(**sizes, **options))

    source = build()
    tensors = canonical(source, name)
    same(fill(build(), tensors, name)(pixels()), source(pixels()))
    assert ("pool.query" in tensors) == (name == "open_clip-coca")


@pytest.mark.parametrize("proj", ["linear", "mlp", None])
def test_timm_trunks_of_open_clip(open_clip: Any, proj: str | None) -> None:
    from open_clip.timm_model import TimmModel

    def build() -> Any:
        # timm's smallest VisionTransformer
        return shaken(TimmModel("test_vit", 8, image_size=160, proj=proj, pretrained=False, pool="token"))

    source = build()
    tensors = canonical(source, "open_clip-timm", "trunk.")
    assert ("proj.fc1.weight" in tensors) == (proj == "mlp")
    assert ("proj.weight" in tensors) == (proj != "mlp")
    if proj:
        state = whole(rules.write(tensors, get("open_clip-timm"), "trunk."))
        assert set(state) == set(source.state_dict())


def test_anyvits_own_layout_is_the_canonical_one_but_fused() -> None:
    names = ("blocks.0.attn.q.weight", "blocks.0.attn.k.weight", "blocks.0.attn.v.weight", "norm.bias", "embed.cls")
    arrays = {name: from_array(np.full((2, 2), n, "float32"), name) for n, name in enumerate(names)}
    state = whole(rules.write(arrays, get("anyvit")))
    assert set(state) == {"blocks.0.attn.qkv.weight", "norm.bias", "embed.cls"}
    assert state["blocks.0.attn.qkv.weight"].read()[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("parts", "right", "wrong"), [(4, "anyvit", "anyvit-dit"), (6, "anyvit-dit", "anyvit")])
def test_gates_of_adaln_are_told_by_the_shape(parts: int, right: str, wrong: str) -> None:
    tensors = {"blocks.0.adaln.weight": from_array(np.zeros((parts * 12, 12), "float32"), "blocks.0.adaln.weight")}
    assert len(whole(rules.read(tensors, get(right)))) == parts
    assert rules.read(tensors, get(wrong)).faults
