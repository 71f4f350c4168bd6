"""Positions that no tensor shows are assumed; those that one shows are measured."""

from __future__ import annotations

import pytest
from support.layouts import Shapes, spread
from support.released import SAPIENS, timm
from support.truth import never

from anyvit import api
from anyvit.lazy import Checkpoint, Lazy
from anyvit.spec import Fact


def position(shapes: Shapes) -> Fact:
    tensors = {name: Lazy(shape, "float32", never, (name,)) for name, shape in shapes.items()}
    report = api.inspect(Checkpoint(tensors, "safetensors"))
    assert report.ok and report.spec is not None, report.error()
    return report.spec.facts["pos_embed"]


@pytest.mark.parametrize("stored", [True, False])
def test_a_rotation_is_measured_where_its_periods_are_stored(stored: bool) -> None:
    shapes = spread(SAPIENS, 2, d=768)
    if not stored:
        del shapes["rope_embed.periods"]
    fact = position(shapes)
    assert fact.value == "rope"
    assert fact.how == ("measured" if stored else "assumed")
    assert stored or "sapiens2" in fact.source


def test_a_table_is_measured() -> None:
    fact = position(timm())
    assert (fact.value, fact.how) == ("learned", "measured")
