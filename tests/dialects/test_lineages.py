"""Where weights come from: files of the same names that their projects treat differently, told apart by their keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.toys import DEPTH, MLP, WIDTH, toy, under

from anyvit.api import inspect, load
from anyvit.dialects import ALL, lineages
from anyvit.spec import Spec

State = dict[str, Any]


def saved(folder: Path, content: State, name: str = "x.pth") -> Path:
    path = folder / name
    torch.save({k: _torch(v) for k, v in content.items()}, path)
    return path


def _torch(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _torch(v) for k, v in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def random(*shape: int) -> np.ndarray:
    return (0.2 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype("float32")


def renamed(state: State, old: str, new: str) -> State:
    return {name.replace(old, new): value for name, value in state.items()}


def pooled(state: State) -> State:
    """With a norm after the mean in place of the final one."""
    return {("fc_" + name if name.startswith("norm.") else name): value for name, value in state.items()}


def eva(state: State) -> State:
    """Queries and values with a bias, keys without."""
    out = {name: value for name, value in state.items() if not name.endswith("attn.qkv.bias")}
    extra = {f"blocks.{i}.attn.{part}": random(WIDTH) for i in range(DEPTH) for part in ("q_bias", "v_bias")}
    return {**out, **extra}


def swapped(state: State) -> State:
    """iBOT's and EVA's spelling of LayerScale."""
    return renamed(renamed(state, "ls1.gamma", "gamma_1"), "ls2.gamma", "gamma_2")


def spec_of(path: Path, **ask: Any) -> Spec:
    report = inspect(path, **ask)
    assert report.ok and report.spec is not None, report
    return report.spec


HEADED = toy(classes=5)


@pytest.mark.parametrize(("content", "recipe", "lineage"), [
    ({"model": HEADED}, "deit", "deit"),
    ({"model": toy()}, "deit", "deit"),
    ({"model": HEADED, "model_ema": toy(1, classes=5), "epoch": 3}, "deit", "deit"),
    ({"model": under("module.", HEADED)}, "deit", "deit"),
    ({"model": pooled(HEADED)}, "mae", "mae-finetuned"),
    ({"state_dict": HEADED}, "timm", "timm"),
    (HEADED, "timm", "timm"),
    (toy(), "dino", "dino"),
    ({"state_dict": swapped(toy(layer_scale=True))}, "dino", "ibot"),
    ({"target_encoder": under("module.", toy()), "encoder": under("module.", toy(1))}, "msn", "msn"),
], ids=range(10))  # fmt: skip
def test_the_key_that_weights_lie_under_tells_the_project(
    tmp_path: Path, content: State, recipe: str, lineage: str
) -> None:
    spec = spec_of(saved(tmp_path, content))
    assert (spec.resample, spec.lineage) == (recipe, lineage)


def test_the_other_weight_set_has_the_same_lineage(tmp_path: Path) -> None:
    content = {"target_encoder": under("module.", toy()), "encoder": under("module.", toy(1))}
    assert spec_of(saved(tmp_path, content), weights="encoder").resample == "msn"


@torch.no_grad()
def test_deit_is_resized_without_antialias(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": HEADED})
    table = torch.from_numpy(HEADED["pos_embed"])[:, 1:].reshape(1, 4, 4, WIDTH).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(table, size=(3, 3), mode="bicubic", align_corners=False)
    vit = load(path, image_size=24)
    assert torch.allclose(vit.embed.pos, small.flatten(2).transpose(1, 2)[0], atol=1e-6)


def clip_tower(state: State) -> State:
    return {**under("visual.", state), "text.ln_final.weight": random(24), "logit_scale": random(1)}


@torch.no_grad()
def test_the_head_of_eva_clip_projects_and_that_of_eva_classifies(tmp_path: Path) -> None:
    pixels = torch.randn(1, 3, 32, 32)
    clip = load(saved(tmp_path, clip_tower(eva(HEADED)), "EVA01_CLIP_g_14.pt"))
    out = clip(pixels)
    assert clip.spec.dialect == "eva-clip-fused" and clip.spec.lineage == "eva-clip" and clip.spec.resample == "eva"
    weight, bias = torch.from_numpy(HEADED["head.weight"]), torch.from_numpy(HEADED["head.bias"])
    assert out.logits is None and torch.allclose(out.embedding, out.pooled @ weight.T + bias, atol=1e-5)
    classifier = load(saved(tmp_path, {"model": eva(pooled(HEADED))}, "eva_ft.pt"))
    out = classifier(pixels)
    assert classifier.spec.dialect == "eva" and classifier.spec.pool == "avg" and classifier.spec.resample == "eva"
    assert out.embedding is None and torch.allclose(out.logits, out.pooled @ weight.T + bias, atol=1e-5)


@torch.no_grad()
def test_eva_clip_pools_all_tokens(tmp_path: Path) -> None:
    vit = load(saved(tmp_path, clip_tower(eva(pooled(HEADED)))))
    out = vit(torch.randn(1, 3, 32, 32))
    assert vit.fc_norm is not None and torch.allclose(out.pooled, vit.fc_norm(out.prenorm.mean(1)), atol=1e-5)


@pytest.mark.parametrize(("file", "where"), [("EVA02_CLIP_E_psz14_s4B.pt", "post"), ("EVA01_CLIP_g_14.pt", "pre")])
def test_the_name_of_the_file_tells_eva_clip_enormous(tmp_path: Path, file: str, where: str) -> None:
    assert spec_of(saved(tmp_path, clip_tower(eva(HEADED)), file)).block_norm == where


def test_eva_clip_of_eight_billions_has_wide_heads(tmp_path: Path) -> None:
    state = {n: v for n, v in HEADED.items() if not (n.endswith("bias") and ("norm" in n or "qkv" in n))}
    spec = spec_of(saved(tmp_path, clip_tower(state)))
    assert (spec.dialect, spec.num_heads, spec.norm, spec.qkv_bias) == ("eva-clip-fused", 1, "rmsnorm", False)


def test_beit_resizes_its_absolute_table_too(tmp_path: Path) -> None:
    tables = {f"blocks.{i}.attn.relative_position_bias_table": random(52, 2) for i in range(DEPTH)}
    spec = spec_of(saved(tmp_path, {"model": {**eva(pooled(HEADED)), **tables}}))
    assert (spec.lineage, spec.resample, spec.rel_resample) == ("beit", "eva", "beit-geometric")


def clip_names(state: State) -> State:
    """The toy in OpenCLIP's names, without the norm before block 0."""
    out = {"visual.class_embedding": state["cls_token"][0, 0], "visual.positional_embedding": state["pos_embed"][0]}
    out["visual.conv1.weight"] = state["patch_embed.proj.weight"]
    out["visual.proj"] = random(WIDTH, 6)
    words = {"norm1": "ln_1", "norm2": "ln_2", "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    for name, value in state.items():
        if name.startswith("blocks."):
            for old, new in words.items():
                name = name.replace(old, new)
            out["visual.transformer." + name.replace("blocks.", "resblocks.")] = value
    return {**out, "visual.ln_post.weight": state["norm.weight"], "visual.ln_post.bias": state["norm.bias"]}


@torch.no_grad()
def test_clipa_norms_the_mean_of_its_patches(tmp_path: Path) -> None:
    vit = load(saved(tmp_path, clip_names(toy())))
    assert vit.spec.lineage == "open_clip-clipa" and vit.spec.final_norm == "fc_norm" and vit.fc_norm is not None
    out = vit(torch.randn(1, 3, 32, 32))
    assert torch.allclose(out.pooled, vit.fc_norm(out.prenorm[:, 1:].mean(1)), atol=1e-5)
    assert torch.equal(out.tokens, out.prenorm)


def mapped() -> State:
    """timm's attention pool."""
    d = WIDTH
    shapes = {"latent": (1, 1, d), "q.weight": (d, d), "q.bias": (d,), "kv.weight": (2 * d, d), "kv.bias": (2 * d,),
              "proj.weight": (d, d), "proj.bias": (d,), "norm.weight": (d,), "norm.bias": (d,),
              "mlp.fc1.weight": (MLP, d), "mlp.fc1.bias": (MLP,), "mlp.fc2.weight": (d, MLP), "mlp.fc2.bias": (d,)}  # fmt: skip
    return {f"attn_pool.{name}": random(*shape) for name, shape in shapes.items()}


@torch.no_grad()
def test_what_siglip_pools_is_its_embedding(tmp_path: Path) -> None:
    tower = {**toy(cls=False, rows=16), **mapped()}
    vit = load(saved(tmp_path, {**under("visual.trunk.", tower), "text.ln_final.weight": random(24)}))
    out = vit(torch.randn(1, 3, 32, 32))
    assert vit.spec.dialect == "open_clip-timm" and vit.spec.lineage == "open_clip-siglip"
    assert out.embedding is not None and torch.equal(out.embedding, out.pooled)
    alone = load(saved(tmp_path, tower))
    assert alone(torch.randn(1, 3, 32, 32)).embedding is None


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_linear_classifiers_of_dinov2(tmp_path: Path, layers: int) -> None:
    state = {**under("backbone.", toy(layer_scale=True)), "backbone.mask_token": random(1, WIDTH)}
    weight, bias = random(5, (layers + 1) * WIDTH), random(5)
    vit = load(saved(tmp_path, {**state, "linear_head.weight": weight, "linear_head.bias": bias}))
    pixels = torch.randn(1, 3, 32, 32)
    seen = vit.layers(pixels, list(range(DEPTH + 1 - layers, DEPTH + 1)), norm=True)
    joined = torch.cat([*(tokens[:, 0] for tokens in seen), seen[-1][:, 1:].mean(1)], -1)
    assert vit.spec.pool_layers == layers
    assert torch.allclose(vit(pixels).logits, joined @ torch.from_numpy(weight).T + torch.from_numpy(bias), atol=1e-5)


@torch.no_grad()
def test_the_linear_classifier_of_dinov3(tmp_path: Path) -> None:
    state = {n: v for n, v in toy(layer_scale=True).items() if n != "pos_embed"}
    state |= {"rope_embed.periods": 100.0 ** (np.arange(16, dtype="float32") / 16), "mask_token": random(1, WIDTH),
              "storage_tokens": random(1, 2, WIDTH)}  # fmt: skip
    weight, bias = random(5, 2 * WIDTH), random(5)
    vit = load(saved(tmp_path, {**under("backbone.", state), "linear_head.weight": weight, "linear_head.bias": bias}))
    out = vit(torch.randn(1, 3, 32, 32))
    joined = torch.cat((out.cls, out.patches.mean(1)), -1)
    assert vit.spec.dialect == "dinov3"
    assert torch.allclose(out.logits, joined @ torch.from_numpy(weight).T + torch.from_numpy(bias), atol=1e-5)


def test_the_summary_of_radio_around_dinov2_is_one_token() -> None:
    from anyvit.configs import args

    teachers = [{"name": name} for name in ("clip", "dino", "sam")]
    for model, summary in (("vit_base_patch16_224", (0, 1, 2)), ("dinov2_vitg14_reg_student", (0,))):
        given = args.read({"args": {"model": model, "cpe_max_size": 64, "teachers": teachers}})
        assert given.facts["summary"].value == summary


def test_flax_of_old_keeps_its_weights_as_the_target_of_an_optimizer() -> None:
    from anyvit.recognise import OPTIMIZER

    assert not OPTIMIZER.search("optimizer.target.") and not OPTIMIZER.search("opt/target/")
    assert OPTIMIZER.search("optimizer.state.") and OPTIMIZER.search("optim.exp_avg.") and OPTIMIZER.search("opt/0/1/")


def flax(state: State) -> State:
    """A big_vision tower without positions, pooled by the mean, 2 heads."""
    t, e = "Transformer/", "Transformer/encoderblock_{}/"
    out = {"embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0), "embedding/bias": random(WIDTH),
           t + "encoder_norm/scale": random(WIDTH), t + "encoder_norm/bias": random(WIDTH),
           "head/kernel": random(WIDTH, 6), "head/bias": random(6)}  # fmt: skip
    for i in range(DEPTH):
        at = e.format(i) + "MultiHeadDotProductAttention_0/"
        for part in ("query", "key", "value"):
            out |= {f"{at}{part}/kernel": random(WIDTH, 2, WIDTH // 2), f"{at}{part}/bias": random(2, WIDTH // 2)}
        out |= {at + "out/kernel": random(2, WIDTH // 2, WIDTH), at + "out/bias": random(WIDTH)}
        out |= {f"{e.format(i)}LayerNorm_{n}/{p}": random(WIDTH) for n in (0, 1) for p in ("scale", "bias")}
        for n, (rows, columns) in enumerate(((WIDTH, MLP), (MLP, WIDTH))):
            dense = f"{e.format(i)}MlpBlock_0/Dense_{n}/"
            out |= {dense + "kernel": random(rows, columns), dense + "bias": random(columns)}
    return out


@pytest.mark.parametrize(
    ("prefix", "dialect"), [("", "big_vision"), ("params/", "big_vision"), ("params/img/", "two_towers")]
)
@torch.no_grad()
def test_the_head_of_one_of_two_towers_is_a_projection(tmp_path: Path, prefix: str, dialect: str) -> None:
    state = flax(toy())
    np.savez(tmp_path / "x.npz", **under(prefix, state))
    vit = load(tmp_path / "x.npz")
    out = vit(torch.randn(1, 3, 32, 32))
    assert vit.spec.dialect == dialect and vit.spec.pos_embed == "sincos_unstored"
    expected = out.pooled @ torch.from_numpy(state["head/kernel"]) + torch.from_numpy(state["head/bias"])
    found, other = (out.embedding, out.logits) if dialect == "two_towers" else (out.logits, out.embedding)
    assert other is None and found is not None and torch.allclose(found, expected, atol=1e-5)


def croco(state: State) -> State:
    named = renamed({n: v for n, v in state.items() if n != "pos_embed"}, "blocks.", "enc_blocks.")
    return {("enc_" + n if n.startswith("norm.") else n): v for n, v in named.items()}


def test_croco_rotates_unless_its_positions_are_stored(tmp_path: Path) -> None:
    state = croco(toy(cls=False))
    assert spec_of(saved(tmp_path, {"model": state})).pos_embed == "rope"
    stored = {**state, "enc_pos_embed": random(16, WIDTH)}
    assert spec_of(saved(tmp_path, {"model": stored})).pos_embed == "learned"


def test_every_dialect_has_a_lineage() -> None:
    scene = lineages.Scene((), "", {}, "", "", 0)
    without = [d.name for d in ALL if lineages.lineage_of(d.name, scene, d.lineage) is lineages.UNKNOWN]
    assert not without
