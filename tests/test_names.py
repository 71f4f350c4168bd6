from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvit.errors import BadArgument
from anyvit.laws import spell
from anyvit.names import Index, blank, parse

WORDS = st.sampled_from(["blocks", "norm1", "ln_2", "attn", "w12", "MlpBlock_3", "0", "trunk"])
NUMBERS = st.builds("{{{}}}".format, st.sampled_from("ijn"))
CHOICES = st.lists(st.sampled_from(["a", "b1", "q.x", "lambda_2", "5"]), min_size=2, max_size=3, unique=True).map(
    "|".join
)
PARTS = st.one_of(
    WORDS, NUMBERS, CHOICES.map("<{}>".format), CHOICES.map("[{}]".format), st.just("[i]"), st.just("{p}")
)
PATTERNS = st.tuples(st.lists(PARTS, min_size=1, max_size=5), st.sampled_from("./_")).map(lambda x: x[1].join(x[0]))


@given(PATTERNS, st.data())
def test_what_is_filled_is_matched(text: str, data: st.DataObject) -> None:
    pattern = parse(text)
    number = st.integers(0, 999_999_999)
    numbers = {variable: data.draw(number) for variable in pattern.variables}
    ones = tuple(data.draw(st.sampled_from(range(len(slot.options)))) for slot in pattern.ones)
    alls = tuple(
        data.draw(st.sampled_from(range(len(slot.options))) if slot.options else number) for slot in pattern.lists
    )
    name = pattern.fill(numbers, ones, alls)
    hits = Index.of([(pattern, "it")]).match(name)
    refilled = {pattern.fill(hit.numbers, hit.ones, hit.alls) for hit in hits}
    assert refilled == {name}
    assert (ones, alls) in [(hit.ones, hit.alls) for hit in hits]


@given(PATTERNS, st.sampled_from(["x{}", "{}x", "{}.weight", "module.{}", "{}0", "{}."]))
def test_only_whole_names_match(text: str, frame: str) -> None:
    pattern = parse(text)
    index = Index.of([(pattern, "it")])
    for variant in pattern.variants():
        name = spell(pattern, variant, 4)
        changed = frame.format(name)
        for hit in index.match(changed):
            assert pattern.fill(hit.numbers, hit.ones, hit.alls) == changed


@given(st.text(alphabet="ab.0123_/", max_size=20))
def test_blanking_loses_nothing(name: str) -> None:
    key, digits = blank(name)
    runs = iter(digits)
    assert re.sub("\0", lambda _: next(runs), key) == name
    assert not re.search("[0-9]", key)


def test_choices_translate_by_position() -> None:
    theirs, ours = (
        parse("encoderblock_{i}/LayerNorm_<0|2>/<scale|bias>"),
        parse("blocks.{i}.<norm1|norm2>.<weight|bias>"),
    )
    (hit,) = Index.of([(theirs, ours)]).match("encoderblock_11/LayerNorm_2/scale")
    assert ours.fill(hit.numbers, hit.ones) == "blocks.11.norm2.weight"


def test_a_digit_of_the_text_is_not_a_number() -> None:
    index = Index.of([(parse("blocks.{i}.norm1.{p}"), "it")])
    assert index.match("blocks.3.norm1.bias")
    assert not index.match("blocks.3.norm2.bias")
    assert not index.match("blocks.3.norm11.bias")


def test_a_number_that_stands_twice_must_agree() -> None:
    index = Index.of([(parse("stage{i}.block{i}"), "it")])
    assert index.match("stage2.block2")
    assert not index.match("stage2.block3")


def test_a_digit_before_a_choice_joins_it() -> None:
    index = Index.of([(parse("fc1<0|2>.weight"), "it")])
    assert [hit.ones for hit in index.match("fc12.weight")] == [(1,)]
    assert not index.match("fc1.2.weight")


@pytest.mark.parametrize(
    "name", ["blocks.\0.norm1.weight", "blocks.03.norm1.weight", "blocks.٣.norm1.weight", "blocks.-1.norm1.weight",
             "blocks.1234567890.norm1.weight", "blocks..norm1.weight", ""]
)  # fmt: skip
def test_odd_names_match_nothing(name: str) -> None:
    assert Index.of([(parse("blocks.{i}.norm1.{p}"), "it")]).match(name) == []


def test_counts_are_bound_in_order_among_the_lists() -> None:
    index = Index.of([(parse("layers.[i].<a|b>.[q|k|v]"), "it")])
    (hit,) = index.match("layers.17.b.v")
    assert hit.alls == (17, 2)
    assert hit.ones == (1,)


def test_a_dropped_number_is_bound_but_not_a_variable() -> None:
    pattern = parse("blocks.{_}.{i}.norm")
    assert pattern.drops_number
    assert pattern.variables == ("i",)
    with pytest.raises(BadArgument, match="not given"):
        pattern.fill({"i": 3})


@pytest.mark.parametrize("text", ["a.{i", "a.<b|c", "a.]b", "a|b", "{i}{j}", "fc1{i}", "{i}2", "<a1|b>{i}", "{i}[0|1]"])
def test_patterns_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadArgument, match=re.escape(repr(text))):
        parse(text)


@pytest.mark.parametrize("text", ["{p}." * 13 + "x", "<a|b|c>" * 8, "a" * 1025, "a\0.{i}", "a\x01"])
def test_patterns_that_would_take_all_memory_or_break_the_index_are_refused(text: str) -> None:
    with pytest.raises(BadArgument, match=r"implausibly many|too long|control characters"):
        parse(text)


class CountingTable(dict[str, object]):
    looks = 0

    def get(self, key: str, default: object = None) -> object:
        self.looks += 1
        return super().get(key, default)


def test_matching_is_one_look_up_however_many_patterns_there_are() -> None:
    patterns = [parse(f"blocks.{{i}}.part{'x' * n}.{{p}}") for n in range(500)]
    index = Index.of((pattern, pattern.text) for pattern in patterns)
    table = CountingTable(index.table)
    counted = Index(table)  # type: ignore[arg-type]
    for block in range(1000):
        assert len(counted.match(f"blocks.{block}.partxxx.weight")) == 1
    assert table.looks == 1000
    assert max(map(len, index.table.values())) == 1


def test_numbers_that_count_from_one() -> None:
    index = Index.of([(parse("block_{i+1}/ln"), "one")])
    assert index.match("block_1/ln")[0].numbers == {"i": 0}
    assert index.match("block_12/ln")[0].numbers == {"i": 11}
    assert not index.match("block_0/ln")
    assert parse("block_{i+1}/ln").fill({"i": 11}) == "block_12/ln"


def test_numbers_that_are_left_out_for_the_first() -> None:
    pattern = parse("layers/block{_i}/<a|b>/vars/<0|1>")
    index = Index.of([(pattern, "suffix")])
    for number, name in enumerate(("layers/block/b/vars/1", "layers/block_1/b/vars/1", "layers/block_2/b/vars/1")):
        (hit,) = index.match(name)
        assert (hit.numbers, hit.ones) == ({"i": number}, (1, 1))
        assert pattern.fill({"i": number}, (1, 1)) == name
    assert not index.match("layers/block_0/b/vars/1"), "nobody writes the first with its number"
    assert pattern.variables == ("i",)
    twice = Index.of([(parse("a{_i}/b{_i}"), "twice")])
    assert [name for name in ("a/b", "a_1/b_1", "a/b_1", "a_1/b") if twice.match(name)] == ["a/b", "a_1/b_1"]
