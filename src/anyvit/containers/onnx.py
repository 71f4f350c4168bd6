"""ONNX models: their tensors under the names that the exported module gave them, read without the onnx package.

Exporters fold constants: a linear's weight is transposed and loses its name, a position table is cut in two. The names
are given back from the graph (see `onnx_names`), and the transposition is undone when the tensor is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from anyvit.containers.files import LocalFile
from anyvit.containers.onnx_facts import facts
from anyvit.containers.onnx_names import Graph, Restored, restore
from anyvit.containers.onnx_proto import Model, parse
from anyvit.lazy import Checkpoint, Note

TURNED = "linear weights whose names the exporter dropped: named after their nodes, and transposed back"
NAMED = "tensors whose names the exporter dropped: named after where the graph uses them"
SHARED = "tensors that the exporter merged with an equal one: listed under their own names again"


def read(path: str | Path) -> Checkpoint:
    """Opens an ONNX model; reads its graph, and no tensor.

    Arguments:
        path: the file; tensors that it keeps in files beside it (external data) are found there.

    Returns:
        The checkpoint. A note "onnx" names the tensors whose names were given back, with what was undone; what could
        not be named keeps its anonymous name.

    Raises:
        FileError: missing, cut, damaged, or external data that is not there.
        UnsafeError: external data outside of the folder, or claims that cannot be.
    """
    file = LocalFile(path)
    model = parse(file)
    graph = Graph(model)
    restored = restore(model, graph)
    notes = [*_notes(model, restored), *model.notes()]
    extras = {"graph": facts(model, graph)}
    return Checkpoint(restored.tensors, "onnx", str(path), extras, notes=tuple(notes), metadata=model.metadata)


def _notes(model: Model, restored: Restored) -> list[Note]:
    notes = [*_changed(model)]
    said = ((restored.turned, TURNED), (restored.named, NAMED), (restored.shared, SHARED))
    notes += [Note("onnx", tuple(names), cause) for names, cause in said if names]
    if restored.small:
        cause = "nameless constants of the graph are no weights (shapes, indices, masks, single numbers)"
        notes.append(Note("onnx", (), f"{len(restored.small)} {cause}"))
    if nameless := [name for name in restored.tensors if name in restored.nameless]:
        notes.append(Note("onnx", tuple(nameless), "constants whose names could not be given back"))
    if model.functions:
        notes.append(Note("onnx", (), f"{model.functions} functions of the model were not looked into"))
    return notes


INTEGERS = re.compile(
    r"(MatMul|Conv)Integer\w*|QLinear\w+|QGemm|MatMulNBits|DequantizeLinear|QAttention|QMoE|DynamicQuantize\w+"
)
"""Operations that compute with integers. Source: https://onnx.ai/onnx/operators/ and onnxruntime's ContribOperators.md."""
BLOCKED = "com.microsoft.nchwc"
"""Domain of the operations whose kernels lie in blocks of channels. Source: onnxruntime/core/optimizer/nchwc_transformer.cc."""
JOINED = ("Attention", "QAttention", "EmbedLayerNormalization", "PackedAttention")
"""Operations of com.microsoft that hold the weights of several modules, whose names are lost."""


def _changed(model: Model) -> Iterator[Note]:
    """Why the weights of a model are no longer those of its modules."""
    again = "export it again without it, or load the checkpoint that it was exported from"
    integers = sorted({node.op for node in model.nodes if INTEGERS.fullmatch(node.op)})
    if integers:
        cause = f"quantised: the graph computes with integers ({', '.join(integers)})"
        yield Note("quantised", (), cause, "use the model before quantisation")
    if any(node.domain == BLOCKED for node in model.nodes):
        cause = "ONNX Runtime optimised this model for one processor: kernels lie in blocks of channels (NCHWc)"
        yield Note("fused", (), cause, f"save it with ORT_ENABLE_EXTENDED at most; {again}")
    joined = sorted({node.op for node in model.nodes if node.domain == "com.microsoft" and node.op in JOINED})
    if joined:
        cause = f"ONNX Runtime joined the weights of several modules ({', '.join(joined)}), whose names are lost"
        yield Note("fused", (), cause, again)
