"""What each layer inside a block of unknown names is: by its words and by shapes, and nothing where they leave it open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from anyvit.discover_parts import ATTENTION, MLP, NORM, Part, Shape, Stack, parent, parts
from anyvit.rules import CHECK, Rule

Roles = dict[str, Part]

READ = (
    ("qkv", r"\w*qkv\w*|in_proj|c_attn|query_key_value"), ("kv", r"\w*kv"), ("q", "q|wq|queries|query"),
    ("k", "k|wk|keys|key"), ("v", "v|wv|values|value|val"),
)  # fmt: skip
"""What feeds the attention → words for it."""
OUT = r"out|o|wo|proj|dense|output"
GATED = (("gate", r"gate\w*"), ("up", r"up\w*"), ("down", r"down\w*"))
SCALE = r"ls\d?|layer_?scale\w*|gamma\w*|lambda\w*|scale\d?"
BEFORE = r"pre_?attn\w*|pre_?attention\w*|input_layernorm|before"
AFTER = rf"{MLP}|post\w*|after|pre_mlp\w*|pre_ff\w*"

OURS = {"qkv": "attn.[q|k|v]", "kv": "attn.[k|v]", "q": "attn.q", "k": "attn.k", "v": "attn.v", "out": "attn.out",
        "q_norm": "attn.q_norm", "k_norm": "attn.k_norm", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "gate": "mlp.gate",
        "up": "mlp.up", "down": "mlp.down", "norm1": "norm1", "norm2": "norm2", "ls1": "ls1", "ls2": "ls2"}  # fmt: skip
"""What a layer is → its canonical name in a block."""

FUSED = "(parts o) ... -> parts o ..."
WHY = {
    "qkv": f"{CHECK}queries, keys and values are taken to lie one after the other, heads in order",
    "kv": f"{CHECK}keys are taken to lie before values",
}


def rules(stack: Stack) -> list[Rule]:
    """The rows of a stack of blocks; a layer that words and shapes leave open has none."""
    found, front = roles(parts(stack.tails), stack.width), stack.head + "{i}"
    turned = are_turned(found, found.values(), stack.width)
    return [rule for role, part in found.items() for rule in _rows(front, role, part, turned)]


def roles(layers: list[Part], width: int) -> Roles:
    """What each layer of a block is.

    Arguments:
        layers: the layers of one block.
        width: the width of the tokens.
    """
    found: Roles = {}
    matrices = [part for part in layers if len(part.shape) >= 2]
    for role, pattern in READ:
        hits = [part for part in matrices if part.has(pattern) and part not in found.values()]
        if len(hits) == 1:
            found[role] = hits[0]
    threes = [part for part in matrices if sorted(sides(part)) == [width, 3 * width]]
    if not found and len(threes) == 1 and len(matrices) == 4:
        found["qkv"] = threes[0]
    if len({parent(part.path) for part in found.values()}) > 1:
        return {}
    _matrices(found, [part for part in matrices if part not in found.values()], width)
    _vectors(found, [part for part in layers if len(part.shape) == 1], width)
    return found


def _matrices(found: Roles, left: list[Part], width: int) -> None:
    """Which of the other matrices leaves the attention, and which make the MLP."""
    if not found:
        return
    home = parent(next(iter(found.values())).path)
    near = [p for p in left if width in sides(p) and (p.path.startswith(home) if home else p.has(ATTENTION))]
    near = [p for p in near if p.has(OUT)] or near
    square = [p for p in left if sides(p) == (width, width)]
    chosen = near if len(near) == 1 else square if len(square) == 1 else [p for p in square if p.has(OUT)]
    if len(chosen) != 1:
        return
    found["out"] = chosen[0]
    rest = [p for p in left if p is not chosen[0] and len(sides(p)) == 2 and width in sides(p)]
    gated = {role: [p for p in rest if p.has(pattern)] for role, pattern in GATED}
    if len(rest) == 3 and all(len(hits) == 1 for hits in gated.values()):
        found.update({role: hits[0] for role, hits in gated.items()})
    if len(rest) == 2:
        _mlp(found, rest, width)


def _mlp(found: Roles, rest: list[Part], width: int) -> None:
    """The two matrices of an MLP: by shape, or by number where both are square; a gated one fits neither."""
    into = [p for p in rest if sides(p) != (width, width) and sides(p)[1] == width]
    out = [p for p in rest if sides(p) != (width, width) and sides(p)[0] == width]
    if not into and not out:
        into, out = ([p for p in rest if p.has(rf"\w*{n}")] for n in (1, 2))
    elif are_turned(found, (*rest, *found.values()), width):
        into, out = out, into
    if len(into) == len(out) == 1 and sorted(sides(into[0])) == sorted(sides(out[0])):
        found.update(fc1=into[0], fc2=out[0])


def are_turned(found: Roles, layers: Iterable[Part], width: int) -> bool:
    """Whether matrices are (in, out), as flax's kernels and GPT-2's Conv1D are: a name, a bias or a shape shows it."""
    if "qkv" in found and found["qkv"].shape == (width, 3 * width):
        return True
    return any(part.main == "kernel" or _bias_of_columns(part) for part in layers)


def _bias_of_columns(part: Part) -> bool:
    lengths = {part.shapes[name] for name in part.biases}
    return len(part.shape) == 2 and part.shape[0] != part.shape[1] and lengths == {part.shape[1:]}


def sides(part: Part) -> tuple[int, ...]:
    """The two sides of a matrix; heads and their width are one side, as are those of a convolution of one pixel."""
    shape = part.shape
    if len(shape) == 3:
        leaves = part.has(OUT)
        return (shape[0] * shape[1], shape[2]) if leaves else (shape[0], shape[1] * shape[2])
    return tuple(side for side in shape if side != 1) if len(shape) == 4 else shape


def _vectors(found: Roles, vectors: list[Part], width: int) -> None:
    """Norms and LayerScale, and biases of q and v that stand alone."""
    for role, pattern in (("q_norm", "q_norm|norm_q|query_norm"), ("k_norm", "k_norm|norm_k|key_norm")):
        hits = [p for p in vectors if p.has(pattern)]
        if len(hits) == 1:
            found[role] = hits[0]
    vectors = [p for p in vectors if p not in found.values() and p.shape == (width,)]
    scales = [p for p in vectors if p.has(SCALE) and not p.has(NORM) and len(p.shapes) == 1]
    norms = [p for p in vectors if p not in scales and (p.has(NORM) or len(p.shapes) == 2)]
    for names, two in ((("norm1", "norm2"), norms), (("ls1", "ls2"), scales)):
        if len(two) == 2 and (order := _ordered(two, found)) is not None:
            found.update(zip(names, order, strict=True))


def _ordered(two: list[Part], found: Roles) -> list[Part] | None:
    """The layer of the attention branch, then that of the MLP's; None where nothing tells them apart."""
    first = [p for p in two if _of_attention(p, found)]
    second = [p for p in two if _of_mlp(p, found)]
    if len(first) == 1 and first != second:
        return [first[0], next(p for p in two if p is not first[0])]
    if len(second) == 1 and first != second:
        return [next(p for p in two if p is not second[0]), second[0]]
    text = [p.path + p.main for p in two]
    alike = len({re.sub(r"\d+", "#", one) for one in text}) == 1
    numbers = [[int(n) for n in re.findall(r"\d+", one)] for one in text]
    return [two[n] for n in sorted((0, 1), key=lambda n: numbers[n])] if alike else None


def _of_attention(part: Part, found: Roles) -> bool:
    words = part.has(BEFORE) or (part.has(ATTENTION) and not part.has(r"post\w*"))
    return words or _nearer(part, found, ("qkv", "q"), ("fc1", "gate"))


def _of_mlp(part: Part, found: Roles) -> bool:
    return _nearer(part, found, ("fc1", "gate"), ("qkv", "q")) or (
        part.has(AFTER) and not _nearer(part, found, ("qkv", "q"), ("fc1", "gate"))
    )


def _nearer(part: Part, found: Mapping[str, Part], these: Iterable[str], those: Iterable[str]) -> bool:
    """Whether a layer shares more components with one branch than with the other."""

    def shared(names: Iterable[str]) -> int:
        return max((_common(part.path, found[name].path) for name in names if name in found), default=0)

    return shared(these) > shared(those)


def _common(one: str, other: str) -> int:
    """How many components two paths begin with alike."""
    a, b = (re.split(r"[./]", text)[:-1] for text in (one, other))
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _rows(front: str, role: str, part: Part, turned: bool) -> Iterator[Rule]:
    """The rows of one layer."""
    ours = "blocks.{i}." + OURS[role]
    if role in ("ls1", "ls2"):
        yield Rule(front + part.path + part.main, ours)
        return
    weight, bias = layouts(role, part.shape, turned)
    why = WHY.get(role, "")
    if part.main == "weight" and part.biases == ("bias",) and weight in (None, FUSED):
        yield Rule(front + part.path + "{p}", ours + ".{p}", weight, why)
        return
    yield Rule(front + part.path + part.main, ours + ".weight", weight, why)
    for name in part.biases:
        yield Rule(front + part.path + name, ours + ".bias", bias, why)


def layouts(role: str, shape: Shape, turned: bool) -> tuple[str | None, str | None]:
    """Layouts of a layer's matrix and of its bias, theirs first; None where they are ours.

    Arguments:
        role: what the layer is.
        shape: the shape of its matrix.
        turned: whether matrices are (in, out).

    Example:
        >>> layouts("fc1", (8, 32), True), layouts("q", (8, 2, 4), True)[0]
        (('i o -> o i', None), 'd heads k -> (heads k) d')
    """
    fused = role in ("qkv", "kv")
    if len(shape) == 4:
        return ("(parts o) i 1 1 -> parts o i", FUSED) if fused else ("o i 1 1 -> o i", None)
    if len(shape) == 3:
        return (
            ("heads k d -> d (heads k)", None)
            if role == "out"
            else ("d heads k -> (heads k) d", "heads k -> (heads k)")
        )
    turned = turned and len(shape) == 2
    if fused:
        return "i (parts o) -> parts o i" if turned else FUSED, FUSED
    return "i o -> o i" if turned else None, None
