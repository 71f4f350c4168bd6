"""The overfit check passes where a model can learn, and names the cause where it cannot."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are trained")

from conftest import needs_shared  # noqa: E402
from support import adapting  # noqa: E402
from support.truth import location  # noqa: E402

import anyvit  # noqa: E402
from anyvit.demo import CHECKPOINT  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402
from anyvit.training.overfit import OverfitCheck  # noqa: E402

torch.manual_seed(0)
MODEL = ViT(
    Spec(embed_dim=32, depth=2, num_heads=2, mlp_dim=48, patch_size=4, image_size=12, num_classes=4)
).state_dict()
X, Y = adapting.pixels(count=6), torch.arange(6) % 3


def load(**options: Any) -> ViT:
    return anyvit.load(MODEL, heads=2, **options)


def check(vit: ViT, data: Any = None, **options: Any) -> OverfitCheck:
    return anyvit.overfit_check(vit, data, **{"lr": 3e-3, **options})


def fails(verdict: OverfitCheck, kind: str, *words: str) -> None:
    assert not verdict.ok and not verdict
    assert verdict.causes[0].kind == kind, str(verdict)
    assert all(word in str(verdict) for word in words), str(verdict)


@pytest.mark.parametrize("options", [
    {}, {"num_classes": 0}, {"condition": anyvit.AdaLN()}, {"condition": anyvit.AdaLN(dim=None, scheme="dit")},
])  # fmt: skip
def test_the_demo_model_passes_within_seconds(options: dict[str, Any]) -> None:
    vit, began = anyvit.load(CHECKPOINT, **options), time.monotonic()
    before = {n: p.detach().clone() for n, p in vit.named_parameters()}
    verdict = anyvit.overfit_check(vit)
    assert verdict.ok and verdict.right == 1.0 and verdict.last < 0.02 < verdict.first, str(verdict)
    assert time.monotonic() - began < 60
    after = dict(vit.named_parameters())
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
    assert str(verdict).startswith("✓")
    if "condition" in options:
        assert any("moves the logits" in note.cause for note in verdict.notes)


@needs_shared
def test_instantmesh_own_encoder_passes_and_fails_without_its_modulation() -> None:
    vit = anyvit.load(location("instantmesh-a"))
    verdict = anyvit.overfit_check(vit)
    assert verdict.ok and vit.spec.pool == "none" and vit.head is None, str(verdict)
    gone = anyvit.load(location("instantmesh-a"), condition=False)
    new = anyvit.load(gone, condition=anyvit.AdaLN())
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(".adaln." not in name)
    fails(anyvit.overfit_check(new), "frozen", "the modulation is frozen")


@pytest.mark.parametrize("scheme", ["instantmesh", "dit"])
def test_frozen_modulation_fails_and_is_named(scheme: str) -> None:
    vit = load(condition=anyvit.AdaLN(scheme=scheme))
    assert check(vit).ok
    for name, parameter in vit.named_parameters():
        parameter.requires_grad_(".adaln." not in name)
    verdict = check(vit)
    fails(verdict, "frozen", "the modulation is frozen", "another picture's condition gives the same logits", "adaln")
    # nor where the pictures can be told apart without it
    verdict = check(vit, (X, Y, torch.randn(6, 16)))
    assert verdict.last < 0.02
    fails(verdict, "frozen", "the modulation is frozen")
    fails(
        check(load(condition=anyvit.AdaLN(scheme=scheme)), train=("head", "norm")), "frozen", "the modulation is frozen"
    )


def test_trained_modulation_may_be_frozen() -> None:
    vit = load(condition=anyvit.AdaLN(dim=None))
    torch.nn.init.normal_(vit.blocks[0].adaln.weight, std=0.5)
    for block in vit.blocks:
        block.adaln.requires_grad_(False)
    assert check(vit, (X, Y, torch.randn(6, 32))).ok


def test_modulation_that_gets_no_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyvit.model import vit as module

    monkeypatch.setattr(module, "modulations", lambda adaln, c, kind: (None, None))
    fails(check(load(condition=anyvit.AdaLN())), "gradient", "new parts get no gradient", "adaln")


def test_a_frozen_head_fails_and_is_named() -> None:
    vit = load(num_classes=5)
    vit.head.requires_grad_(False)
    fails(check(vit), "frozen", "the head is frozen at zero")
    vit.requires_grad_(False)
    fails(check(vit), "frozen", "all parameters are frozen")


@pytest.mark.parametrize(("pixels", "word"), [((X * 40 + 120).clamp(0, 255), "0 … 255"), (X.sigmoid(), "0 … 1")])
def test_pixels_that_are_not_normalised_fail_and_are_named(pixels: Any, word: str) -> None:
    fails(check(load(), (pixels, Y)), "pixels", "wrong preprocessing", word)


def test_labels_fail_and_are_named() -> None:
    fails(check(load(), (X, Y + 2)), "labels", "4 of a head of 4 classes", "counted from 1")
    fails(check(load(), (X, Y - 1)), "labels", "out of range")
    fails(check(load(), (X, Y.float())), "labels", "fraction")
    fails(check(load(), (X[:1].repeat(4, 1, 1, 1), Y[:4])), "labels", "examples 0 and 1 are the same picture")


def test_conditions_that_tell_nothing_are_named() -> None:
    vit = load(condition=anyvit.AdaLN())
    fails(check(vit, (X, Y, torch.ones(6, 16))), "condition", "the same condition")
    fails(check(vit, (X, Y, torch.full((6, 16), torch.nan))), "nan", "NaN")


def test_nan_is_found_where_it_is() -> None:
    vit = load()
    vit.blocks[1].norm2.weight.data[0] = torch.nan
    fails(check(vit), "nan", "blocks.1.norm2.weight")


@pytest.mark.parametrize(("lr", "word"), [(30.0, "too high"), (1e-6, "too low")])
def test_a_learning_rate_is_judged_by_trying_another(lr: float, word: str) -> None:
    verdict = check(load(), lr=lr, new_lr=lr, steps=120)
    fails(verdict, "rate", word, "lr=")


def test_too_little_time_or_too_few_steps_are_said() -> None:
    fails(check(load(), seconds=0.0), "time", "time ran out")
    verdict = check(load(), steps=2, lr=1e-4)
    assert not verdict.ok and verdict.steps == 2


def test_data_of_the_users_and_a_loss_of_theirs() -> None:
    verdict = check(load(), (X, Y), count=4)
    assert verdict.ok and verdict.pictures == 4 and not verdict.made
    goal = torch.randn(6, 32)
    loss = lambda features, y: (features.cls - y).pow(2).mean()  # noqa: E731
    verdict = check(load(), (X, goal), loss=loss, target=0.3)
    assert verdict.ok and verdict.right is None


def test_a_verdict_is_json_even_with_nan() -> None:
    found = json.loads(check(load(), (X, Y + 9)).to_json())
    assert found["ok"] is False and found["first"] is None and found["causes"][0]["kind"] == "labels"


def test_one_picture_is_not_enough() -> None:
    with pytest.raises(BadArgument, match="two pictures"):
        check(load(), count=1)
