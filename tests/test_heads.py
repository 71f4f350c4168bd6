"""The classifier: dropped, zeros, or rows of the old one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="outputs are compared")

from support import adapting  # noqa: E402

import anyvit  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402
from anyvit.heads import ClassMap, num_classes, width  # noqa: E402
from anyvit.lazy import from_array  # noqa: E402
from anyvit.spec import Spec  # noqa: E402

PICTURE = adapting.pixels()


def load(source: Any, **options: Any) -> Any:
    return anyvit.load(source, heads=2, **options)


def test_a_class_map_keeps_the_logits_of_its_classes() -> None:
    source = adapting.state(classes=5)
    before, after = load(source)(PICTURE).logits, load(source, num_classes=ClassMap([3, -1, 0, 3]))
    logits = after(PICTURE).logits
    adapting.close(logits[:, [0, 2, 3]], before[:, [3, 0, 3]], 1e-6)
    assert torch.equal(logits[:, 1], torch.zeros(2))
    assert after.spec.num_classes == 4
    (finding,) = (f for f in after.report.of("resized") if "head" in f.cause)
    assert "5 classes became one of 4: 3 rows of it and 1 of zeros" in finding.cause
    assert finding.names == ("head.weight", "head.bias")


def test_a_class_map_reaches_the_distillation_head_and_spares_the_norm_before_it() -> None:
    rng = np.random.default_rng(0)
    shapes = {"head.weight": (4, 6), "head.bias": (4,), "head_dist.weight": (4, 6), "head_norm.mean": (6,)}
    tensors = {name: from_array(rng.standard_normal(shape), name) for name, shape in shapes.items()}
    done = num_classes(tensors, Spec(embed_dim=6, num_classes=4, head_norm=True), ClassMap((1, 2)))
    assert done.spec.head_norm and done.tensors["head_norm.mean"] is tensors["head_norm.mean"]
    for name in ("head.weight", "head.bias", "head_dist.weight"):
        np.testing.assert_array_equal(done.tensors[name].read(), tensors[name].read()[1:3])
        assert done.tensors[name].shape == (2, *shapes[name][1:])


def test_half_precision_stays() -> None:
    tensors = {"head.weight": from_array(np.ones((2, 3), "float16"), "head.weight")}
    done = num_classes(tensors, Spec(embed_dim=3, num_classes=2), ClassMap((-1, 0)))
    assert done.tensors["head.weight"].read().tolist() == [[0, 0, 0], [1, 1, 1]]
    assert done.tensors["head.weight"].dtype == "float16"


def test_a_new_head_is_zero_and_said_to_be() -> None:
    vit = load(adapting.state(classes=5), num_classes=7)
    assert torch.equal(vit(PICTURE).logits, torch.zeros(2, 7))
    assert any("7 classes starts at zero" in f.cause for f in vit.report.of("new"))
    assert any("5 classes was dropped" in f.cause for f in vit.report.of("ignored"))
    assert load(adapting.state(classes=5), num_classes=0)(PICTURE).logits is None


@pytest.mark.parametrize(("pool", "more", "wanted"), [
    ("cls", {}, 8), ("cls", {"num_cls": 3}, 24), ("cls", {"num_cls": 3, "summary": (0, 2)}, 16), ("cls+avg", {}, 16),
    ("avg", {}, 8), ("avg", {"neck_dim": 5}, 5), ("map", {}, 8), ("attn_pool", {"pool_dim": 9}, 9),
    ("cls", {"pre_logits_dim": 6}, 6), ("cls+dist", {"dist_token": True}, 8),
])  # fmt: skip
def test_the_width_is_that_of_the_model(pool: str, more: dict[str, Any], wanted: int) -> None:
    from anyvit.model.pool import pooled_width

    spec = Spec(embed_dim=8, pool=pool, **more)
    assert width(spec) == wanted == (spec.pre_logits_dim or pooled_width(spec))


@pytest.mark.parametrize(("classes", "asked", "words"), [
    (5, ClassMap((0, 5)), "counted from 1"), (5, ClassMap((-2,)), "0 to 4"), (5, ClassMap(()), "no such class"),
    (0, ClassMap((0, 1)), "num_classes=2"), (5, -1, "at least 0"), (5, True, "an int"), (5, [1, 2], "an int"),
])  # fmt: skip
def test_what_cannot_be_is_refused(classes: int, asked: Any, words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        load(adapting.state(classes=classes), num_classes=asked)


def test_a_head_on_nothing_is_refused() -> None:
    with pytest.raises(BadArgument, match="pools nothing"):
        num_classes({}, Spec(pool="none"), 3)
