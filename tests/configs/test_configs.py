"""Rows, preprocessing, open_clip, provenance, and what of them has the last word."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit import configs
from anyvit.configs import open_clip, preprocess, rows, stamp
from anyvit.lazy import Checkpoint
from anyvit.spec import Rope, Spec


def test_the_readers_need_no_torch() -> None:
    code = (
        "import sys, anyvit.configs as c; from anyvit.spec import Spec; "
        "c.constructors(Spec(image_size=224)); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "False"


@given(product=st.integers(1, 20_000), of=st.integers(1, 6000))
def test_a_ratio_gives_the_width_that_the_peers_compute(product: int, of: int) -> None:
    assert int(of * rows.ratio(product, of)) == product


@pytest.mark.parametrize("bad", ["x", True, [], [1, 2, 3], -4, 0, 2.5, float("nan"), float("inf"), None, {"height": 3}])
def test_sizes_that_are_none(bad: Any) -> None:
    with pytest.raises(ValueError):
        rows.to_size(bad)


def test_settle_takes_what_names_show() -> None:
    names = [
        "blocks.0.attn.q.bias",
        "blocks.0.attn.v.bias",
        "blocks.0.ls1",
        "embed.cls",
        "norm.weight",
        "embed.patch.weight",
    ]
    spec = rows.settle(Spec(num_registers=4, pre_norm=True, pool="map", num_classes=9), names)
    assert (spec.qkv_bias, spec.layer_scale, spec.num_registers, spec.pre_norm, spec.patch_bias) == (
        "qv",
        True,
        0,
        False,
        False,
    )
    assert (spec.final_norm, spec.num_classes, spec.pool) == ("norm", 0, "none")
    assert rows.settle(Spec(num_registers=4), ["head.weight"]).num_registers == 4


@pytest.mark.parametrize(
    ("config", "crop"),
    [
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}, 0.875),
        ({"size": {"height": 224, "width": 224}}, 1.0),
        ({"size": 224, "do_resize": True}, 1.0),
        ({"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True}, 0.875),
        ({"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": False}, 1.0),
        ({"size": "x"}, None),
        ({"size": {"shortest_edge": 0}, "crop_size": 224}, None),
        ({"do_resize": False, "size": 224}, None),
    ],
)
def test_crops_of_image_processors(config: dict[str, Any], crop: float | None) -> None:
    facts = preprocess.read_hf(config).facts
    assert (facts["crop_pct"].value if crop else facts.get("crop_pct")) == crop


def test_a_processor_that_does_not_normalise() -> None:
    facts = preprocess.read_hf({"do_normalize": False, "image_mean": [0.5], "image_std": [0.5], "resample": 2}).facts
    assert (facts["mean"].value, facts["std"].value) == ((0.0,) * 3, (1.0,) * 3)


CLIPS = st.builds(
    lambda heads, **rest: Spec(embed_dim=heads * 64, num_heads=heads, patch_bias=False, pos_prefix=1, **rest),
    heads=st.integers(1, 20),
    depth=st.integers(1, 40),
    mlp_dim=st.integers(1, 9000),
    patch_size=st.sampled_from([14, 16]),
    image_size=st.sampled_from([224, (224, 448)]),
    eps=st.sampled_from([1e-5, 1e-6]),
    act=st.sampled_from(["gelu", "gelu_tanh", "quick_gelu"]),
    layer_scale=st.booleans(),
    pre_norm=st.booleans(),
    projection_dim=st.integers(1, 1024),
    pool=st.sampled_from(["cls", "avg", "none"]),
    final_norm=st.sampled_from(["norm", "fc_norm"]),
    pos_embed=st.sampled_from(["learned", "sincos"]),
    mean=st.sampled_from([(0.5, 0.5, 0.5), (0.1, 0.2, 0.3)]),
)


@settings(deadline=None)
@given(spec=CLIPS)
def test_open_clip_reads_back_what_is_written(spec: Spec) -> None:
    written = configs.write(spec, "open_clip")
    assert not written.unsaid
    config = json.loads(json.dumps(written.files["open_clip_config.json"]))
    read = configs.read(Checkpoint({}, "memory", siblings={"open_clip_config.json": config}), "open_clip")
    for name in {row.field for row in open_clip.ROWS} - {"layer_scale"} | {"mean"}:
        assert read.facts[name].value == getattr(spec, name), name
    assert ("layer_scale" in read.facts) == spec.layer_scale


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "quick_gelu"])
def test_open_clip_builds_the_tower(act: str) -> None:
    import open_clip as peer
    import torch

    spec = Spec(embed_dim=128, num_heads=2, depth=2, mlp_dim=200, patch_size=8, image_size=32, eps=1e-6, act=act,
                pre_norm=True, patch_bias=False, projection_dim=24, pos_prefix=1)  # fmt: skip
    names = ["blocks.0.attn.q.weight", "blocks.0.attn.q.bias", "blocks.0.attn.k.bias", "blocks.0.attn.out.bias",
             "blocks.0.mlp.fc2.bias", "embed.cls",
             "embed.norm.weight", "norm.weight", "proj.weight", "embed.pos_prefix"]  # fmt: skip
    tower = eval(configs.constructors(spec, names)["open_clip"], {"open_clip": peer})
    state = tower.state_dict()
    assert state["proj"].shape == (128, 24) and state["transformer.resblocks.1.mlp.c_fc.weight"].shape == (200, 128)
    block = tower.transformer.resblocks[0]
    assert (block.ln_1.eps, block.attn.num_heads) == (1e-6, 2)
    x = torch.linspace(-3, 3, 50)
    forms = {"gelu": lambda x: torch.nn.functional.gelu(x), "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
             "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh")}  # fmt: skip
    torch.testing.assert_close(block.mlp.gelu(x), forms[act](x))


@pytest.mark.usefixtures("peers")
def test_open_clips_own_configs() -> None:
    import open_clip as peer

    def facts(name: str) -> dict[str, Any]:
        config = {"model_cfg": peer.get_model_config(name), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        read = open_clip.read(config)
        assert not read.notes
        return {field: fact.value for field, fact in read.facts.items()}

    clip = facts("ViT-H-14")
    assert (clip["num_heads"], clip["mlp_dim"], clip["depth"], clip["projection_dim"]) == (16, 5120, 32, 1024)
    assert clip["act"] == "gelu"
    assert facts("ViT-B-32-quickgelu")["act"] == "quick_gelu"
    siglip = facts("ViT-SO400M-16-SigLIP2-384")
    assert (siglip["num_heads"], siglip["act"], siglip["pool"], siglip["image_size"]) == (16, "gelu_tanh", "map", 384)
    # timm registers the first SigLIP models with the erf form.
    assert facts("ViT-SO400M-14-SigLIP-384")["act"] == "gelu"
    assert "projection_dim" not in siglip
    gap = facts("ViT-B-16-SigLIP")
    assert (gap["pool"], gap["final_norm"]) == ("map", "norm")
    eva = facts("EVA02-L-14-336")
    assert (eva["eps"], eva["mlp_norm"], eva["rope"].reference, eva["projection_dim"]) == (1e-6, True, 16, 768)
    coca = facts("coca_ViT-B-32")
    assert (coca["pool_heads"], coca["pool_queries"], "pool" in coca) == (8, 256, False)
    assert open_clip.read({"model_cfg": {"vision_cfg": {"layers": [3, 4, 6, 3]}}}).notes


def test_the_spec_survives_in_metadata() -> None:
    spec = Spec(depth=3, rope=Rope(base=50.0, reference=16), image_size=(32, 48), global_blocks=(1, 2),
                resample={"mode": "bicubic"}, qkv_bias="qv", mean=(0.1, 0.2, 0.3), summary=(0, 2), dialect="timm",
                head_dim=48, final_norm=None)  # fmt: skip
    read = configs.read(Checkpoint({}, "safetensors", metadata={"anyvit.spec": stamp.to_json(spec)}))
    assert not read.notes and "dialect" not in read.facts
    assert replace(Spec(dialect="timm"), **{name: fact.value for name, fact in read.facts.items()}) == spec


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"depth": "x", "rope": {"base": 1, "evil": 2}, "eps": true}']
)
def test_foreign_metadata_gives_notes(text: str) -> None:
    read = stamp.read(text)
    assert read.notes and not read.facts


def test_the_last_word_and_the_contradiction() -> None:
    siblings = {"config.json": {"model_type": "vit", "layer_norm_eps": 1e-6, "num_attention_heads": 12},
                "preprocessor_config.json": {"image_mean": [0.5] * 3}}  # fmt: skip
    metadata = {"anyvit.spec": json.dumps({"eps": 1e-5})}
    read = configs.read(Checkpoint({}, "safetensors", siblings=siblings, metadata=metadata), "hf-vit")
    assert (read.facts["eps"].value, read.facts["eps"].source, read.facts["mean"].value) == (
        1e-5,
        "metadata anyvit.spec",
        (0.5,) * 3,
    )
    assert read.notes == ("eps: 1e-06 in config.json: layer_norm_eps, 1e-05 in metadata anyvit.spec",)


def test_a_folder_of_two_ecosystems() -> None:
    clip = {"model_cfg": {"embed_dim": 512, "vision_cfg": {"layers": 12, "width": 768}}}
    timm = {"architecture": "vit_base_patch16_clip_224", "model_args": {"act_layer": "quick_gelu"}}
    siblings = {"config.json": timm, "open_clip_config.json": clip}
    folder = Checkpoint({}, "safetensors", siblings=siblings)
    assert configs.read(folder, "timm").facts["act"].value == "quick_gelu"
    assert configs.read(folder, "open_clip").facts["act"].value == "gelu"


def test_siblings_of_another_kind_are_no_trouble() -> None:
    for config in (
        None,
        3,
        "x",
        [],
        {"architecture": None},
        {"model_cfg": 3},
        {"vision_cfg": None},
        {"args": {"cpe_max_size": 3}},
    ):
        configs.read(
            Checkpoint(
                {},
                "x",
                siblings={"config.json": config, "preprocessor_config.json": config, "open_clip_config.json": config},
            )
        )


def test_dialects_without_a_config_get_none() -> None:
    assert not configs.write(Spec(), "google-npz").files
    assert not configs.write(Spec(), "dinov2").files


def test_dinov2s_lines() -> None:
    spec = Spec(embed_dim=384, num_heads=6, mlp_dim=1536, patch_size=14, image_size=518, pos_prefix=1, layer_scale=True)
    assert (
        configs.constructors(spec)["dinov2"]
        == "vit_small(patch_size=14, img_size=518, init_values=1.0, block_chunks=0)"
    )
    giant = replace(
        spec, embed_dim=1536, depth=40, num_heads=24, mlp_dim=4096, ffn="swiglu_fused", act="silu", num_registers=4
    )
    assert configs.constructors(giant)["dinov2"] == (
        'vit_giant2(patch_size=14, img_size=518, ffn_layer="swiglufused", init_values=1.0, block_chunks=0, '
        "num_register_tokens=4)"
    )
    assert "dinov2" not in configs.constructors(replace(spec, eps=1e-12))
    assert "dinov2" not in configs.constructors(replace(spec, act="quick_gelu"))
    odd = configs.constructors(replace(spec, embed_dim=96, num_heads=3, depth=2, mlp_dim=200))["dinov2"]
    assert odd.startswith("DinoVisionTransformer(") and "mlp_ratio=2.08" in odd


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize(
    ("dialect", "changes"),
    [
        ("hf-vit", {}),
        ("hf-dinov2", {"layer_scale": True, "mlp_dim": 96}),
        ("hf-dinov2-with-registers", {"layer_scale": True, "num_registers": 3, "mlp_dim": 96}),
        ("hf-clip", {"pre_norm": True, "patch_bias": False, "act": "quick_gelu", "eps": 1e-5}),
        ("hf-ijepa", {"num_cls": 0, "pos_prefix": 0}),
        ("hf-siglip", {"num_cls": 0, "pos_prefix": 0, "pool": "map", "act": "gelu_tanh"}),
    ],
)
def test_the_printed_transformers_lines_build(dialect: str, changes: dict[str, Any]) -> None:
    import transformers

    spec = Spec(embed_dim=48, num_heads=3, depth=2, mlp_dim=80, patch_size=8, image_size=32, eps=1e-6, pos_prefix=1)
    spec = replace(spec, **changes)
    model = eval(configs.constructors(spec)[dialect], {"transformers": transformers})
    state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert sum(shape == (spec.mlp_dim, 48) for shape in state.values()) == 2 + (dialect == "hf-siglip") * (
        spec.pool == "map"
    )
    assert model.config.num_attention_heads == 3 and model.config.layer_norm_eps == spec.eps
    assert not any("pooler" in name for name in state)
    assert any("register" in name and shape == (1, 3, 48) for name, shape in state.items()) == (spec.num_registers == 3)


def test_lines_only_for_modules_that_can_hold_the_model() -> None:
    spec = Spec(image_size=224, pos_prefix=1)
    assert set(configs.constructors(spec)) == {"anyvit", "timm", "hf-vit", "dinov2"}
    assert set(configs.constructors(replace(spec, rope=Rope(base=77.0, layout="half"), pos_prefix=0))) == {"anyvit"}
    assert set(configs.constructors(replace(spec, condition="instantmesh"))) == {"anyvit"}


def test_heads_wider_than_the_model_are_no_heads() -> None:
    given = open_clip.read({"model_cfg": {"embed_dim": 8, "vision_cfg": {"width": 8, "head_width": 64}}})
    assert "num_heads" not in given.facts and any("head_width" in note for note in given.notes)
