from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit import resample
from anyvit.errors import BadArgument
from anyvit.model import ViT
from anyvit.model.attention import from_windows, to_windows
from anyvit.model.positions import Memo, decomposed_bias, kinds, native_grid, relative_index
from anyvit.model.rope import RotaryEmbedding, periods, rotate
from anyvit.spec import Rope, Spec

SIDES = st.integers(1, 6)
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 48, "image_size": 64}


@given(h=SIDES, w=SIDES, size=st.integers(1, 4), batch=st.integers(1, 3))
@settings(deadline=None)
def test_windows_are_cut_and_joined(h: int, w: int, size: int, batch: int) -> None:
    x = torch.arange(1.0, batch * h * w * 2 + 1).view(batch, h * w, 2)
    windows = to_windows(x, (h, w), size)
    assert windows.shape == (batch * -(-h // size) * -(-w // size), size * size, 2)
    assert torch.equal(from_windows(windows, (h, w), size), x)
    assert float(windows.sum()) == float(x.sum())


@given(h=SIDES, w=SIDES, cls=st.booleans())
@settings(max_examples=30, deadline=None)
def test_relative_index(h: int, w: int, cls: bool) -> None:
    index = relative_index((h, w), cls)
    count = (2 * h - 1) * (2 * w - 1)
    places = [(i // w, i % w) for i in range(h * w)]
    for i, (a, b) in enumerate(places):
        for j, (c, d) in enumerate(places):
            assert index[i + cls, j + cls] == (a - c + h - 1) * (2 * w - 1) + b - d + w - 1
    if cls:
        assert index[0, 0] == count + 2
        assert (index[0, 1:] == count).all() and (index[1:, 0] == count + 1).all()


@given(h=st.integers(1, 3), w=st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_decomposed_bias_is_the_sum_over_both_axes(h: int, w: int) -> None:
    torch.manual_seed(0)
    q, down, right = torch.randn(2, 3, h * w, 5), torch.randn(2 * h - 1, 5), torch.randn(2 * w - 1, 5)
    bias = decomposed_bias(q, down, right, (h, w))
    for i in range(h * w):
        for j in range(h * w):
            expected = q[:, :, i] @ down[i // w - j // w + h - 1] + q[:, :, i] @ right[i % w - j % w + w - 1]
            assert torch.allclose(bias[:, :, i, j], expected, atol=1e-5)


ROPES = {
    "half per axis": Rope(base=100.0),
    "interleaved": Rope(layout="interleaved", first="column", coords="index1"),
    "dinov3": Rope(base=100.0, coords="normalized", span="head"),
    "scaled": Rope(layout="interleaved", coords="scaled", reference=16),
    "pixel": Rope(layout="interleaved", max_freq=10.0),
}


@pytest.mark.parametrize("name", ROPES)
def test_rope_depends_on_offsets_only_and_leaves_prefix_tokens(name: str) -> None:
    torch.manual_seed(0)
    spec = Spec(**SMALL, num_registers=1, pos_embed="rope", rope=ROPES[name])
    rope = spec.rope
    assert rope is not None
    turn = RotaryEmbedding(spec, rope)((3, 4), torch.device("cpu"))[0]
    assert turn[0].shape == (14, 16)
    q, k = (torch.randn(1, 1, 1, 16).expand(1, 1, 14, 16) for _ in "qk")
    turned = rotate(q, turn, rope)
    assert torch.equal(turned[..., :2, :], q[..., :2, :])
    assert torch.allclose(turned.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
    product = (rotate(q, turn, rope) @ rotate(k, turn, rope).transpose(-1, -2))[0, 0, 2:, 2:].view(3, 4, 3, 4)
    assert torch.allclose(product[0, 0, 1, 2], product[1, 1, 2, 3], atol=1e-4)
    assert not torch.allclose(product[0, 0, 1, 2], product[0, 0, 2, 1], atol=1e-3)


@pytest.mark.parametrize("first", ["row", "column"])
def test_first_half_of_a_head_turns_with_the_first_axis(first: str) -> None:
    spec = Spec(**SMALL, pos_embed="rope", rope=Rope(first=first))  # type: ignore[arg-type]
    assert spec.rope is not None
    cos, _ = RotaryEmbedding(spec, spec.rope)((2, 2), torch.device("cpu"))[0]
    corner, right, below = cos[1], cos[2], cos[3]  # after the class token
    still, moved = (right, below) if first == "row" else (below, right)
    assert torch.equal(still[:8], corner[:8]) and not torch.equal(still[8:], corner[8:])
    assert torch.equal(moved[8:], corner[8:]) and not torch.equal(moved[:8], corner[:8])


def test_periods_keep_their_precision_at_16_bits() -> None:
    spec = Spec(**SMALL, pos_embed="rope", rope=Rope(base=100.0, coords="normalized", span="head"))
    vit = ViT(spec).to(torch.bfloat16)
    assert vit.rope is not None
    assert vit.rope.periods.dtype == torch.float32 and torch.equal(vit.rope.periods, periods(100.0, 4))


def test_scaled_coordinates_need_their_reference() -> None:
    with pytest.raises(BadArgument, match="reference"):
        ViT(Spec(**SMALL, pos_embed="rope", rope=Rope(coords="scaled")))


def test_a_resized_table_is_made_once_and_again_when_the_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = resample.positions
    monkeypatch.setattr(resample, "positions", lambda *a: calls.append(1) or original(*a))
    vit, x = ViT(Spec(**SMALL, pos_prefix=1)).eval(), torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        first = vit(x).tokens
        assert torch.equal(vit(x).tokens, first) and len(calls) == 1
        vit.embed.pos.data.mul_(3.0)  # as moving averages do it: the version counter stays
        assert not torch.equal(vit(x).tokens, first) and len(calls) == 2
        vit.embed.pos.data.div_(3.0)
        assert torch.allclose(vit(x).tokens, first, atol=1e-6)
    made = len(calls)
    vit(x).tokens.sum().backward()
    assert len(calls) == made + 1 and float(vit.embed.pos.grad.abs().sum()) > 0


def test_copies_and_pickles_start_with_an_empty_memo() -> None:
    memo = Memo()
    with torch.no_grad():
        memo(torch.ones(3), "key", lambda: torch.ones(1000))
    assert memo.kept and not copy.deepcopy(memo).kept and not pickle.loads(pickle.dumps(memo)).kept


def test_a_memo_keeps_few_results() -> None:
    memo = Memo()
    with torch.no_grad():
        for key in range(10):
            memo(None, key, lambda key=key: key)
    assert sorted(memo.kept) == [6, 7, 8, 9]


def test_a_table_at_16_bits_is_resized_in_float32() -> None:
    torch.manual_seed(0)
    vit = ViT(Spec(**SMALL))
    table = vit.embed.pos.detach().bfloat16()
    exact = resample.positions(table.float(), (4, 4), (3, 5), "timm")
    with torch.no_grad():
        found = vit.bfloat16().embed.positions((3, 5), torch.device("cpu"))
    assert found is not None and torch.equal(found, exact)


def test_a_table_without_a_grid_and_an_unknown_kind_are_refused() -> None:
    with pytest.raises(BadArgument, match="grid"):
        native_grid(Spec(image_size=None))
    with pytest.raises(BadArgument, match="positions"):
        kinds(Spec(pos_embed="learnt"))


def test_relative_bias_of_another_grid_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = ViT(Spec(**SMALL, pos_embed="relpos_shared")).eval()
    with torch.no_grad():
        table = vit.embed.rel_pos.copy_(torch.randn_like(vit.embed.rel_pos))
        bias = vit.places((3, 5), torch.device("cpu"))[1].bias
    assert bias is not None and bias.shape == (1, 2, 16, 16)
    expected = resample.relative_table(table, (4, 4), (3, 5), "beit-geometric", extra=3)
    assert torch.equal(bias[0, :, 0, 0], table[-1]) and torch.equal(bias[0, :, 1, 15], expected[1 * 9 - 9 + 0])
