"""Names taken apart: stacks of blocks, layers, words."""

from __future__ import annotations

import pytest

from anyvit.discover_parts import Part, find_stack, parts, says

BLOCK = {"norm.weight": (8,), "qkv.weight": (24, 8), "out.weight": (8, 8), "up.weight": (32, 8), "down.weight": (8, 32)}


def stacked(head: str, depth: int, **changes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{head}{i}.{name}": shape for i in range(depth) for name, shape in {**BLOCK, **changes}.items()}


@pytest.mark.parametrize(("head", "home"), [("blocks.", ""), ("a.tr.layers.", "a.tr."), ("net.layer_", "net.")])
def test_the_blocks_are_the_names_that_differ_in_one_number(head: str, home: str) -> None:
    stack = find_stack({**stacked(head, 3), "stem.0.weight": (8, 3, 4, 4), "stem.1.weight": (8,)})
    assert stack is not None and (stack.head, stack.depth, stack.home, stack.width) == (head, 3, home, 8)


def test_the_longer_of_two_towers_is_taken_and_numbers_inside_blocks_are_none() -> None:
    inner = {
        f"vision.{i}.{n}": s
        for i in range(4)
        for n, s in {**BLOCK, "ff.0.weight": (8, 8), "ff.1.weight": (8, 8)}.items()
    }
    stack = find_stack({**stacked("text.", 3), **inner})
    assert stack is not None and stack.head == "vision."


def test_stages_of_other_widths_and_gaps_are_no_stack() -> None:
    wide = {name: tuple(2 * side for side in shape) for name, shape in BLOCK.items()}
    stages = {**stacked("stages.", 1), **{f"stages.1.{name}": shape for name, shape in wide.items()}}
    assert find_stack(stages) is None
    gap = {name.replace("blocks.1.", "blocks.7."): shape for name, shape in stacked("blocks.", 2).items()}
    assert find_stack(gap) is None
    assert find_stack({"weight": (3, 3)}) is None and find_stack({}) is None


def test_layers_gather_their_tensors() -> None:
    found = parts({"a.in_proj_weight": (24, 8), "a.in_proj_bias": (24,), "a.out.weight": (8, 8), "cls_token": (1, 1, 8),
                   "a.q_bias": (8,), "E/kernel": (8, 8), "E/bias": (8,)})  # fmt: skip
    assert [(part.path, *part.shapes) for part in found] == [
        ("a.in_proj_", "weight", "bias"), ("a.out.", "weight"), ("", "cls_token"), ("a.q_", "bias"), ("E/", "kernel", "bias"),
    ]  # fmt: skip
    assert found[0].main == "weight" and found[0].biases == ("bias",)
    assert found[2].has(r"cls\w*") and not found[2].has("token_cls")


def test_words_end_at_separators_and_humps() -> None:
    assert says("encoder.selfAttention.toQ.weight", "q") and says("h.0.w_q", "q")
    assert not says("h.0.seq.weight", "q") and not says("query", "q")
    assert Part("ln_1.", {"g": (8,), "b": (8,)}).main == "g"
