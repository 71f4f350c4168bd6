from __future__ import annotations

import pytest

from anyvit.laws import check, writable
from anyvit.rules import Dialect, R, Rule

GOOD = R("ln.{i}.{p}", "blocks.{i}.norm1.{p}")


def faults(*rules: Rule) -> list[str]:
    return check(Dialect("mine", rules, source="here", title="Mine"))


def test_a_right_table_has_no_faults() -> None:
    assert faults(GOOD, R("ln.{i}.old", "blocks.{i}.norm1.weight", reads_only=True)) == []


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([R("a.{p}", "norn.{p}")], "norn.weight is no canonical name"),
        ([R("a.{p}", "blocks.{i}.norm1.{p}")], "binds no number on one side"),
        ([R("h{i}.a", "norm.weight")], "binds {'i'} on one side"),
        ([R("<a|b|c>", "blocks.0.<ls1|ls2>")], "the choices of both sides differ in number"),
        ([R("qkv.{i}", "blocks.{i}.attn.[q|k|v].bias")], "has a list and no axes pattern"),
        ([R("a", "embed.cls", "1 1 d -> d")], "gives embed.cls 1 axes, it has 2"),
        ([R("a", "embed.[pos_prefix|pos]", "(k+n) d -> k d, n 1 d")], "gives embed.pos_prefix 3 axes"),
        ([R("a.{i}", "blocks.{i}.attn.[q|k|v].weight", "(parts o) -> parts o")], "1 axes, it has 2"),
        ([R("a", "norm.weight", "a b -> a")], "name different axes"),
        ([R("a.{i", "norm.weight")], "does not close"),
        ([R("a", None)], "does not say why"),
        ([R("a", "../norm.weight")], "beside the tower"),
        ([GOOD, R("ln.{i}.weight", "blocks.{i}.norm2.weight")], "both match ln.N.weight"),
        ([GOOD, R("ln.3.weight", "norm.weight")], "both match"),
        ([R("../a.{p}", "head.{p}"), R("../a.bias", None, why="outside")], "both match a.bias"),
        ([GOOD, R("other.{i}.{p}", "blocks.{i}.norm1.{p}")], "both write blocks.N.norm1.weight"),
        ([R("a", "blocks.[i].attn.[q|k|v].bias", "l a b -> l a b")], "counts a list"),
    ],
)
def test_each_fault_is_told(rules: list[Rule], expected: str) -> None:
    assert any(expected in fault for fault in faults(*rules)), faults(*rules)


def test_rows_inside_and_beside_the_tower_may_have_the_same_name() -> None:
    assert faults(R("head.{p}", "head.{p}"), R("../head.{p}", None, why="outside")) == []


def test_a_table_says_what_it_is() -> None:
    assert check(Dialect("mine", ())) == ["the dialect has no source", "the dialect has no title"]


def test_what_a_table_can_write() -> None:
    rules = (GOOD, R("x", "norm.weight", reads_only=True), R("y", None, why="nothing"))
    assert writable(Dialect("mine", rules)) == ("blocks.0.norm1.weight", "blocks.0.norm1.bias")
