"""Pictures of many sizes in one pass give what each gives alone."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from model.test_vit import SPECS, build  # noqa: E402
from model.vit_mapping import randomise  # noqa: E402

from anyvit.errors import BadArgument  # noqa: E402
from anyvit.model import packed  # noqa: E402
from anyvit.model.features import Features  # noqa: E402

SIZES = [(64, 64), (48, 80), (64, 64), (16, 32), (48, 80), (96, 16)]


def pictures(sizes: list[tuple[int, int]] = SIZES) -> list[torch.Tensor]:
    noise = torch.Generator().manual_seed(3)
    return [torch.randn(3, *size, generator=noise) for size in sizes]


def same(found: Features, wanted: Features, atol: float = 1e-5) -> None:
    for field in fields(Features):
        one, two = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(two, torch.Tensor):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=atol, msg=lambda m, f=field: f"{f.name}: {m}")
        else:
            assert one == two, field.name


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_each_picture_as_if_it_were_alone(name: str) -> None:
    vit = randomise(build(name)).eval()
    given = pictures()
    condition = torch.randn(len(given), 32) if vit.spec.condition else None
    for i, found in enumerate(vit.packed(given, condition)):
        same(found, vit(given[i][None], None if condition is None else condition[i : i + 1]))


@torch.no_grad()
def test_cameras_stay_with_their_pictures() -> None:
    vit = randomise(build("cameras")).eval()
    given, cameras = pictures()[:4], torch.randn(2, 2, 16)
    for i, found in enumerate(vit.packed(given, cameras)):
        same(found, vit(given[i][None], cameras.flatten(0, 1)[i].view(1, 1, 16)))


@pytest.mark.parametrize("name", ["dinov3", "mixed", "beit", "sam", "dit"])
def test_gradients_are_the_sum_of_each_alone(name: str) -> None:
    vit, given = randomise(build(name)).train(), pictures(SIZES[:3])
    condition = torch.randn(len(given), 32) if vit.spec.condition else None
    grads = []
    for together in (True, False):
        vit.zero_grad()
        outs = vit.packed(given, condition) if together else [
            vit(p[None], None if condition is None else condition[i : i + 1]) for i, p in enumerate(given)
        ]  # fmt: skip
        sum(out.prenorm.square().sum() for out in outs).backward()
        grads.append({n: p.grad.clone() for n, p in vit.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for n, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][n], rtol=1e-4, atol=1e-3 * float(grads[1][n].abs().max()), msg=n)


@torch.no_grad()
def test_all_tokens_go_through_a_linear_layer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = build("dinov3").eval()
    seen: list[int] = []
    for block in vit.blocks:
        for layer in (block.attn.qkv, block.attn.out, block.mlp.fc1, block.mlp.fc2):
            layer.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[:-1].numel()))
    vit.packed(pictures())
    tokens = sum(h * w // 256 + vit.spec.num_prefix for h, w in SIZES)
    assert seen == [tokens] * (4 * vit.spec.depth)


@torch.no_grad()
def test_the_kernel_for_many_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's kernel is given: (ΣN, h, e), where pictures begin, the longest."""
    calls = []

    def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, one: Any, two: Any, longest: int, _: int) -> Any:
        calls.append((tuple(q.shape), one.tolist(), longest))
        parts = [
            torch.nn.functional.scaled_dot_product_attention(*(t[a:b].transpose(0, 1) for t in (q, k, v)))
            for a, b in zip(one[:-1].tolist(), one[1:].tolist(), strict=True)
        ]
        return torch.cat(parts, 1).transpose(0, 1)

    vit, given = build("dinov3").eval(), pictures()
    alone = [vit(p[None]) for p in given]
    monkeypatch.setattr(packed, "_kernel", lambda q: kernel)
    for found, wanted in zip(vit.packed(given), alone, strict=True):
        same(found, wanted)
    assert calls[0][1][0] == 0 and calls[0][1][-1] == calls[0][0][0] and calls[0][1][1] == 17 and calls[0][2] == 17
    before = len(calls)
    vit.packed(given[:1] * 3)
    assert len(calls) == before  # one size is a batch


def test_what_is_refused() -> None:
    vit = build("plain")
    with pytest.raises(BadArgument, match="single pictures"):
        vit.packed([torch.zeros(2, 3, 32, 32)])
    with pytest.raises(BadArgument, match="whole number of patches"):
        vit.packed([torch.zeros(3, 32, 32), torch.zeros(3, 30, 32)])
    assert vit.packed([]) == []
