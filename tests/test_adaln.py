"""Conditioning as an adaptation of any Vision Transformer: the identity at the start, to the last bit, and carried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are run")

from conftest import needs_shared  # noqa: E402
from support import adapting, modules  # noqa: E402
from support import peers as tiny  # noqa: E402
from support.truth import arguments, arrays, case, cases, location, vit_of  # noqa: E402

import anyvit  # noqa: E402
from anyvit.adaln import read_back  # noqa: E402
from anyvit.lazy import from_array  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Rope, Spec  # noqa: E402

PICTURE = adapting.pixels()
SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24, "patch_size": 4, "image_size": 12}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {}, "registers": {"num_registers": 3}, "swiglu": {"ffn": "swiglu", "act": "silu"},
    "post-norm": {"block_norm": "post"}, "post-norm, LayerScale": {"block_norm": "post", "layer_scale": True},
    "rope": {"pos_embed": "rope", "rope": Rope(), "qkv_bias": "qv"}, "qk-norm": {"qk_norm": "head"},
    "side by side": {"ffn": "parallel_scaling"}, "differential": {"diff_attn": "vectors"},
    "relative": {"pos_embed": "relpos"}, "shared relative": {"pos_embed": "relpos_shared"},
    "windows": {"pos_embed": "learned+relpos_decomposed", "window": 2, "global_blocks": (1,), "num_cls": 0, "pool": "none"},
    "rmsnorm, no cls": {"norm": "rmsnorm", "norm_bias": False, "num_cls": 0, "pool": "avg"},
}  # fmt: skip


UNLIKE = (
    "aimv2",
    "beit",
    "dinov3",
    "eva02",
    "internvit-a",
    "mmpretrain",
    "openai_clip",
    "pe",
    "radio",
    "sam",
    "siglip",
)
"""Cases that differ in norms, positions, MLP or pool."""


def random(**options: Any) -> ViT:
    return adapting.drawn(Spec(**{**SMALL, **options}))


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["instantmesh", "dit"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_it_changes_nothing_in_any_kind_of_model(kind: str, scheme: str, tmp_path: Path) -> None:
    plain, asked = random(**KINDS[kind]), anyvit.AdaLN(dim=5, scheme=scheme)
    want, cameras = plain(PICTURE), torch.randn(1, 2, 5)
    loaded = anyvit.load(plain, condition=asked)
    assert torch.equal(loaded(PICTURE, cameras).tokens, want.tokens)
    assert any("max |Δ| 0 " in f.cause for f in loaded.report.of("new"))
    report = anyvit.convert(plain, tmp_path / "out.safetensors", to="anyvit", condition=asked)
    assert any("measured on what is written: max |Δ| 0 " in f.cause for f in report.of("new"))
    assert torch.equal(anyvit.load(tmp_path / "out.safetensors")(PICTURE, cameras).tokens, want.tokens)
    target = random(**KINDS[kind], condition=scheme)
    assert not torch.equal(target(PICTURE, torch.randn(2, 16)).prenorm, want.prenorm)
    report = anyvit.load_into(target, plain)
    assert any("measured on the filled module: max |Δ| 0 " in f.cause for f in report.of("new"))
    assert torch.equal(target(PICTURE, torch.randn(2, 16)).tokens, want.tokens)


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["instantmesh", "dit"])
def test_trained_modulation_is_carried_bit_for_bit(scheme: str, tmp_path: Path) -> None:
    trained = random(condition=scheme, condition_inputs=5)
    cameras = torch.randn(1, 2, 5)
    assert not torch.equal(trained(PICTURE, cameras).tokens, trained(PICTURE, -cameras).tokens)
    anyvit.convert(trained, tmp_path / "one.safetensors", to="anyvit-dit" if scheme == "dit" else "anyvit")
    back = anyvit.load(tmp_path / "one.safetensors")
    assert back.spec.condition == scheme and not back.report.of("new")
    mine, theirs = trained.state_dict(), back.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
    other = random(condition=scheme, condition_inputs=5)
    other.load_state_dict({n: t + 1 for n, t in mine.items()})
    anyvit.load_into(other, tmp_path / "one.safetensors")
    assert torch.equal(other(PICTURE, cameras).tokens, trained(PICTURE, cameras).tokens)


def test_instantmesh_and_back_is_bit_equal(tmp_path: Path) -> None:
    trained = random(condition="instantmesh", condition_inputs=16, eps=1e-12)
    anyvit.convert(trained, tmp_path / "one.ckpt", to="instantmesh")
    names = set(torch.load(tmp_path / "one.ckpt", weights_only=True))
    assert "lrm_generator.encoder.model.encoder.layer.0.adaLN_modulation.1.weight" in names
    assert "lrm_generator.encoder.camera_embedder.0.weight" in names
    anyvit.convert(tmp_path / "one.ckpt", tmp_path / "two.safetensors", to="anyvit", heads=2)
    back = anyvit.load(tmp_path / "two.safetensors").state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in trained.state_dict().items())
    anyvit.convert(tmp_path / "two.safetensors", tmp_path / "three.ckpt", to="instantmesh")
    one, three = (torch.load(tmp_path / f"{n}.ckpt", weights_only=True) for n in ("one", "three"))
    assert one.keys() == three.keys() and all(torch.equal(one[n], three[n]) for n in one)


@pytest.mark.parametrize("meta", [False, True])
@torch.no_grad()
def test_a_module_of_transformers_that_draws_its_modulation_anew(meta: bool, peers: None) -> None:
    transformers = pytest.importorskip("transformers", reason="its own initialisation is what is met")

    class Model(transformers.PreTrainedModel):
        config_class = transformers.ViTConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.vit = modules.ConditionedViT()
            for layer in self.vit.encoder.layer:
                torch.nn.init.zeros_(layer.adaLN_modulation[1].weight)
            self.post_init()

        def _init_weights(self, module: Any) -> None:
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.trunc_normal_(module.weight, std=0.02)

    config = transformers.ViTConfig(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=12,
                                    patch_size=4, intermediate_size=24)  # fmt: skip
    with torch.device("meta" if meta else "cpu"):
        model = Model(config).eval()
    assert meta or model.vit.encoder.layer[0].adaLN_modulation[1].weight.any()
    source = tiny.shaken(modules.ConditionedViT(), 1, 0.3)
    report = anyvit.load_into(model, {n: t for n, t in source.state_dict().items() if "adaLN" not in n}, heads=2)
    assert any("measured on the filled module: max |Δ| 0 " in f.cause for f in report.of("new"))
    condition = torch.randn(2, 12)
    assert torch.equal(model.vit(PICTURE, condition), model.vit(PICTURE))
    tiny.assert_close(model.vit(PICTURE, condition), source(PICTURE))


def test_what_is_read_back_sees_a_shift_a_scale_and_a_closed_gate() -> None:
    import numpy as np

    open_gate = {"blocks.0.adaln.gate1.bias": from_array(np.ones(3, "float32"), "g")}
    assert "max |Δ| 0 " in read_back(open_gate, "here")[0].cause
    closed = {"blocks.0.adaln.gate1.bias": from_array(np.zeros(3, "float32"), "g")}
    assert "max |Δ| 1 " in read_back(closed, "here")[0].cause
    shift = {"blocks.1.adaln.shift2.weight": from_array(np.full((2, 2), 0.25, "float32"), "s")}
    assert "max |Δ| 0.25 " in read_back({**open_gate, **shift}, "here")[0].cause
    assert read_back({"norm.weight": from_array(np.ones(3), "n")}, "here") == ()


@needs_shared
@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in cases() if n.startswith(UNLIKE)])
def test_it_changes_nothing_in_any_projects_file(name: str) -> None:
    entry = case(name)["io"][0]
    pixels = torch.from_numpy(arrays(name)[entry["input"]]).float()
    after = anyvit.load(location(name), **arguments(entry), condition=anyvit.AdaLN(scheme="dit"))
    assert torch.equal(after(pixels, torch.randn(1, len(pixels), 16)).tokens, vit_of(name, entry)(pixels).tokens)
