from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvit.errors import BadArgument
from anyvit.lazy import Lazy, from_array
from anyvit.rules import Dialect, R, Rule, parent, read, respell, without, write

B = "blocks.{i}."
QKV = "(parts o) ... -> parts o ..."
TABLE = Dialect(
    "mine",
    (
        R("stem.{p}", "embed.patch.{p}"),
        R("pos", "embed.[pos_prefix|pos]", "1 (k+n) d -> k d, n d"),
        R(B + "ln_<1|2>.{p}", B + "<norm1|norm2>.{p}"),
        R(B + "qkv.{p}", B + "attn.[q|k|v].{p}", QKV),
        R(B + "w.{p}", B + "attn.out.{p}", reads_only=True),
        R(B + "o.{p}", B + "attn.out.{p}"),
        R("../cls.{p}", "head.{p}"),
        R("steps", None, why="a counter"),
    ),
)
SCANNED = Dialect("scanned", (R("block/scale", "blocks.[i].norm1.weight", "layers d -> layers d"),))


def ones(*shape: int, value: float = 1.0) -> Lazy:
    return from_array(np.full(shape, value, "float32"))


def test_every_class_of_a_run() -> None:
    tensors = {
        "net.stem.weight": ones(4, 3, 2, 2),
        "net.steps": ones(),
        "net.blocks.0.qkv.bias": ones(7),
        "net.blocks.0.unknown": ones(1),
        "net.pos": ones(1, 5, 4),
        "cls.bias": ones(9),
        "other.stem.weight": ones(1),
    }
    run = read(tensors, TABLE, "net.", {"k": 1})
    assert set(run.tensors) == {"embed.patch.weight", "embed.pos_prefix", "embed.pos", "head.bias"}
    assert set(run.used) == {"net.stem.weight", "net.pos", "cls.bias"}
    assert run.ignored == {"net.steps": "a counter"}
    assert run.leftover == ("net.blocks.0.unknown", "other.stem.weight")
    assert [fault.names for fault in run.faults] == [("net.blocks.0.qkv.bias",)]
    assert run.sizes["n"] == {4}
    assert not run.conflicts
    assert not run.partial


def test_parts_that_are_missing_are_named_under_their_prefix() -> None:
    run = write({B.format(i=3) + "attn.q.weight": ones(2, 2)}, TABLE)
    assert run.partial == {"blocks.3.attn.q.weight": ("blocks.3.attn.k.weight", "blocks.3.attn.v.weight")}
    assert not run.tensors
    apart = Dialect("apart", (R("h{i}.[q|k|v]", B + "attn.qkv", QKV),))
    partial = read({"net.h3.k": ones(2)}, apart, "net.").partial
    assert partial == {"net.h3.k": ("net.h3.q", "net.h3.v")}


def test_three_sources_of_one_tensor_are_no_conflict() -> None:
    ours = {f"blocks.0.attn.{part}.weight": ones(2, 2, value=n) for n, part in enumerate("qkv")}
    run = write(ours, TABLE)
    assert not run.conflicts
    assert run.tensors["blocks.0.qkv.weight"].read()[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert run.tensors["blocks.0.qkv.weight"].shape == (6, 2)


def test_two_rules_for_one_tensor_are_a_conflict() -> None:
    run = read({"blocks.0.o.weight": ones(2, 2), "blocks.0.w.weight": ones(2, 2)}, TABLE)
    assert run.conflicts == {"blocks.0.attn.out.weight": ("blocks.0.o.weight", "blocks.0.w.weight")}
    assert len(run.used) == 2


def test_two_names_for_one_place_are_a_conflict_and_both_are_used() -> None:
    table = Dialect("chunks", respell(TABLE, B, "blocks.{_}.{i}."))
    names = [f"blocks.{chunk}.7.qkv.bias" for chunk in (0, 1, 2)]
    run = read({name: ones(6) for name in names}, table)
    assert set(run.used) == set(names)
    assert run.conflicts == {f"blocks.7.attn.{part}.bias": tuple(names) for part in "qkv"}


def test_older_spellings_are_read_and_not_written() -> None:
    ours = read({"blocks.0.w.bias": ones(2)}, TABLE).tensors
    assert set(write(ours, TABLE).tensors) == {"blocks.0.o.bias"}


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [("", "cls.bias"), ("net.", "cls.bias"), ("a.net.", "a.cls.bias"), ("params/net/", "params/cls.bias")],
)
def test_beside_the_tower(prefix: str, beside: str) -> None:
    assert set(write({"head.bias": ones(2)}, TABLE, prefix).tensors) == {beside}
    assert set(read({beside: ones(2)}, TABLE, prefix).tensors) == {"head.bias"}


def test_another_prefix_of_the_same_length_is_another_tower() -> None:
    names = ("abc.stem.weight", "a.nex.stem.weight", "b.cls.bias")
    assert read({name: ones(2) for name in names}, TABLE, "net.").leftover == names
    assert read({name: ones(2) for name in names}, TABLE, "a.net.").leftover == names


def test_a_name_inside_the_tower_is_not_beside_it() -> None:
    assert read({"net.cls.bias": ones(2)}, TABLE, "net.").leftover == ("net.cls.bias",)
    assert read({"cls.bias": ones(2)}, TABLE, "a.net.").leftover == ("cls.bias",)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_scanned_layers(depth: int) -> None:
    ours = {f"blocks.{n}.norm1.weight": ones(3, value=n) for n in range(depth)}
    there = write(ours, SCANNED).tensors
    assert there["block/scale"].shape == (depth, 3)
    back = read(there, SCANNED).tensors
    assert {name: tensor.read().tolist() for name, tensor in back.items()} == {
        name: tensor.read().tolist() for name, tensor in ours.items()
    }


def test_a_layer_that_is_missing_is_named() -> None:
    ours = {f"blocks.{n}.norm1.weight": ones(3) for n in (0, 1, 3)}
    assert set(write(ours, SCANNED).partial.values()) == {("blocks.2.norm1.weight",)}


def test_an_absurd_layer_number_costs_nothing() -> None:
    run = write({"blocks.999999999.norm1.weight": ones(3)}, SCANNED)
    assert run.partial == {"blocks.999999999.norm1.weight": ("blocks.0.norm1.weight", "blocks.1.norm1.weight")}


def test_chunks_are_given_for_blocks_only() -> None:
    table = Dialect("chunks", respell(TABLE, B, "blocks.{_}.{i}."))
    ours = {"embed.patch.weight": ones(2, 3, 1, 1), "blocks.5.norm1.bias": ones(2)}
    assert set(write(ours, table, chunk=lambda block: block // 4).tensors) == {"stem.weight", "blocks.1.5.ln_1.bias"}
    with pytest.raises(BadArgument, match="not given"):
        write(ours, table)


def test_without_names_rows_that_are_not_there() -> None:
    assert len(without(TABLE, "pos")) == len(TABLE.rules) - 1
    with pytest.raises(BadArgument, match="no such rows"):
        without(TABLE, "pos_embed")


def test_one_prefix_higher() -> None:
    assert [parent(prefix) for prefix in ("a.b.", "a.", "", "a/b/", "a.b/")] == ["a.", "", "", "a/", "a."]


NAMES = st.lists(
    st.sampled_from(
        [
            *("stem.weight", "pos", "steps", "cls.bias", "cls.weight", "x", "blocks.0.qkv", "blocks.0.ln_3.bias"),
            *(
                f"blocks.{i}.{part}.{p}"
                for i in (0, 1, 10)
                for part in ("ln_1", "qkv", "o", "w")
                for p in ("weight", "bias")
            ),
        ]
    ),
    unique=True,
)
SHAPES = st.sampled_from([(), (0,), (5,), (6,), (6, 2), (1, 5, 2), (1, 5, 2, 2)])


@given(NAMES, st.data(), st.sampled_from(["", "net.", "a.net."]))
def test_every_source_is_in_one_class(names: list[str], data: st.DataObject, prefix: str) -> None:
    place = data.draw(st.sampled_from(["", prefix, parent(prefix)]))
    tensors = {place + name: ones(*data.draw(SHAPES)) for name in names}
    run = read(tensors, TABLE, prefix, {"k": 1})
    faulty = [name for fault in run.faults for name in fault.names]
    assert sorted([*run.used, *run.ignored, *run.partial, *run.leftover, *faulty]) == sorted(tensors)
    for name, tensor in run.tensors.items():
        assert tensor.read().shape == tensor.shape, name


@pytest.mark.parametrize(
    "rule",
    [R("a.{p}", "b"), R("a.{i}", "b"), R("a", "b.[q|k]"), R("e", "a.[q|k]", "(k+n+m) -> k, n, m"), R("a", "b.[i].[q|k]", "a b -> a b")],
)  # fmt: skip
def test_sides_that_do_not_belong_together_are_refused(rule: Rule) -> None:
    with pytest.raises(BadArgument):
        read({"a": ones(2)}, Dialect("mine", (rule,)))


class CountingIndex:
    """Counts the names that are asked for."""

    def __init__(self, index: object) -> None:
        self.index, self.asked = index, 0

    def match(self, name: str) -> object:
        self.asked += 1
        return self.index.match(name)  # type: ignore[attr-defined]


def test_each_name_is_looked_up_once() -> None:
    index = CountingIndex(TABLE.reading[0])
    table = Dialect("mine", TABLE.rules)
    table.__dict__["reading"] = (index, TABLE.reading[1])
    names = {f"blocks.{i}.ln_1.weight": ones(2) for i in range(1000)}
    assert len(read(names, table).tensors) == 1000
    assert index.asked == 1000


def test_a_pattern_that_makes_fewer_tensors_than_there_are_names_is_a_fault() -> None:
    rule = R("a.qkv.weight", "blocks.0.attn.[q|k].weight", "(parts) o... ->1 parts o ...")
    run = read({"a.qkv.weight": from_array(np.zeros((24, 8), "float32"), "a.qkv.weight")}, Dialect("odd", (rule,)))
    assert not run.tensors and "names for 2" in run.faults[0].text
