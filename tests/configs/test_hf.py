"""Hugging Face configs: defaults equal the peer's, what is written is read back, the peer opens it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from conftest import SHARED, needs_shared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyvit import configs, dialects, rules
from anyvit.configs import hf
from anyvit.configs.hf_types import TYPES
from anyvit.configs.rows import GATED, settle
from anyvit.lazy import Checkpoint, from_array
from anyvit.spec import Rope, Spec

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("peers")
PEERS = [kind for kind in TYPES if kind != "intern_vit_6b"]


def peer_config(kind: str) -> Any:
    return getattr(transformers, TYPES[kind].config)


@pytest.mark.parametrize("kind", PEERS)
def test_defaults_are_the_peers(kind: str) -> None:
    theirs = peer_config(kind)().to_dict()
    ours = {key: list(v) if isinstance(v, tuple) else v for key, v in TYPES[kind].defaults.items()}
    found = {key: list(theirs[key]) if isinstance(theirs[key], tuple) else theirs[key] for key in ours}
    assert found == ours
    assert {row.key for row in TYPES[kind].rows} <= {*ours, "mlp_dim"}


@pytest.mark.parametrize("kind", PEERS)
def test_model_classes_exist(kind: str) -> None:
    for name in (TYPES[kind].model, TYPES[kind].classifier):
        assert not name or hasattr(transformers, name)


POSITIONS = ["learned", "sincos", "relpos", "relpos_shared", "none", "sincos_unstored", "learned+relpos_decomposed"]
SPECS = st.builds(
    lambda heads, channels, **rest: Spec(num_heads=heads, embed_dim=heads * channels, **rest),
    heads=st.integers(1, 25),
    channels=st.sampled_from([8, 32, 64, 72, 128]),
    depth=st.integers(1, 40),
    patch_size=st.sampled_from([8, 14, 16, (16, 8)]),
    image_size=st.sampled_from([224, 448, (224, 448), 112]),
    in_chans=st.integers(1, 8),
    mlp_dim=st.one_of(st.integers(1, 9000), st.sampled_from([768, 1536, 3072, 4096])),
    eps=st.sampled_from([1e-5, 1e-6, 1e-12, 3e-7]),
    act=st.sampled_from(["gelu", "gelu_tanh", "quick_gelu", "silu"]),
    ffn=st.sampled_from(["mlp", "swiglu", "swiglu_fused", "parallel_scaling"]),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
    qkv_bias=st.sampled_from([True, False, "qv"]),
    qk_norm=st.sampled_from([False, "head", "full"]),
    proj_bias=st.booleans(),
    mlp_bias=st.booleans(),
    layer_scale=st.booleans(),
    num_registers=st.integers(0, 8),
    rope=st.sampled_from([None, Rope(100.0, coords="normalized", span="head"), Rope(50.0, layout="interleaved")]),
    pos_embed=st.sampled_from(POSITIONS),
    window=st.sampled_from([None, 7, 14]),
    global_blocks=st.sampled_from([(), (2, 5)]),
    neck_dim=st.sampled_from([None, 256]),
    pool=st.sampled_from(["cls", "avg", "map", "attn_pool", "none"]),
    final_norm=st.sampled_from(["norm", "fc_norm", None, "both"]),
)  # fmt: skip


def told(name: str, value: Any) -> Any:
    """A value in the words in which a config tells it apart: a stored sin-cos table is a table."""
    if name == "ffn":
        return "gated" if value in GATED else value
    return "learned" if name == "pos_embed" and value == "sincos" else value


# Fields that a config tells through its model's class, or where no head depends on them.
LOOSE = ("pool", "final_norm", "num_classes")


@pytest.mark.parametrize("dialect", sorted(hf.DIALECTS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=SPECS)
def test_what_is_written_is_read_back(dialect: str, spec: Spec) -> None:
    written = configs.write(spec, dialect)
    config = json.loads(json.dumps(written.files["config.json"], allow_nan=False))
    read = configs.read(Checkpoint({}, "memory", siblings={"config.json": config}), dialect)
    assert not read.notes
    fields = {row.field for row in TYPES[hf.DIALECTS[dialect]].rows}
    for name in fields - written.unsaid.keys() - set(LOOSE):
        assert name in read.facts
        value = getattr(spec, name)
        assert told(name, read.facts[name].value) == told(name, value), name
    assert all(fact.how == "given" for fact in read.facts.values())


@pytest.mark.parametrize("kind", PEERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=SPECS)
def test_the_peers_config_class_takes_what_is_written(kind: str, spec: Spec) -> None:
    dialect = next(name for name, of in hf.DIALECTS.items() if of == kind)
    config = configs.write(spec, dialect).files["config.json"]
    made = peer_config(kind)(**{key: value for key, value in config.items() if key != "architectures"}).to_dict()
    for row in TYPES[kind].rows:
        if row.key in config:
            said = made[row.key]
            if row.key in ("image_size", "patch_size") and kind == "internvl_vision":
                continue
            assert (list(said) if isinstance(said, tuple) else said) == config[row.key]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(TYPES)))
def test_no_value_breaks_the_reader(data: st.DataObject, kind: str) -> None:
    keys = [row.key for row in TYPES[kind].rows]
    keys += [
        "architectures",
        "id2label",
        "num_labels",
        "projection_dim",
        "use_mean_pooling",
        "vision_config",
        "model_type",
    ]
    config = data.draw(st.dictionaries(st.sampled_from(keys), JSON, max_size=6))
    config.setdefault("model_type", kind)
    read = hf.read(config)
    assert all(fact.how == "given" for fact in read.facts.values())


def test_an_ill_typed_value_is_passed_over_with_a_note() -> None:
    read = hf.read(
        {"model_type": "vit", "hidden_size": "768", "num_attention_heads": True, "layer_norm_eps": float("nan")}
    )
    assert not {"embed_dim", "num_heads", "eps"} & read.facts.keys()
    assert [note.split(" ")[1] for note in read.notes] == ["hidden_size", "num_attention_heads", "layer_norm_eps"]
    assert read.facts["depth"].value == 12


def test_left_out_keys_take_the_classes_defaults() -> None:
    facts = hf.read({"model_type": "clip", "vision_config": {"hidden_size": 128}}).facts
    assert (facts["eps"].value, facts["eps"].source) == (1e-5, "default of CLIPVisionConfig")
    assert (facts["act"].value, facts["patch_size"].value) == ("quick_gelu", 32)
    assert facts["embed_dim"].source == "config.json: vision_config: hidden_size"


def test_a_language_models_keys_are_not_the_towers() -> None:
    config = {"model_type": "llava", "hidden_size": 4096, "num_attention_heads": 32, "rms_norm_eps": 1e-5,
              "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "projection_dim": 768}}  # fmt: skip
    facts = hf.read(config).facts
    assert (facts["embed_dim"].value, facts["num_heads"].value) == (1024, 16)
    assert "projection_dim" not in facts


def test_old_clip_configs_mean_vision_config_dict() -> None:
    config = {"model_type": "clip", "vision_config": {"patch_size": 32}, "vision_config_dict": {"patch_size": 14}}
    assert hf.read(config).facts["patch_size"].value == 14
    made = transformers.CLIPConfig(**{k: dict(v) for k, v in config.items() if k != "model_type"})
    assert made.vision_config.patch_size == 14


def test_an_undescribed_model_gives_the_usual_keys_only() -> None:
    config = {
        "model_type": "mystery",
        "hidden_size": 64,
        "patch_size": 8,
        "num_attention_heads": 4,
        "hidden_act": "gelu_new",
    }
    read = hf.read(config)
    assert {name: fact.value for name, fact in read.facts.items()} == {
        "embed_dim": 64, "patch_size": 8, "num_heads": 4, "act": "gelu_tanh"}  # fmt: skip
    assert "mystery" in read.notes[-1]
    assert not hf.read({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}).facts


def test_dinov2s_gated_mlp_uses_silu_whatever_hidden_act_says() -> None:
    facts = hf.read({"model_type": "dinov2", "hidden_size": 1536, "use_swiglu_ffn": True, "hidden_act": "gelu"}).facts
    assert (facts["act"].value, facts["mlp_dim"].value, facts["ffn"].value) == ("silu", 4096, "swiglu_fused")


def test_mlp_widths_that_a_whole_ratio_cannot_give_are_unsaid() -> None:
    assert "mlp_dim" in configs.write(Spec(embed_dim=96, num_heads=3, mlp_dim=160), "hf-dinov2").unsaid
    assert "mlp_dim" not in configs.write(Spec(embed_dim=96, num_heads=3, mlp_dim=192), "hf-dinov2").unsaid


def test_a_head_that_is_fed_otherwise_is_unsaid() -> None:
    spec = Spec(num_classes=5, pool="avg")
    assert "pool" in configs.write(spec, "hf-vit", ["head.weight"]).unsaid
    assert "pool" not in configs.write(spec, "hf-vit", ["norm.weight"]).unsaid


@needs_shared
def test_real_folders() -> None:
    def facts(path: str) -> dict[str, Any]:
        config = json.loads((SHARED / path / "config.json").read_text())
        return {name: fact.value for name, fact in hf.read(config).facts.items()}

    vit = facts("cases/hf-vit-p")
    assert (vit["num_heads"], vit["mlp_dim"], vit["eps"], vit["num_classes"], vit["pool"]) == (3, 160, 1e-12, 7, "cls")
    dinov3 = facts("cases/hf-dinov3-p")
    assert (dinov3["qkv_bias"], dinov3["ffn"], dinov3["num_registers"], dinov3["eps"]) == ("qv", "swiglu", 3, 1e-5)
    assert dinov3["rope"].base == 100.0
    chat = facts("cases/internvit-c")
    assert (chat["norm"], chat["qk_norm"], chat["qkv_bias"], chat["depth"]) == ("rmsnorm", "full", False, 4)
    assert facts("cases/internvit-a")["norm"] == "layernorm"
    dinov2 = facts("real/dinov2-small-hf")
    assert (dinov2["embed_dim"], dinov2["num_heads"], dinov2["mlp_dim"], dinov2["image_size"]) == (384, 6, 1536, 518)


TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 80, "image_size": 32,
        "patch_size": 8}  # fmt: skip
V2 = {key: value for key, value in TINY.items() if key != "intermediate_size"}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "hf-vit": ("ViTForImageClassification", {**TINY, "num_labels": 5, "hidden_act": "gelu_new"}, {}),
    "hf-dinov2": ("Dinov2Model", {**V2, "mlp_ratio": 3, "layer_norm_eps": 1e-5}, {}),
    "hf-dinov2-with-registers": ("Dinov2WithRegistersModel", {**V2, "use_swiglu_ffn": True}, {}),
    "hf-dinov3": ("DINOv3ViTModel", {**TINY, "num_register_tokens": 3}, {}),
    "hf-clip": ("CLIPVisionModelWithProjection", {**TINY, "projection_dim": 20}, {}),
    "hf-siglip": ("SiglipVisionModel", TINY, {}),
    "hf-ijepa": ("IJepaModel", TINY, {}),
    "hf-vit-mae": ("ViTMAEModel", TINY, None),
    "hf-vit-msn": ("ViTMSNModel", TINY, {}),
    "hf-beit": ("BeitModel", {**TINY, "use_relative_position_bias": True}, {}),
    "hf-aimv2": ("Aimv2VisionModel", TINY, {}),
}


@pytest.mark.parametrize("dialect", sorted(MODELS))
def test_from_pretrained_opens_what_is_written(dialect: str, tmp_path: Any) -> None:
    """Config → facts → Spec → config beside the same weights: nothing missing, the same function."""
    import torch

    name, kwargs, call = MODELS[dialect]
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**kwargs)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs/config.json").read_text())
    facts = hf.read(config).facts
    names = canonical(tmp_path / "theirs/model.safetensors", dialect)
    spec = settle(replace(Spec(), **{key: fact.value for key, fact in facts.items()}), names)
    if dialect == "hf-aimv2":
        spec = replace(spec, norm="rmsnorm", ffn="swiglu", norm_bias=False)
    if dialect == "hf-dinov3":
        spec = replace(spec, pos_embed="rope")
    written = configs.write(spec, dialect, names)
    assert not written.unsaid
    folder = tmp_path / "ours"
    folder.mkdir()
    for file, content in written.files.items():
        (folder / file).write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes((tmp_path / "theirs/model.safetensors").read_bytes())
    assert written.files["config.json"]["architectures"] == [name]
    again, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())
    if call is None:
        # It masks patches at random.
        return
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs, ours = model(pixels, **call), again.eval()(pixels, **call)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-6, rtol=1e-6)


def canonical(path: Any, dialect: str) -> list[str]:
    """Canonical names of a Hugging Face file."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        tensors = {name: from_array(file.get_tensor(name), name) for name in file.keys()}  # noqa: SIM118
    table = dialects.get(dialect)
    prefixes = ["", table.tower, table.root]
    runs = [rules.read(tensors, table, prefix) for prefix in dict.fromkeys(prefixes)]
    best = min(runs, key=lambda run: len(run.leftover))
    return list(best.tensors)


def test_the_peer_reads_the_preprocessor_config(tmp_path: Any) -> None:
    spec = Spec(image_size=48, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bilinear", crop_pct=0.75)
    for crop, edge in ((0.75, {"shortest_edge": 64}), (1.0, {"height": 48, "width": 48})):
        written = configs.write(replace(spec, crop_pct=crop), "hf-vit").files["preprocessor_config.json"]
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
        cls = getattr(transformers, written["image_processor_type"])
        made = cls.from_pretrained(tmp_path)
        assert {key: made.size[key] for key in edge} == edge
        assert (tuple(made.image_mean), int(made.resample)) == ((0.1, 0.2, 0.3), 2)
        read = configs.read(Checkpoint({}, "memory", siblings={"preprocessor_config.json": written}))
        assert {name: fact.value for name, fact in read.facts.items()} == {
            "mean": spec.mean, "std": spec.std, "interpolation": "bilinear", "crop_pct": crop}  # fmt: skip
