"""Tables in torch's layouts, told in those of flax and Keras: every kind of layer gets its kernel's order."""

from __future__ import annotations

import pytest

from anyvit.dialects.timm import QKV
from anyvit.retold import CONV, DENSE, retold
from anyvit.tables import Rule

B = "blocks.{i}."


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (Rule("patch.{p}", "embed.patch.{p}"), {"patch.kernel": CONV, "patch.bias": None}),
        (Rule(B + "fc1.{p}", B + "mlp.fc1.{p}"), {B + "fc1.kernel": DENSE, B + "fc1.bias": None}),
        (
            Rule(B + "qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
            {B + "qkv.kernel": "i (parts o) -> parts o i", B + "qkv.bias": QKV},
        ),
        (Rule("ln.{p}", "norm.{p}"), {"ln.<scale|bias>": None}),
        (Rule("table.weight", "embed.pos"), {"table.embedding": None}),
        (Rule("gone.weight", None), {"gone.kernel": None}),
    ],
)
def test_a_layer_is_told_in_their_names_and_layout(rule: Rule, told: dict[str, str | None]) -> None:
    assert {row.theirs: row.axes for row in retold([rule], "scale|bias", "embedding", str)} == told


def test_names_are_spelt_as_asked() -> None:
    (row,) = retold([Rule("a.b.{p}", "norm.{p}")], "gamma|beta", "embeddings", lambda name: name.replace(".", "/"))
    assert row.theirs == "a/b/<gamma|beta>"


def test_a_layout_that_is_no_fusion_of_rows_is_not_guessed() -> None:
    with pytest.raises(AssertionError):
        list(retold([Rule(B + "fc1.{p}", B + "mlp.fc1.{p}", "i o -> o i")], "scale|bias", "embedding", str))
