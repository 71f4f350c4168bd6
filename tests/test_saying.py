"""Saying a model in a dialect: every way there and back is exact, and the variant that has the words is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the weights are made with torch")

from support.modules import Clip  # noqa: E402
from support.peers import state  # noqa: E402
from support.saying import adapted  # noqa: E402

from anyvit import fit, saying  # noqa: E402
from anyvit.adapt import Adapted  # noqa: E402
from anyvit.dialects import get  # noqa: E402
from anyvit.errors import Unsayable  # noqa: E402
from anyvit.lazy import Checkpoint  # noqa: E402

CORE = (
    "timm", "google-npz", "big_vision", "dinov2", "dinov2-chunked", "dino", "mae", "hf-vit", "hf-dinov2",
    "hf-dinov2-with-registers", "hf-clip", "openai-clip", "open_clip", "torchvision", "anyvit", "mmpretrain",
)  # fmt: skip


def through(held: Adapted, name: str) -> tuple[Adapted, saying.Said]:
    """What is read back of what was said in a dialect."""
    said = saying.say(held, name, 2 if get(name).chunked else None)
    spec = held.spec
    again = adapted(Checkpoint(said.tensors, said.dialect.container), dialect=said.dialect, heads=2, grid=spec.grid)
    return again, said


architectures = st.fixed_dictionaries(
    {
        "grid": st.sampled_from([(3, 3), (2, 5)]),
        "classes": st.sampled_from([0, 4]),
        "registers": st.sampled_from([0, 0, 3]),
        "layer_scale": st.booleans(),
        "cls_row": st.booleans(),
        "pre_norm": st.booleans(),
        "gated": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(options=architectures, one=st.sampled_from(CORE), two=st.sampled_from(CORE), seed=st.integers(0, 9))
def test_there_and_back_is_exact(options: dict[str, Any], one: str, two: str, seed: int) -> None:
    start = adapted(state(**options, seed=seed), heads=2, grid=options["grid"])
    try:
        here, first = through(start, one)
        there, second = through(here, two)
    except Unsayable:
        return
    said = " ".join(str(f) for f in second.fitted.findings)
    if any(word in said for word in ("but for rounding", "unsayable", "prefix rows", "columns of zeros")):
        return
    back, last = through(there, one)
    assert set(last.tensors) >= set(first.tensors)
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(last.tensors[name].read(), tensor.read(), err_msg=name)
    added = set(back.tensors) - set(here.tensors)
    assert added <= {n for n in back.tensors if n == "embed.mask" or n.endswith((".ls1", ".ls2"))}


@pytest.mark.parametrize(
    ("to", "options", "written"),
    [("timm", {"gated": True}, "timm-glu"), ("hf-dinov2", {"registers": 2}, "hf-dinov2-with-registers"),
     ("timm", {}, "timm")],
)  # fmt: skip
def test_the_variant_that_can_say_it_is_chosen(to: str, options: dict[str, Any], written: str) -> None:
    assert saying.say(adapted(state(**options), heads=2), to).dialect.name == written


def test_the_prefix_of_a_tower_is_written_where_something_stands_beside_it() -> None:
    held = adapted(state(classes=4), heads=2)
    assert "vit.embeddings.cls_token" in saying.say(held, "hf-vit").tensors
    bare = adapted(state(), heads=2)
    assert "embeddings.cls_token" in saying.say(bare, "hf-vit").tensors
    clip = adapted({n: t for n, t in Clip().state_dict().items() if n.startswith("visual.")}, heads=2)
    assert "visual.conv1.weight" in saying.say(clip, "open_clip").tensors
    assert {"vision_model.embeddings.class_embedding", "visual_projection.weight"} <= set(
        saying.say(clip, "hf-clip").tensors
    )


def test_biases_and_scales_that_the_target_wants_are_made() -> None:
    said = saying.say(adapted(state(qkv_bias=False, patch_bias=False, cls_row=False), heads=2), "hf-dinov2")
    spec = said.fitted.spec
    assert (spec.layer_scale, spec.patch_bias, spec.pos_prefix, spec.mask_token) == (True, True, 1, True)
    assert said.files["config.json"]["qkv_bias"] is False
    assert not said.tensors["embeddings.mask_token"].read().any()


def test_required_names_follow_the_query() -> None:
    tensors = adapted(state(), heads=2).tensors
    keys = [n for n in tensors if n.endswith("k.bias")]
    without = {n: t for n, t in tensors.items() if n not in keys}
    assert saying.required(get("hf-vit"), without) == keys
    none = {n: t for n, t in without.items() if not n.endswith(("q.bias", "v.bias"))}
    assert saying.required(get("hf-vit"), none) == []
    assert len(saying.required(get("torchvision"), none)) == 6
    assert fit.fit(none, adapted(state(), heads=2).spec).tensors is none
