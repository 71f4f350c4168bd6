"""A module is recognised as a file would be; its grid is asked of it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="modules need torch")

from support.modules import Clip, Dino  # noqa: E402
from support.peers import state  # noqa: E402

from anyvit.api import load  # noqa: E402
from anyvit.errors import NotAViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402
from anyvit.target import contradictions, differences, recognise_module  # noqa: E402


def test_the_grid_of_a_module_is_its_own() -> None:
    # 3 × 5 and a row for cls are as many rows as 4 × 4 without one
    target = recognise_module(Dino(grid=(3, 5)))
    assert target.spec.grid == (3, 5)
    assert target.tensors["embed.pos_prefix"].shape == (1, 12)


def test_a_grid_that_does_not_fit_the_table_is_not_believed() -> None:
    module = Dino(grid=(3, 3))
    module.patch_embed.patches_resolution = (7, 7)
    assert recognise_module(module).spec.grid == (3, 3)


def test_dialect_prefix_and_facts() -> None:
    target = recognise_module(Clip())
    assert target.reading.match is not None and target.reading.match.prefix == "visual."
    assert target.spec.num_heads == 2 and target.spec.facts["num_heads"].how == "given"
    assert set(target.all) == set(target.module.state_dict())


def test_a_module_on_meta_is_recognised() -> None:
    with torch.device("meta"):
        target = recognise_module(Dino())
    assert target.spec.depth == 2


def test_a_module_with_adapters_is_recognised_and_a_broken_one_is_not() -> None:
    module = Dino()
    module.blocks[0].adapter = torch.nn.Linear(3, 3)
    assert recognise_module(module).spec.depth == 2
    module.blocks[1].attn.qkv = torch.nn.Identity()
    with pytest.raises(NotAViT, match=r"attn\.qkv\.weight"):
        recognise_module(module)


def test_differences_and_contradictions_are_other_things() -> None:
    target = recognise_module(load(state(), heads=2))
    spec = Spec(embed_dim=12, depth=2, mlp_dim=24, num_heads=3, act="quick_gelu", eps=1e-6, pos_prefix=1)
    assert differences(spec, target.spec) == []
    assert {f.names[0] for f in contradictions(spec, target, {})} == {"num_heads", "act"}
    assert not contradictions(target.spec, target, {})


def test_a_pool_that_differs_is_said_where_a_head_depends_on_it() -> None:
    module = Dino()
    module.global_pool = "avg"
    target = recognise_module(module)
    found = contradictions(target.spec, target, {"head.weight": target.tensors["norm.weight"]})
    assert [f.names for f in found] == [("pool",)]
    assert not contradictions(target.spec, target, {})
