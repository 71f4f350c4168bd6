"""Reports: order, folding, JSON, errors, and the law that `ok` says whether a load succeeds."""

from __future__ import annotations

import itertools
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.toys import toy

from anyvit import api
from anyvit.errors import Ambiguous, AnyvitError, Incomplete, NotAViT
from anyvit.recognise import Match
from anyvit.report import Finding, Report, Trail, fold, order, ranges
from anyvit.spec import Spec

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "mlp": 48, "patch": 4}
BASES = (
    toy(0, **SMALL),
    toy(0, **SMALL, classes=5, layer_scale=True),
    toy(0, **SMALL, registers=4),
    toy(0, **SMALL, dist=True, rows=18, classes=3),
    toy(0, **SMALL, qkv_bias=False, cls=False, rows=16),
)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["a.0.b", "a.1.b", "a.2.b"], ("a.{0..2}.b",)),
        (["a.0.b", "a.2.b", "a.3.b"], ("a.{0,2..3}.b",)),
        (["a.0.b"], ("a.0.b",)),
        (["a.0.b", "a.1.c"], ("a.0.b", "a.1.c")),
        (["encoderblock_0/x", "encoderblock_1/x"], ("encoderblock_{0..1}/x",)),
        (["x", "y", "x"], ("x", "y")),
        (["fc1.weight", "fc2.weight"], ("fc1.weight", "fc2.weight")),
        ([], ()),
    ],
)
def test_fold(names: list[str], folded: tuple[str, ...]) -> None:
    assert fold(names) == folded


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_every_number_once(numbers: set[int]) -> None:
    text = ranges(sorted(numbers))
    spans = [tuple(map(int, (part.split("..") * 2)[:2])) for part in text.split(",") if part]
    assert sorted(n for a, b in spans for n in range(a, b + 1)) == sorted(numbers)
    assert all(b < c - 1 for (_, b), (c, _) in itertools.pairwise(spans))


@given(st.lists(st.sampled_from([f"{top}.{i}.{leaf}" for top in "ab" for i in range(4) for leaf in "xy"]), unique=True))
def test_fold_loses_no_name(names: list[str]) -> None:
    unfolded = []
    for entry in fold(names):
        head, brace, rest = entry.partition("{")
        if not brace:
            unfolded.append(entry)
            continue
        numbers, _, tail = rest.partition("}")
        for part in numbers.split(","):
            first, _, last = part.partition("..")
            unfolded += [f"{head}{n}{tail}" for n in range(int(first), int(last or first) + 1)]
    assert sorted(unfolded) == sorted(names)


def finding(kind: str, fatal: bool = False, cause: str = "cause", **rest: Any) -> Finding:
    return Finding(kind, rest.pop("names", ()), cause, fatal=fatal, **rest)


def test_the_gravest_comes_first_and_nothing_twice() -> None:
    found = order(
        [finding("note"), finding("assumed"), finding("shape", True), finding("note"), finding("missing", True)]
    )
    assert [f.kind for f in found] == ["missing", "shape", "assumed", "note"]


def test_the_error_says_causes_then_a_count() -> None:
    many = tuple(finding("shape", True, f"cause {i}", names=(f"t{i}",)) for i in range(7))
    error = Report(findings=many, path="x.pth").error()
    assert error is not None
    assert str(error).startswith("x.pth: cause 0; cause 1; cause 2; cause 3 (and 3 more): t0, t1")


@pytest.mark.parametrize(
    ("kinds", "matched", "kind"),
    [
        (("missing",), True, Incomplete), (("missing",), False, Incomplete), (("shape",), False, NotAViT), (("not a ViT", "missing"), True, NotAViT),
        (("ambiguous",), True, Ambiguous), (("ambiguous", "missing"), True, Incomplete),
    ],
)  # fmt: skip
def test_the_kind_of_error(kinds: tuple[str, ...], matched: bool, kind: type[AnyvitError]) -> None:
    match = api.inspect(BASES[0]).match if matched else None
    report = Report(match=match, spec=Spec(), findings=tuple(finding(k, True) for k in kinds))
    assert type(report.error()) is kind and not report.ok
    with pytest.raises(kind) as caught:
        report.raise_if_bad()
    assert caught.value.report is report  # type: ignore[attr-defined]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_notes_change_nothing() -> None:
    report = api.inspect(BASES[0])
    more = report.adding([finding("note"), finding("assumed")])
    assert report.ok and more.ok and more.error() is None
    assert not report.adding([finding("shape", True)]).ok
    assert len(more.findings) == len(report.findings) + 2 and more.of("note")


def test_json_says_what_the_report_says() -> None:
    report = api.load(BASES[1]).report
    assert report is not None
    told = json.loads(report.to_json(indent=1))
    assert told["ok"] is True and told["dialect"] == "timm" and told["prefix"] == ""
    assert told["spec"]["embed_dim"] == 32 and told["facts"]["depth"]["how"] == "measured"
    assert told["tensors"] == len(BASES[1]) and told["parameters"] == sum(v.size for v in BASES[1].values())
    assert sum(told["fates"].values()) == len(BASES[1])
    assert {t["target"]: tuple(t["sources"]) for t in told["trails"]} == {t.target: t.sources for t in report.trails}
    assert [f["cause"] for f in told["findings"]] == [f.cause for f in report.findings]
    assert all(part["filled"] == part["of"] > 0 for part in told["coverage"].values())
    assert set(told["coverage"]) >= {"embed", "attention", "mlp", "norm", "scale", "position", "head"}


def test_json_of_a_refusal() -> None:
    told = json.loads(api.inspect({"a": np.zeros(3)}).to_json())
    assert told["ok"] is False and told["spec"] is None and told["dialect"] is None
    assert any(f["fatal"] for f in told["findings"])


def test_findings_have_nothing_volatile_and_their_remedy_below() -> None:
    told = Finding("resized", ("pos_embed",), "3 × 3 → 4 × 4", "resample=…")
    assert str(told) == "resized: 3 × 3 → 4 × 4 [pos_embed]\n    → resample=…"
    first, second = (list(map(str, api.inspect(dict(BASES[0])).findings)) for _ in range(2))
    assert first == second


def test_a_report_without_a_match_is_not_ok() -> None:
    assert not Report().ok and not Report(spec=Spec()).ok
    match = api.inspect(BASES[0]).match
    assert isinstance(match, Match) and not Report(match=match).ok and Report(match=match, spec=Spec()).ok
    assert Trail("a", ("b",), "carried") == Trail("a", ("b",), "carried")
    assert "not loadable" in repr(Report()) and "ok" in repr(Report(match=match, spec=Spec(), path="x"))


EDITS = (
    "drop",
    "turn",
    "widen",
    "rename",
    "integer",
    "lift",
    "scalar",
    "empty",
    "narrow",
    "stranger",
    "outsider",
    "block",
)


def edited(state: dict[str, Any], edit: str, name: str) -> dict[str, Any]:
    """A state dict with one thing done to it."""
    value = state[name]
    out = dict(state)
    if edit == "drop":
        del out[name]
    elif edit == "turn":
        out[name] = np.ascontiguousarray(value.T)
    elif edit == "widen":
        out[name] = np.concatenate([value, value[:1]])
    elif edit == "rename":
        out[name + "_x"] = out.pop(name)
    elif edit in ("integer", "narrow"):
        out[name] = value.astype("int8" if edit == "integer" else "float16")
    elif edit == "lift":
        out[name] = value[None]
    elif edit in ("scalar", "empty"):
        out[name] = np.zeros(() if edit == "scalar" else (0,) * value.ndim, "float32")
    elif edit == "stranger":
        out["blocks.1.attn.stranger.weight"] = value
    elif edit == "outsider":
        out["projector.0.weight"] = value
    else:
        out["blocks.2." + name.split(".", 2)[-1]] = value
    return out


BASE = st.integers(0, len(BASES) - 1)
DONE = st.lists(st.tuples(st.sampled_from(EDITS), st.floats(0, 1, exclude_max=True)), max_size=2)
"""What is done, and to which tensor: where it stands in the sorted names, as a fraction."""


@given(BASE, DONE)
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_ok_says_exactly_whether_a_load_succeeds(base: int, done: list[tuple[str, float]]) -> None:
    state: dict[str, Any] = dict(BASES[base])
    for edit, where in done:
        state = edited(state, edit, sorted(state)[int(where * len(state))])
    report = api.inspect(state)
    try:
        vit = api.load(state)
    except AnyvitError as error:
        assert not report.ok, error
        assert len(str(error)) < 2_000
    else:
        assert report.ok, report.error()
        assert vit.report is not None and vit.report.ok
    assert set(report.fates) == set(state)
    assert str(report) and report.to_json()


def test_the_edits_do_both() -> None:
    """The law above would hold of refusals alone."""
    outcomes = {edit: api.inspect(edited(dict(BASES[1]), edit, "blocks.1.mlp.fc1.weight")).ok for edit in EDITS}
    assert {edit for edit, ok in outcomes.items() if ok} == {"narrow", "outsider"}
