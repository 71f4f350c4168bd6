"""What graphs say beside their tensors: exports of real models, and nodes made by hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import anyvit
from anyvit.containers import open_checkpoint

WIDTH = 24


def said(path: Path) -> dict[str, Any]:
    return {field: value for field, (value, _) in open_checkpoint(path).extras["graph"].items()}


def export(model: torch.nn.Module, path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.randn(2, 3, 32, 32),), path, **{"dynamo": False, **options})
    return path


def vit(**changes: Any) -> torch.nn.Module:
    import timm

    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 4}
    return timm.create_model("vit_tiny_patch16_224", **{**sizes, "num_classes": 3, **changes})


def test_heads_epsilon_and_activation_come_from_the_graph(peers: None, tmp_path: Path) -> None:
    from functools import partial

    odd = vit(norm_layer=partial(torch.nn.LayerNorm, eps=3e-4), act_layer=partial(torch.nn.GELU, approximate="tanh"))
    path = export(odd, tmp_path / "odd.onnx", opset_version=20)
    assert said(path) == {"num_heads": 4, "eps": 3e-4, "act": "gelu_tanh", "rotates": False, "biased": False}
    spec = anyvit.inspect(path).spec
    assert spec is not None and (spec.num_heads, spec.eps, spec.act) == (4, 3e-4, "gelu_tanh")
    assert {spec.facts[name].how for name in ("num_heads", "eps", "act")} == {"measured"}
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = anyvit.load(path)(pixels).logits
        assert logits is not None and torch.allclose(logits, odd(pixels), atol=2e-5)


def test_a_norm_that_was_taken_apart(peers: None, tmp_path: Path) -> None:
    path = export(vit(), tmp_path / "old.onnx", opset_version=16)
    assert said(path) == {"num_heads": 4, "eps": 1e-6, "act": "gelu", "rotates": False, "biased": False}


def test_torchs_own_attention_module(tmp_path: Path) -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, WIDTH, 8, 8)
            self.attn = torch.nn.MultiheadAttention(WIDTH, 3, batch_first=True)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = self.conv1(pixels).flatten(2).transpose(1, 2)
            return self.attn(x, x, x, need_weights=False)[0]

    for axes in (None, {"x": {0: "n", 2: "h", 3: "w"}}):
        path = export(Block(), tmp_path / "attn.onnx", input_names=["x"], dynamic_axes=axes)
        assert said(path) == {"num_heads": 3, "rotates": False, "biased": False}


def test_folded_relative_positions_are_refused(peers: None, tmp_path: Path) -> None:
    import timm

    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    path = export(timm.create_model("beit_base_patch16_224", **sizes), tmp_path / "beit.onnx")
    assert said(path)["biased"] is True
    report = anyvit.inspect(path)
    assert not report.ok
    assert "adds something to the attention scores" in str(report.error())


# Graphs made by hand


def const(name: str, *shape: int, dtype: str = "float32") -> TensorProto:
    return numpy_helper.from_array(np.random.default_rng(0).standard_normal(shape).astype(dtype), name)


def whole(name: str, values: Any, dtype: str) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def attention(
    path: Path, between: list[Any], last: str, query: str = "q", constants: tuple[TensorProto, ...] = ()
) -> Path:
    """Patches, a linear for the queries, a product with keys, `between` it and the softmax."""
    nodes = [
        helper.make_node("Conv", ["x", "patch.weight"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["q"]),
        *([] if query == "q" else [helper.make_node("Neg", ["q"], [query])]),
        helper.make_node("MatMul", [query, "c"], ["scores"]),
        *between,
        helper.make_node("Softmax", [last], ["out"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [const("patch.weight", 8, 3, 4, 4), const("w", 8, 8), *constants])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_rotations_are_seen(tmp_path: Path) -> None:
    assert said(attention(tmp_path / "a.onnx", [], "scores"))["rotates"] is False
    assert said(attention(tmp_path / "b.onnx", [], "scores", "turned"))["rotates"] is True


@pytest.mark.parametrize(("value", "biased"), [(0.0, False), (0.5, True)])
def test_what_is_added_to_the_scores(tmp_path: Path, value: float, biased: bool) -> None:
    add = helper.make_node("Add", ["scores", "bias"], ["sum"])
    path = attention(tmp_path / "a.onnx", [add], "sum", constants=(whole("bias", [[value] * 4] * 4, "float32"),))
    assert said(path)["biased"] is biased


@pytest.mark.parametrize("hidden", [False, True])
def test_a_mask_that_hides_nothing_is_no_bias(tmp_path: Path, hidden: bool) -> None:
    mask = whole("mask", [[True, not hidden]], "bool")
    between = [
        helper.make_node("Expand", ["mask", "shape"], ["wide"]),
        helper.make_node("Where", ["wide", "zero", "low"], ["added"]),
        helper.make_node("Add", ["scores", "added"], ["sum"]),
    ]
    constants = (mask, whole("zero", 0, "float32"), whole("low", -1e9, "float32"), whole("shape", [2, 2], "int64"))
    assert said(attention(tmp_path / "a.onnx", between, "sum", constants=constants))["biased"] is hidden


def test_without_a_patch_convolution_nothing_is_said(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "g", [], [], [const("a.weight", 3)])
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert said(tmp_path / "a.onnx") == {}


def test_a_rotary_table_that_was_stored_is_computed_again(peers: None, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    import timm

    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = timm.create_model("eva02_tiny_patch14_224", **sizes)
    path = export(model, tmp_path / "eva.onnx", dynamo=True, external_data=False, verbose=False)
    assert said(path)["rotates"] is True
    vit = anyvit.load(path)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert vit.spec.rope is not None
        assert torch.allclose(vit(pixels).tokens, model.forward_features(pixels), atol=2e-5)
