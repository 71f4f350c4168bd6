"""transformers: modules filled from every ecosystem, folders that `from_pretrained` opens, modules built by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the peers need torch")

from support.peers import assert_accounted, assert_close, pixels, said, shaken, snapshot, state  # noqa: E402

from anyvit.api import convert, load, load_into  # noqa: E402
from anyvit.construct import build  # noqa: E402
from anyvit.containers import open_checkpoint  # noqa: E402
from anyvit.errors import BadArgument, Incomplete, Unsayable  # noqa: E402

CLASSIC = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 192,
           "image_size": 48, "patch_size": 8}  # fmt: skip
DINO = {**{key: value for key, value in CLASSIC.items() if key != "intermediate_size"}, "mlp_ratio": 2}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
        "max_position_embeddings": 12, "projection_dim": 24, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
CLIP = {**CLASSIC, "projection_dim": 24}
RELATIVE = {**CLASSIC, "use_relative_position_bias": True}
MODELS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "vit": ("ViTModel", "ViTConfig", CLASSIC),
    "vit_head": ("ViTForImageClassification", "ViTConfig", {**CLASSIC, "num_labels": 5}),
    "deit": ("DeiTModel", "DeiTConfig", CLASSIC),
    "deit_head": ("DeiTForImageClassification", "DeiTConfig", {**CLASSIC, "num_labels": 5}),
    "deit_heads": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**CLASSIC, "num_labels": 5}),
    "dinov2": ("Dinov2Model", "Dinov2Config", DINO),
    "dinov2_giant": ("Dinov2Model", "Dinov2Config", {**DINO, "use_swiglu_ffn": True}),
    "dinov2_head": ("Dinov2ForImageClassification", "Dinov2Config", {**DINO, "num_labels": 5}),
    "dinov2_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {**DINO, "num_register_tokens": 2}),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**CLASSIC, "num_register_tokens": 4}),
    "dinov3_gated": ("DINOv3ViTModel", "DINOv3ViTConfig", {**CLASSIC, "num_register_tokens": 4, "use_gated_mlp": True}),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", CLIP),
    "clip_projection": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", CLIP),
    "clip_both": ("CLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": CLIP, "projection_dim": 24}),
    "clip_head": (
        "CLIPForImageClassification",
        "CLIPConfig",
        {"vision_config": CLIP, "text_config": TEXT, "num_labels": 5},
    ),
    "siglip_head": ("SiglipForImageClassification", "SiglipConfig", {"vision_config": CLASSIC, "num_labels": 5}),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", CLASSIC),
    "beit": ("BeitModel", "BeitConfig", RELATIVE),
    "beit_head": ("BeitForImageClassification", "BeitConfig", {**RELATIVE, "num_labels": 5}),
    "ijepa": ("IJepaModel", "IJepaConfig", CLASSIC),
    "aimv2": ("Aimv2VisionModel", "Aimv2VisionConfig", CLASSIC),
    "internvl": (
        "InternVLVisionModel",
        "InternVLVisionConfig",
        {**CLASSIC, "image_size": [48, 48], "patch_size": [8, 8]},
    ),
}
FOLDERS = {
    "vit": "hf-vit", "vit_head": "hf-vit", "deit": "hf-deit", "deit_head": "hf-deit", "deit_heads": "hf-deit", "dinov2": "hf-dinov2", "dinov2_giant": "hf-dinov2",
    "dinov2_head": "hf-dinov2", "dinov2_registers": "hf-dinov2-with-registers", "dinov3": "hf-dinov3",
    "dinov3_gated": "hf-dinov3", "clip": "hf-clip", "clip_projection": "hf-clip", "clip_head": "hf-clip", "siglip": "hf-siglip",
    "siglip_head": "hf-siglip",
    "beit": "hf-beit", "beit_head": "hf-beit", "ijepa": "hf-ijepa", "aimv2": "hf-aimv2", "internvl": "hf-internvl",
}  # fmt: skip
Get = Callable[..., Any]


@pytest.fixture(scope="module")
def transformers(peers: None) -> Iterator[Any]:
    library = pytest.importorskip("transformers", reason="the peer is not installed")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    yield library
    library.logging.set_verbosity_warning()


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {}


@pytest.fixture
def model(transformers: Any, made: dict[str, Any]) -> Get:
    def get(name: str, seed: int = 0) -> Any:
        if f"{name} {seed}" not in made:
            cls, config, sizes = MODELS[name]
            made[f"{name} {seed}"] = shaken(getattr(transformers, cls)(getattr(transformers, config)(**sizes)), seed)
        return made[f"{name} {seed}"]

    return get


@pytest.fixture(scope="module")
def saved(transformers: Any, made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Get:
    """The folder that a model's own save_pretrained writes."""
    folder = tmp_path_factory.mktemp("saved")

    def get(name: str, source: Any) -> Path:
        if not (folder / name).exists():
            source.save_pretrained(folder / name)
        return folder / name

    return get


def outputs(model: Any) -> torch.Tensor:
    """Everything that a model computes of two pictures, in one row."""
    with torch.no_grad():
        if hasattr(model, "text_model") and hasattr(model, "vision_model"):
            result = model(pixel_values=pixels(48, 48), input_ids=torch.arange(3, 13).reshape(2, 5))
            return torch.cat([result.logits_per_image.flatten(), result.image_embeds.flatten()])
        result = model(pixels(48, 48))
    return torch.cat([value.flatten() for value in result.to_tuple() if torch.is_tensor(value)])


@pytest.mark.parametrize("name", MODELS)
def test_a_module_is_filled_from_disk_and_from_memory(model: Get, saved: Get, name: str) -> None:
    source, target = model(name), model(name, 1)
    folder = saved(name, source)
    report = load_into(target, folder)
    assert_accounted(report, open_checkpoint(folder).tensors, target)
    assert torch.equal(outputs(target), outputs(source))
    assert not report.of("differs")
    target = model(name, 2)
    weights = snapshot(source)
    report = load_into(target, weights, heads=3)
    assert_accounted(report, weights, target)
    assert torch.equal(outputs(target), outputs(source))


@pytest.mark.parametrize(
    ("name", "dialect"),
    [("vit_head", "timm"), ("vit_head", "google-npz"), ("vit_head", "torchvision"),
     ("dinov2", "dinov2"), ("dinov2", "timm"), ("dinov2_giant", "dinov2-chunked"),
     ("dinov2_giant", "timm-glu"), ("dinov2_registers", "timm"), ("dinov2_registers", "dinov2"),
     ("clip_projection", "openai-clip"), ("clip", "open_clip"), ("siglip", "timm"),
     ("siglip", "big_vision"), ("beit_head", "beit"), ("dinov3", "dinov3"),
     ("dinov3", "timm-eva"), ("dinov3_gated", "dinov3"), ("aimv2", "aimv2")],
)  # fmt: skip
def test_a_module_is_filled_from_other_names(model: Get, saved: Get, name: str, dialect: str) -> None:
    source, target = model(name), model(name, 3)
    weights = said(saved(name, source), dialect)
    report = load_into(target, weights, heads=3)
    assert_accounted(report, weights, target)
    assert_close(outputs(target), outputs(source))


def test_a_dino_file_fills_a_dinov2_module_with_scales_of_one(transformers: Any, model: Get, saved: Get) -> None:
    target = shaken(transformers.Dinov2Model(transformers.Dinov2Config(**DINO, layer_norm_eps=1e-12)), 4)
    source = model("vit")
    report = load_into(target, saved("vit", source))
    assert_close(target(pixels(48, 48)).last_hidden_state, source(pixels(48, 48)).last_hidden_state)
    assert any("LayerScale of ones" in f.cause for f in report.of("folded"))
    assert any("pooler" in name for f in report.of("ignored") for name in f.names)


def test_a_pooler_that_the_file_lacks_is_left(model: Get, saved: Get) -> None:
    target = model("vit", 5)
    before = target.pooler.dense.weight.detach().clone()
    report = load_into(target, saved("vit_head", model("vit_head")))
    assert torch.equal(target.pooler.dense.weight, before)
    assert ("pooler.dense.weight", "pooler.dense.bias") in [f.names for f in report.of("new")]


def test_the_text_tower_of_another_project_is_left_and_listed(model: Get, saved: Get) -> None:
    target = model("clip_both", 6)
    before = target.text_projection.weight.detach().clone()
    weights = said(saved("clip_both", model("clip_both")), "openai-clip")
    report = load_into(target, weights, heads=3)
    assert_accounted(report, weights, target)
    assert any("text_projection.weight" in f.names for f in report.of("outside"))
    assert torch.equal(target.text_projection.weight, before)
    assert torch.equal(target.visual_projection.weight, model("clip_both").visual_projection.weight)


def test_modulation_in_layers_of_transformers_is_zero(transformers: Any, model: Get, saved: Get) -> None:
    target = transformers.ViTModel(transformers.ViTConfig(**CLASSIC), add_pooling_layer=False)
    for layer in target.layers:
        layer.adaLN_modulation = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(96, 4 * 96))
    target.eval()
    report = load_into(target, saved("vit_head", model("vit_head")))
    assert not any(parameter.any() for name, parameter in target.named_parameters() if "adaLN" in name)
    assert any("adaLN_modulation" in name for f in report.of("new") for name in f.names)
    expected = model("vit_head").vit(pixels(48, 48)).last_hidden_state
    assert torch.equal(target(pixels(48, 48)).last_hidden_state, expected)


def test_heads_and_eps_that_differ_are_said(transformers: Any, model: Get, saved: Get) -> None:
    config = transformers.ViTConfig(
        **{**CLASSIC, "num_attention_heads": 6, "layer_norm_eps": 1e-5, "hidden_act": "relu"}
    )
    report = load_into(transformers.ViTModel(config), saved("vit", model("vit")))
    said = {f.names[0]: f for f in report.of("differs")}
    assert set(said) == {"num_heads", "eps", "act"}
    assert "num_heads 6, the file's project with 3" in said["num_heads"].cause


def test_another_size_is_resized(transformers: Any, model: Get, saved: Get) -> None:
    target = transformers.ViTModel(transformers.ViTConfig(**{**CLASSIC, "image_size": 80, "num_channels": 1}))
    report = load_into(target, saved("vit", model("vit")))
    assert len(report.of("resized")) == 2
    assert target.embeddings.position_embeddings.shape == (1, 101, 96)


def test_a_deeper_module_is_refused_and_unchanged(transformers: Any, model: Get, saved: Get) -> None:
    target = transformers.ViTModel(transformers.ViTConfig(**{**CLASSIC, "num_hidden_layers": 3}))
    before = snapshot(target)
    with pytest.raises(Incomplete, match=r"layers\.2\.") as error:
        load_into(target, saved("vit", model("vit")))
    assert "depth: 2 in the file, 3 in the module" in str(error.value)
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_opens_with_from_pretrained(
    transformers: Any, model: Get, saved: Get, name: str, tmp_path: Path
) -> None:
    source = model(name)
    convert(saved(name, source), tmp_path / "out", FOLDERS[name])
    opened, info = type(source).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(outputs(opened.eval()), outputs(source))


@pytest.mark.parametrize("name", ["deit_head", "deit_heads", "dinov2_head", "clip_head", "siglip_head", "ijepa"])
def test_our_own_model_computes_what_the_class_computes(model: Get, saved: Get, name: str) -> None:
    source = model(name)
    vit = load(saved(name, source))
    with torch.no_grad():
        theirs, ours = source(pixels(48, 48)), vit(pixels(48, 48))
    assert_close(ours.tokens if name == "ijepa" else ours.logits, getattr(theirs, "logits", theirs[0]))


@pytest.mark.parametrize(
    ("dialect", "cls"),
    [("hf-vit", "ViTForImageClassification"), ("hf-dinov2", "Dinov2ForImageClassification"),
     ("hf-beit", "BeitForImageClassification"), ("hf-vit-msn", "ViTMSNForImageClassification")],
)  # fmt: skip
def test_any_class_opens_what_is_written_for_it(transformers: Any, dialect: str, cls: str, tmp_path: Path) -> None:
    """Masks that the class lacks, rows that it insists on, and what it feeds its classifier."""
    source = state(classes=5, cls_row=False, layer_scale=dialect == "hf-dinov2") | {"mask_token": torch.randn(1, 12)}
    convert(source, tmp_path / "out", dialect, heads=2)
    opened, info = getattr(transformers, cls).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        assert_close(opened.eval()(pixels(12, 12)).logits, load(source, heads=2)(pixels(12, 12)).logits)


def test_a_classifier_in_two_halves_comes_back(tmp_path: Path) -> None:
    source = state(classes=5, layer_scale=True)
    convert(source, tmp_path / "there", "hf-dinov2", heads=2)
    convert(tmp_path / "there", tmp_path / "back.safetensors", "timm")
    back = open_checkpoint(tmp_path / "back.safetensors").tensors
    assert set(back) == set(source)
    assert all((back[name].read() == tensor.numpy()).all() for name, tensor in source.items())


@pytest.mark.parametrize(
    ("name", "through", "cls"),
    [("vit_head", "timm", "ViTForImageClassification"), ("dinov2", "timm", "Dinov2Model"),
     ("dinov2_giant", "dinov2-chunked", "Dinov2Model"), ("dinov2_registers", "timm", "Dinov2WithRegistersModel"),
     ("clip_projection", "openai-clip", "CLIPVisionModelWithProjection"), ("dinov3", "timm", "DINOv3ViTModel"),
     ("siglip", "timm", "SiglipVisionModel"), ("beit_head", "timm", "BeitForImageClassification"),
     ("vit_head", "google-npz", "ViTForImageClassification"), ("aimv2", "timm", "Aimv2VisionModel")],
)  # fmt: skip
def test_a_folder_comes_back_through_another_ecosystem(
    transformers: Any, model: Get, saved: Get, name: str, through: str, cls: str, tmp_path: Path
) -> None:
    source = model(name)
    middle = tmp_path / "middle"
    convert(saved(name, source), middle, through)
    convert(middle, tmp_path / "out", FOLDERS[name])
    opened = getattr(transformers, cls).from_pretrained(tmp_path / "out")
    assert_close(outputs(opened.eval()), outputs(source))


def test_both_towers_give_the_image_tower_and_say_so(transformers: Any, model: Get, saved: Get, tmp_path: Path) -> None:
    source = model("clip_both")
    report = convert(saved("clip_both", source), tmp_path / "out", "hf-clip")
    assert any("only the image tower is written" in f.cause for f in report.of("outside"))
    opened = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        expected = source.get_image_features(pixel_values=pixels(48, 48))
        assert_close(opened(pixels(48, 48)).image_embeds, getattr(expected, "pooler_output", expected))


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "clip"])
def test_a_module_is_built_by_class(transformers: Any, model: Get, saved: Get, name: str) -> None:
    source = model(name)
    built = build(f"hf:{MODELS[name][0]}", saved(name, source))
    assert not built.training
    assert not any(tensor.is_meta for tensor in (*built.parameters(), *built.buffers()))
    assert torch.equal(outputs(built), outputs(source))


def test_classes_that_cannot_hold_the_model_are_refused(model: Get, saved: Get) -> None:
    with pytest.raises(Unsayable):
        build("hf:ViTModel", saved("dinov3", model("dinov3")))
    with pytest.raises(BadArgument, match="no model class"):
        build("hf:NoSuchModel", saved("vit", model("vit")))
    with pytest.raises(BadArgument, match="no image tower"):
        build("hf:BertModel", saved("vit", model("vit")))


FEATURES: Mapping[str, tuple[str, str, Mapping[str, Any], tuple[int, int], Mapping[str, str]]] = {
    "deit pooler": ("DeiTModel", "DeiTConfig", CLASSIC, (48, 48), {"tokens": "last_hidden_state", "pooled": "pooler_output"}),
    "clip classifier": (
        "CLIPForImageClassification", "CLIPConfig",
        {"text_config": TEXT, "vision_config": CLIP, "projection_dim": 24, "num_labels": 5}, (48, 48), {"logits": "logits"},
    ),
    "beit absolute": (
        "BeitModel", "BeitConfig", {**CLASSIC, "use_absolute_position_embeddings": True}, (64, 64),
        {"tokens": "last_hidden_state", "pooled": "pooler_output"},
    ),
    "aimv2 native": (
        "Aimv2VisionModel", "Aimv2VisionConfig", {**CLASSIC, "is_native": True, "use_head": False}, (40, 64),
        {"tokens": "last_hidden_state"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
@torch.no_grad()
def test_features_are_those_of_the_class(transformers: Any, tmp_path: Path, name: str) -> None:
    cls, config, sizes, size, fields = FEATURES[name]
    module = shaken(getattr(transformers, cls)(getattr(transformers, config)(**sizes)))
    module.save_pretrained(tmp_path)
    given = {"interpolate_pos_encoding": True} if name == "beit absolute" else {}
    theirs, ours = module(pixel_values=pixels(*size), **given), load(tmp_path)(pixels(*size))
    for field, key in fields.items():
        assert_close(getattr(ours, field), getattr(theirs, key))
