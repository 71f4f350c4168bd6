"""Gives the tensors of an exported graph the names back that its module had.

What torch's two exporters leave, seen on exports of timm, transformers and open_clip models by torch 2.7 and 2.13:

- the older one (`dynamo=False`) names constants `onnx::MatMul_551` and nodes by the modules around them,
  `/encoder/layer.0/attention/q_proj/MatMul`; equal tensors are merged, each further name being an Identity node;
- the newer one (`dynamo=True`) names constants `val_27` or after the operation that was folded (`expand`), nodes hold
  the modules around them in their metadata, and merged tensors leave no trace but the node that uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from anyvit.containers import onnx_tokens
from anyvit.containers.onnx_proto import Model, Node
from anyvit.lazy import Lazy, computed, concat, split

PARAMETERS = {
    "LayerNormalization": {1: "weight", 2: "bias"},
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "GroupNormalization": {1: "weight", 2: "bias"},
    "RMSNormalization": {1: "weight"},
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
}
"""Kind of node → which of its inputs are parameters, and what torch's modules call them."""
SMALL = 4096
"""Most bytes of a nameless constant of one axis that is taken for a shape or an index."""
INDICES = ("int32", "int64", "bool")
"""Element types of nameless constants that are shapes, indices and masks; quantised weights have narrower ones."""
SCALES = ((r"ls\d", "gamma"), (r"layer_scale\d", "lambda1"))
"""LayerScale modules of timm and DINOv2, and of transformers, and what they call their parameter."""
_BIAS = re.compile(r"(?P<before>.*[._])bias")


@dataclass
class Restored:
    """The tensors of a model by their own names, and what was done to find these.

    Arguments:
        tensors: by name, those that had one first.
        turned: names of the linear weights that are transposed back.
        named: names that were given back otherwise.
        shared: names of tensors that had been merged with an equal one.
        nameless: anonymous names of the constants that remain.
        small: anonymous names of shapes, indices, masks and single numbers, left out.
    """

    tensors: dict[str, Lazy] = field(default_factory=dict)
    turned: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    nameless: set[str] = field(default_factory=set)
    small: list[str] = field(default_factory=list)


def restore(model: Model, graph: Graph) -> Restored:
    """Names what can be named; leaves the rest as it is."""
    found = Restored()
    anonymous = {name for name in graph.constants if is_anonymous(name)}
    found.tensors = {name: lazy for name, lazy in graph.constants.items() if name not in anonymous}
    _identities(graph, found)
    graph.learn(found.tensors)
    used: set[str] = set()
    for node in model.nodes:
        for name, source, turned in _linear(node, graph):
            if source in anonymous and name not in found.tensors:
                lazy = graph.constants[source]
                found.tensors[name] = replace(transposed(lazy) if turned else lazy, origin=(name,))
                (found.turned if turned else found.named).append(name)
                used.add(source)
        for name, source in _merged(node, graph):
            if name not in found.tensors and source not in anonymous:
                found.tensors[name] = replace(graph.constants[source], origin=(name,))
                found.shared.append(name)
        for name, lazy, source in _parted(node, graph):
            if source in anonymous and name not in found.tensors:
                found.tensors[name] = replace(lazy, origin=(name,))
                found.turned.append(name)
                used.add(source)
        for name, source in _query(node, graph):
            if source in anonymous and name not in found.tensors:
                found.tensors[name] = replace(graph.constants[source], origin=(name,))
                found.named.append(name)
                used.add(source)
    for name, lazy, sources in _packed(model.nodes, graph, anonymous - used):
        if name not in found.tensors:
            found.tensors[name] = replace(lazy, origin=(name,))
            found.turned.append(name)
            used.update(sources)
    for name, lazy, sources in onnx_tokens.tables(model, graph.constants, anonymous - used, found.tensors):
        found.tensors[name] = replace(lazy, origin=(name,))
        found.named.append(name)
        used.update(sources)
    for name in (name for name in graph.constants if name in anonymous - used):
        lazy = graph.constants[name]
        if lazy.dtype in INDICES or (len(lazy.shape) < 2 and lazy.nbytes <= SMALL):
            found.small.append(name)
        else:
            found.tensors[name] = lazy
            found.nameless.add(name)
    return found


def is_anonymous(name: str) -> bool:
    """Whether a constant's name is the exporter's and not the module's.

    Example:
        >>> [is_anonymous(name) for name in ("onnx::MatMul_551", "val_27", "blocks.0.norm1.bias", "cls_token")]
        [True, True, False, False]
    """
    if "::" in name or "/" in name or not name:
        return True
    return "." not in name and name not in onnx_tokens.ROOT_NAMES


def transposed(lazy: Lazy) -> Lazy:
    """A matrix whose axes are swapped when it is read."""
    return computed(lazy.shape[::-1], lazy.dtype, lambda array: array.T, [lazy])


class Graph:
    """What is known of a graph: its constants, which module each node belongs to, and which value is which constant."""

    def __init__(self, model: Model) -> None:
        self.constants = {**model.constants, **model.tensors}
        self.uses: dict[str, list[Node]] = {}
        self.makers = {output: node for node in model.nodes for output in node.outputs}
        self.modules: set[str] = set()
        self.parents: set[str] = set()
        self.same: dict[str, str] = {}
        for node in model.nodes:
            for name in node.inputs:
                self.uses.setdefault(name, []).append(node)
            if node.op == "Identity" and len(node.inputs) == len(node.outputs) == 1:
                source = self.constant(node.inputs[0])
                if source:
                    self.same[node.outputs[0]] = source

    def constant(self, value: str) -> str | None:
        """The constant that a value is, directly or through Identity nodes."""
        return self.same.get(value) or (value if value in self.constants else None)

    def learn(self, names: dict[str, Lazy]) -> None:
        """Takes note of the modules that the known names speak of."""
        for name in names:
            parts = name.split(".")
            paths = [".".join(parts[:i]) for i in range(1, len(parts))]
            self.modules.update(paths)
            self.parents.update(paths[:-1])

    def scope(self, node: Node) -> str:
        """The dotted path of the module that a node came from; "" where nothing says it.

        The older exporter writes `/blocks/blocks.0/attn/MatMul`: a list's entry repeats the list's name where the
        list is called as a module itself.
        """
        if node.scope is not None:
            return node.scope
        if not node.name.startswith("/"):
            return ""
        path, last = "", ""
        for part in node.name.split("/")[1:-1]:
            longer = f"{path}.{part}" if path else part
            if last and part.startswith(f"{last}."):
                merged = path[: len(path) - len(last)] + part
                path = longer if longer in self.modules and merged not in self.modules else merged
            else:
                path = longer
            last = part
        return path


def _identities(graph: Graph, found: Restored) -> None:
    for name, source in graph.same.items():
        if not is_anonymous(name) and name not in found.tensors:
            found.tensors[name] = replace(graph.constants[source], origin=(name,))
            found.shared.append(name)


def _linear(node: Node, graph: Graph) -> Iterator[tuple[str, str, bool]]:
    """Names of a linear's weight and bias, the constant that each is, and whether that lies as (in, out)."""
    if node.op not in ("MatMul", "Gemm") or len(node.inputs) < 2:
        return
    source = graph.constant(node.inputs[1])
    if source is None or len(graph.constants[source].shape) != 2 or graph.constant(node.inputs[0]) is not None:
        return
    turned = not (node.op == "Gemm" and node.flags.get("transB"))
    inside, outside = graph.constants[source].shape[:: 1 if turned else -1]
    named = _module(node, graph, outside == 3 * inside)
    if named is None:
        return
    yield f"{named}weight", source, turned
    _, bias = _added(node, graph)
    if bias and graph.constants[bias].shape == (outside,):
        yield f"{named}bias", bias, False


def _module(node: Node, graph: Graph, triple: bool) -> str | None:
    """What stands before "weight": as before its bias, else after its module; None where nothing says it."""
    scope, (bias, _) = graph.scope(node), _added(node, graph)
    match = _BIAS.fullmatch(bias)
    if match and (node.scope is None or bias.startswith(f"{scope}.")):
        return match["before"]
    if not scope:
        return None
    if scope in graph.parents:
        # A module with parts of its own computed by itself. timm's BEiT and EVA do so with q, k and v, because only
        # q and v have a bias; of others nothing says which part it was.
        return f"{scope}.qkv." if triple and f"{scope}.proj" in graph.modules else None
    return f"{scope}."


def _added(node: Node, graph: Graph) -> tuple[str, str | None]:
    """The constant that is added to what a linear gives: its own name, "" where it has none, and which one it is."""
    values = node.inputs[2:3]
    if node.op != "Gemm":
        followers = graph.uses.get(node.outputs[0], ())
        values = [value for follower in followers if follower.op == "Add" for value in follower.inputs]
    for value in values:
        source = graph.constant(value)
        if source is not None and len(graph.constants[source].shape) == 1:
            return "" if is_anonymous(value) else value, source
    return "", None


def _parted(node: Node, graph: Graph) -> Iterator[tuple[str, Lazy, str]]:
    """Names, parts and constant of the linears that an optimiser joined to one: MatMul, Split, and a named bias each."""
    source = graph.constant(node.inputs[1]) if node.op == "MatMul" and len(node.inputs) == 2 else None
    after = graph.uses.get(node.outputs[0], []) if source is not None else []
    if source is None or len(after) != 1 or after[0].op != "Split" or len(graph.constants[source].shape) != 2:
        return
    biases = []
    for output in after[0].outputs:
        adds = [add for add in graph.uses.get(output, ()) if add.op == "Add"]
        named = [v for add in adds for v in add.inputs if graph.constant(v) and _BIAS.fullmatch(v)]
        biases.append(named[0] if len(named) == 1 else "")
    sizes = [graph.constants[graph.constant(bias) or ""].shape[0] for bias in biases if bias]
    whole = graph.constants[source].shape[1]
    if len(sizes) < 2 or len(sizes) != len(biases) or sum(sizes) != whole:
        return
    for bias, part in zip(biases, split(transposed(graph.constants[source]), sizes), strict=True):
        yield bias[: -len("bias")] + "weight", part, source


def _query(node: Node, graph: Graph) -> Iterator[tuple[str, str]]:
    """Name and constant of the learned query of transformers' pooling heads, which is repeated for each picture."""
    scope = graph.scope(node)
    if node.op == "MatMul" and f"{scope}.in_proj_weight" in graph.constants:
        scope = scope.removesuffix(".attention")  # of a single picture nothing is repeated
    elif node.op not in ("Tile", "Expand"):
        return
    source = graph.constant(node.inputs[0])
    if source is not None and graph.constants[source].shape[:2] == (1, 1) and f"{scope}.attention" in graph.modules:
        yield f"{scope}.probe", source


def _packed(nodes: Iterable[Node], graph: Graph, free: set[str]) -> Iterator[tuple[str, Lazy, tuple[str, ...]]]:
    """Name, tensor and constants of torch.nn.MultiheadAttention's input projection, which exporters cut in two or three."""
    parts: dict[str, list[tuple[str, str | None]]] = {}
    for node in nodes:
        source = graph.constant(node.inputs[1]) if node.op == "MatMul" and len(node.inputs) > 1 else None
        scope = graph.scope(node)
        if source in free and scope and f"{scope}.out_proj" in graph.modules:
            bias = next((graph.constant(v) for add in graph.uses.get(node.outputs[0], ()) if add.op == "Add"
                         for v in add.inputs if graph.constant(v)), None)  # fmt: skip
            parts.setdefault(scope, []).append((source, bias))
    for scope, found in parts.items():
        weights = [transposed(graph.constants[source]) for source, _ in found]
        width = weights[0].shape[-1]
        if (
            any(len(w.shape) != 2 or w.shape[1] != width for w in weights)
            or sum(w.shape[0] for w in weights) != 3 * width
        ):
            continue
        yield f"{scope}.in_proj_weight", concat(weights), tuple(source for source, _ in found)
        biases = [bias for _, bias in found if bias]
        if len(biases) == len(found):
            yield f"{scope}.in_proj_bias", concat([graph.constants[bias] for bias in biases]), tuple(biases)


def _merged(node: Node, graph: Graph) -> Iterator[tuple[str, str]]:
    """Name of a parameter whose module is another than its name says, and the constant that stands for it."""
    if not node.scope:
        return
    for index, value in enumerate(node.inputs):
        source = graph.constant(value)
        kind = _kind(node, index, graph) if source and "." in source else None
        if source and kind and not source.startswith(f"{node.scope}."):
            yield f"{node.scope}.{kind}", source


def _kind(node: Node, index: int, graph: Graph) -> str | None:
    """What torch's modules call the parameter that is some input of a node; None where it is none."""
    if node.op == "Gemm":
        return {1: "weight" if node.flags.get("transB") else None, 2: "bias"}.get(index)
    if node.op == "Add":
        makers = (graph.makers.get(value) for value in node.inputs)
        return "bias" if any(m and m.op == "MatMul" and m.scope == node.scope for m in makers) else None
    if node.op == "Mul":
        last = (node.scope or "").rpartition(".")[2]
        return next((name for pattern, name in SCALES if re.fullmatch(pattern, last)), None)
    return PARAMETERS.get(node.op, {}).get(index)
