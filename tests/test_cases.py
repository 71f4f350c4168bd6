"""Every file of the truth cases, loaded and run: the outputs are those that its own project's code computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import needs_shared
from support.truth import arguments, arrays, assert_close, case, cases, location, vit_of

from anyvit import api, containers
from anyvit.model import Features, ViT
from anyvit.recognise import unwrapped

pytestmark = needs_shared

ENTRIES = [(name, entry["name"]) for name in cases() for entry in case(name)["io"]]
FATES = {"carried", "ignored", "outside"}
SPEC = ("embed_dim", "depth", "patch_size", "in_chans", "mlp_dim", "num_classes", "num_registers", "num_cls", "norm",
        "ffn", "qkv_bias", "qk_norm", "layer_scale", "pre_norm", "final_norm", "pos_embed", "pool", "eps", "act",
        "resample", "grid", "lineage", "dialect")  # fmt: skip
"""Fields that inspect tells without reading values, as load does."""


def entry_of(name: str, entry: str) -> dict[str, Any]:
    return next(one for one in case(name)["io"] if one["name"] == entry)


def pixels_of(name: str, entry: dict[str, Any], vit: ViT) -> torch.Tensor:
    """Normalised pixels; "wrapper" entries hold pictures in 0 … 1 that their project normalises itself."""
    pixels = torch.from_numpy(arrays(name)[entry["input"]]).float()
    if entry.get("call") != "wrapper":
        return pixels
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (vit.preprocess.mean, vit.preprocess.std))
    return (pixels.flatten(0, -4) - mean) / std


def run(name: str, entry: dict[str, Any]) -> Features:
    vit = vit_of(name, entry)
    given = {}
    if entry.get("condition"):
        (condition,) = entry["condition"].values()
        given["condition"] = torch.from_numpy(arrays(name)[condition]).float()
    with torch.no_grad():
        return vit(pixels_of(name, entry, vit), **given)


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=[f"{name}-{entry}" for name, entry in ENTRIES])
def test_outputs_are_those_of_the_project(name: str, entry: str) -> None:
    this = entry_of(name, entry)
    out = run(name, this)
    height, width = this["image_size"]
    patch = vit_of(name, this).spec.patch
    assert out.grid == (height // patch[0], width // patch[1])
    assert this["expect"], "an entry without expectation checks nothing"
    for field, key in this["expect"].items():
        assert_close(getattr(out, field), arrays(name)[key], field)


def test_the_neck_and_the_layers_of_sam() -> None:
    entry = entry_of("sam-p", "native")
    vit, expected = vit_of("sam-p", entry), arrays("sam-p")
    pixels = torch.from_numpy(expected[entry["input"]])
    assert vit.neck is not None
    with torch.no_grad():
        assert_close(vit.neck(vit(pixels)), expected[entry["extra"]["neck"]], "neck")
        assert_close(vit.layers(pixels, [1])[0].reshape(expected[entry["extra"]["block0"]].shape),
                     expected[entry["extra"]["block0"]], "block 0")  # fmt: skip


def truth_of(arch: dict[str, Any]) -> dict[str, Any]:
    """The fields of a case's architecture that a Spec has under comparable words."""
    ffn, bias = str(arch["ffn"]), arch["qkv_bias"]
    return {
        "embed_dim": arch["embed_dim"],
        "depth": arch["depth"],
        "num_heads": arch["num_heads"],
        "patch_size": arch["patch_size"],
        "mlp_dim": arch["mlp_hidden"],
        "num_classes": arch["num_classes"],
        "num_registers": arch["num_registers"],
        "qkv_bias": bias if isinstance(bias, bool) else "qv",
        "layer_scale": bool(arch["layer_scale"]),
        "pre_norm": arch["pre_norm"],
        "norm": arch["norm"],
        "qk_norm": "full" if "whole" in str(arch["qk_norm"]) else arch["qk_norm"],
        "eps": arch.get("eps", arch.get("norm_eps")),
        "act": str(arch["act"]).split()[0],
        "gated": ffn.startswith("swiglu"),
        **({"mean": tuple(arch["image_mean"])} if "image_mean" in arch else {}),
        **({"std": tuple(arch["image_std"])} if "image_std" in arch else {}),
    }


@pytest.mark.parametrize("name", cases())
def test_the_architecture_is_the_true_one(name: str) -> None:
    entry = case(name)["io"][0]
    report = vit_of(name, entry).report
    assert report is not None and report.ok and report.spec is not None, report
    spec = report.spec
    found = {**spec.values(), "gated": spec.ffn.startswith("swiglu"), "std": pytest.approx(spec.std)}
    truth = truth_of(case(name)["arch"])
    if "bias_mask" in case(name)["wrapping"] + str(list(report.fates)):
        truth["qkv_bias"] = "qv"  # the key bias is there, and masked to zero
    truth.update((key, value) for key, value in arguments(entry).items() if key in ("patch_size", "heads"))
    truth["num_heads"] = truth.pop("heads", truth["num_heads"])
    assert {key: found[key] for key in truth} == truth
    if spec.grid is not None and not {"image_size", "patch_size"} & arguments(entry).keys():
        assert spec.image_size == case(name)["arch"]["img_size"]


@pytest.mark.parametrize("name", cases())
def test_inspect_agrees_with_load(name: str) -> None:
    given = arguments(case(name)["io"][0])
    if {"image_size", "patch_size", "resample"} & given.keys():
        given = {key: value for key, value in given.items() if key in ("weights", "heads")}
        vit = api.load(location(name), **given)
    else:
        vit = vit_of(name, case(name)["io"][0])
    told = api.inspect(location(name), weights=given.get("weights"))
    assert told.ok and told.match is not None and told.spec is not None and vit.report is not None
    assert told.match.prefix == vit.report.match.prefix  # type: ignore[union-attr]
    measured = {key for key, fact in vit.spec.facts.items() if "weights" in fact.source or "sin-cos" in fact.source}
    fields = [field for field in SPEC if field not in measured]
    assert [getattr(told.spec, f) for f in fields] == [getattr(vit.spec, f) for f in fields]
    assert told.fates == vit.report.fates


@pytest.mark.parametrize("name", cases())
def test_every_tensor_has_one_fate_and_every_parameter_one_trail(name: str) -> None:
    vit = vit_of(name, case(name)["io"][0])
    report = vit.report
    assert report is not None
    source, _ = unwrapped(containers.open_checkpoint(location(name)).tensors)
    assert set(report.fates) == set(source)
    assert set(report.fates.values()) <= FATES
    used = {origin for trail in report.trails for origin in trail.sources}
    carried = {tensor for tensor, fate in report.fates.items() if fate == "carried"}
    assert used == carried
    targets = [trail.target for trail in report.trails]
    assert len(targets) == len(set(targets))
    assert not any(parameter.is_meta for parameter in vit.parameters())
    assert all(have == of for have, of in report.coverage.values())
