"""What is trained, at which rate."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are trained")

from support import adapting  # noqa: E402

import anyvit  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402
from anyvit.training import groups  # noqa: E402
from anyvit.training.heads import give_head  # noqa: E402

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_dim": 48, "image_size": 32}


def load(**options: Any) -> ViT:
    return anyvit.load(adapting.state(classes=4, registers=1, cls_row=False), heads=2, **options)


@pytest.mark.parametrize(("options", "names"), [
    ({}, set()),
    ({"num_classes": 5}, {"head.weight", "head.bias"}),
    ({"num_classes": anyvit.ClassMap([1, 0])}, set()),
    ({"num_classes": anyvit.ClassMap([1, -1])}, {"head.weight", "head.bias"}),
    ({"registers": 3}, {"embed.reg"}),
    ({"registers": 0}, set()),
    ({"in_chans": 5}, {"embed.patch.weight"}),
    ({"image_size": 24}, set()),
    ({"condition": anyvit.AdaLN(dim=7)}, {f"blocks.{i}.adaln.{p}" for i in (0, 1) for p in ("weight", "bias")}
     | {f"condition.{n}.{p}" for n in ("fc1", "fc2") for p in ("weight", "bias")}),
])  # fmt: skip
def test_new_parameters_are_told_by_the_report(options: dict[str, Any], names: set[str]) -> None:
    assert groups.new_parameters(load(**options)) == names


def test_a_model_from_nowhere_has_no_new_parameters_and_one_that_is_read_again_neither() -> None:
    assert not groups.new_parameters(ViT(Spec(**SMALL)))
    assert not groups.new_parameters(anyvit.load(load(condition=anyvit.AdaLN())))
    vit = ViT(Spec(**SMALL))
    assert give_head(vit, 3) is not None and groups.new_parameters(vit) == frozenset()


@pytest.mark.parametrize(("train", "some", "none"), [
    ("all", ["embed.cls", "blocks.0.attn.qkv.weight", "head.bias"], ["embed.mask"]),
    ("head", ["head.weight", "head.bias"], ["norm.weight", "blocks.2.mlp.fc2.bias", "embed.pos"]),
    ("new", ["embed.reg"], ["head.weight", "embed.cls"]),
    ("last:1", ["blocks.2.norm1.weight", "norm.bias", "head.weight", "embed.reg"], ["blocks.1.norm1.weight", "embed.cls"]),
    ("last:3", ["blocks.0.norm1.weight", "head.weight"], ["embed.cls", "embed.pos"]),
    ("last:9", ["blocks.0.norm1.weight", "head.weight"], ["embed.cls", "embed.pos"]),
    ("last:0", ["norm.bias", "head.weight"], ["blocks.2.norm1.weight", "embed.cls"]),
    (("blocks.1.", "norm."), ["blocks.1.norm1.weight", "norm.bias"], ["head.bias", "blocks.2.norm1.bias"]),
])  # fmt: skip
def test_what_is_chosen(train: Any, some: list[str], none: list[str]) -> None:
    vit = ViT(Spec(**SMALL, num_classes=2, num_registers=2, mask_token=True))
    picked = groups.chosen(vit, train, {"embed.reg"})
    assert set(some) <= set(picked) and not set(none) & set(picked)


def test_what_the_caller_froze_stays_frozen() -> None:
    vit = ViT(Spec(**SMALL, num_classes=2))
    vit.blocks[1].requires_grad_(False)
    assert not [n for n in groups.chosen(vit, "all") if n.startswith("blocks.1.")]


@pytest.mark.parametrize(("train", "words"), [("last:x", "last:N"), ("some", "last:N"), ("new", "nothing is left")])
def test_words_that_choose_nothing_are_refused(train: str, words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        groups.chosen(ViT(Spec(**SMALL)), train)


def test_rates_fall_layer_by_layer_and_new_ones_have_their_own() -> None:
    vit = ViT(Spec(**SMALL, num_classes=2, num_registers=2))
    names = groups.chosen(vit, "all")
    made = groups.groups(vit, names, lr=1e-3, new={"embed.reg", "head.weight", "head.bias"}, new_lr=0.5,
                         layer_decay=0.5, weight_decay=0.1)  # fmt: skip
    rate = {name: group.lr for group in made for name in group.names}
    decay = {name: group.weight_decay for group in made for name in group.names}
    assert sorted(rate) == sorted(names) and sum(len(g.names) for g in made) == len(names)
    assert rate["norm.weight"] == 1e-3
    assert [rate[f"blocks.{i}.mlp.fc1.weight"] for i in range(3)] == [1e-3 / 8, 1e-3 / 4, 1e-3 / 2]
    assert rate["embed.patch.weight"] == rate["embed.pos"] == 1e-3 / 16
    assert rate["embed.reg"] == rate["head.bias"] == 0.5
    decaying = {n for n, value in decay.items() if value}
    assert decaying == {n for n, p in vit.named_parameters() if p.ndim > 1 and n.endswith("weight")}
    assert "embed.pos" not in decaying and "embed.patch.weight" in decaying
    ten = groups.groups(vit, names, lr=1e-3, new={"embed.reg"})
    assert {g.lr for g in ten if g.layer is None} == {1e-2}


def test_the_optimizer_gets_these_rates() -> None:
    vit = ViT(Spec(**SMALL))
    made = groups.groups(vit, groups.chosen(vit, "all"), lr=1e-3, layer_decay=0.5)
    optimizer = groups.optimizer(vit, made)
    assert [g["base"] for g in optimizer.param_groups] == [g.lr for g in made]
    held = dict(vit.named_parameters())
    assert all(p["params"][0] is held[g.names[0]] for p, g in zip(optimizer.param_groups, made, strict=True))


def test_only_restores_and_keeps_a_missing_key_bias_at_zero() -> None:
    vit = ViT(Spec(**SMALL, qkv_bias="qv"))
    vit.blocks[0].norm1.weight.requires_grad_(False)
    bias = vit.blocks[1].attn.qkv.bias
    with groups.only(vit, groups.chosen(vit, "all")):
        assert not vit.blocks[0].norm1.weight.requires_grad and bias.requires_grad
        torch.nn.functional.normalize(vit(torch.randn(2, 3, 32, 32)).tokens, dim=-1)[..., 0].sum().backward()
        assert bias.grad[:32].any() and bias.grad[64:].any() and not bias.grad[32:64].any()
    assert bias.grad is None and not bias._backward_hooks
    assert not vit.blocks[0].norm1.weight.requires_grad and vit.blocks[0].norm2.weight.requires_grad
