"""What layers of unknown names are: by words, by the branch they stand in, by shapes; what is left open stays open."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from anyvit.discover_blocks import layouts, roles
from anyvit.discover_parts import parts

D, M = 8, 32
TWO = {"weight": (D,), "bias": (D,)}


def role_of(layers: Mapping[str, tuple[int, ...] | Mapping[str, tuple[int, ...]]]) -> dict[str, str]:
    shapes = {}
    for name, shape in layers.items():
        shapes |= (
            {f"{name}.{last}": s for last, s in shape.items()}
            if isinstance(shape, Mapping)
            else {f"{name}.weight": shape}
        )
    return {role: part.path.rstrip(".") for role, part in roles(parts(shapes), D).items()}


PLAIN = {"a.qkv": (3 * D, D), "a.o": (D, D), "m.1": (M, D), "m.2": (D, M)}


def test_shapes_tell_a_fused_attention_from_an_mlp_without_any_word() -> None:
    found = role_of({"x.1": (3 * D, D), "x.2": (D, D), "y.1": (M, D), "y.2": (D, M)})
    assert found == {"qkv": "x.1", "out": "x.2", "fc1": "y.1", "fc2": "y.2"}


def test_an_mlp_of_three_times_the_width_needs_words() -> None:
    assert role_of({"x.1": (3 * D, D), "x.2": (D, D), "y.1": (3 * D, D), "y.2": (D, 3 * D)}) == {}
    found = role_of({"attn.to_qkv": (3 * D, D), "attn.proj": (D, D), "y.1": (3 * D, D), "y.2": (D, 3 * D)})
    assert found == {"qkv": "attn.to_qkv", "out": "attn.proj", "fc1": "y.1", "fc2": "y.2"}


@pytest.mark.parametrize("words", ["q k v o", "wq wk wv wo", "to_q to_k to_v to_out", "query key value dense"])
def test_separate_queries_keys_and_values(words: str) -> None:
    q, k, v, out = (f"attention.{word}" for word in words.split())
    found = role_of({q: (D, D), k: (D, D), v: (D, D), out: (D, D), "m.1": (M, D), "m.2": (D, M)})
    assert found == {"q": q, "k": k, "v": v, "out": out, "fc1": "m.1", "fc2": "m.2"}


def test_four_square_matrices_without_words_are_left_open() -> None:
    assert role_of({f"x.{n}": (D, D) for n in range(4)} | {"m.1": (M, D), "m.2": (D, M)}) == {}


def test_a_gated_mlp_needs_its_words() -> None:
    attention = {"attn.qkv": (3 * D, D), "attn.o": (D, D)}
    named = role_of({**attention, "ff.gate_proj": (M, D), "ff.up_proj": (M, D), "ff.down_proj": (D, M)})
    assert (named["gate"], named["up"], named["down"]) == ("ff.gate_proj", "ff.up_proj", "ff.down_proj")
    numbered = role_of({**attention, "ff.w1": (M, D), "ff.w3": (M, D), "ff.w2": (D, M)})
    assert not {"gate", "up", "down", "fc1", "fc2"} & set(numbered)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("norm1", "norm2"), ("ln_1", "ln_2"), ("norms.0", "norms.1"), ("attn_norm", "ffn_norm"), ("a.norm", "m.norm"),
        ("input_layernorm", "post_attention_layernorm"), ("layernorm_before", "layernorm_after"),
        ("self_attn_layer_norm", "final_layer_norm"), ("LayerNorm_0", "LayerNorm_2"),
    ],
)  # fmt: skip
def test_norms_are_told_apart(first: str, second: str) -> None:
    for order in ((first, second), (second, first)):
        found = role_of({**dict.fromkeys(order, TWO), **PLAIN})
        assert (found["norm1"], found["norm2"]) == (first, second)


@pytest.mark.parametrize("names", [("a_norm", "b_norm"), ("norm_x", "norm"), ("norm1", "norm2", "norm3")])
def test_norms_that_nothing_tells_apart_are_left_open(names: tuple[str, ...]) -> None:
    found = role_of({**dict.fromkeys(names, TWO), "qkv": (3 * D, D), "o": (D, D), "up": (M, D), "down": (D, M)})
    assert "norm1" not in found and found["qkv"] == "qkv"


def test_layer_scale_is_no_norm() -> None:
    shapes = {f"{n}.weight": s for n, s in PLAIN.items()} | {
        "n1.weight": (D,),
        "n1.bias": (D,),
        "n2.weight": (D,),
        "n2.bias": (D,),
    }
    found = roles(parts({**shapes, "gamma_1": (D,), "gamma_2": (D,)}), D)
    assert [found[name].main for name in ("ls1", "ls2")] == ["gamma_1", "gamma_2"]
    assert [found[name].path for name in ("norm1", "norm2")] == ["n1.", "n2."]


def test_kernels_are_turned() -> None:
    shapes = {"A/query/kernel": (D, 2, 4), "A/key/kernel": (D, 2, 4), "A/value/kernel": (D, 2, 4), "A/out/kernel": (2, 4, D),
              "M/Dense_0/kernel": (D, M), "M/Dense_1/kernel": (M, D)}  # fmt: skip
    found = {role: part.path for role, part in roles(parts(shapes), D).items()}
    assert found == {
        "q": "A/query/",
        "k": "A/key/",
        "v": "A/value/",
        "out": "A/out/",
        "fc1": "M/Dense_0/",
        "fc2": "M/Dense_1/",
    }
    assert layouts("fc2", (M, D), True) == ("i o -> o i", None)
    assert layouts("out", (2, 4, D), True)[0] == "heads k d -> d (heads k)"
    assert layouts("qkv", (D, 3 * D), True)[0] == "i (parts o) -> parts o i"
    assert layouts("qkv", (3 * D, D, 1, 1), False)[0] == "(parts o) i 1 1 -> parts o i"
