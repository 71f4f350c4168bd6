"""What a module computes is read off it; names that wrappers changed lead back to the module's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="modules need torch")

from support.modules import ConditionedViT, Dino, Holder  # noqa: E402
from support.peers import state  # noqa: E402

from anyvit.api import load  # noqa: E402
from anyvit.module import checkpoint_of, facts_of, real_names, submodule  # noqa: E402


def values(module: Any, prefix: str = "") -> dict[str, Any]:
    facts = facts_of(module, prefix)
    assert all(fact.how == "given" and type(module).__name__ in fact.source for fact in facts.values())
    return {name: fact.value for name, fact in facts.items()}


def test_layers_say_eps_heads_activation_patch_and_grid() -> None:
    assert values(Dino(heads=3, grid=(3, 5), patch=2)) == {
        "eps": 1e-6, "num_heads": 3, "act": "gelu", "patch_size": 2, "grid": (3, 5),
    }  # fmt: skip


def test_the_eps_is_that_of_the_blocks() -> None:
    module = Dino()
    module.norm.eps = 1e-3
    assert values(module)["eps"] == 1e-6


def test_a_config_has_the_last_word() -> None:
    module = ConditionedViT()
    config = {"num_attention_heads": 4, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "image_size": [32, 48],
              "patch_size": 16}  # fmt: skip
    module.config = SimpleNamespace(vision_config=SimpleNamespace(**config))
    found = values(module)
    assert found["num_heads"] == 4 and found["eps"] == 1e-5 and found["act"] == "quick_gelu"
    assert found["grid"] == (2, 3) and found["image_size"] == (32, 48)


def test_an_activation_nobody_knows_keeps_its_name() -> None:
    module = ConditionedViT()
    module.config = SimpleNamespace(hidden_act="relu6")
    assert values(module)["act"] == "relu6"


def test_the_tanh_form_is_told_from_the_exact_one() -> None:
    module = Dino()
    for block in module.blocks:
        block.mlp.act = torch.nn.GELU(approximate="tanh")
    assert values(module)["act"] == "gelu_tanh"


def test_our_own_model_says_its_spec() -> None:
    found = values(load(state(grid=(2, 3)), heads=2, grid=(2, 3)))
    assert found["num_heads"] == 2 and found["grid"] == (2, 3)


def test_a_tower_is_found_by_its_prefix() -> None:
    inner = Dino()
    module = Holder(visual=Holder(_orig_mod=Holder(trunk=inner)))
    assert submodule(module, "visual.trunk.") is inner
    assert submodule(module, "visual.nothing.").__class__ is Holder
    assert submodule(module, "") is module


def test_names_lead_back_to_the_module() -> None:
    module = Holder(_orig_mod=Dino())
    checkpoint = checkpoint_of(module)
    real = real_names(checkpoint)
    assert real["blocks.1.attn.qkv.bias"] == "_orig_mod.blocks.1.attn.qkv.bias"
    assert sorted(real.values()) == sorted(module.state_dict())


@torch.no_grad()
def test_our_own_model_brings_its_spec_and_its_changes_along() -> None:
    from anyvit.model import ViT
    from anyvit.provenance import provenance
    from anyvit.spec import Spec

    spec = Spec(embed_dim=16, depth=2, num_heads=4, mlp_dim=16, patch_size=4, image_size=(12, 20), eps=0.1, act="quick_gelu",
                num_cls=0, pool="avg", pos_embed="sincos_unstored", mean=(0.1, 0.2, 0.3), resample="radio")  # fmt: skip
    vit = ViT(spec).eval()
    back = load(vit)
    picture = torch.randn(2, 3, 12, 20)
    assert torch.equal(back(picture).tokens, vit(picture).tokens)
    fields = ("num_heads", "eps", "act", "pos_embed", "mean", "resample", "pool")
    assert [getattr(back.spec, field) for field in fields] == [getattr(spec, field) for field in fields]
    told = provenance(checkpoint_of(load(vit, registers=2)))["changes"]
    assert any("2 registers are new" in cause for _, _, cause in told)
    assert not checkpoint_of(Dino()).metadata
