"""ONNX models: exported by torch in both ways, and made by hand with the onnx package."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx as peer
import pytest
import torch
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from anyvit.containers import onnx, open_checkpoint
from anyvit.containers.onnx_proto import SCOPES
from anyvit.errors import AnyvitError, FileError, UnsafeError
from anyvit.lazy import Checkpoint, Lazy


def trained(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def export(model: torch.nn.Module, size: int, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.randn(1, 3, size, size),), path, **{"dynamo": False, **options})
    return path


def agree(found: Checkpoint, model: torch.nn.Module, lost: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> None:
    state = {name: value for name, value in model.state_dict().items() if name not in lost}
    assert set(found.tensors) - set(more) == set(state)
    for name, value in state.items():
        lazy = found.tensors[name]
        assert lazy.shape == tuple(value.shape) and lazy.origin == (name,)
        assert np.array_equal(lazy.read(), value.numpy()), name


def named(found: Checkpoint, word: str) -> set[str]:
    return {name for note in found.notes if note.kind == "onnx" and word in note.cause for name in note.names}


@pytest.fixture(scope="module")
def timm_model(peers: None) -> torch.nn.Module:
    import timm

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", init_values=1e-5, **sizes)


def dinov2(registers: int) -> torch.nn.Module:
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 7}
    if registers:
        config = Dinov2WithRegistersConfig(**sizes, image_size=28, num_register_tokens=registers)
        return trained(Dinov2WithRegistersModel(config))
    return trained(Dinov2Model(Dinov2Config(**sizes, image_size=28)))


def test_linears_of_the_older_exporter(timm_model: torch.nn.Module, tmp_path: Path) -> None:
    model = trained(timm_model)
    found = onnx.read(export(model, 32, tmp_path / "model.onnx"))
    agree(found, model)
    linears = {f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert named(found, "transposed back") == linears
    assert found.container == "onnx" and found.metadata == {"producer": "pytorch"}
    assert found.tensors["head.weight"].pieces and found.tensors["blocks.0.norm1.weight"].pieces


def test_equal_tensors_that_were_merged(timm_model: torch.nn.Module, tmp_path: Path) -> None:
    for name, parameter in timm_model.named_parameters():
        torch.nn.init.constant_(parameter, float(name.endswith("norm1.weight"))) if parameter.ndim == 1 else None
    found = onnx.read(export(timm_model.eval(), 32, tmp_path / "model.onnx"))
    agree(found, timm_model)
    assert "blocks.1.norm1.weight" in named(found, "merged with an equal one")


def test_without_constant_folding_nothing_is_lost(timm_model: torch.nn.Module, tmp_path: Path) -> None:
    model = trained(timm_model)
    found = onnx.read(export(model, 32, tmp_path / "model.onnx", do_constant_folding=False))
    agree(found, model)
    assert not named(found, "exporter")


def test_a_position_table_in_two_pieces(tmp_path: Path) -> None:
    model = dinov2(0)
    path = export(model, 28, tmp_path / "model.onnx", input_names=["x"], dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}})
    found = onnx.read(path)
    agree(found, model, lost=("embeddings.mask_token",))
    assert named(found, "where the graph uses them") == {"embeddings.position_embeddings"}
    assert found.tensors["embeddings.position_embeddings"].pieces


def test_tokens_of_the_newer_exporter(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    model = dinov2(3)
    path = export(model, 28, tmp_path / "model.onnx", dynamo=True, external_data=False, verbose=False)
    found = onnx.read(path)
    more = tuple(name for name in found.tensors if name.startswith("val_"))
    agree(found, model, lost=("embeddings.mask_token",), more=more)
    assert named(found, "where the graph uses them") == {"embeddings.cls_token", "embeddings.register_tokens"}
    assert named(found, "could not be given back") == set(more)


# Graphs made by hand


def const(name: str, *shape: int, seed: int = 0) -> TensorProto:
    return numpy_helper.from_array(np.random.default_rng(seed).standard_normal(shape).astype("float32"), name)


def node(op: str, inputs: str, output: str, name: str = "", scope: list[str] | None = None, **flags: Any) -> Any:
    made = helper.make_node(op, inputs.split(), [output], name=name, **flags)
    if scope is not None:
        made.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File 'x', line 1\n" * 40)
        made.metadata_props.add(key=SCOPES, value=str(["", *scope, output]))
    return made


def save(path: Path, nodes: list[Any], constants: list[TensorProto]) -> Path:
    graph = helper.make_graph(nodes, "g", [], [], constants)
    path.write_bytes(helper.make_model(graph, producer_name="hand").SerializeToString())
    return path


def test_merged_tensors_are_found_by_the_module_of_their_node(tmp_path: Path) -> None:
    nodes = [
        node("LayerNormalization", "x n.weight n.bias", "a", scope=["n"]),
        node("LayerNormalization", "a n.weight n.bias", "b", scope=["blocks.1", "blocks.1.norm1"]),
        node("MatMul", "b val_1", "c", scope=["blocks.1", "blocks.1.fc1"]),
        node("Add", "c n.bias", "d", scope=["blocks.1", "blocks.1.fc1"]),
        node("Mul", "d n.weight", "e", scope=["blocks.1", "blocks.1.ls1"]),
        node("Mul", "d n.weight", "e2", scope=["layer.1", "layer.1.layer_scale2"]),
        node("Mul", "d n.weight", "e3", scope=["layer.1", "layer.1.gate"]),
        node("Add", "e n.bias", "f", scope=["blocks.1"]),
    ]
    found = onnx.read(save(tmp_path / "a", nodes, [const("n.weight", 4), const("n.bias", 4), const("val_1", 4, 4)]))
    assert set(found.tensors) == {
        "n.weight", "n.bias", "blocks.1.norm1.weight", "blocks.1.norm1.bias", "blocks.1.fc1.weight",
        "blocks.1.fc1.bias", "blocks.1.ls1.gamma", "layer.1.layer_scale2.lambda1",
    }  # fmt: skip
    assert np.array_equal(found.tensors["blocks.1.fc1.bias"].read(), found.tensors["n.bias"].read())


@pytest.mark.parametrize(
    ("path", "constants", "expected"),
    [
        ("/encoder/layer.0/q/MatMul", [], "encoder.layer.0.q.weight"),
        ("/seq/seq.0/seq.0.1/MatMul", [], "seq.0.1.weight"),
        ("/blocks.0/blocks.0.0/proj/MatMul", [], "blocks.0.0.proj.weight"),
        ("/blocks/blocks.0/fc/MatMul", ["blocks.blocks.0.norm.bias"], "blocks.blocks.0.fc.weight"),
        ("/blocks/blocks.0/fc/MatMul", ["blocks.0.norm.bias"], "blocks.0.fc.weight"),
        ("MatMul_17", [], "onnx::MatMul_9"),
        ("/MatMul", [], "onnx::MatMul_9"),
        ("/attn/MatMul", ["attn.proj.weight"], "onnx::MatMul_9"),
    ],
)
def test_names_of_nodes(tmp_path: Path, path: str, constants: list[str], expected: str) -> None:
    made = [const(name, 3) for name in constants] + [const("onnx::MatMul_9", 3, 4)]
    found = onnx.read(save(tmp_path / "a", [node("MatMul", "x onnx::MatMul_9", "y", path)], made))
    assert set(found.tensors) == {*constants, expected}
    lazy = found.tensors[expected]
    stored = numpy_helper.to_array(made[-1])
    assert np.array_equal(lazy.read(), stored if expected.startswith("onnx") else stored.T)


@pytest.mark.parametrize(
    ("op", "flags", "bias", "turned"),
    [
        ("Gemm", {"transB": 1}, "md.x.proj.bias", False),
        ("Gemm", {}, "md.x.proj.bias", True),
        ("MatMul", {}, "md.x.proj.bias", True),
        ("MatMul", {}, "attn.in_proj_bias", True),
    ],
)
def test_a_weight_is_called_as_its_bias(tmp_path: Path, op: str, flags: Any, bias: str, turned: bool) -> None:
    weight = const("onnx::W_1", 4, 3) if not turned else const("onnx::W_1", 3, 4)
    nodes = [node(op, f"x onnx::W_1 {bias}" if op == "Gemm" else "x onnx::W_1", "y", "/x/proj/Op", **flags)]
    nodes += [node("Add", f"{bias} y", "z")] if op == "MatMul" else []
    found = onnx.read(save(tmp_path / "a", nodes, [weight, const(bias, 4)]))
    lazy = found.tensors[bias[: -len("bias")] + "weight"]
    stored = numpy_helper.to_array(weight)
    assert np.array_equal(lazy.read(), stored.T if turned else stored) and lazy.shape == (4, 3)


def test_a_product_of_two_activations_is_no_linear(tmp_path: Path) -> None:
    nodes = [node("MatMul", "q k", "y", "/a/MatMul"), node("MatMul", "val_1 val_2", "z", "/b/MatMul")]
    found = onnx.read(save(tmp_path / "a", nodes, [const("val_1", 2, 3), const("val_2", 3, 4)]))
    assert set(found.tensors) == {"val_1", "val_2"} == named(found, "could not be given back")


def test_q_k_v_of_one_matrix_without_a_name(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x val_1", "y", "/blocks.0/attn/MatMul"), node("Add", "y val_2", "z", "/blocks.0/attn/Add")]
    made = [const("val_1", 4, 12), const("val_2", 12), const("blocks.0.attn.proj.weight", 4, 4)]
    found = onnx.read(save(tmp_path / "a", nodes, made))
    assert found.tensors["blocks.0.attn.qkv.weight"].shape == (12, 4)
    assert found.tensors["blocks.0.attn.qkv.bias"].shape == (12,)


def vit(path: Path, patch: str, nodes: list[Any], constants: list[TensorProto]) -> Checkpoint:
    conv = [node("Conv", f"x {patch}", "c"), node("Reshape", "c val_0", "r"), node("Transpose", "r", "p")]
    return onnx.read(save(path / "a", conv + nodes, [const(patch, 6, 3, 2, 2), const("val_0", 3), *constants]))


def test_tokens_by_use(tmp_path: Path) -> None:
    both = [node("Concat", "expand expand_1 p", "t", axis=1), node("Add", "t pos", "u")]
    made = [const("expand", 1, 1, 6), const("expand_1", 1, 4, 6, seed=1), const("pos", 1, 9, 6, seed=2)]
    found = vit(tmp_path, "m.patch_embed.proj.weight", both, made).tensors
    assert {"m.cls_token", "m.reg_token", "m.pos_embed"} < set(found)
    assert np.array_equal(found["m.reg_token"].read(), numpy_helper.to_array(made[1]))

    found = vit(tmp_path, "v.embeddings.patch_embedding.weight", both[:1] + [node("Add", "pos t", "u")], made).tensors
    assert found["v.embeddings.class_embedding"].shape == (6,)
    assert found["v.embeddings.position_embedding.weight"].shape == (9, 6)
    assert "expand_1" in found

    found = vit(tmp_path, "conv_proj.weight", [node("Concat", "expand p", "t", axis=1)], made[:1]).tensors
    assert found["class_token"].shape == (1, 1, 6)


def test_a_second_token_is_for_distillation_where_a_head_says_so(tmp_path: Path) -> None:
    nodes = [node("Concat", "expand expand_1 p", "t", axis=1)]
    made = [const("expand", 1, 1, 6), const("expand_1", 1, 1, 6, seed=1)]
    assert "reg_token" in vit(tmp_path, "patch_embed.proj.weight", nodes, made).tensors
    found = vit(tmp_path, "patch_embed.proj.weight", nodes, [*made, const("head_dist.weight", 5, 6)]).tensors
    assert "dist_token" in found and "reg_token" not in found


@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 6), (1, 2, 2, 6), (1, 6, 2, 2)])
def test_a_grid_in_any_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    grid, cls = np.arange(24, dtype="float32").reshape(1, 2, 2, 6), np.full((1, 1, 6), -1, "float32")
    stored = grid.transpose(0, 3, 1, 2) if shape[1] == 6 and len(shape) == 4 else grid.reshape(shape)
    nodes = [
        node("Resize", "g", "g1"), node("Transpose", "g1", "g2"), node("Concat", "k g2", "g3", axis=1),
        node("Concat", "cls_token p", "t", axis=1), node("Add", "t g3", "u"),
    ]  # fmt: skip
    made = [const("cls_token", 1, 1, 6), numpy_helper.from_array(np.ascontiguousarray(stored), "g")]
    found = vit(tmp_path, "patch_embed.proj.weight", nodes, [*made, numpy_helper.from_array(cls, "k")]).tensors
    expected = np.concatenate([cls, grid.reshape(1, 4, 6)], 1)
    assert np.array_equal(found["pos_embed"].read(), expected) and not {"g", "k"} & set(found)


def test_what_comes_after_the_first_linear_is_no_token(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "p m", "q"),
        node("Concat", "expand q", "t", axis=1),
        node("Concat", "expand p", "w", axis=1),
    ]
    made = [const("expand", 1, 1, 6), const("m", 6, 6)]
    assert "cls_token" not in vit(tmp_path, "patch_embed.proj.weight", nodes, made).tensors


def test_concatenations_without_end(tmp_path: Path) -> None:
    nodes = [node("Concat", f"v{i} v{i}", f"v{i + 1}", axis=1) for i in range(64)] + [node("Add", "p v64", "u")]
    assert set(vit(tmp_path, "patch_embed.proj.weight", nodes, [const("v0", 1, 1, 6)]).tensors) == {
        "patch_embed.proj.weight", "v0"
    }  # fmt: skip


# The container itself

FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "complex64"])
def test_every_element_type(tmp_path: Path, dtype: str, raw: bool) -> None:
    from anyvit.dtypes import np_dtype

    values = np.array([0, 1, 1, 0] if dtype == "bool" else [0, 1, 2, -3 if dtype[0] in "fibc" else 3]).astype(
        np_dtype(dtype)
    )
    kind = helper.np_dtype_to_tensor_dtype(np_dtype(dtype))
    data = values.tobytes() if raw else values.tolist()
    made = helper.make_tensor("a.b", kind, [2, 2], data, raw=raw)
    lazy = onnx.read(save(tmp_path / "a", [], [made])).tensors["a.b"]
    assert (lazy.dtype, lazy.shape) == (dtype, (2, 2)) and lazy.read().tobytes() == values.tobytes()
    stored = raw or dtype in ("float32", "float64", "complex64")
    assert (lazy.pieces is not None) == stored


def test_what_is_not_read_is_noted(tmp_path: Path) -> None:
    made = [
        helper.make_tensor("a.b", TensorProto.INT4, [2], [1, 2]),
        helper.make_tensor("c.d", TensorProto.STRING, [1], [b"x"]),
    ]
    found = onnx.read(save(tmp_path / "a", [], [*made, const("e.f", 2)]))
    assert list(found.tensors) == ["e.f"]
    assert {(note.names, note.cause.split(",")[0]) for note in found.notes} == {
        (("a.b",), "a tensor of int4"), (("c.d",), "a tensor of text"),
    }  # fmt: skip


def test_constants_inside_nodes(tmp_path: Path) -> None:
    value = const("inner", 3, 4)
    nodes = [helper.make_node("Constant", [], ["/fc/Constant_output_0"], value=value),
             node("MatMul", "x /fc/Constant_output_0", "y", "/fc/MatMul")]  # fmt: skip
    found = onnx.read(save(tmp_path / "a", nodes, []))
    assert np.array_equal(found.tensors["fc.weight"].read(), numpy_helper.to_array(value).T)


def external(folder: Path) -> Path:
    values = np.arange(2000, dtype="float32").reshape(40, 50)
    model = helper.make_model(
        helper.make_graph([], "g", [], [], [numpy_helper.from_array(values, "a.b"), const("c.d", 3)])
    )
    peer.save_model(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    return folder / "m.onnx"


def test_data_in_another_file(tmp_path: Path) -> None:
    found = onnx.read(external(tmp_path))
    lazy = found.tensors["a.b"]
    assert lazy.pieces and lazy.pieces[0].source.name.endswith("m.data")
    assert np.array_equal(lazy.read(), np.arange(2000, dtype="float32").reshape(40, 50))
    (tmp_path / "m.data").write_bytes(bytes(7999))
    with pytest.raises(FileError, match=r"another size than its shape says: a\.b"):
        onnx.read(tmp_path / "m.onnx")
    (tmp_path / "m.data").unlink()
    with pytest.raises(FileError, match=r"which is missing: .*m\.data"):
        onnx.read(tmp_path / "m.onnx")


@pytest.mark.parametrize("fields", [{"raw_data": bytes(4)}, {"float_data": [1.0, 2.0, 3.0]}, {}, {"int32_data": [1]}])
def test_data_of_another_size_than_the_shape(tmp_path: Path, fields: dict[str, Any]) -> None:
    made = TensorProto(name="a.b", dims=[2], data_type=TensorProto.FLOAT, **fields)
    with pytest.raises(FileError, match=r"another size than its shape says: a\.b"):
        onnx.read(save(tmp_path / "a", [], [made]))


@pytest.mark.parametrize("where", ["../secret", "/etc/passwd", "", "a/../../secret", "C:\\secret"])
def test_data_elsewhere_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    (tmp_path / "m").mkdir()
    tensor = TensorProto(name="a.b", dims=[2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=where)
    with pytest.raises(UnsafeError, match="does not lie beside it"):
        onnx.read(save(tmp_path / "m" / "m.onnx", [], [tensor]))


def test_tensor_bytes_are_not_read_for_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a", [], [const(f"t.{i}", 300, 400) for i in range(10)])
    seen: list[int] = []
    plain = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        seen.append(size)
        return plain(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert len(onnx.read(path).tensors) == 10
    assert sum(seen) < 200_000 < path.stat().st_size / 20


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x val_1", "c", "/a/b/MatMul", scope=["a", "a.b"])]
    graph = helper.make_graph(nodes, "g", [], [], [const("val_1", 2, 3)])
    whole = peer.ModelProto(graph=graph).SerializeToString()
    for size in range(len(whole)):
        (tmp_path / "b").write_bytes(whole[:size])
        with pytest.raises(FileError):
            onnx.read(tmp_path / "b")
    (tmp_path / "b").write_bytes(whole)
    assert list(onnx.read(tmp_path / "b").tensors) == ["a.b.weight"]


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 10**6), st.binary(max_size=5))
def test_a_damaged_file_gives_a_checkpoint_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    nodes = [node("Conv", "x patch_embed.proj.weight", "p"), node("Concat", "e p", "t", axis=1),
             node("MatMul", "t val_1", "c", "/a/MatMul", scope=["a"])]  # fmt: skip
    made = [const("patch_embed.proj.weight", 2, 1, 1, 1), const("e", 1, 1, 2), const("val_1", 2, 3),
            helper.make_tensor("i.j", TensorProto.INT64, [2], [1, -1])]  # fmt: skip
    data = save(path, nodes, made).read_bytes()
    at %= len(data)
    path.write_bytes(data[:at] + raw + data[at + len(raw) :])
    try:
        for lazy in onnx.read(path).tensors.values():
            lazy.read()
    except AnyvitError:
        pass


def test_forged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    for data, message in (
        (b"\x08\x07", "without a graph"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes"),
        (b"\x0b\x00", "wire type 3"),
        (b"\x3a\xff\xff\xff\xff\x0f\x00", "ends inside"),
    ):
        path.write_bytes(data)
        with pytest.raises(FileError, match=message):
            onnx.read(path)
    huge = TensorProto(name="a", dims=[1 << 60], data_type=TensorProto.FLOAT, raw_data=b"")
    many = TensorProto(name="a", dims=[1] * 1000, data_type=TensorProto.FLOAT, raw_data=b"1234")
    below = TensorProto(name="a", dims=[-4], data_type=TensorProto.FLOAT, raw_data=b"1234")
    for made in (huge, many, below):
        with pytest.raises(UnsafeError, match="impossible axes"):
            onnx.read(save(path, [], [made]))
    monkeypatch.setattr("anyvit.containers.protobuf.FIELD_LIMIT", 5)
    with pytest.raises(UnsafeError, match="more fields"):
        onnx.read(save(path, [], [const("a", 2)]))


@needs_shared
def test_the_truth_case() -> None:
    path = SHARED / "cases" / "onnx-p" / "model.onnx"
    found = open_checkpoint(path)
    stored = {made.name: numpy_helper.to_array(made) for made in peer.load(path).graph.initializer}
    part = "encoder.layer.{}.{}.weight"
    names = ["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2"]
    linears = [part.format(i, name) for i in range(4) for name in names]
    # The numbers of the nameless constants rise in the order of the graph.
    matrices = [stored[name] for name in sorted(stored) if name.startswith("onnx::MatMul")]
    for name, matrix in zip(linears, matrices, strict=True):
        assert np.array_equal(found.tensors[name].read(), matrix.T), name
    table = np.concatenate([stored["onnx::Concat_542"], stored["onnx::Reshape_547"]], 1)
    assert np.array_equal(found.tensors["embeddings.position_embeddings"].read(), table)
    kept = {name for name in stored if "::" not in name}
    assert set(found.tensors) == kept | {*linears, "embeddings.position_embeddings"}
    assert all(same(found.tensors[name], stored[name]) for name in kept)


def same(lazy: Lazy, array: np.ndarray) -> bool:
    return lazy.pieces is not None and np.array_equal(lazy.read(), array)


# What other tools leave of a graph


def siglip() -> torch.nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "patch_size": 7}
    return trained(SiglipVisionModel(SiglipVisionConfig(**sizes, intermediate_size=40, image_size=28)))


def test_the_input_projection_of_a_pooling_head_in_two_parts(peers: None, tmp_path: Path) -> None:
    model = siglip()
    found = onnx.read(export(model, 28, tmp_path / "model.onnx"))
    agree(found, model)
    assert {"head.attention.in_proj_weight", "head.attention.in_proj_bias"} <= named(found, "transposed back")


def test_the_query_of_a_pooling_head_of_the_newer_exporter(peers: None, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    model = siglip()
    found = onnx.read(export(model, 28, tmp_path / "m.onnx", dynamo=True, external_data=False, verbose=False))
    agree(found, model)
    assert "head.probe" in named(found, "where the graph uses them")


def test_linears_that_an_optimiser_joined(tmp_path: Path) -> None:
    names = ("a.q_proj", "a.k_proj", "a.v_proj")
    nodes = [
        node("MatMul", "x _v_1", "y"),
        helper.make_node("Split", ["y", "sizes"], list("qkv"), axis=-1),
        *(node("Add", f"{name}.bias {part}", f"{part}2") for name, part in zip(names, "qkv", strict=True)),
    ]
    constants = [const("_v_1", 4, 7), *(const(f"{n}.bias", size) for n, size in zip(names, (2, 2, 3), strict=True))]
    whole = numpy_helper.to_array(constants[0])
    found = onnx.read(save(tmp_path / "a.onnx", nodes, constants))
    parts = [found.tensors[f"{name}.weight"].read() for name in names]
    assert [part.shape for part in parts] == [(2, 4), (2, 4), (3, 4)]
    assert np.array_equal(np.concatenate(parts), whole.T)


def test_a_table_that_is_added_in_a_joined_norm(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x patch_embed.proj.weight", "c"),
        node("Concat", "cls_token c", "d", axis=1),
        node("SkipLayerNormalization", "d val_3 blocks.0.norm1.weight", "e", domain="com.microsoft"),
        node("MatMul", "e val_4", "f"),
    ]
    constants = [const("patch_embed.proj.weight", 6, 3, 2, 2), const("cls_token", 1, 1, 6), const("val_3", 1, 5, 6)]
    constants += [const("blocks.0.norm1.weight", 6), const("val_4", 6, 18)]
    found = onnx.read(save(tmp_path / "a.onnx", nodes, constants))
    assert np.array_equal(found.tensors["pos_embed"].read(), numpy_helper.to_array(constants[2]))


@pytest.mark.parametrize(
    ("op", "domain", "kind", "words"),
    [
        ("MatMulInteger", "", "quantised", "computes with integers (MatMulInteger)"),
        ("DequantizeLinear", "", "quantised", "computes with integers (DequantizeLinear)"),
        ("Conv", "com.microsoft.nchwc", "fused", "blocks of channels"),
        ("Attention", "com.microsoft", "fused", "joined the weights of several modules (Attention)"),
        ("Attention", "", "", ""),
    ],
)
def test_weights_that_a_tool_changed_are_named(tmp_path: Path, op: str, domain: str, kind: str, words: str) -> None:
    made = helper.make_node(op, ["x", "w"], ["y"], domain=domain)
    found = onnx.read(save(tmp_path / "a.onnx", [made], [const("w", 4, 4)]))
    notes = [note for note in found.notes if note.kind in ("quantised", "fused")]
    assert [note.kind for note in notes] == ([kind] if kind else [])
    assert all(words in note.cause and note.remedy for note in notes)
