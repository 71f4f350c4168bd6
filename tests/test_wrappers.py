"""What training code puts around a state dict: the tower is found by fit, behind any prefix, in memory and on disk."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.toys import toy, under

from anyvit import api
from anyvit.errors import Ambiguous, BadArgument, NotAViT
from anyvit.model import ViT

State = Mapping[str, Any]
SMALL: dict[str, Any] = {"width": 64, "depth": 2, "mlp": 96}
WANTED = toy(0, **SMALL)
OTHER = toy(1, **SMALL)
THIRD = toy(2, **SMALL)


def holds(vit: ViT, state: State) -> bool:
    """Whether a loaded model has the values of a state dict, and of no other."""
    found = {name: value.numpy() for name, value in vit.state_dict().items()}
    pairs = {
        "embed.patch.weight": state["patch_embed.proj.weight"],
        "embed.pos": state["pos_embed"][0, 1:],
        "blocks.1.attn.qkv.weight": state["blocks.1.attn.qkv.weight"],
        "blocks.1.mlp.fc2.bias": state["blocks.1.mlp.fc2.bias"],
        "norm.weight": state["norm.weight"],
    }
    return all(np.array_equal(found[name], value) for name, value in pairs.items())


def infix(word: str, state: State, place: str) -> dict[str, Any]:
    """A component that a wrapper puts behind some component of every name in the blocks."""
    return {name.replace(place, f"{place}{word}.", 1): value for name, value in state.items()}


def heads(prefix: str) -> dict[str, Any]:
    """The projection head of self-supervised training beside a tower."""
    draw = np.random.default_rng(9).standard_normal
    return {
        prefix + "mlp.0.weight": draw((32, 64), "float32"),
        prefix + "last_layer.weight_v": draw((50, 32), "float32"),
    }


def moments() -> dict[str, Any]:
    names = list(WANTED)
    state = {
        i: {"step": torch.tensor(1.0), "exp_avg": 0 * WANTED[n], "exp_avg_sq": 0 * WANTED[n]}
        for i, n in enumerate(names)
    }
    return {"state": state, "param_groups": [{"lr": 0.1, "params": list(range(len(names)))}]}


ONE: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: dict(WANTED),
    "module.": lambda: under("module.", WANTED),
    "module.module.": lambda: under("module.module.", WANTED),
    "_orig_mod.": lambda: under("_orig_mod.", WANTED),
    "module._orig_mod.": lambda: under("module._orig_mod.", WANTED),
    "_orig_mod.module.": lambda: under("_orig_mod.module.", WANTED),
    "backbone.": lambda: {**under("backbone.", WANTED), **heads("head.")},
    "net": lambda: {"net": dict(WANTED), "acc": 91.2, "epoch": 7},
    "ema": lambda: {"ema": dict(WANTED), "steps": 10},
    "model_ema": lambda: {"model_ema": dict(WANTED)},
    "model_state_dict": lambda: {"model_state_dict": dict(WANTED), "optimizer_state_dict": moments(), "epoch": 3},
    "deepspeed": lambda: {"module": dict(WANTED), "ds_version": "0.14", "dp_world_size": 8, "optimizer": None},
    "lightning": lambda: {
        "state_dict": {**under("model.", WANTED), "criterion.center": np.zeros((1, 8), "float32")},
        "hyper_parameters": {"lr": 1e-3, "name": "vit"}, "pytorch-lightning_version": "2.2.0",
        "optimizer_states": [moments()], "callbacks": {},
    },
    "model teacher.backbone": lambda: {"model": {**under("teacher.backbone.", WANTED), **heads("teacher.dino_head.")}},
    "fsdp": lambda: under("_fsdp_wrapped_module.", infix("_fsdp_wrapped_module", WANTED, "blocks.1.")),
    "fsdp in the middle": lambda: under("net.", infix("_fsdp_wrapped_module", WANTED, "blocks.")),
    "activation checkpointing": lambda: infix("_checkpoint_wrapped_module", WANTED, "blocks.0."),
    "fsdp and checkpointing": lambda: infix("_fsdp_wrapped_module._checkpoint_wrapped_module", WANTED, "blocks.1."),
    "compiled blocks": lambda: infix("_orig_mod", infix("_orig_mod", WANTED, "blocks.0."), "blocks.1."),
    "fabric": lambda: under("_forward_module.module.", WANTED),
    "vision tower of a language model": lambda: {
        **under("model.vision_tower.vision_tower.vision_model.", WANTED),
        "model.language_model.layers.0.self_attn.q_proj.weight": np.zeros((8, 8), "float32"),
        "model.mm_projector.0.weight": np.zeros((8, 64), "float32"),
        "lm_head.weight": np.zeros((20, 8), "float32"),
    },
    "clip-like": lambda: {
        **under("clip.visual.", WANTED), "clip.transformer.resblocks.0.ln_1.weight": np.ones(32, "float32"),
        "clip.logit_scale": np.zeros((), "float32"),
    },
    "dots in a key": lambda: {"encoder.v1": dict(WANTED)},
    "submodule names that end in module": lambda: under("submodule.", WANTED),
}  # fmt: skip
"""Files with one weight set."""

SEVERAL: dict[str, tuple[Callable[[], dict[str, Any]], str, dict[str, State]]] = {
    "dino": (
        lambda: {
            "student": {**under("module.backbone.", OTHER), **heads("module.head.")},
            "teacher": {**under("backbone.", WANTED), **heads("head.")},
            "optimizer": moments(), "epoch": 5, "args": Namespace(lr=0.1, momentum_teacher=0.996),
        }, "teacher.backbone.", {"student": OTHER, "teacher": WANTED},
    ),
    "dinov2 training": (
        lambda: {"model": {**under("student.backbone.", OTHER), **under("teacher.backbone.", WANTED)}},
        "model.teacher.backbone.", {"student": OTHER, "teacher": WANTED, "model.student.backbone": OTHER},
    ),
    "deit": (lambda: {"model": dict(WANTED), "model_ema": dict(OTHER)}, "model.", {"model_ema": OTHER, "model": WANTED}),
    "timm": (
        lambda: {"state_dict": dict(OTHER), "state_dict_ema": dict(WANTED)},
        "state_dict_ema.", {"state_dict": OTHER, "state_dict_ema": WANTED},
    ),
    "model and ema": (lambda: {"model": dict(OTHER), "ema": dict(WANTED)}, "ema.", {"model": OTHER, "ema": WANTED}),
    "i-jepa": (
        lambda: {"encoder": under("module.", OTHER), "target_encoder": under("module.", WANTED)},
        "target_encoder.module.", {"encoder": OTHER, "target_encoder": WANTED, "target_encoder.module.": WANTED},
    ),
    "moco": (
        lambda: {"state_dict": {**under("module.base_encoder.", WANTED), **under("module.momentum_encoder.", OTHER)}},
        "state_dict.module.base_encoder.", {"momentum_encoder": OTHER, "base_encoder": WANTED},
    ),
    "three": (
        lambda: {"student": dict(OTHER), "teacher": dict(WANTED), "ema": dict(THIRD)},
        "teacher.", {"student": OTHER, "teacher": WANTED, "ema": THIRD},
    ),
    "top level and ema": (
        lambda: {**OTHER, **under("ema.", WANTED)}, "ema.", {"": OTHER, "ema": WANTED},
    ),
    "jax optimizer": (
        lambda: {**under("params.", WANTED), **under("opt.0.mu.", OTHER), **under("opt.0.nu.", THIRD)},
        "params.", {"params": WANTED},
    ),
}  # fmt: skip
"""Files with several: what is in them, the prefix that is read by default, and what each word reads."""


def tensors(value: Any) -> Any:
    """The same nesting with torch tensors, as torch.save gets it."""
    if isinstance(value, dict):
        return {key: tensors(item) for key, item in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wrapped")


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "file"])
def test_the_tower_is_found_whatever_stands_around_it(name: str, on_disk: bool, folder: Path) -> None:
    source: Any = ONE[name]()
    if on_disk:
        source, content = folder / f"{name.replace('.', '-')}.pth", tensors(source)
        torch.save(content, source)
    report = api.inspect(source)
    assert report.ok and report.match is not None and not report.weight_sets, report
    assert report.match.dialect.name in (
        "timm",
        "dino",
        "dinov2",
        "deit",
    )  # one spelling; what else the file holds tells whose
    vit = api.load(source)
    assert holds(vit, WANTED) and not holds(vit, OTHER)
    assert vit.report is not None and vit.report.match is not None
    assert vit.report.match.prefix == report.match.prefix


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "file"])
def test_of_several_weight_sets_the_evaluated_one_is_read(name: str, on_disk: bool, folder: Path) -> None:
    make, prefix, _ = SEVERAL[name]
    source: Any = make()
    if on_disk:
        source, content = folder / f"several-{name.replace('.', '-')}.pth", tensors(source)
        torch.save(content, source)
    report = api.inspect(source)
    assert report.ok and report.match is not None
    assert report.match.prefix == prefix
    assert holds(api.load(source), WANTED)
    if name != "jax optimizer":
        (finding,) = report.of("weights")
        assert prefix in finding.cause and finding.names == report.weight_sets
        assert finding.remedy is not None and "weights=" in finding.remedy


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, (_, _, words) in SEVERAL.items() for word in words])
def test_a_word_of_the_prefix_picks_a_weight_set(name: str, word: str) -> None:
    make, _, words = SEVERAL[name]
    vit = api.load(make(), weights=word)
    assert holds(vit, words[word])
    assert not any(holds(vit, state) for state in (WANTED, OTHER, THIRD) if state is not words[word])


@pytest.mark.parametrize("name", [name for name in SEVERAL if name != "jax optimizer"])
def test_the_remedy_of_the_finding_works(name: str) -> None:
    make, prefix, _ = SEVERAL[name]
    (finding,) = api.inspect(make()).of("weights")
    assert finding.remedy is not None
    word = finding.remedy.split('"')[1]
    again = api.inspect(make(), weights=word)
    assert again.ok and again.match is not None and again.match.prefix in finding.names
    assert again.match.prefix != prefix


@pytest.mark.parametrize("verb", [api.inspect, api.load])
@pytest.mark.parametrize("word", ["encode", "target", "teach", "TEACHER", "momentum", "ema.model"])
def test_an_unknown_word_raises_and_lists_those_there_are(verb: Callable[..., Any], word: str) -> None:
    make, _, _ = SEVERAL["i-jepa"]
    with pytest.raises(BadArgument) as caught:
        verb(make(), weights=word)
    text = str(caught.value)
    assert repr(word) in text and "target_encoder" in text and "encoder," in text.replace("target_encoder,", "")


def test_encoder_never_means_target_encoder() -> None:
    only_target = {"target_encoder": dict(WANTED)}
    assert api.load(only_target, weights="target_encoder") is not None
    with pytest.raises(BadArgument, match="encoder"):
        api.load(only_target, weights="encoder")


def test_a_word_that_fits_several_sets_takes_the_preferred_one_and_says_so() -> None:
    make, _, _ = SEVERAL["dino"]
    report = api.inspect(make(), weights="backbone")
    assert report.match is not None and report.match.prefix == "teacher.backbone."
    assert report.of("weights")


def test_a_word_that_fits_two_equal_towers_asks_which() -> None:
    source = {"net": {"left": dict(WANTED), "right": dict(OTHER)}}
    with pytest.raises(Ambiguous, match=r"net\.left\..*net\.right\."):
        api.load(source, weights="net")


@pytest.mark.parametrize("depth", [2, 3, 12])
def test_two_different_encoders_are_a_question(depth: int) -> None:
    """As in language models that look through two towers; neither's size answers it."""
    second = toy(1, width=128, depth=depth)
    source = {**under("vision_backbone.featurizer.", WANTED), **under("vision_backbone.fused_featurizer.", second)}
    report = api.inspect(source)
    assert not report.ok
    with pytest.raises(Ambiguous) as caught:
        api.load(source)
    for word in ("featurizer.", "fused_featurizer.", "weights="):
        assert word in str(caught.value)
    assert holds(api.load(source, weights="featurizer"), WANTED)
    assert api.load(source, weights="fused_featurizer").spec.depth == depth
    assert api.load(source, weights="vision_backbone.fused_featurizer.").spec.embed_dim == 128


def test_one_tower_under_two_names_is_no_question() -> None:
    shared = tensors(WANTED)
    source = {**under("module.backbone.", shared), **under("encoder.trunk.", shared)}
    assert holds(api.load(source), WANTED)
    apart = {
        **under("module.backbone.", shared),
        **under("encoder.trunk.", tensors({k: v.copy() for k, v in WANTED.items()})),
    }
    assert api.inspect(apart).match is not None
    source["encoder.trunk.norm.bias"] = torch.zeros(64)
    with pytest.raises(Ambiguous):
        api.load({name.replace("module.", "one.").replace("encoder.", "two."): value for name, value in source.items()})


def test_moments_alone_are_no_model() -> None:
    """Adam's moments of JAX code bear exactly the model's names."""
    with pytest.raises(NotAViT, match="optimizer"):
        api.load(under("opt.0.mu.", WANTED))


def test_moments_are_never_preferred() -> None:
    bigger = {**toy(1, **{**SMALL, "depth": 6})}
    report = api.inspect({**under("opt/0/mu/", bigger), **under("params/", WANTED)})
    assert report.match is not None and report.match.prefix == "params/"
    assert report.spec is not None and report.spec.depth == 2


def test_what_wrappers_put_into_names_is_said() -> None:
    report = api.inspect(ONE["fsdp and checkpointing"]())
    (finding,) = (f for f in report.of("ignored") if "wrappers" in f.cause)
    assert finding.names == ("_fsdp_wrapped_module", "_checkpoint_wrapped_module")
    assert not [f for f in api.inspect(ONE["plain"]()).of("ignored") if "wrappers" in f.cause]


def test_the_middle_of_a_name_is_never_touched() -> None:
    """Code that replaces "module." everywhere turns submodule.norm into subnorm."""
    source = {**under("submodule.", WANTED), "submodule.my_orig_module.weight": np.zeros(3, "float32")}
    report = api.inspect(source)
    assert report.match is not None and report.match.prefix == "submodule."
    assert set(report.fates) == set(source)


def test_a_module_that_is_there_wrapped_and_plain_loses_no_tensor() -> None:
    source = {**under("net.", WANTED), **under("net._orig_mod.", OTHER)}
    report = api.inspect(source)
    assert len(report.fates) == len(source)
