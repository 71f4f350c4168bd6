"""Image towers inside the models of other projects: CogVLM's and GLM-4V's EVA-CLIP, AltCLIP's CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="outputs are compared with torch")
from torch.nn import functional as F  # noqa: E402

from anyvit.api import convert, inspect, load  # noqa: E402

WIDTH, HEADS, DEPTH, MLP, PATCH, SIDE = 24, 2, 3, 40, 4, 5


def cogvlm(prefix: str, later: bool = False) -> dict[str, Any]:
    """Weights in the names of EVA2CLIPModel, with the adapter and marks that stand beside its tower."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embedding.proj.bias": (WIDTH,),
        "patch_embedding.cls_embedding": (1, WIDTH),
        "patch_embedding.position_embedding.weight": (SIDE * SIDE + 1, WIDTH),
        "linear_proj.linear_proj.weight": (32, WIDTH), "linear_proj.norm1.weight": (32,), "linear_proj.norm1.bias": (32,),
        "linear_proj.dense_h_to_4h.weight": (48, 32), "linear_proj.gate_proj.weight": (48, 32),
        "linear_proj.dense_4h_to_h.weight": (32, 48), "boi": (1, 1, 32), "eoi": (1, 1, 32),
    }  # fmt: skip
    if later:
        shapes |= {"conv.weight": (WIDTH, WIDTH, 2, 2), "conv.bias": (WIDTH,)}
    for i in range(DEPTH):
        block = f"transformer.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{block}{norm}.{part}": (WIDTH,) for part in ("weight", "bias")}
        for layer, (out, width) in {
            "attention.query_key_value": (3 * WIDTH, WIDTH), "attention.dense": (WIDTH, WIDTH), "mlp.fc1": (MLP, WIDTH),
            "mlp.fc2": (WIDTH, MLP),
        }.items():  # fmt: skip
            shapes |= {f"{block}{layer}.weight": (out, width), f"{block}{layer}.bias": (out,)}
    return {prefix + name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def forward(weights: dict[str, Any], prefix: str, pixels: Any) -> Any:
    """The tower as its code computes it: branches are normed before they are added."""
    w = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    stem = "patch_embedding."
    x = F.conv2d(pixels, w[stem + "proj.weight"], w[stem + "proj.bias"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([w[stem + "cls_embedding"].expand(len(x), 1, -1), x], 1) + w[stem + "position_embedding.weight"]
    for i in range(DEPTH):

        def linear(y: Any, name: str, at: str = f"transformer.layers.{i}.") -> Any:
            return F.linear(y, w[f"{at}{name}.weight"], w[f"{at}{name}.bias"])

        def norm(y: Any, name: str, at: str = f"transformer.layers.{i}.") -> Any:
            return F.layer_norm(y, (WIDTH,), w[f"{at}{name}.weight"], w[f"{at}{name}.bias"], 1e-6)

        parts = linear(x, "attention.query_key_value").reshape(len(x), -1, 3, HEADS, WIDTH // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5, -1) @ v
        x = x + norm(linear(mixed.transpose(1, 2).flatten(2), "attention.dense"), "input_layernorm")
        x = x + norm(linear(F.gelu(linear(x, "mlp.fc1")), "mlp.fc2"), "post_attention_layernorm")
    return x


@pytest.mark.parametrize(("prefix", "later"), [("model.vision.", False), ("transformer.vision.", True), ("", True)])
def test_cogvlms_tower_computes_what_its_code_does(prefix: str, later: bool, tmp_path: Path) -> None:
    weights = {**cogvlm(prefix, later), "model.embed_tokens.weight": torch.randn(9, 32)}
    vit, pixels = load(weights, heads=HEADS), torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)
    assert (vit.report.match.dialect.name, vit.report.match.prefix) == ("cogvlm", prefix)
    assert (vit.spec.block_norm, vit.spec.final_norm, vit.spec.num_cls) == ("post", None, 1)
    assert not vit.report.of("unexplained")
    with torch.no_grad():
        torch.testing.assert_close(vit(pixels).tokens, forward(weights, prefix, pixels), atol=1e-5, rtol=1e-5)
    convert(weights, tmp_path / "own.safetensors", "anyvit", heads=HEADS)
    convert(tmp_path / "own.safetensors", tmp_path / "back.safetensors", "cogvlm")
    with torch.no_grad():
        back = load(tmp_path / "back.safetensors")
        torch.testing.assert_close(back(pixels).tokens, vit(pixels).tokens, atol=1e-6, rtol=1e-6)


def test_cogvlms_config_is_read_as_given(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(cogvlm("model.vision."), tmp_path / "model.safetensors")
    vision = {
        "hidden_act": "gelu", "hidden_size": WIDTH, "image_size": SIDE * PATCH, "in_channels": 3, "layer_norm_eps": 1e-6,
        "intermediate_size": MLP, "num_heads": HEADS, "num_hidden_layers": DEPTH, "num_positions": 26, "patch_size": PATCH,
    }  # fmt: skip
    config = {"architectures": ["CogVLMForCausalLM"], "hidden_size": 32, "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = inspect(tmp_path).spec
    assert {n: (spec.facts[n].value, spec.facts[n].how) for n in ("num_heads", "eps", "act")} == {
        "num_heads": (HEADS, "given"), "eps": (1e-6, "given"), "act": ("gelu", "given")
    }  # fmt: skip


@pytest.fixture
def altclip(peers: None) -> Any:
    hf = pytest.importorskip("transformers")
    vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
              "image_size": 20, "patch_size": 4}  # fmt: skip
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 40,
            "max_position_embeddings": 20, "project_dim": 12}  # fmt: skip
    torch.manual_seed(0)
    model = hf.AltCLIPModel(hf.AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_altclip_as_it_is_saved_and_in_memory(altclip: Any, tmp_path: Path) -> None:
    altclip.save_pretrained(tmp_path / "whole")
    altclip.vision_model.config.save_pretrained(tmp_path / "whole" / "vision")
    pixels = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        expected = altclip.vision_model(pixels)
        projected = altclip.get_image_features(pixels)
        projected = getattr(projected, "pooler_output", projected)
        for source, heads, name in ((tmp_path / "whole", None, "hf-altclip"), (altclip.state_dict(), 2, "hf-clip")):
            vit = load(source, heads=heads)
            assert vit.report.match.dialect.name == name
            out = vit(pixels)
            torch.testing.assert_close(out.tokens, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(out.embedding, projected, atol=1e-5, rtol=1e-5)


def test_altclips_config_is_clips(altclip: Any) -> None:
    from anyvit.configs.hf import read

    config = altclip.config.to_dict()
    for said in (config, config["vision_config"]):
        given = read(said)
        assert (given.facts["num_heads"].value, given.facts["act"].value) == (2, "quick_gelu") and not given.notes
