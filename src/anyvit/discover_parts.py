"""Names nobody has described, taken apart: the stack of blocks, layers, the words in their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Shape = tuple[int, ...]

WEIGHTS = ("weight", "kernel", "w", "scale", "gain", "gamma", "g")
"""Last components of names of matrices, and of the vector that a norm multiplies with."""
BIASES = ("bias", "b", "beta", "shift")
"""Last components of names of vectors that are added."""

NORM = r"\w*norm\w*|ln\w*|\w+_ln|rms\w*"
ATTENTION = r"\w*attn\w*|\w*attention\w*|mha|msa|mhsa"
MLP = r"\w*mlp\w*|ffn?|\w*ffn|feed_?forward\w*|fc\d?|net"
POSITION = r"pos\w*|\w*_pos\w*|wpe"


@dataclass(frozen=True)
class Stack:
    """The blocks of a tower: names that differ in one number only.

    Arguments:
        head: what stands before the number.
        depth: how many numbers there are, from 0.
        tails: what follows the number → the shape there.
    """

    head: str
    depth: int
    tails: Mapping[str, Shape]

    @property
    def home(self) -> str:
        """The module that holds the blocks' list."""
        return parent(self.head) if self.head[-1:] in "./" else self.head[: _cut(self.head)]

    @property
    def width(self) -> int:
        """The width of the tokens: the side that most matrices share, the commonest vector where they tie."""
        sides = Counter(side for shape in self.tails.values() if len(shape) == 2 for side in set(shape))
        sides += Counter(side for shape in self.tails.values() if len(shape) > 2 for side in {shape[0], shape[-1]})
        vectors = Counter(shape[0] for shape in self.tails.values() if len(shape) == 1)
        return max(sides, key=lambda side: (sides[side], vectors[side], -side))


@dataclass
class Part:
    """A layer: what its names share, and its tensors.

    Arguments:
        path: what precedes the last component of its names, with the separator behind it.
        shapes: last component → shape.
    """

    path: str
    shapes: dict[str, Shape] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The last component of its matrix, or of its only vector."""
        return max(self.shapes, key=lambda name: (len(self.shapes[name]), name in WEIGHTS, name not in BIASES))

    @property
    def shape(self) -> Shape:
        """The shape of its matrix or vector."""
        return self.shapes[self.main]

    @property
    def biases(self) -> tuple[str, ...]:
        """The last components of what is added."""
        return tuple(name for name in self.shapes if name in BIASES and name != self.main)

    def has(self, pattern: str) -> bool:
        """Whether a word of its name matches.

        Example:
            >>> Part("selfAttention.q_proj.", {"weight": (8, 8)}).has("attention")
            True
        """
        return says(self.path + ("" if self.main in (*WEIGHTS, *BIASES) else self.main), pattern)


def says(name: str, pattern: str) -> bool:
    """Whether a word of a name matches a pattern; words end at points, strokes and underscores.

    Example:
        >>> says("blocks.0.to_q.weight", "q"), says("blocks.0.query.weight", "q")
        (True, False)
    """
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return re.search(rf"(?:^|[._/])(?:{pattern})(?=[._/]|$)", text) is not None


def parts(shapes: Mapping[str, Shape]) -> list[Part]:
    """Tensors gathered by layer; "in_proj_weight" and "in_proj_bias" are one, a lone parameter is one of its own.

    Example:
        >>> [(part.path, *part.shapes) for part in parts({"a.qkv.weight": (6, 2), "a.qkv.bias": (6,), "cls": (2,)})]
        [('a.qkv.', 'weight', 'bias'), ('', 'cls')]
    """
    found: dict[str, Part] = {}
    for name, shape in shapes.items():
        inner = max(_cut(name), *(name.rfind(end) + 1 for end in ("_weight", "_bias") if name.endswith(end)), 0)
        lone = name[inner:] not in (*WEIGHTS, *BIASES)
        at = _cut(name) if lone else inner
        found.setdefault(name if lone else name[:at], Part(name[:at])).shapes[name[at:]] = shape
    return list(found.values())


def find_stack(shapes: Mapping[str, Shape]) -> Stack | None:
    """The largest family of names that differ in one number and have the same shapes at every number.

    Example:
        >>> names = [f"net.layer{i}.{part}" for i in range(2) for part in ("q.w", "k.w", "v.w", "o.w", "f.w", "g.w")]
        >>> find_stack(dict.fromkeys(names, (8, 8))).head
        'net.layer'
    """
    heads: dict[str, dict[int, dict[str, Shape]]] = {}
    for name, shape in shapes.items():
        for found in re.finditer(r"(?<!\d)\d+(?=[._/])", name):
            tails = heads.setdefault(name[: found.start()], {}).setdefault(int(found.group()), {})
            tails[name[found.end() :]] = shape
    stacks = []
    for head, numbered in heads.items():
        first = numbered.get(0, {})
        matrices = sum(len(shape) >= 2 for shape in first.values())
        if matrices >= 3 and set(numbered) == set(range(len(numbered))) and all(t == first for t in numbered.values()):
            stacks.append(Stack(head, len(numbered), first))
    return max(stacks, key=lambda stack: (stack.depth * len(stack.tails), -len(stack.head)), default=None)


def _cut(name: str) -> int:
    """Where the last component of a name begins."""
    return max(name.rfind("."), name.rfind("/")) + 1


def parent(path: str) -> str:
    """A path one component higher.

    Example:
        >>> parent("a.b."), parent("a.")
        ('a.', '')
    """
    body = path.rstrip("./")
    return body[: _cut(body)]
