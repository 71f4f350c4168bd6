from __future__ import annotations

from collections.abc import Mapping, Sequence

import einops
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvit.axes import AxesError, apply, parse
from anyvit.errors import BadArgument
from anyvit.lazy import Lazy, Piece, from_array, from_pieces

LETTERS = ["a", "b", "c", "d", "e"]
SIZES = {"a": 2, "b": 3, "c": 5, "d": 7, "e": 11}


def grouped(order: Sequence[str], cuts: Sequence[bool]) -> str:
    groups: list[list[str]] = []
    for letter, cut in zip(order, cuts, strict=True):
        if cut or not groups:
            groups.append([])
        groups[-1].append(letter)
    return " ".join(f"({' '.join(group)})" if len(group) > 1 else group[0] for group in groups)


PERMUTED = st.integers(1, 5).flatmap(
    lambda n: st.tuples(*[st.permutations(LETTERS[:n]), st.lists(st.booleans(), min_size=n, max_size=n)] * 2)
)


def array_of(side: str, seed: int = 0) -> np.ndarray:
    count = int(np.prod([SIZES[letter] for letter in side if letter in SIZES]))
    plain = " ".join(letter for letter in side if letter in SIZES)
    values = np.random.default_rng(seed).permutation(count).astype("float32")
    return einops.rearrange(values, f"({plain}) -> {side}", **{k: v for k, v in SIZES.items() if k in plain})


def unread(array: np.ndarray) -> tuple[Lazy, list[int]]:
    reads: list[int] = []

    def load() -> np.ndarray:
        reads.append(1)
        return array

    return Lazy(array.shape, "float32", load, ("x",)), reads


@given(PERMUTED)
def test_agrees_with_einops_and_inverts(drawn: tuple) -> None:
    left, right = grouped(*drawn[:2]), grouped(*drawn[2:])
    array = array_of(left)
    lazy, reads = unread(array)
    (out,), sizes = apply(parse(f"{left} -> {right}"), [lazy], 1, SIZES)
    assert not reads, "shapes come first"
    assert out is not None
    expected = einops.rearrange(array, f"{left} -> {right}", **{k: v for k, v in SIZES.items() if k in left})
    assert out.shape == expected.shape
    assert np.array_equal(out.read(), expected)
    (back,), _ = apply(parse(f"{left} -> {right}").flip(), [out], 1, SIZES)
    assert back is not None
    assert back.shape == array.shape
    assert np.array_equal(back.read(), array)
    assert {letter: SIZES[letter] for letter in sizes} == sizes


@given(st.permutations(["z", "a", "b", "c"]), st.permutations(["a", "b", "c"]), st.integers(1, 4))
def test_lists_are_stacked_and_cut(whole: list[str], each: list[str], count: int) -> None:
    known = {**SIZES, "z": count}
    text = f"{' '.join(whole)} -> z {' '.join(each)}"
    array = np.arange(count * 30, dtype="float32").reshape([known[letter] for letter in whole])
    lazy, reads = unread(array)
    parts, _ = apply(parse(text), [lazy], None, {})
    assert not reads
    expected = einops.rearrange(array, text)
    assert [part.shape for part in parts if part] == [e.shape for e in expected]
    assert all(part is not None and np.array_equal(part.read(), e) for part, e in zip(parts, expected, strict=True))
    (back,), _ = apply(parse(text).flip(), parts, 1, {}, listed=True)
    assert back is not None
    assert np.array_equal(back.read(), array)


def run(text: str, shape: Sequence[int], sizes: Mapping[str, int], into: int | None = 1) -> list[Lazy | None]:
    array = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    return list(apply(parse(text), [from_array(array, "x")], into, sizes)[0])


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_a_joined_axis_is_cut_and_joined(prefix: int) -> None:
    text = "1 (k+n) d -> k d, n d"
    array = np.arange(21 * 3, dtype="float32").reshape(1, 21, 3)
    parts, sizes = apply(parse(text), [from_array(array)], 2, {"k": prefix})
    assert sizes["n"] == 21 - prefix
    assert (parts[0] is None) == (prefix == 0)
    (back,), sizes = apply(parse(text).flip(), parts, 1, {})
    assert back is not None
    assert np.array_equal(back.read(), array)
    assert sizes["k"] == prefix


def test_a_joined_axis_inside_a_tensor_is_cut_by_values() -> None:
    text = "d (k+n) -> k d, n d"
    first, second = run(text, (2, 5), {"k": 2}, into=2)
    assert first is not None
    assert second is not None
    assert first.read().tolist() == [[0, 5], [1, 6]]
    (back,), _ = apply(parse(text).flip(), [first, second], 1, {})
    assert back is not None
    assert back.read().tolist() == np.arange(10).reshape(2, 5).tolist()


def test_numbered_axes_have_the_size_of_the_plain_one() -> None:
    text = "(m+d1+d2+d3) d -> m d, d1 d, d2 d, d3 d"
    parts = run(text, (19, 4), {}, into=4)
    assert [part.shape for part in parts if part] == [(7, 4), (4, 4), (4, 4), (4, 4)]
    with pytest.raises(AxesError, match="differ"):
        apply(parse(text).flip(), [parts[0], None, *parts[2:]], 1, {})


def test_two_unknown_numbered_axes_are_a_square() -> None:
    (out,) = run("o (c p1 p2) -> o c p1 p2", (4, 75), {"c": 3})
    assert out is not None
    assert out.shape == (4, 3, 5, 5)


@pytest.mark.parametrize(
    ("text", "shape", "sizes", "match"),
    [
        ("a b -> b a", (2, 3, 4), {}, "3 axes where"),
        ("a ... -> a ...", (), {}, "too few axes"),
        ("1 a -> a", (2, 3), {}, "does not fit"),
        ("(a b) -> a b", (6,), {}, "cannot be told"),
        ("(a b) -> a b", (6,), {"a": 4}, "does not fit"),
        ("(a b) -> a b", (6,), {"a": 2, "b": 2}, "does not fit"),
        ("a b -> b a", (2, 3), {"a": 5}, "another size"),
        ("(k+n) d -> k d, n d", (4, 2), {}, "not known"),
        ("(k+n) d -> k d, n d", (4, 2), {"k": 5}, "not known"),
        ("(c p1 p2) -> c p1 p2", (24,), {"c": 4}, "cannot be told"),
        ("(parts d1) d2 -> parts d1 d2", (12, 2), {"parts": 3}, "differ"),
        ("a b -> b a", (0, 3), {}, "empty"),
    ],
)
def test_shapes_that_do_not_fit_are_told(text: str, shape: tuple[int, ...], sizes: dict[str, int], match: str) -> None:
    with pytest.raises(AxesError, match=match):
        run(text, shape, sizes, into=2 if "+" in text else None if "parts" in text else 1)


@pytest.mark.parametrize(
    "text", ["a b", "a -> b", "a a -> a", "(a b -> a b", "a -> a -> a", "a b? -> a b?", "a 2 -> a 2"]
)
def test_patterns_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadArgument):
        parse(text)


def test_one_tensor_of_a_list_is_not_taken_for_the_stack() -> None:
    layer = from_array(np.zeros((5, 7), "float32"))
    (stack,), _ = apply(parse("layers ... -> layers ...").flip(), [layer], 1, {}, listed=True)
    assert stack is not None
    assert stack.shape == (1, 5, 7)


def test_tensors_that_belong_together_must_have_one_shape() -> None:
    parts = [from_array(np.zeros((size, 2), "float32")) for size in (3, 4)]
    with pytest.raises(AxesError, match="differ in shape"):
        apply(parse("(parts o) ... -> parts o ...").flip(), parts, 1, {}, listed=True)


@pytest.mark.parametrize(
    ("kinds", "wide"),
    [
        (("float16", "float16"), "float16"),
        (("float16", "bfloat16"), "float32"),
        (("float8_e4m3fn", "float16"), "float32"),
        (("float32", "float64"), "float64"),
        (("int8", "float16"), "float32"),
        (("int8", "int32"), "int32"),
    ],
)
def test_joined_tensors_get_the_type_that_holds_all(kinds: tuple[str, str], wide: str) -> None:
    from anyvit.dtypes import np_dtype

    parts = [from_array(np.arange(6).reshape(3, 2).astype(np_dtype(kind))) for kind in kinds]
    (out,), _ = apply(parse("(parts o) i -> parts o i").flip(), parts, 1, {}, listed=True)
    assert out is not None
    assert out.dtype == out.read().dtype.name == wide
    assert out.read().astype("float64").tolist() == [[0, 1], [2, 3], [4, 5]] * 2


class Untouchable:
    name = "untouchable"

    def read(self, offset: int, size: int) -> bytes:
        raise AssertionError("nothing may be read")

    def view(self, offset: int, size: int) -> None:
        raise AssertionError("nothing may be read")


def test_what_stays_in_order_is_byte_ranges() -> None:
    source = Untouchable()
    whole = from_pieces((6, 2), "float16", [Piece(source, 100, 24)], ["qkv"])
    text = "(parts o) i -> parts o i"
    parts, _ = apply(parse(text), [whole], 3, {})
    assert [part.pieces for part in parts if part] == [(Piece(source, 100 + 8 * n, 8),) for n in range(3)]
    (back,), _ = apply(parse(text).flip(), parts, 1, {}, listed=True)
    assert back is not None
    assert back.pieces == whole.pieces
    (moved,), _ = apply(parse("o i -> i o"), [whole], 1, {})
    assert moved is not None
    assert moved.pieces is None


def test_layers_stay_byte_ranges_where_only_their_inside_moves() -> None:
    reads: list[int] = []
    array = np.arange(24, dtype="float32").reshape(4, 2, 3)

    def load() -> np.ndarray:
        reads.append(1)
        return array

    parts, _ = apply(parse("layers i o -> layers o i"), [Lazy((4, 2, 3), "float32", load, ("x",))], None, {})
    assert len(parts) == 4
    assert not reads
    assert parts[2] is not None
    assert np.array_equal(parts[2].read(), array[2].T)


@pytest.mark.parametrize(
    "text",
    [
        "1 (k+n) d -> k n d",
        "k, n -> k n",
        "(k+n) -> k, n, m",
        "a -> a, a",
        "a " * 600 + "-> a",
        "a -> a " + "1" * 33,
        "(parts ...) o -> parts o ...",
    ],
)
def test_parts_without_a_whole_are_refused(text: str) -> None:
    with pytest.raises(BadArgument):
        parse(text)
