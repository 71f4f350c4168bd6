"""The laws that every dialect obeys: they find a new dialect by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from support.dialect_data import WRITING_SIZES, canonical, reading_sizes

from anyvit import dialects
from anyvit.dialects import ALL, get
from anyvit.errors import BadArgument
from anyvit.laws import check, writable
from anyvit.lazy import Lazy, Piece, from_array, from_pieces
from anyvit.rules import Dialect, Run, read, write

every = pytest.mark.parametrize("dialect", ALL, ids=[dialect.name for dialect in ALL])
PREFIXES = ["", "tower.", "module.visual.trunk."]


def spread(dialect: Dialect, tensors: Mapping[str, Lazy], prefix: str = "") -> Run:
    return write(tensors, dialect, prefix, WRITING_SIZES, (lambda i: i // 2) if dialect.chunked else None)


def assert_clean(run: Run, names: Mapping[str, Lazy]) -> None:
    assert not run.leftover
    assert not run.faults
    assert not run.partial
    assert not run.conflicts
    assert not run.ignored
    assert set(run.used) == set(names)


def assert_equal(found: Mapping[str, Lazy], expected: Mapping[str, Lazy]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        array = found[name].read()
        assert found[name].shape == array.shape == tensor.shape, name
        assert found[name].dtype == array.dtype.name == tensor.dtype, name
        assert array.flags.c_contiguous, name
        assert np.array_equal(array, tensor.read()), name


@every
def test_well_formed(dialect: Dialect) -> None:
    assert check(dialect) == []


def test_names_are_unique() -> None:
    names = [dialect.name for dialect in ALL]
    assert sorted(names) == sorted(set(names))


@every
def test_what_stands_in_for_a_dialect_is_of_its_project(dialect: Dialect) -> None:
    others = [get(name) for name in dialect.also]
    assert len({*dialect.also, dialect.name}) == len(others) + 1
    assert all(other.name.split("-")[0] == dialect.name.split("-")[0] and writable(other) for other in others)
    assert all(check(replace(dialect, rules=rules)) == [] for rules in dialect.instead.values())


@every
def test_writes_a_patch_kernel_and_blocks(dialect: Dialect) -> None:
    names = writable(dialect)
    if dialect.name == "timm-parallel-things":
        assert not names, "a model with two attentions in a block cannot be said"
        return
    assert "embed.patch.weight" in names
    assert {"blocks.0.norm1.weight", "blocks.0.attn.q.weight", "blocks.0.attn.out.weight"} <= set(names)


@every
@pytest.mark.parametrize("prefix", PREFIXES)
def test_round_trip(dialect: Dialect, prefix: str) -> None:
    ours = canonical(dialect)
    assert set(writable(dialect)) <= {name.replace("blocks.1.", "blocks.0.") for name in ours}
    there = spread(dialect, ours, prefix)
    assert_clean(there, ours)
    theirs = there.tensors
    for name in theirs:
        assert len(dialect.find(name, prefix)) == 1, name
    back = read(theirs, dialect, prefix, reading_sizes(dialect))
    assert_clean(back, theirs)
    assert_equal(back.tensors, ours)
    again = spread(dialect, back.tensors, prefix)
    assert_equal(again.tensors, theirs)


@every
def test_older_spellings_are_read(dialect: Dialect) -> None:
    for rule in dialect.rules:
        if not rule.reads_only:
            continue
        old = replace(dialect, rules=(replace(rule, reads_only=False),))
        ours = canonical(dialect, (rule,))
        theirs = spread(old, ours).tensors
        back = read(theirs, dialect, "", reading_sizes(dialect))
        assert_clean(back, theirs)
        assert_equal(back.tensors, ours)


@every
def test_nothing_vanishes(dialect: Dialect) -> None:
    rng = np.random.default_rng(7)
    theirs = dict(spread(dialect, canonical(dialect)).tensors)
    for name in list(theirs):
        match rng.integers(5):
            case 0:
                del theirs[name]
            case 1:
                theirs[name] = from_array(np.zeros((2, *theirs[name].shape), "float32"), name)
            case 2:
                theirs[name + ".x"] = theirs[name]
                theirs["x" + name] = theirs[name]
    run = read(theirs, dialect, "", reading_sizes(dialect))
    faulty = [name for fault in run.faults for name in fault.names]
    classes = [*run.used, *run.ignored, *run.partial, *run.leftover, *faulty]
    assert sorted(classes) == sorted(theirs)
    assert {name for name in theirs if name.endswith(".x")} <= set(run.leftover)


@every
def test_depth_one_is_not_another_layout(dialect: Dialect) -> None:
    ours = {
        name: tensor for name, tensor in canonical(dialect).items() if not name.startswith(("blocks.1", "blocks.2"))
    }
    theirs = spread(dialect, ours).tensors
    assert_equal(read(theirs, dialect, "", reading_sizes(dialect)).tensors, ours)


def test_every_file_of_the_folder_is_registered() -> None:
    found = {path.stem for path in Path(dialects.__file__).parent.glob("*.py")} - {"__init__", "lineages"}
    tables = {name: import_module(f"anyvit.dialects.{name}").DIALECTS for name in found}
    assert sorted(d.name for table in tables.values() for d in table) == sorted(d.name for d in ALL)


def test_an_unknown_name_is_answered_with_those_that_resemble_it() -> None:
    with pytest.raises(BadArgument, match="dinov2"):
        get("dino2")


class Untouchable:
    name = "untouchable"

    def read(self, offset: int, size: int) -> bytes:
        raise AssertionError("nothing may be read")

    def view(self, offset: int, size: int) -> None:
        raise AssertionError("nothing may be read")


def test_what_is_split_and_fused_again_is_the_original_bytes() -> None:
    source = Untouchable()
    shapes = {"blocks.0.attn.qkv.weight": (18, 6), "blocks.0.attn.qkv.bias": (18,), "pos_embed": (1, 5, 6)}
    theirs, offset = {}, 64
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        theirs[name] = from_pieces(shape, "float32", [Piece(source, offset, size)], [name])
        offset += size + 8
    ours = read(theirs, get("timm"), "", {"k": 1}).tensors
    assert [piece.size for piece in ours["blocks.0.attn.k.weight"].pieces or ()] == [6 * 6 * 4]
    back = write(ours, get("timm")).tensors
    assert {name: tensor.pieces for name, tensor in back.items()} == {name: t.pieces for name, t in theirs.items()}
    assert {name: tensor.origin for name, tensor in back.items()} == {name: (name,) for name in theirs}


def test_chunks_are_not_asked_for_in_vain() -> None:
    ours = canonical(get("dinov2"))
    with pytest.raises(BadArgument, match="not given"):
        write(ours, get("dinov2-chunked"))
    names = spread(get("dinov2-chunked"), ours).tensors
    assert "blocks.1.2.norm1.weight" in names
    assert "cls_token" in names


def test_a_chunked_file_with_a_block_twice_says_so() -> None:
    tensor = from_array(np.zeros(4, "float32"))
    theirs = {f"blocks.{chunk}.3.norm1.weight": tensor for chunk in (0, 1)}
    run = read(theirs, get("dinov2-chunked"))
    assert run.conflicts == {"blocks.3.norm1.weight": tuple(theirs)}
    assert set(run.used) == set(theirs)


def folk(name: str) -> str:
    return name.replace("backbone.", "").replace(".0.", ".")


def test_replacing_text_inside_names_breaks_where_whole_names_do_not() -> None:
    chunked = [f"backbone.blocks.{block // 4}.{block}.norm1.weight" for block in range(12)]
    assert len({folk(name) for name in chunked}) == 12
    assert folk(chunked[0]) == "blocks.0.norm1.weight"
    assert folk(chunked[1]) == "blocks.1.norm1.weight"
    assert folk(chunked[4]) == "blocks.1.4.norm1.weight", "the second chunk keeps its number"
    assert folk("blocks.0.mlp.fc1.weight") == "blocks.mlp.fc1.weight", "block 0 of an unchunked file is lost"
    assert folk("pixel_backbone.norm.weight") == "pixel_norm.weight", "the middle of another name is hit"
    tensors = {name: from_array(np.full(2, block, "float32"), name) for block, name in enumerate(chunked)}
    ours = read(tensors, get("dinov2-chunked"), "backbone.").tensors
    assert [int(ours[f"blocks.{block}.norm1.weight"].read()[0]) for block in range(12)] == list(range(12))
    plain = {"blocks.0.mlp.fc1.weight": from_array(np.zeros((3, 2), "float32"))}
    assert set(read(plain, get("dinov2")).tensors) == set(plain)
    stranger = {"pixel_backbone.norm.weight": from_array(np.zeros(2, "float32"))}
    assert read(stranger, get("dinov2"), "backbone.").leftover == tuple(stranger)
