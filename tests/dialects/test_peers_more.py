"""The tables against the peers' own constructors: every name explained, and layouts that shapes cannot show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from anyvit import canon, rules
from anyvit.dialects import get
from anyvit.lazy import Lazy, from_array
from anyvit.rules import Run

VISION = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 32,
    "patch_size": 16,
}
NAFLEX = {**{key: value for key, value in VISION.items() if key != "image_size"}, "num_patches": 16}
SAM = {
    **{key: value for key, value in VISION.items() if key != "intermediate_size"},
    "mlp_dim": 20,
    "output_channels": 8,
    "global_attn_indexes": [1],
    "window_size": 2,
}
DECODER = {
    "decoder_hidden_size": 12,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}
REGISTERS = {**VISION, "num_register_tokens": 3}
SHARED = {"use_shared_relative_position_bias": True, "use_mask_token": True}
MODELS: tuple[tuple[str, str, str, str, Mapping[str, Any], int], ...] = (
    ("DINOv3ViTModel", "DINOv3ViTConfig", "hf-dinov3", "", REGISTERS, 0),
    ("DINOv3ViTModel", "DINOv3ViTConfig", "hf-dinov3-gated", "", {**REGISTERS, "use_gated_mlp": True}, 0),
    ("BeitForImageClassification", "BeitConfig", "hf-beit", "beit.", {**VISION, "use_relative_position_bias": True}, 1),
    ("BeitForMaskedImageModeling", "BeitConfig", "hf-beit", "beit.", {**VISION, **SHARED}, 1),
    ("Data2VecVisionModel", "Data2VecVisionConfig", "hf-data2vec-vision", "", VISION, 1),
    ("SiglipVisionModel", "SiglipVisionConfig", "hf-siglip", "", VISION, 0),
    ("Siglip2VisionModel", "Siglip2VisionConfig", "hf-siglip2", "", NAFLEX, 0),
    ("DeiTForImageClassificationWithTeacher", "DeiTConfig", "hf-deit", "deit.", VISION, 2),
    ("DeiTForMaskedImageModeling", "DeiTConfig", "hf-deit", "deit.", VISION, 2),
    ("DeiTModel", "DeiTConfig", "hf-deit", "", VISION, 2),
    ("ViTMAEForPreTraining", "ViTMAEConfig", "hf-vit-mae", "vit.", {**VISION, **DECODER}, 1),
    ("ViTMSNModel", "ViTMSNConfig", "hf-vit-msn", "", VISION, 1),
    ("ViTMSNForImageClassification", "ViTMSNConfig", "hf-vit-msn", "vit.", VISION, 1),
    ("IJepaForImageClassification", "IJepaConfig", "hf-ijepa", "ijepa.", VISION, 0),
    ("SamVisionModel", "SamVisionConfig", "hf-sam", "vision_encoder.", SAM, 0),
    ("Aimv2VisionModel", "Aimv2VisionConfig", "hf-aimv2", "", VISION, 0),
    ("BlipVisionModel", "BlipVisionConfig", "hf-blip", "", VISION, 1),
    ("Blip2VisionModel", "Blip2VisionConfig", "hf-blip", "", VISION, 1),
)
SAME_IN_MEMORY = ("hf-data2vec-vision", "hf-blip", "hf-siglip", "hf-siglip2", "hf-sam", "hf-aimv2")
"""Dialects whose names transformers 5 leaves as they are on disk."""


@pytest.fixture(scope="module")
def transformers(peers: None) -> Any:
    return pytest.importorskip("transformers", reason="the peer is not installed")


@pytest.fixture(scope="module")
def timm(peers: None) -> Any:
    return pytest.importorskip("timm", reason="the peer is not installed")


def lazies(state: Mapping[str, Any]) -> dict[str, Lazy]:
    return {name: from_array(tensor.detach().numpy(), name) for name, tensor in state.items()}


def whole(run: Run) -> Run:
    assert not (run.leftover or run.faults or run.partial or run.conflicts)
    return run


def canonical(run: Run) -> Run:
    assert all(canon.lookup(name) for name in run.tensors)
    return whole(run)


@pytest.mark.parametrize(("model", "config", "name", "prefix", "sizes", "k"), MODELS, ids=lambda value: str(value)[:40])
def test_transformers_names_in_memory_and_on_disk(
    transformers: Any, tmp_path: Any, model: str, config: str, name: str, prefix: str, sizes: Mapping[str, Any], k: int
) -> None:
    from safetensors.torch import load_file

    built = getattr(transformers, model)(getattr(transformers, config)(**sizes))
    built.save_pretrained(tmp_path)
    memory = get(name if name in SAME_IN_MEMORY else name + "-memory")
    whole_file = get("hf-vit-msn-beside") if model == "ViTMSNForImageClassification" else get(name)
    one = canonical(rules.read(lazies(built.state_dict()), memory, prefix, {"k": k}))
    two = canonical(rules.read(lazies(load_file(tmp_path / "model.safetensors")), whole_file, prefix, {"k": k}))
    assert set(one.tensors) == set(two.tensors)
    for target, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor.read(), two.tensors[target].read(), err_msg=target)


def patches(kernel: np.ndarray, bias: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Tokens of a (d, c, p, q) patch kernel on one (c, h, w) image, row by row."""
    p, q = kernel.shape[2:]
    channels, height, width = image.shape
    cut = image.reshape(channels, height // p, p, width // q, q)
    return np.einsum("chpwq,dcpq->hwd", cut, kernel).reshape(-1, len(kernel)) + bias


def test_naflex_patches_are_rows_columns_channels(transformers: Any) -> None:
    import torch
    from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

    torch.manual_seed(0)
    built = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**NAFLEX)).eval()
    image = torch.randn(3, 32, 48)
    with torch.no_grad():
        theirs = built.embeddings.patch_embedding(convert_image_to_patches(image, 16)).numpy()
    run = rules.read(lazies(built.state_dict()), get("hf-siglip2"))
    kernel, bias = (run.tensors["embed.patch." + part].read() for part in ("weight", "bias"))
    np.testing.assert_allclose(patches(kernel, bias, image.numpy()), theirs, atol=1e-5)


def test_linear_patches_of_radio_are_channels_rows_columns() -> None:
    generator = np.random.default_rng(0)
    image, weight = generator.standard_normal((3, 6, 9)), generator.standard_normal((5, 27))
    flat = image.reshape(3, 2, 3, 3, 3).transpose(1, 3, 0, 2, 4).reshape(6, 27)
    run = rules.read({"patch_generator.embedder.weight": from_array(weight)}, get("radio"))
    kernel = run.tensors["embed.patch.weight"].read()
    np.testing.assert_allclose(patches(kernel, np.zeros(5), image), flat @ weight.T, atol=1e-12)


def test_scanned_blocks_are_the_blocks_one_by_one() -> None:
    """A depth equal to the head count must not mix the two axes."""
    generator = np.random.default_rng(0)
    loop: dict[str, np.ndarray] = {}
    depth, heads, each, width = 3, 3, 5, 7
    for block in range(depth):
        base = f"Transformer/encoderblock_{block}/"
        attention = base + "MultiHeadDotProductAttention_0/"
        for part in ("query", "key", "value"):
            loop[f"{attention}{part}/kernel"] = generator.standard_normal((width, heads, each))
            loop[f"{attention}{part}/bias"] = generator.standard_normal((heads, each))
        loop[attention + "out/kernel"] = generator.standard_normal((heads, each, width))
        loop[attention + "out/bias"] = generator.standard_normal(width)
        loop[base + "LayerNorm_1/scale"] = generator.standard_normal(width)
        loop[base + "MlpBlock_0/Dense_0/kernel"] = generator.standard_normal((width, 11))
    names = [name for name in loop if "encoderblock_0" in name]
    every = {name: [loop[name.replace("_0/", f"_{block}/", 1)] for block in range(depth)] for name in names}
    scan = {name.replace("encoderblock_0", "encoderblock"): np.stack(parts) for name, parts in every.items()}
    one = canonical(rules.read({n: from_array(a, n) for n, a in loop.items()}, get("big_vision")))
    two = canonical(rules.read({n: from_array(a, n) for n, a in scan.items()}, get("big_vision-scan")))
    assert set(one.tensors) == set(two.tensors)
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor.read(), two.tensors[name].read(), err_msg=name)
    back = whole(rules.write(two.tensors, get("big_vision-scan"), sizes={"heads": heads}))
    for name, tensor in back.tensors.items():
        np.testing.assert_array_equal(tensor.read(), scan[name], err_msg=name)


EVAS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("timm-eva-apart-swiglu", {"swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False}),
    ("timm-eva-glu", {"swiglu_mlp": True}),
    ("timm-eva-swiglu", {"swiglu_mlp": True, "swiglu_align_to": 4}),
)


@pytest.mark.parametrize(("name", "options"), EVAS)
def test_gate_of_timms_gated_mlps(timm: Any, name: str, options: Mapping[str, Any]) -> None:
    import torch
    from timm.models.eva import Eva

    torch.manual_seed(0)
    model = Eva(img_size=32, embed_dim=12, depth=1, num_heads=2, mlp_ratio=3, num_classes=5, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    run = canonical(rules.read(lazies(model.state_dict()), get(name), sizes={"k": 1}))
    mlp = {key.removeprefix("blocks.0.mlp."): t.read() for key, t in run.tensors.items() if ".mlp." in key}
    tokens = torch.randn(6, 12)
    with torch.no_grad():
        expected = model.blocks[0].mlp(tokens).numpy()
    gate, up = (tokens.numpy() @ mlp[f"{half}.weight"].T + mlp[f"{half}.bias"] for half in ("gate", "up"))
    hidden = gate / (1 + np.exp(-gate)) * up
    if "norm.weight" in mlp:
        centred = hidden - hidden.mean(-1, keepdims=True)
        hidden = centred / np.sqrt(hidden.var(-1, keepdims=True) + model.blocks[0].mlp.norm.eps)
        hidden = hidden * mlp["norm.weight"] + mlp["norm.bias"]
    np.testing.assert_allclose(hidden @ mlp["down.weight"].T + mlp["down.bias"], expected, rtol=1e-3, atol=1e-3)


def test_masked_key_bias_is_left_to_the_reader() -> None:
    """The mask itself is no tensor of the model, and its rule says what becomes of it."""
    names = ["blocks.0.attn.qkv.bias", "blocks.0.attn.qkv.bias_mask"]
    run = rules.read({name: from_array(np.ones(9, "float32"), name) for name in names}, get("dinov3"))
    assert set(run.ignored) == {"blocks.0.attn.qkv.bias_mask"} and "applied" in run.ignored[names[1]]
    assert set(run.tensors) == {f"blocks.0.attn.{part}.bias" for part in "qkv"}


def old_spellings() -> Iterator[tuple[str, str, Callable[[int], np.ndarray], str]]:
    yield "big_vision", "Transformer/posembed_input/pos_embedding", lambda d: np.ones((1, 5, d)), "embed.pos"
    yield "big_vision", "probe", lambda d: np.ones((1, 1, d)), "pool.query"
    yield "big_vision", "LayerNorm_0/scale", np.ones, "pool.norm.weight"
    yield "torchvision", "encoder.layers.encoder_layer_0.mlp.linear_1.bias", np.ones, "blocks.0.mlp.fc1.bias"
    yield "radio", "blocks.0.ls1.grandma", np.ones, "blocks.0.ls1"


@pytest.mark.parametrize(("name", "theirs", "make", "ours"), list(old_spellings()))
def test_old_spellings_are_read_and_written_anew(name: str, theirs: str, make: Callable, ours: str) -> None:
    dialect = get(name)
    run = canonical(rules.read({theirs: from_array(make(6), theirs)}, dialect, sizes={"k": 1}))
    assert ours in run.tensors
    back = whole(rules.write(run.tensors, dialect, sizes={"heads": 2, "k": 1}))
    assert theirs not in back.tensors and len(back.tensors) == 1
