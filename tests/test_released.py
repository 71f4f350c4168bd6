"""Recognition and inference on released models of many fields, from their names and shapes alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from support.released import READ, REFUSED, Released
from support.truth import never

from anyvit import api
from anyvit.lazy import Checkpoint, Lazy
from anyvit.report import Report


def checkpoint(model: Released, seed: int | None = None) -> Checkpoint:
    """The model's file without values; its names shuffled where a seed is given."""
    names = list(model.shapes)
    if seed is not None:
        random.Random(seed).shuffle(names)
    tensors = {name: Lazy(model.shapes[name], "float32", never, (name,)) for name in names}
    return Checkpoint(tensors, model.container, str(Path("/nowhere") / model.file))


def said(report: Report) -> tuple[Any, ...]:
    match = report.match
    found = report.spec.values() if report.spec else None
    return report.ok, match and match.dialect.name, match and match.prefix, found


@pytest.mark.parametrize("model", READ, ids=lambda model: model.name)
def test_a_vision_transformer_is_read_with_its_true_facts(model: Released) -> None:
    report = api.inspect(checkpoint(model))
    assert report.ok, report.error()
    assert report.spec is not None
    found = {name: getattr(report.spec, name) for name in model.facts}
    assert found == dict(model.facts)
    assert said(api.inspect(checkpoint(model, seed=1))) == said(report), "the order of names must not matter"


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.name)
def test_what_is_none_is_refused_in_its_words(model: Released) -> None:
    report = api.inspect(checkpoint(model))
    assert not report.ok
    text = str(report.error())
    assert len(text) < 2_000
    assert [word for word in model.words if word not in text.lower()] == [], text


def test_no_model_stands_in_the_table_twice() -> None:
    names = [model.name for model in (*READ, *REFUSED)]
    assert len(names) == len(set(names)) and len(READ) > 65 and len(REFUSED) > 45
