"""What is read, and what is refused in plain words, before anything is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import State, renamed, timm_state, write
from support.toys import toy

import anyvit
from anyvit.errors import Ambiguous, AnyvitError, Incomplete, NotAViT


def refusal(source: Any, **options: Any) -> AnyvitError:
    report = anyvit.inspect(source, **options)
    error = report.error()
    assert not report.ok and error is not None
    with pytest.raises(type(error)):
        anyvit.load(source, **options)
    return error


def test_a_vit_without_positions_is_refused() -> None:
    state = timm_state()
    del state["pos_embed"]
    error = refusal(state)
    assert isinstance(error, Incomplete)
    assert "holds no positions" in str(error)
    assert anyvit.load(state, dialect="timm").spec.pos_embed == "none"


def test_big_vision_computes_its_positions() -> None:
    state = {
        "embedding/kernel": np.ones((4, 4, 3, 64), "f4"),
        "embedding/bias": np.ones(64, "f4"),
        "Transformer/encoder_norm/scale": np.ones(64, "f4"),
        "Transformer/encoder_norm/bias": np.ones(64, "f4"),
    }
    block = "Transformer/encoderblock_0/"
    for name, inside, outside in (("MlpBlock_0/Dense_0", (64,), (96,)), ("MlpBlock_0/Dense_1", (96,), (64,)),
                                  *((f"MultiHeadDotProductAttention_0/{p}", (64,), (2, 32)) for p in ("query", "key", "value")),
                                  ("MultiHeadDotProductAttention_0/out", (2, 32), (64,))):  # fmt: skip
        state[f"{block}{name}/kernel"] = np.ones((*inside, *outside), "f4")
        state[f"{block}{name}/bias"] = np.ones(outside, "f4")
    for norm in ("LayerNorm_0", "LayerNorm_1"):
        state |= {f"{block}{norm}/{part}": np.ones(64, "f4") for part in ("scale", "bias")}
    report = anyvit.inspect(renamed(state, lambda name: f"params/{name}"))
    assert report.ok and report.spec is not None and report.match is not None
    assert report.match.dialect.name == "big_vision" and report.spec.pos_embed == "sincos_unstored"


def test_registers_of_length_zero_are_none() -> None:
    state = {**timm_state(), "reg_token": np.zeros((1, 0, 64), "f4")}
    report = anyvit.inspect(state)
    assert report.ok and report.spec is not None and report.spec.num_registers == 0
    assert [f.names for f in report.of("ignored")] == [("reg_token",)]


def test_placeholders_of_zero_3() -> None:
    error = refusal({f"module.{name}": np.zeros(0, "f4") for name in timm_state()})
    assert isinstance(error, NotAViT) and "ZeRO stage 3" in str(error) and "zero_to_fp32.py" in str(error)


# Shards


def sharded(folder: Path, parts: list[State], drop: int) -> Path:
    """A folder of shards with its weight map, one of them removed."""
    names = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    for file, part in zip(names, parts, strict=True):
        write(part, folder / file)
    listed = {name: file for file, part in zip(names, parts, strict=True) for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    (folder / names[drop]).unlink()
    return folder


def large() -> list[State]:
    """A tower in two shards and a language model in a third."""
    tower = list(renamed(timm_state(classes=0), lambda name: f"model.vision_tower.{name}").items())
    words = {f"model.language_model.layers.{i}.mlp.up_proj.weight": np.ones((4, 4), "f4") for i in range(3)}
    return [dict(tower[:20]), dict(tower[20:]), words]


def test_a_tower_is_read_where_its_own_shards_are_there(tmp_path: Path) -> None:
    folder = sharded(tmp_path, large(), 2)
    report = anyvit.inspect(folder)
    assert report.ok
    [finding] = [f for f in report.of("outside") if "shards" in f.cause]
    assert "model-00003-of-00003.safetensors; none of them holds a tensor of this tower" in finding.cause
    whole, found = anyvit.load(timm_state(classes=0)), anyvit.load(folder)
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(found(pixels).tokens, whole(pixels).tokens)


@pytest.mark.parametrize("drop", [0, 1])
def test_a_missing_shard_of_the_tower_is_named(tmp_path: Path, drop: int) -> None:
    error = refusal(sharded(tmp_path, large(), drop))
    assert isinstance(error, Incomplete)
    assert f"1 of 3 shards are missing: model-0000{drop + 1}-of-00003.safetensors" in str(error)
    assert "fetch the missing files" in str(error)


# Towers inside larger models


def test_openvla_names_layer_scale_otherwise() -> None:
    state = timm_state(classes=0)
    state |= {f"blocks.{i}.ls{j}.gamma": np.full(64, 0.5 + j, "f4") for i in range(3) for j in (1, 2)}
    theirs = renamed(state, lambda name: "vision_backbone.featurizer." + name.replace("gamma", "scale_factor"))
    one, two = anyvit.load(state), anyvit.load(theirs)
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(one(pixels).tokens, two(pixels).tokens)


def test_two_towers_are_a_question() -> None:
    towers = {f"vision_backbone.{name}.{key}": value for name in ("dino_featurizer", "siglip_featurizer")
              for key, value in timm_state(classes=0).items()}  # fmt: skip
    error = refusal(towers)
    assert isinstance(error, Ambiguous)
    assert "dino_featurizer" in str(error) and "siglip_featurizer" in str(error)
    report = anyvit.inspect(towers, weights="siglip_featurizer")
    assert report.ok and report.match is not None and report.match.prefix == "vision_backbone.siglip_featurizer."


def test_the_norm_of_owl_vit_before_the_blocks_is_read(peers: None) -> None:
    from transformers import OwlViTVisionConfig, OwlViTVisionModel

    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
    }
    model = OwlViTVisionModel(OwlViTVisionConfig(**sizes, image_size=16, patch_size=4)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vit = anyvit.load(dict(model.state_dict()), heads=2)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        wanted = model(pixels).last_hidden_state
        assert vit.spec.pre_norm and torch.allclose(vit(pixels).tokens, wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["visual.merger.mlp.0.weight", "model.visual.deepstack_merger_list.0.norm.weight"])
def test_qwens_tower_is_named(name: str) -> None:
    state = renamed(timm_state(classes=0), lambda key: name.split("visual")[0] + "visual." + key)
    error = refusal({**state, name: np.ones((4, 4), "f4")})
    assert isinstance(error, NotAViT) and "Qwen-VL" in str(error)
    assert "final norm" not in str(error)


def test_float8_with_scales_is_quantised() -> None:
    scales = {f"blocks.{i}.mlp.fc1.weight_scale_inv": np.ones(1, "f4") for i in range(3)}
    error = refusal({**timm_state(), **scales})
    assert "float8 weights whose scales stand beside them" in str(error)


def test_a_frozen_torchscript_has_lost_its_names(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(torch.nn.Linear(4, 4).eval(), torch.ones(1, 4))
        torch.jit.freeze(traced).save(str(tmp_path / "frozen.pt"))
    assert "frozen TorchScript" in str(refusal(tmp_path / "frozen.pt"))


def test_complex_weights_are_called_so() -> None:
    error = refusal({name: value.astype("c8") for name, value in timm_state().items()})
    assert "complex numbers" in str(error) and "integers" not in str(error)


@pytest.mark.parametrize(
    ("name", "value"), [("eps", 1e-5), ("act", "quick_gelu"), ("pool", "avg"), ("mean", [0.5, 0.5, 0.5])]
)
def test_what_nothing_says_can_be_given(name: str, value: Any) -> None:
    fact = anyvit.load(toy(0), facts={name: value}).spec.facts[name]
    assert (fact.how, fact.source) == ("given", "the argument facts=")
    assert fact.value == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    "facts",
    [
        {"depth": 3},
        {"act": "swish"},
        {"eps": 0},
        {"eps": "1e-6"},
        {"mean": 0.5},
        {"tokens_normed": "no"},
        {"std": [0.0]},
    ],
)
def test_facts_that_cannot_be_are_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(anyvit.AnyvitError, match=next(iter(facts))):
        anyvit.load(toy(0), facts=facts)


def test_a_given_fact_is_written_into_the_config(tmp_path: Path) -> None:
    anyvit.convert(toy(0), tmp_path / "out", "hf-vit", facts={"eps": 3e-5, "act": "gelu_tanh"})
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert (config["layer_norm_eps"], config["hidden_act"]) == (3e-5, "gelu_pytorch_tanh")
