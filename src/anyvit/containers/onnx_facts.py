"""What a graph computes beside its tensors: heads, epsilon, activation, rotary positions, biases of attention scores.

No other container says these. Each is a vote: of every reshape into heads, every norm, every activation, every softmax
that works on the patches. A value counts where the first vote and at least half of all agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from anyvit.containers.onnx_proto import Model, Node
from anyvit.dtypes import is_floating
from anyvit.errors import AnyvitError

if TYPE_CHECKING:
    from anyvit.containers.onnx_names import Graph

NORMS = (
    "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
)  # fmt: skip
DEFAULT_EPS = {"SkipLayerNormalization": 1e-12, "SkipSimplifiedLayerNormalization": 1e-12}
"""Epsilon where the node does not say it; 1e-5 for the others.

Source: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""
QUICK = 1.702
"""The factor of QuickGELU. Source: openai/CLIP, clip/model.py."""
_FIRST_ONLY = {
    "Reshape", "Expand", "Slice", "Split", "Gather", "Unsqueeze", "Squeeze", "Tile", "Transpose", "Cast", "Flatten",
    "Identity",
}  # fmt: skip
"""Operations whose other inputs are shapes, places and axes."""
_BETWEEN = {"Add", "Where", "Mul", "Div", "Cast", "Reshape", "Sub", "Unsqueeze", "Squeeze", "Transpose", "Identity"}
"""Operations that may stand between a product of queries and keys and its softmax."""
_PRODUCTS = ("MatMul", "FusedMatMul")
_LINEAR = (*_PRODUCTS, "Gemm", "Conv", "Shape")
MASK_LIMIT = 1 << 20
"""Longest constant in bytes that is read to see whether it is a mask that hides nothing."""
WALK = 200
"""Most nodes that are looked at behind one softmax."""


def facts(model: Model, graph: Graph) -> dict[str, tuple[Any, str]]:
    """What the graph says of the tower that its first patch convolution starts.

    Returns:
        Field of Spec → its value and what shows it; beside them "rotates" and "biased", whether queries and keys are
        rotated by their positions, and whether something is added to the attention scores.
    """
    start = next((n for n in model.nodes if n.op == "Conv" and _is_patchify(n, graph)), None)
    if start is None:
        return {}
    width = _shape(start.inputs[1], graph)[0]
    nodes = _behind(model, start)
    first = next((i for i, node in enumerate(nodes) if node.op in ("MatMul", "Gemm")), len(nodes))
    said = (
        (
            "num_heads",
            [h for n in nodes[first:] for h in _heads(n, graph, width)],
            "the graph splits the channels into heads",
        ),
        ("eps", [e for n in nodes for e in _eps(n, graph, width)], "the epsilon of the graph's norms"),
        ("act", [a for n in nodes for a in _activation(n, graph)], "the graph's activations"),
        ("rotates", [_rotates(p, graph) for n in nodes for p in _products(n, graph)[0]], "what becomes of the queries"),
        ("biased", [_products(n, graph)[1] for n in nodes if n.op == "Softmax"], "what is added to attention scores"),
    )
    return {field: (votes[0], why) for field, votes, why in said if _agreed(votes)}


def _agreed(votes: Sequence[Any]) -> bool:
    return bool(votes) and Counter(votes)[votes[0]] * 2 >= len(votes)


def _is_patchify(node: Node, graph: Graph) -> bool:
    """Whether a convolution cuts a picture into patches: a square kernel of its own stride, a few channels in."""
    shape = _shape(node.inputs[1], graph) if len(node.inputs) > 1 else ()
    return len(shape) == 4 and shape[1] <= 32 and shape[2] >= 2 and shape[3] >= 2 and shape[0] > shape[1]


def _shape(value: str, graph: Graph) -> tuple[int, ...]:
    source = graph.constant(value)
    return graph.constants[source].shape if source is not None else ()


def _behind(model: Model, start: Node) -> list[Node]:
    """The nodes that take what comes of a node, in the order of the graph."""
    known, found = set(start.outputs), []
    for node in model.nodes:
        if node is not start and node.op != "Shape" and any(value in known for value in node.inputs):
            known.update(node.outputs)
            found.append(node)
    return found


def _numbers(value: str, graph: Graph) -> list[int | None]:
    """The integers of a shape, None where they are computed; empty where nothing is known of it."""
    source = graph.constant(value)
    if source is not None:
        lazy = graph.constants[source]
        if lazy.dtype != "int64" or prod(lazy.shape) > 8:
            return []
        try:
            return [int(number) for number in lazy.read().reshape(-1)]
        except AnyvitError:
            return []
    maker = graph.makers.get(value)
    if maker is None or maker.op != "Concat":
        return []
    parts = [_numbers(part, graph) if graph.constant(part) is not None else [None] for part in maker.inputs]
    return [number for part in parts for number in part]


def _heads(node: Node, graph: Graph, width: int) -> Iterator[int]:
    """Votes of reshapes that split the width into heads, in whatever order their axes stand.

    (…, heads, channels); (batch, heads, tokens, channels); (tokens, batch x heads, channels), as torch's own module does.
    """
    target = _numbers(node.inputs[1], graph) if node.op == "Reshape" and len(node.inputs) > 1 else []
    if len(target) < 3:
        return
    second, beside, last = target[1], target[-2], target[-1]
    if last is not None and 0 < last < width and width % last == 0:
        heads = width // last
        packed = len(target) == 3 and (beside in (None, -1) or (beside or 1) % heads == 0)
        if packed or beside == heads or (len(target) > 3 and (beside == -1 or second == heads)):
            yield heads
    elif len(target) > 3:
        heads = beside if last == -1 else second if target[2:] == [None, None] else None
        if heads is not None and 1 < heads < width and width % heads == 0:
            yield heads


def _scalar(value: str, graph: Graph) -> float | None:
    source = graph.constant(value)
    lazy = graph.constants[source] if source is not None else None
    if lazy is None or prod(lazy.shape) != 1 or not is_floating(lazy.dtype):
        return None
    try:
        return float(lazy.read().reshape(()))
    except AnyvitError:
        return None


def _eps(node: Node, graph: Graph, width: int) -> Iterator[float]:
    if node.op in NORMS:
        weight = node.inputs[2 if node.op.startswith("Skip") else 1 : 4]
        if weight and _shape(weight[0], graph) == (width,):
            yield _rounded(node.floats.get("epsilon", DEFAULT_EPS.get(node.op, 1e-5)))
    elif node.op == "Sqrt":
        # A norm that was taken apart: … ReduceMean → Add(epsilon) → Sqrt → Div.
        maker = graph.makers.get(node.inputs[0])
        for value in maker.inputs if maker is not None and maker.op == "Add" else ():
            number = _scalar(value, graph)
            if number is not None and 0 < number < 1e-2:
                yield _rounded(number)


def _rounded(number: float) -> float:
    """What was meant by a number that was stored in 32 or 16 bits."""
    return float(f"{number:.3g}")


def _activation(node: Node, graph: Graph) -> Iterator[str]:
    if node.op == "Gelu":
        yield "gelu_tanh" if node.texts.get("approximate") == "tanh" else "gelu"
    elif node.op in ("Erf", "BiasGelu"):
        yield "gelu"
    elif node.op == "FastGelu":
        yield "gelu_tanh"
    elif node.op == "QuickGelu":
        yield "quick_gelu" if abs(node.floats.get("alpha", QUICK) - QUICK) < 1e-2 else "silu"
    elif node.op == "Tanh":
        # The cubic form multiplies before; a pooler's tanh follows its linear.
        maker = graph.makers.get(node.inputs[0])
        if maker is not None and maker.op == "Mul":
            yield "gelu_tanh"
    elif node.op == "Sigmoid":
        maker = graph.makers.get(node.inputs[0])
        factors = [_scalar(value, graph) for value in maker.inputs] if maker is not None and maker.op == "Mul" else []
        yield "quick_gelu" if any(f is not None and abs(f - QUICK) < 1e-2 for f in factors) else "silu"


def _products(node: Node, graph: Graph) -> tuple[list[Node], bool]:
    """For a softmax, the product of queries and keys before it, and whether something is added in between."""
    if node.op != "Softmax":
        return [], False
    biased, value = False, node.inputs[0]
    for _ in range(WALK):
        maker = graph.makers.get(value)
        if maker is None:
            return [], biased
        if maker.op in _PRODUCTS:
            return [maker], biased
        if maker.op not in _BETWEEN:
            return [], biased
        ahead = [v for v in maker.inputs if graph.constant(v) is None and _leads_to_product(v, graph)]
        if not ahead:
            return [], biased
        if maker.op in ("Add", "Sub", "Where"):
            biased = biased or not all(v is ahead[0] or _adds_nothing(v, graph) for v in maker.inputs)
        value = ahead[0]
    return [], biased


def _adds_nothing(value: str, graph: Graph) -> bool:
    """Whether a value is zero, or the mask of an attention that sees all: Where(all true, 0, -inf)."""
    number = _scalar(value, graph)
    if number is not None:
        return number == 0
    maker = graph.makers.get(value)
    if graph.constant(value) is not None or maker is None:
        return _holds(value, graph, False)
    if maker.op == "Where":
        return _scalar(maker.inputs[1], graph) == 0 and _holds(maker.inputs[0], graph, True)
    return maker.op in _FIRST_ONLY and _adds_nothing(maker.inputs[0], graph)


def _holds(value: str, graph: Graph, wanted: bool) -> bool:
    """Whether a value is a constant all of whose elements are true (or all zero), maybe repeated and reshaped."""
    for _ in range(WALK):
        source = graph.constant(value)
        if source is not None:
            lazy = graph.constants[source]
            if lazy.nbytes > MASK_LIMIT:
                return False
            try:
                array = lazy.read()
            except AnyvitError:
                return False
            return bool(array.all() if wanted else not array.any())
        maker = graph.makers.get(value)
        if maker is None or maker.op not in _FIRST_ONLY:
            return False
        value = maker.inputs[0]
    return False


def _leads_to_product(value: str, graph: Graph) -> bool:
    """Whether a value comes of a product of two computed matrices through nothing but `_BETWEEN`."""
    for _ in range(WALK):
        maker = graph.makers.get(value)
        if maker is None:
            return False
        data = [v for v in maker.inputs if graph.constant(v) is None]
        if maker.op in _PRODUCTS:
            return len(data) == 2
        if maker.op not in _BETWEEN or not data:
            return False
        value = data[0]
    return False


def _rotates(product: Node, graph: Graph) -> bool:
    """Whether halves of the queries are swapped, negated or joined between their linear and the product."""
    waiting, seen = [product.inputs[0]], set()
    while waiting and len(seen) < WALK:
        maker = graph.makers.get(waiting.pop())
        if maker is None or id(maker) in seen or maker.op in _LINEAR:
            continue
        seen.add(id(maker))
        if maker.op in ("Concat", "Neg", "RotaryEmbedding", "ScatterND"):
            return True
        waiting += maker.inputs[:1] if maker.op in _FIRST_ONLY else maker.inputs
    return False
