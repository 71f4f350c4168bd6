"""What is needed of an ONNX model: its nodes by name, and where the bytes of its tensors lie.

Source of the field numbers: https://github.com/onnx/onnx/blob/v1.18.0/onnx/onnx.proto
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from anyvit.containers.files import LocalFile
from anyvit.containers.limits import check_total
from anyvit.containers.onnx_tensor import Tensor, tensor
from anyvit.containers.protobuf import BYTES, FIXED32, Message, signed
from anyvit.errors import UnsafeError
from anyvit.lazy import Lazy, Note

NODE_LIMIT = 1_000_000
"""Most nodes and tensors of a graph."""
TEXT_LIMIT = 256
"""Longest attribute in bytes that is kept as a text; those that mean something here are words."""

MODEL_PRODUCER, MODEL_GRAPH, MODEL_METADATA, MODEL_FUNCTIONS = 2, 7, 14, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN, NODE_METADATA = 1, 2, 3, 4, 5, 7, 9
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_TEXT, ATTRIBUTE_TENSOR = 1, 2, 3, 4, 5
ENTRY_KEY, ENTRY_VALUE = 1, 2

SCOPES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
"""What torch's exporter writes to each node: the modules around it, outermost first, and their classes.

Source: torch 2.6 `torch/onnx/_internal/exporter/_core.py`, _set_node_metadata.
"""
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")


@dataclass
class Node:
    """An operation of the graph.

    Arguments:
        op: its kind, "MatMul".
        name: its own name.
        inputs: names of the values that it takes; "" where one is left out.
        outputs: names of the values that it gives.
        scope: dotted path of the module that it came from, where the exporter wrote one down.
        owner: the class of the outermost module, where the exporter wrote one down.
        domain: who defines the kind; "" is ONNX itself.
        flags: its integer attributes.
        floats: its attributes that are real numbers.
        texts: its short attributes that are texts.
        value: the tensor of a Constant.
    """

    op: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    scope: str | None = None
    owner: str = ""
    domain: str = ""
    flags: dict[str, int] = field(default_factory=dict)
    floats: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    value: Tensor | None = None


@dataclass
class Model:
    """A parsed model: nodes in order, tensors by name, and what else is worth saying."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Lazy] = field(default_factory=dict)
    constants: dict[str, Lazy] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    unread: dict[str, list[str]] = field(default_factory=dict)
    functions: int = 0
    graphs: int = 0

    def notes(self) -> list[Note]:
        """What of the tensors is not read."""
        return [Note("unread", tuple(names), kind) for kind, names in self.unread.items()]


def parse(file: LocalFile) -> Model:
    """Reads the structure of a model, passing over the data of its tensors.

    Raises:
        FileError: damaged, cut, or no ONNX.
        UnsafeError: external data that lies elsewhere, or implausibly many nodes.
    """
    model = Model()
    files: dict[Path, LocalFile] = {}
    message = Message(file, 0, file.size)
    for entry in message:
        if entry.number == MODEL_GRAPH and entry.wire == BYTES:
            _graph(message.inner(entry), model, files)
            model.graphs += 1
        elif entry.number == MODEL_FUNCTIONS:
            model.functions += 1
        elif entry.number == MODEL_PRODUCER:
            model.metadata["producer"] = message.text(entry)
        elif entry.number == MODEL_METADATA and entry.wire == BYTES:
            model.metadata.update([_pair(message.inner(entry))])
    if not model.graphs:
        raise message.damaged("a model without a graph")
    claimed = sum(lazy.nbytes for found in (model.tensors, model.constants) for lazy in found.values())
    size = file.size + sum(other.size for other in files.values())
    check_total(file.name, claimed, size, "tensors that share few bytes of external data")
    return model


def _graph(message: Message, model: Model, files: dict[Path, LocalFile]) -> None:
    for entry in message:
        if entry.number not in (GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE) or entry.wire != BYTES:
            continue
        if len(model.nodes) + len(model.tensors) > NODE_LIMIT:
            raise UnsafeError(f"{message.file.name} has more nodes than any model", expected=f"at most {NODE_LIMIT}")
        if entry.number == GRAPH_NODE:
            node = _node(message.inner(entry), files)
            model.nodes.append(node)
            if node.op == "Constant" and node.value is not None and len(node.outputs) == 1:
                _keep(model, model.constants, node.outputs[0], node.value)
        elif entry.number == GRAPH_SPARSE:
            model.unread.setdefault("a sparse tensor is no plain array of numbers", []).append("")
        else:
            found = tensor(message.inner(entry), files)
            _keep(model, model.tensors, found.name, found)


def _keep(model: Model, where: dict[str, Lazy], name: str, found: Tensor) -> None:
    if found.lazy is None:
        model.unread.setdefault(f"a tensor of {found.kind}, which has no name here", []).append(name)
    elif name in where:
        model.unread.setdefault("a second tensor of the same name", []).append(name)
    else:
        where[name] = found.named(name)


def _node(message: Message, files: dict[Path, LocalFile]) -> Node:
    node = Node()
    for entry in message:
        if entry.number == NODE_INPUT:
            node.inputs.append(message.text(entry))
        elif entry.number == NODE_OUTPUT:
            node.outputs.append(message.text(entry))
        elif entry.number == NODE_NAME:
            node.name = message.text(entry)
        elif entry.number == NODE_OP:
            node.op = message.text(entry)
        elif entry.number == NODE_DOMAIN:
            node.domain = message.text(entry)
        elif entry.number == NODE_ATTRIBUTE and entry.wire == BYTES:
            _attribute(message.inner(entry), node, files)
        elif entry.number == NODE_METADATA and entry.wire == BYTES:
            _where(message.inner(entry), node)
    return node


def _attribute(message: Message, node: Node, files: dict[Path, LocalFile]) -> None:
    name, number, real, text, value = "", None, None, None, None
    for entry in message:
        if entry.number == ATTRIBUTE_NAME:
            name = message.text(entry)
        elif entry.number == ATTRIBUTE_INT:
            number = signed(entry.value)
        elif entry.number == ATTRIBUTE_FLOAT and entry.wire == FIXED32:
            real = message.real(entry)
        elif entry.number == ATTRIBUTE_TEXT and entry.wire == BYTES and entry.size <= TEXT_LIMIT:
            text = message.bytes_of(entry).decode("utf-8", "replace")
        elif entry.number == ATTRIBUTE_TENSOR and entry.wire == BYTES:
            value = entry
    if number is not None:
        node.flags[name] = number
    if real is not None:
        node.floats[name] = real
    if text is not None:
        node.texts[name] = text
    if value is not None and name == "value":
        node.value = tensor(message.inner(value), files)


def _where(message: Message, node: Node) -> None:
    key, value = _pair(message, {SCOPES, CLASSES})
    if key == SCOPES:
        # The last entry is the operation itself.
        paths = _words(value)
        node.scope = paths[-2] if len(paths) > 1 else ""
    elif key == CLASSES:
        node.owner = next(iter(_words(value)), "")


def _words(value: str) -> list[str]:
    return [a or b for a, b in _QUOTED.findall(value)]


def _pair(message: Message, wanted: set[str] | None = None) -> tuple[str, str]:
    """Key and value of an entry; the value only where its key is wanted."""
    key, value = "", ""
    for entry in message:
        if entry.number == ENTRY_KEY:
            key = message.text(entry)
        elif entry.number == ENTRY_VALUE and (wanted is None or key in wanted):
            value = message.text(entry)
    return key, value
