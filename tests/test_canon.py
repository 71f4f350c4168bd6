from __future__ import annotations

from anyvit import canon
from anyvit.canon import NAMES, block_of, is_backbone, lookup, role

ROLES = {"embed", "attention", "mlp", "norm", "scale", "position", "pool", "head", "condition", "neck"}


def test_every_entry_is_whole() -> None:
    for name in NAMES:
        assert name.role in ROLES, name
        assert name.means, name
        assert all(len(letter) == 1 for letter in name.weight.split() + name.bias.split()), name


def test_no_name_stands_twice() -> None:
    patterns = [name.pattern for name in NAMES]
    assert len(set(patterns)) == len(patterns)


def test_lookup_knows_weights_and_biases_apart() -> None:
    assert lookup("blocks.3.mlp.fc1.weight") == (lookup("blocks.0.mlp.fc1.bias") or ("", ""))[:1] + ("m d",)
    assert (lookup("blocks.3.mlp.fc1.bias") or ("", ""))[1] == "m"
    assert (lookup("embed.patch.weight") or ("", ""))[1] == "d c p q"


def test_lookup_matches_whole_names_only() -> None:
    for name in ("blocks.norm1.weight", "xblocks.0.norm1.weight", "blocks.0.norm1.weight.x", "blocks.0.1.norm1.weight",
                 "blocks.{i}.norm1", "norm", "", "blocks.a.norm1.weight"):  # fmt: skip
        assert lookup(name) is None, name


def test_block_numbers() -> None:
    assert block_of("blocks.117.ls1") == 117
    assert block_of("pool.mlp.fc1.weight") is None
    assert block_of("decoder_blocks.1.norm1.weight") is None


def test_what_features_do_not_need_is_no_backbone() -> None:
    assert is_backbone("blocks.0.norm1.weight")
    assert is_backbone("pool.q.weight")
    assert not is_backbone("head.weight")
    assert not is_backbone("embed.mask")
    assert not is_backbone("decoder_embed.weight")
    assert role("decoder_embed.weight") == "other"
    assert role("blocks.5.ls2") == "scale"


def test_the_vocabulary_says_each_pattern_the_rules_can_spell() -> None:
    for pattern in (name.pattern for name in canon.NAMES):
        filled = pattern.replace("{i}", "12").replace("{p}", "weight")
        assert lookup(filled) is not None, pattern
