"""timm: modules filled from every ecosystem, files and folders that timm opens itself, modules built by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the peers need torch")

from support import peers as tiny  # noqa: E402
from support.peers import assert_accounted, assert_close, pixels, said, shaken, snapshot  # noqa: E402

from anyvit.api import convert, inspect, load, load_into  # noqa: E402
from anyvit.construct import build  # noqa: E402
from anyvit.errors import Incomplete, Unsayable  # noqa: E402

SIZES = {"img_size": 48, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 3, "num_classes": 5}
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("vit_base_patch16_224", {}),
    "rectangle": ("vit_base_patch16_224", {"img_size": (24, 40)}),
    "no_embed_class": ("vit_base_patch16_224", {"no_embed_class": True}),
    "layer_scale": ("vit_base_patch16_224", {"init_values": 1e-5}),
    "no_qkv_bias": ("vit_base_patch16_224", {"qkv_bias": False}),
    "mean": ("vit_base_patch16_224", {"global_pool": "avg"}),
    "mean_without_cls": ("vit_base_patch16_224", {"global_pool": "avg", "class_token": False}),
    "registers": ("vit_base_patch16_224", {"reg_tokens": 4}),
    "dinov2": ("vit_small_patch14_dinov2", {"num_classes": 0}),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", {"num_classes": 0}),
    "dinov2_giant": ("vit_giant_patch14_dinov2", {"num_classes": 0}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {"num_classes": 0}),
    "intern": ("vit_intern300m_patch14_448", {"num_classes": 0}),
    "eva02_small": ("eva02_tiny_patch14_224", {}),
    "eva02_base": ("eva02_base_patch14_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {"num_classes": 0}),
    "beit": ("beit_base_patch16_224", {}),
    "aimv2": ("aimv2_large_patch14_224", {"num_classes": 0}),
    "parallel": ("vit_pwee_patch16_reg1_gap_256", {}),
    "parallel_without_qkv_bias": ("vit_base_patch16_xp_224", {}),
    "parallel_differential": ("vit_dpwee_patch16_reg1_gap_256", {}),
    "differential": ("vit_dwee_patch16_reg1_gap_256", {}),
    "relpos_mlp": ("vit_relpos_base_patch16_224", {}),
    "relpos_mlp_cls": ("vit_relpos_base_patch16_clsgap_224", {}),
    "relpos_mlp_shared": ("vit_srelpos_medium_patch16_224", {}),
    "relpos_mlp_swin": ("vit_relpos_base_patch16_224", {"rel_pos_type": "mlp-swin"}),
    "relpos_post_norm": ("vit_relpos_base_patch16_rpn_224", {}),
    "relpos_table": ("vit_relpos_base_patch16_224", {"rel_pos_type": "bias"}),
}
ROUNDABOUT = [
    ("plain", "google-npz"), ("plain", "hf-vit"), ("plain", "hf-vit-memory"), ("plain", "dinov2"),
    ("plain", "dinov2-chunked"), ("plain", "torchvision"), ("plain", "mmpretrain"), ("plain", "anyvit"),
    ("rectangle", "google-npz"), ("rectangle", "hf-vit"), ("rectangle", "dinov2-chunked"),
    ("layer_scale", "hf-dinov2"), ("layer_scale", "google-npz"), ("no_embed_class", "hf-vit"),
    ("dinov2", "dinov2-chunked"), ("dinov2", "hf-dinov2"), ("dinov2_registers", "dinov2"),
    ("dinov2_registers", "hf-dinov2-with-registers"), ("dinov2_giant", "dinov2"), ("dinov2_giant", "hf-dinov2"),
    ("distilled", "hf-deit"), ("clip", "open_clip"), ("clip", "openai-clip"), ("clip", "hf-clip"),
    ("siglip", "hf-siglip"), ("siglip", "big_vision"), ("intern", "internvit"), ("eva02_base", "eva02"),
    ("dinov3", "hf-dinov3"), ("dinov3", "dinov3"), ("beit", "beit"), ("beit", "hf-beit"),
    ("parallel", "anyvit"), ("parallel_differential", "anyvit"), ("differential", "anyvit"),
    ("relpos_mlp_cls", "anyvit"), ("relpos_mlp_shared", "anyvit"), ("relpos_mlp_swin", "anyvit"),
]  # fmt: skip


@pytest.fixture(scope="module")
def timm(peers: None) -> Any:
    return pytest.importorskip("timm", reason="the peer is not installed")


@pytest.fixture(scope="module")
def made(timm: Any) -> dict[str, Any]:
    """Models made so far, one a variant and seed."""
    return {}


@pytest.fixture
def model(timm: Any, made: dict[str, Any]) -> Any:
    def get(variant: str, seed: int = 0) -> Any:
        key = f"{variant} {seed}"
        if key not in made:
            name, options = VARIANTS[variant]
            made[key] = shaken(timm.create_model(name, **{**SIZES, **options}), seed)
        return made[key]

    return get


def look(variant: str) -> torch.Tensor:
    height, width = (24, 40) if variant == "rectangle" else (48, 48)
    return pixels(height, width)


def grid(variant: str) -> dict[str, Any]:
    return {"grid": (3, 5)} if variant == "rectangle" else {}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_module_is_filled_from_its_own_names(model: Any, variant: str) -> None:
    source, target = model(variant), model(variant, 1)
    weights = snapshot(source)
    report = load_into(target, weights, heads=3, **grid(variant))
    assert_accounted(report, weights, target)
    assert {trail.fate for trail in report.trails} == {"carried"}
    with torch.no_grad():
        assert torch.equal(target(look(variant)), source(look(variant)))


@pytest.mark.parametrize(("variant", "dialect"), ROUNDABOUT)
def test_a_module_is_filled_from_other_names(model: Any, variant: str, dialect: str) -> None:
    source, target = model(variant), model(variant, 2)
    chunks = {"chunks": 2} if "chunked" in dialect else {}
    weights = said(source, dialect, heads=3, **grid(variant), **chunks)
    report = load_into(target, weights, heads=3, **grid(variant))
    assert_accounted(report, weights, target)
    with torch.no_grad():
        assert_close(target.forward_features(look(variant)), source.forward_features(look(variant)))


@pytest.mark.parametrize("variant", ["relpos_mlp", "relpos_mlp_cls", "relpos_mlp_shared", "relpos_mlp_swin"])
def test_relative_positions_of_an_mlp_follow_the_grid(model: Any, timm: Any, variant: str) -> None:
    """timm computes them anew for the size that a model is built with; the MLP's weights stay."""
    source = model(variant)
    name, options = VARIANTS[variant]
    wide = timm.create_model(name, **{**SIZES, **options, "img_size": (24, 40)}).eval()
    wide.load_state_dict(source.state_dict())
    vit = load(snapshot(source))
    with torch.no_grad():
        assert_close(vit(pixels(24, 40)).tokens, wide.forward_features(pixels(24, 40)))
        assert_close(vit(pixels(48, 48)).tokens, source.forward_features(pixels(48, 48)))


def test_two_attentions_in_a_block_are_refused_and_never_written(timm: Any, tmp_path: Path) -> None:
    source = timm.create_model("vit_small_patch16_18x2_224", **SIZES)
    report = inspect(snapshot(source))
    assert not report.ok and "two attentions" in str(report)
    with pytest.raises(Unsayable, match="timm-parallel-things"):
        convert(
            snapshot(timm.create_model("vit_base_patch16_224", **SIZES)),
            tmp_path / "a.pth",
            "timm-parallel-things",
            heads=3,
        )


def test_a_whole_dino_checkpoint_fills_a_module(model: Any, tmp_path: Path) -> None:
    source, target = model("plain"), model("plain", 7)
    weights = {n: t for n, t in snapshot(source).items() if not n.startswith("head.")}
    heads = {"head.mlp.0.weight": torch.ones(3, 96), "head.last_layer.weight_v": torch.ones(4, 3)}
    teacher = {**{f"backbone.{n}": t for n, t in weights.items()}, **heads}
    student = {f"module.{n}": t + 1 for n, t in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 7, "args": {"arch": "vit_base"}}, tmp_path / "c.pth")
    report = load_into(target, tmp_path / "c.pth", heads=3)
    assert ("head.weight", "head.bias") in [f.names for f in report.of("new")]
    assert report.fates["teacher.head.mlp.0.weight"] == "outside"
    with torch.no_grad():
        assert torch.equal(target.forward_features(look("plain")), source.forward_features(look("plain")))


def test_an_internvit_folder_fills_a_module(model: Any, tmp_path: Path) -> None:
    source, target = model("intern"), model("intern", 7)
    convert(snapshot(source), tmp_path / "InternViT", "internvit", heads=3)
    assert (tmp_path / "InternViT" / "config.json").exists()
    report = load_into(target, tmp_path / "InternViT")
    assert {trail.fate for trail in report.trails} == {"carried"}
    with torch.no_grad():
        assert torch.equal(target.forward_features(look("intern")), source.forward_features(look("intern")))


def test_clip_with_a_projection_fills_the_classifier(model: Any) -> None:
    source, target = model("clip"), model("clip", 3)
    with torch.no_grad():
        source.head.bias.zero_()
    weights = said(source, "openai-clip", heads=3)
    assert weights["visual.proj"].shape == (96, 5)
    report = load_into(target, weights, heads=3)
    assert_accounted(report, weights, target)
    with torch.no_grad():
        assert torch.equal(target(look("clip")), source(look("clip")))


def test_a_final_norm_starts_the_norm_after_the_mean(timm: Any, model: Any) -> None:
    target = shaken(timm.create_model("vit_base_patch16_224", **{**SIZES, "global_pool": "avg", "num_classes": 0}), 1)
    source = {n: t for n, t in snapshot(model("plain")).items() if not n.startswith("head")}
    report = load_into(target, source, heads=3)
    assert torch.equal(target.fc_norm.weight, source["norm.weight"])
    assert any("norms after pooling" in f.cause for f in report.of("new"))
    assert_accounted(report, source, target)


def test_registers_of_the_file_need_a_place(model: Any) -> None:
    with pytest.raises(Unsayable, match="registers: 4 in the file, 0 in the module"):
        load_into(model("dinov2", 4), snapshot(model("dinov2_registers")), heads=3)
    with pytest.raises(Incomplete, match="registers: 0 in the file, 4 in the module"):
        load_into(model("dinov2_registers", 4), snapshot(model("dinov2")), heads=3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_opens_by_name(timm: Any, model: Any, variant: str, tmp_path: Path) -> None:
    source = model(variant)
    given = snapshot(source)
    size = {"image_size": 48} if variant.startswith("relpos") else {}
    report = convert(given, tmp_path / "out", "timm", heads=3, **grid(variant), **size)
    assert report.ok
    opened = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    if not {f.names for f in report.of("unsayable")} & {("eps",), ("act",)}:
        expected = expected_of(source, report)
        with torch.no_grad():
            assert_close(opened.forward_features(look(variant)), expected.forward_features(look(variant)))
    assert all(torch.equal(tensor, given[name]) for name, tensor in opened.state_dict().items() if name in given)


def expected_of(source: Any, report: Any) -> Any:
    """The source computing with the eps and activation that its bare weights are taken for."""
    from copy import deepcopy

    acts = {"gelu": torch.nn.GELU(), "gelu_tanh": torch.nn.GELU(approximate="tanh"), "silu": torch.nn.SiLU()}
    copy = deepcopy(source)
    for part in copy.modules():
        if hasattr(part, "eps"):
            part.eps = report.spec.eps
        if hasattr(part, "act") and report.spec.ffn == "mlp" and not isinstance(part.act, torch.nn.ReLU):
            part.act = acts[report.spec.act]
    return copy


@pytest.mark.parametrize(
    "variant", ["plain", "dinov2_registers", "dinov2_giant", "clip", "eva02_base", "dinov3", "beit"]
)
def test_a_file_loads_strictly(model: Any, variant: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    convert(snapshot(model(variant)), tmp_path / "out.safetensors", "timm", heads=3)
    target = model(variant, 5)
    target.load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.equal(target(look(variant)), model(variant)(look(variant)))


@pytest.mark.parametrize("variant", ["plain", "mean_without_cls"])
def test_an_npz_opens_by_timms_own_reader(model: Any, variant: str, tmp_path: Path) -> None:
    from timm.models.vision_transformer import _load_weights

    source, target = model(variant), model(variant, 6)
    weights = snapshot(source)
    if variant == "mean_without_cls":
        weights = {n.replace("fc_norm", "norm"): t for n, t in weights.items()}
    convert(weights, tmp_path / "out.npz", "google-npz", heads=3)
    if variant == "mean_without_cls":
        assert inspect(tmp_path / "out.npz").spec.num_cls == 0
        return
    _load_weights(target, str(tmp_path / "out.npz"))
    with torch.no_grad():
        assert_close(target(look(variant)), source(look(variant)), 1e-6)


@pytest.mark.parametrize(
    ("name", "variant"),
    [("vit_base_patch16_224", "plain"), ("vit_small_patch14_dinov2", "dinov2"), ("vit_base_patch16_224", "rectangle"),
     ("vit_base_patch16_224", "dinov2_giant"), ("vit_small_patch16_dinov3", "dinov3"),
     ("eva02_base_patch14_224", "eva02_base"), ("beit_base_patch16_224", "beit"),
     ("vit_base_patch16_siglip_224", "siglip"), ("deit_tiny_distilled_patch16_224", "distilled")],
)  # fmt: skip
def test_a_module_is_built_by_name(model: Any, name: str, variant: str) -> None:
    source = model(variant)
    built = build(f"timm:{name}", snapshot(source), heads=3, **grid(variant))
    assert not built.training
    assert not any(tensor.is_meta for tensor in (*built.parameters(), *built.buffers()))
    expected = expected_of(source, built.anyvit_report)
    with torch.no_grad():
        assert_close(built(look(variant)), expected(look(variant)))


def test_a_name_that_cannot_hold_the_model_is_refused(model: Any) -> None:
    with pytest.raises(Unsayable):
        build("timm:vit_base_patch16_224", snapshot(model("dinov3")), heads=3)


def test_a_module_is_built_in_the_type_that_is_asked_for(model: Any) -> None:
    built = build("timm:vit_base_patch16_224", snapshot(model("plain")), heads=3, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in built.parameters()} == {torch.bfloat16}
    assert torch.equal(built.norm.weight, model("plain").norm.weight.bfloat16())


def test_a_built_module_has_the_head_that_is_asked_for(model: Any) -> None:
    built = build("timm:vit_base_patch16_224", snapshot(model("plain")), heads=3, num_classes=9, image_size=32)
    assert built.head.weight.shape == (9, 96)
    assert not built.head.weight.any()
    assert built.pos_embed.shape == (1, 17, 96)
    assert tiny.pixels(32, 32).shape == (2, 3, 32, 32)
    assert built(tiny.pixels(32, 32)).shape == (2, 9)
