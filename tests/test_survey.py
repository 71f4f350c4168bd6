"""One pass over all values: what `inspect(deep=True)` says of blocks, rounding, training and the patch kernel."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from support.evidence_models import trained
from test_deep import Arrays, vit
from test_evidence_patch import channels_last, kernel

import anyvit
from anyvit import survey
from anyvit.lazy import from_array
from anyvit.survey import SEQUENCE, STORED


def model(depth: int = 8, width: int = 96, seed: int = 3) -> Arrays:
    """A small checkpoint whose residual stream drifts with depth and whose patch kernel has colours."""
    rng = np.random.default_rng(seed)
    out = vit(trained(width, 6, depth, seed=seed), heads=6)
    state = {n: rng.normal(size=width) for n in ("norm1", "norm2", "qkv", "proj", "fc1", "fc2", "bias")}
    for i in range(depth):
        state = {n: (x + 0.5 * rng.normal(size=width)) / np.hypot(1, 0.5) for n, x in state.items()}
        at, scale = f"blocks.{i}.", {n: np.exp(0.4 * x) for n, x in state.items()}
        for n in ("norm1", "norm2"):
            out[f"{at}{n}.weight"] = scale[n].astype("f4")
        out[at + "attn.qkv.weight"] = (out[at + "attn.qkv.weight"] * scale["qkv"]).astype("f4")
        out[at + "attn.proj.weight"] = (out[at + "attn.proj.weight"] * scale["proj"][:, None]).astype("f4")
        out[at + "mlp.fc1.weight"] = (out[at + "mlp.fc1.weight"] * scale["fc1"]).astype("f4")
        out[at + "mlp.fc2.weight"] = (out[at + "mlp.fc2.weight"] * scale["fc2"][:, None]).astype("f4")
    return out | {"patch_embed.proj.weight": np.resize(kernel(), (width, 3, 8, 8))}


def said(tensors: Arrays) -> dict[str, anyvit.Finding]:
    kinds = ("order", "repeated", "rounded", "untrained", "swapped")
    return {f.kind: f for f in anyvit.inspect(tensors, deep=True).findings if f.kind in kinds}


def moved(tensors: Arrays, order: list[int]) -> Arrays:
    out = {n: x for n, x in tensors.items() if not n.startswith("blocks.")}
    for place, i in enumerate(order):
        out |= {
            n.replace(f"blocks.{i}.", f"blocks.{place}."): x for n, x in tensors.items() if n.startswith(f"blocks.{i}.")
        }
    return out


def test_a_sound_file_says_nothing_and_its_facts_are_measured() -> None:
    report = anyvit.inspect(model(), deep=True)
    assert not said(model())
    assert report.spec.facts[SEQUENCE].value == "as numbered" and report.spec.facts[SEQUENCE].how == "measured"
    assert report.spec.facts[survey.INPUTS].value == "c y x"
    assert STORED not in report.spec.facts


def test_blocks_in_another_order_are_named() -> None:
    found = said(moved(model(), [0, 1, 5, 3, 4, 2, 6, 7]))
    assert list(found) == ["order"]
    assert (
        {"blocks.1", "blocks.2", "blocks.5", "blocks.6"}
        <= set(found["order"].names)
        <= {f"blocks.{i}" for i in range(1, 7)}
    )
    assert "order of blocks" in found["order"].cause and "verify" in found["order"].remedy


def test_a_block_written_twice_is_named() -> None:
    found = said(moved(model(), [0, 1, 2, 3, 3, 5, 6, 7]))
    assert found["repeated"].names == ("blocks.3", "blocks.4") and "order" not in found
    assert not said(moved(model(), [0] * 8)).get("repeated"), "one block shared by all is on purpose"


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_file_that_was_rounded_is_named(name: str) -> None:
    kind = getattr(ml_dtypes, name, np.float16)
    tensors = {n: x.astype(kind).astype("f4") for n, x in model().items()}
    found = said(tensors)["rounded"]
    assert f"values of {name}" in found.cause and f"dtype=torch.{name}" in found.remedy
    tensors["norm.weight"] = model()["norm.weight"]
    assert "not norm.weight" in said(tensors)["rounded"].cause
    assert not said({n: x.astype(np.float16) for n, x in model().items()}).get("rounded"), "stored as such is no news"


@pytest.mark.parametrize(
    ("part", "words"), [("", "blocks.4: "), ("attn.", "attention of blocks.4"), ("mlp.", "MLP of blocks.4")]
)
def test_one_block_that_was_not_trained_is_named(part: str, words: str) -> None:
    rng, tensors = np.random.default_rng(0), model()
    for n, x in tensors.items():
        if n.startswith("blocks.4." + part):
            gain = float("norm" in n and n.endswith("weight"))
            tensors[n] = rng.normal(0, 0.02, x.shape).astype("f4") if x.ndim == 2 else np.full_like(x, gain)
    found = said(tensors)["untrained"]
    assert found.names == ("blocks.4",) and words in found.cause and "other 7 blocks" in found.cause


def test_a_head_that_was_not_trained_is_named() -> None:
    rng, tensors = np.random.default_rng(0), model()
    tensors |= {
        "head.weight": rng.normal(0, 0.02, (50, 96)).astype("f4"),
        "head.bias": rng.normal(size=50).astype("f4"),
    }
    assert "head: its matrix is independent noise" in said(tensors)["untrained"].cause
    tensors["head.weight"] = tensors["head.weight"] * np.exp(rng.normal(0, 0.4, (50, 96 // 8)).repeat(8, 1)).astype(
        "f4"
    )
    assert "untrained" in said(tensors), "entries that vary are still independent of rows and columns"
    tensors["head.weight"] = (tensors["head.weight"] * np.exp(rng.normal(0, 0.5, (50, 1)))).astype("f4")
    assert "untrained" not in said(tensors)


def test_a_patch_kernel_with_its_channels_last_is_named() -> None:
    tensors = model()
    tensors["patch_embed.proj.weight"] = channels_last(tensors["patch_embed.proj.weight"])
    found = said(tensors)["swapped"]
    assert "patch kernel" in found.cause and found.names == ("patch_embed.proj.weight",)


def test_a_modulation_of_zeros_is_named() -> None:
    zeros = {f"blocks.{i}.adaln.scale1.weight": from_array(np.zeros((96, 96), "f4")) for i in range(2)}
    (found,) = survey.fresh(survey.survey(zeros).traces)
    assert found.kind == "untrained" and "all 2 tensors are zero" in found.cause


def test_norms_without_gains_amid_trained_matrices_are_a_fact() -> None:
    tensors = model()
    for n, x in tensors.items():
        if ".norm" in n:
            tensors[n] = np.full_like(x, float(n.endswith("weight")))
    report = anyvit.inspect(tensors, deep=True)
    assert "folded" in report.spec.facts[survey.NORMS].source
    assert survey.NORMS not in anyvit.inspect(model(), deep=True).spec.facts
