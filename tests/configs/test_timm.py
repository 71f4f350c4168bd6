"""timm's hub config.json: the table equals the installed timm, what is written opens there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyvit import configs, dialects, rules
from anyvit.configs import timm as ours
from anyvit.configs.rows import GATED
from anyvit.configs.timm_args import norm_word, registered, table
from anyvit.configs.timm_forms import FORMS
from anyvit.lazy import Checkpoint, from_array
from anyvit.spec import Rope, Spec

pytestmark = pytest.mark.usefixtures("peers")


def test_lines_for_clip_and_registers_are_as_timm_has_them() -> None:
    """timm's CLIP towers end in a classifier as wide as the joint space; its registers have no row in the table."""
    block = [
        f"{part}.{p}"
        for part in ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.fc1", "mlp.fc2")
        for p in ("weight", "bias")
    ]
    names = ["embed.patch.weight", "embed.cls", "embed.pos", "embed.pos_prefix", "norm.weight", "norm.bias"]
    names += [f"blocks.0.{name}" for name in block]
    clip = Spec(patch_size=32, image_size=224, pos_prefix=1, eps=1e-5, act="quick_gelu", pre_norm=True, patch_bias=False,
                projection_dim=512)  # fmt: skip
    line = configs.constructors(clip, [*names, "embed.norm.weight", "proj.weight"])["timm"]
    assert line == 'timm.create_model("vit_base_patch32_clip_quickgelu_224", num_classes=512)'
    dino = Spec(
        384, 12, 6, patch_size=14, image_size=518, mlp_dim=1536, pos_prefix=1, num_registers=4, layer_scale=True
    )
    more = ["embed.patch.bias", "embed.reg", "blocks.0.ls1", "blocks.0.ls2"]
    line = configs.constructors(dino, [*names, *more])["timm"]
    assert line == 'timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0)'


TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("timm", "vit_base_patch16_224", {"mlp_ratio": 2.5}),
    "layer scale": ("timm", "vit_base_patch16_224", {"init_values": 0.1, "in_chans": 5}),
    "dinov2": ("timm", "vit_small_patch14_reg4_dinov2", {"reg_tokens": 3}),
    "clip": ("timm", "vit_base_patch16_clip_quickgelu_224", {}),
    "siglip": ("timm", "vit_base_patch16_siglip_224", {}),
    "gap": ("timm", "vit_base_patch16_224", {"class_token": False, "global_pool": "avg", "act_layer": "gelu_tanh"}),
    "fc norm": ("timm", "vit_base_patch16_224", {"global_pool": "avg", "qkv_bias": False}),
    "qk norm": ("timm", "vit_base_patch16_224", {"qk_norm": True, "norm_layer": "rmsnorm"}),
    "not square": ("timm", "vit_base_patch16_224", {"img_size": [32, 48]}),
    "distilled": ("timm", "deit_small_distilled_patch16_224", {}),
    "swiglu packed": ("timm-glu", "vit_giant_patch14_dinov2", {"mlp_ratio": 4.0}),
    "aimv2": ("timm-swiglu", "aimv2_large_patch14_224", {"mlp_ratio": 2.5}),
    "beit": ("timm-beit", "beit_base_patch16_224", {}),
    "eva": ("timm-eva", "eva_giant_patch14_224", {}),
    "dinov3": ("timm-eva", "vit_small_patch16_dinov3", {"embed_dim": 96}),
    "pe": ("timm-eva-rope", "vit_pe_core_base_patch16_224", {"embed_dim": 64, "num_heads": 4, "img_size": 112}),
    "eva02": ("timm-eva-apart-swiglu", "eva02_base_patch14_224", {"embed_dim": 64, "num_heads": 4}),
}


def small(case: str) -> tuple[str, Any]:
    import timm
    import torch

    dialect, name, kwargs = MODELS[case]
    torch.manual_seed(0)
    model = timm.create_model(name, **{**TINY, **kwargs}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return dialect, model


def canonical(state: Mapping[str, Any], dialect: str) -> list[str]:
    tensors = {name: from_array(value.numpy(), name) for name, value in state.items()}
    run = rules.read(tensors, dialects.get(dialect), sizes={"k": 0})
    return [*run.tensors, *(["embed.pos"] if "pos_embed" in state else [])]


def spec_of(config: Mapping[str, Any], state: Mapping[str, Any], dialect: str) -> tuple[Spec, list[str]]:
    """Spec out of timm's own config, and what the tensors show besides."""
    read = configs.read(Checkpoint({}, "memory", siblings={"config.json": config}), dialect)
    assert not read.notes
    spec = replace(Spec(), **{name: fact.value for name, fact in read.facts.items()})
    names = canonical(state, dialect)
    (height, width), (p, q) = spec_size(spec.image_size), spec_size(spec.patch_size)
    rows = state["pos_embed"].shape[1] - (height // p) * (width // q) if "pos_embed" in state else 0
    names += ["embed.pos_prefix"] if rows else []
    dist = "dist_token" in state
    ffn = {"timm-glu": "glu_fused"}.get(dialect, "swiglu" if dialect.endswith("swiglu") else "mlp")
    spec = replace(
        spec, pos_prefix=rows, dist_token=dist, ffn=ffn, dialect=dialect, patch_norm="patch_embed.norm.weight" in state
    )
    if dist:
        spec = replace(spec, pool="cls+dist")
    if spec.pool == "map" and spec.pool_heads is None:
        spec = replace(spec, pool_heads=spec.num_heads, pool_mlp_dim=spec.mlp_dim)
    return spec, names


def spec_size(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


@pytest.mark.parametrize("case", sorted(MODELS))
def test_create_model_opens_what_is_written(case: str, tmp_path: Any) -> None:
    """timm's export → facts → Spec → our config beside the same weights → the same tensors and outputs in timm."""
    import timm
    import torch
    from safetensors.torch import save_file
    from timm.models._hub import save_config_for_hf

    dialect, model = small(case)
    save_config_for_hf(model, tmp_path / "theirs.json")
    config = json.loads((tmp_path / "theirs.json").read_text())
    state = model.state_dict()
    spec, names = spec_of(config, state, dialect)
    written = configs.write(spec, dialect, names)
    assert not written.unsaid
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(written.files["config.json"]))
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert {name: value.shape for name, value in again.state_dict().items()} == {n: v.shape for n, v in state.items()}
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    pixels = torch.randn(2, spec.in_chans, *spec_size(spec.image_size))
    with torch.no_grad():
        torch.testing.assert_close(again(pixels), model(pixels), atol=1e-5, rtol=1e-5)
    data = timm.data.resolve_model_data_config(again)
    assert (tuple(data["mean"]), data["crop_pct"], data["interpolation"]) == (
        spec.mean,
        spec.crop_pct,
        spec.interpolation,
    )


@pytest.mark.parametrize("case", sorted(MODELS))
def test_the_printed_line_builds_the_same_module(case: str, tmp_path: Any) -> None:
    import functools

    import timm
    from timm.models._hub import save_config_for_hf

    dialect, model = small(case)
    save_config_for_hf(model, tmp_path / "theirs.json")
    state = model.state_dict()
    spec, names = spec_of(json.loads((tmp_path / "theirs.json").read_text()), state, dialect)
    line = configs.constructors(spec, names)["timm"]
    built = eval(line, {"timm": timm, "functools": functools}).state_dict()
    assert {name: value.shape for name, value in built.items()} == {name: value.shape for name, value in state.items()}


def test_the_table_is_that_of_the_installed_timm() -> None:
    import timm

    if timm.__version__ != table()["timm"]:
        pytest.skip(f"the table was made with timm {table()['timm']}")
    for name in (
        "vit_base_patch16_224",
        "eva02_large_patch14_448",
        "vit_so400m_patch14_siglip_384",
        "vit_pe_core_base_patch16_224",
    ):
        cls, args = registered(name) or ("", {})
        model = timm.create_model(name, depth=1, num_classes=0)
        assert type(model).__name__ == cls
        assert model.embed_dim == args["embed_dim"]
        assert model.blocks[0].attn.num_heads == args["num_heads"]
        assert model.blocks[0].norm1.eps == norm_word(args["norm_layer"])[1]


def test_the_true_size_stands_in_model_args() -> None:
    config = {"architecture": "vit_base_patch16_224", "model_args": {"img_size": 64},
              "pretrained_cfg": {"input_size": [3, 224, 224], "fixed_input_size": True}}  # fmt: skip
    assert ours.read(config).facts["image_size"].value == 64
    del config["model_args"]
    assert ours.read(config).facts["image_size"].value == 224


def test_what_no_json_says_is_unsaid() -> None:
    written = configs.write(Spec(image_size=32, patch_size=8, pos_prefix=1, eps=1e-12), "timm")
    assert set(written.unsaid) == {"eps"}
    assert "1e-12" in written.unsaid["eps"]
    assert (
        "functools.partial(timm.layers.LayerNorm, eps=1e-12)"
        in configs.constructors(Spec(image_size=32, patch_size=8, pos_prefix=1, eps=1e-12))["timm"]
    )
    assert "qkv_bias" in configs.write(Spec(qkv_bias="qv", pos_prefix=1), "timm").unsaid
    assert "rope" in configs.write(Spec(rope=Rope(), pos_prefix=1), "timm").unsaid
    assert "pos_prefix" in configs.write(Spec(num_registers=4, pos_prefix=1), "timm").unsaid


def test_a_config_without_sense_gives_notes() -> None:
    assert "resnet50" in ours.read({"architecture": "resnet50"}).notes[0]
    read = ours.read({"architecture": "vit_base_patch16_224", "model_args": {"embed_dim": "x", "norm_layer": 3}})
    assert "embed_dim" not in read.facts and len(read.notes) >= 2
    assert ours.read({"architecture": 3}).notes and ours.read([]).notes


SPECS = st.builds(
    lambda heads, channels, **rest: Spec(num_heads=heads, embed_dim=heads * channels, **rest),
    heads=st.integers(1, 25),
    channels=st.sampled_from([8, 64, 72]),
    depth=st.integers(1, 40),
    patch_size=st.sampled_from([8, 14, (16, 8)]),
    image_size=st.sampled_from([224, (224, 448), 112]),
    in_chans=st.integers(1, 8),
    mlp_dim=st.integers(1, 9000),
    eps=st.sampled_from([1e-5, 1e-6, 1e-12]),
    act=st.sampled_from(["gelu", "gelu_tanh", "quick_gelu", "silu"]),
    ffn=st.sampled_from(["mlp", "swiglu", "swiglu_fused"]),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
    qkv_bias=st.sampled_from([True, False, "qv"]),
    qk_norm=st.sampled_from([False, "head", "full"]),
    layer_scale=st.booleans(),
    num_cls=st.integers(0, 1),
    num_registers=st.integers(0, 8),
    pre_norm=st.booleans(),
    patch_bias=st.booleans(),
    attn_norm=st.booleans(),
    mlp_norm=st.booleans(),
    num_classes=st.integers(0, 3),
    rope=st.sampled_from([None, Rope(100.0, coords="normalized", span="head"), Rope(layout="interleaved"),
                          Rope(layout="interleaved", coords="scaled", reference=16), Rope(layout="half"),
                          Rope(layout="interleaved", coords="index1", first="column")]),
    pos_embed=st.sampled_from(["learned", "sincos", "relpos", "none", "learned+rope", "rope"]),
    pool=st.sampled_from(["cls", "avg", "map", "none", "cls+avg"]),
    final_norm=st.sampled_from(["norm", "fc_norm", None, "both"]),
    window=st.sampled_from([None, 7, 14]),
    mean=st.sampled_from([(0.5, 0.5, 0.5), (0.1, 0.2, 0.3)]),
    crop_pct=st.sampled_from([0.875, 1.0]),
)  # fmt: skip


@pytest.mark.parametrize(
    "dialect", [name for name in FORMS if name not in ("timm-distilled", "timm-diff", "timm-relpos-rpn")]
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=SPECS)
def test_what_is_written_is_read_back(dialect: str, spec: Spec) -> None:
    written = configs.write(spec, dialect)
    config = json.loads(json.dumps(written.files["config.json"], allow_nan=False))
    read = configs.read(Checkpoint({}, "memory", siblings={"config.json": config}), dialect)
    assert not read.notes or written.unsaid
    rows = {row.field for row in FORMS[dialect].rows} | {"mean", "crop_pct", "num_classes"}
    for name in rows - written.unsaid.keys() - {"pos_prefix", "pool", "norm", "eps"}:
        value = getattr(spec, name)
        if name in ("pool_heads", "pool_mlp_dim", "rel_mlp_dim") or (name == "mlp_dim" and "ffn" in written.unsaid):
            continue
        if (
            name == "qkv_bias"
            and "qkv_bias" in FORMS[dialect].always
            and value not in FORMS[dialect].always["qkv_bias"]
        ):
            continue
        assert name in read.facts, name
        told = read.facts[name].value
        if name == "pos_embed":
            words = {"sincos": "learned", "relpos_shared": "relpos"}
            assert told.split("+")[0] == words.get(value.split("+")[0], value.split("+")[0]) or dialect != "timm"
            continue
        assert told == value, name
    for name in {"norm", "eps"} - written.unsaid.keys():
        assert read.facts[name].value == getattr(spec, name), name


def test_gated_words_are_one_thing() -> None:
    for word in GATED:
        spec = Spec(ffn=word, act="silu", pos_prefix=1, image_size=224)
        assert not configs.write(spec, "timm-glu").unsaid
        assert "ffn" in configs.write(spec, "timm").unsaid


def test_names_that_timm_loads_otherwise_are_not_chosen() -> None:
    """timm loads siglip names without their pool non-strictly, and resizes flexi and radio names bilinearly."""
    so400m = Spec(embed_dim=1152, depth=27, num_heads=16, mlp_dim=4304, patch_size=14, image_size=384)
    so400m = replace(so400m, num_cls=0, pool="avg")
    radio = Spec(embed_dim=1280, depth=32, num_heads=16, mlp_dim=5120, image_size=512, num_registers=9, final_norm=None)
    flexi = Spec(embed_dim=384, num_heads=6, mlp_dim=1536, image_size=240, num_cls=1, pos_prefix=0)
    for spec in (so400m, radio, flexi):
        name = configs.write(spec, "timm").files["config.json"]["architecture"]
        assert not any(word in name for word in ("siglip", "radio", "flexi")), name
