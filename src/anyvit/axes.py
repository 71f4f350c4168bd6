"""The axes language: einops' notation, evaluated on shapes first and on data only when somebody reads.

Both sides name every axis; swapping the sides inverts the operation. Beyond einops:

- list axes (several tensors on one side) stand first: `(parts o) ... -> parts o ...` cuts a fused q/k/v;
- `(k+n)` joins two tensors of unequal length; the other side then has one pattern per tensor, set apart by commas;
- axes that differ only in a trailing digit have the same size: `o (c p1 p2) -> o c p1 p2`, and so has the one without a
  digit: `(m+d1+d2) d -> m d, d1 d, d2 d`; parts that are alike are solved together;
- a literal `1` is an axis of size one, `...` are all axes not named.

Where the order of the elements is the same on both sides nothing is computed: byte ranges are regrouped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, prod
from typing import TYPE_CHECKING

from anyvit.dtypes import is_floating, np_dtype
from anyvit.errors import AnyvitError, BadArgument
from anyvit.lazy import Lazy, astype, computed, concat, reshape, split

if TYPE_CHECKING:
    import numpy as np

LENGTH_LIMIT = 1024
"""Longest pattern in characters."""
RANK_LIMIT = 32
"""Most axes of a tensor; numpy before 2.0 has no more."""
Group = tuple[str, ...]
"""The elementary axes of one axis; empty for a literal 1."""


class AxesError(AnyvitError):
    """Shapes do not fit an axes pattern."""


@dataclass(frozen=True)
class Side:
    """One tensor's pattern: its axes, each a product of elementary axes; `joined` is the place of a `(k+n)`."""

    groups: tuple[Group, ...]
    joined: int | None = None

    def take(self, part: int) -> Side:
        """The pattern of one part of its joined axis."""
        if self.joined is None:
            return self
        axis = (self.groups[self.joined][part],)
        return Side((*self.groups[: self.joined], axis, *self.groups[self.joined + 1 :]))


@dataclass(frozen=True)
class Axes:
    """A parsed axes pattern."""

    text: str
    left: tuple[Side, ...]
    right: tuple[Side, ...]

    @property
    def cuts(self) -> bool:
        """Whether it cuts one tensor into parts of unequal length."""
        return self.left[0].joined is not None and len(self.right) > 1

    @property
    def joins(self) -> bool:
        """Whether it joins tensors of unequal length, any of which may be absent."""
        return self.right[0].joined is not None and len(self.left) > 1

    def flip(self) -> Axes:
        """The inverse."""
        return Axes(self.text, self.right, self.left)


@lru_cache(maxsize=1 << 12)
def parse(text: str) -> Axes:
    """An axes pattern from its text.

    Example:
        >>> [side.groups for side in parse("1 (k+n) d -> k d, n d").right]
        [(('k',), ('d',)), (('n',), ('d',))]

    Raises:
        BadArgument: where the two sides do not name the same axes, or a tensor names one twice.
    """
    if len(text) > LENGTH_LIMIT:
        raise BadArgument(
            f"the axes pattern {text[:80]!r}… is too long", found=len(text), expected=f"at most {LENGTH_LIMIT}"
        )
    if text.count("->") != 1:
        raise BadArgument(f"an axes pattern has one '->': {text!r}")
    left, right = (tuple(_side(part, text) for part in half.split(",")) for half in text.split("->"))
    for side in (*left, *right):
        if len(side.groups) > RANK_LIMIT:
            raise BadArgument(f"a side of {text!r} has too many axes", found=len(side.groups), expected=RANK_LIMIT)
        if any("..." in group and len(group) > 1 for group in side.groups):
            raise BadArgument(f"the '...' of {text!r} stands inside of brackets")
        axes = [axis for group in side.groups for axis in group]
        if len(set(axes)) != len(axes):
            raise BadArgument(f"a side of {text!r} names an axis twice", found=axes)
    names = [{axis for side in half for group in side.groups for axis in group} for half in (left, right)]
    if names[0] != names[1]:
        raise BadArgument(f"the sides of {text!r} name different axes", found=sorted(names[0] ^ names[1]))
    for half, other in ((left, right), (right, left)):
        joined = half[0].joined if len(half) == 1 else None
        if len(other) != (1 if joined is None else len(half[0].groups[joined])) and len(half) == 1:
            raise BadArgument(f"a (k+n) of {text!r} needs as many patterns on the other side, set apart by commas")
        if len(half) > 1 and (len(other) > 1 or any(side.joined is not None for side in half)):
            raise BadArgument(f"several patterns on a side of {text!r} need one (k+n) on the other")
    return Axes(text, left, right)


def _side(text: str, whole: str) -> Side:
    groups: list[Group] = []
    joined = None
    for token in re.findall(r"\([^()]*\)|\.\.\.|[A-Za-z_]\w*|1|\S+", text):
        if token == "1":
            groups.append(())
        elif token == "...":
            groups.append(("...",))
        elif token.startswith("(") and "+" in token:
            joined = len(groups)
            groups.append(tuple(part.strip() for part in token[1:-1].split("+")))
        elif token.startswith("("):
            groups.append(tuple(token[1:-1].split()))
        elif token.isidentifier():
            groups.append((token,))
        else:
            raise BadArgument(f"{token!r} of the axes pattern {whole!r} is no axis")
    return Side(tuple(groups), joined)


def apply(
    axes: Axes, inputs: Sequence[Lazy | None], into: int | None, sizes: Mapping[str, int], listed: bool = False
) -> tuple[Sequence[Lazy | None], dict[str, int]]:
    """Evaluate a pattern on tensors that are not read.

    Arguments:
        axes: the pattern, its left side describing the inputs.
        inputs: the tensors of the left side in the order of its list axes; None for an absent part of a joined axis.
        into: how many tensors the right side has; None where the shapes tell (a stacked layer axis).
        sizes: sizes of axes that shapes cannot tell ("heads", "k", …).
        listed: whether the inputs stand along a list axis of the left side (there may be one of them only).

    Returns:
        The tensors of the right side (None for a part of length 0), and the sizes of all axes.

    Raises:
        AxesError: where a shape does not fit.
    """
    if axes.cuts:
        return _cut(axes, inputs, sizes)
    if axes.joins:
        return _join(axes, inputs, sizes)
    present = [x for x in inputs if x is not None]
    return _rearrange(axes.left[0], axes.right[0], present, into, sizes, axes.text, listed)


def _cut(axes: Axes, inputs: Sequence[Lazy | None], sizes: Mapping[str, int]) -> tuple[list, dict[str, int]]:
    (whole,) = inputs
    assert whole is not None
    left = axes.left[0]
    solved = solve([left], [whole.shape], sizes, axes.text)
    lengths = [solved[name] for name in left.groups[left.joined or 0]]
    outputs: list[Lazy | None] = []
    start = 0
    for part, (length, right) in enumerate(zip(lengths, axes.right, strict=True)):
        piece = _slice(whole, left.joined or 0, start, length) if length else None
        start += length
        known = {**solved, **sizes}
        outputs += _rearrange(left.take(part), right, [piece], 1, known, axes.text)[0] if piece else [None]
    return outputs, solved


def _join(axes: Axes, inputs: Sequence[Lazy | None], sizes: Mapping[str, int]) -> tuple[list, dict[str, int]]:
    right = axes.right[0]
    joined = right.joined or 0
    solved: dict[str, int] = {}
    parts: list[Lazy] = []
    for part, (left, tensor) in enumerate(zip(axes.left, inputs, strict=True)):
        if tensor is None:
            solved[right.groups[joined][part]] = 0
            continue
        (piece,), some = _rearrange(left, right.take(part), [tensor], 1, {**sizes, **solved}, axes.text)
        solved.update(some)
        parts.append(piece)
    alike(solved, axes.text)
    return [_concat(parts, joined)], solved


def _slice(tensor: Lazy, axis: int, start: int, length: int) -> Lazy:
    if prod(tensor.shape[:axis]) == 1:
        flat = reshape(tensor, tensor.shape[axis:])
        part = split(flat, [start, length, tensor.shape[axis] - start - length])[1]
        return reshape(part, (*tensor.shape[:axis], length, *tensor.shape[axis + 1 :]))
    shape = (*tensor.shape[:axis], length, *tensor.shape[axis + 1 :])
    at = (slice(None),) * axis + (slice(start, start + length),)
    return computed(shape, tensor.dtype, lambda a: a[at], [tensor])


def _concat(parts: Sequence[Lazy], axis: int) -> Lazy:
    parts = same_dtype(parts)
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    if prod(shape[:axis]) == 1:
        return reshape(concat([reshape(part, part.shape[axis:]) for part in parts]), shape)

    def join(*arrays: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.concatenate(arrays, axis)

    return computed(shape, parts[0].dtype, join, parts)


def same_dtype(parts: Sequence[Lazy]) -> list[Lazy]:
    """Tensors brought to the one element type that holds all of them."""
    if len(parts) == 1:
        return list(parts)
    kinds = {part.dtype for part in parts}
    if len(kinds) == 1:
        return list(parts)
    if any(is_floating(kind) for kind in kinds):
        return [astype(part, "float64" if "float64" in kinds else "float32") for part in parts]
    import numpy as np

    return [astype(part, np.result_type(*map(np_dtype, kinds)).name) for part in parts]


def _rearrange(
    left: Side,
    right: Side,
    inputs: Sequence[Lazy],
    into: int | None,
    sizes: Mapping[str, int],
    text: str,
    listed: bool = False,
) -> tuple[list[Lazy], dict[str, int]]:
    inputs = same_dtype(inputs)
    shape = inputs[0].shape
    if any(x.shape != shape for x in inputs):
        raise AxesError("tensors that belong together differ in shape", found=[x.shape for x in inputs])
    full = (len(inputs), *shape) if listed else shape
    known = dict(sizes)
    if into is not None and into > 1 and len(right.groups[0]) == 1:
        known[right.groups[0][0]] = into
    solved, come, go = _solved(left, right, full, tuple(known.items()), text)
    outputs = _regroup(inputs, list(come), list(go), right, solved, into)
    return outputs, {name: size for name, size in solved.items() if not name.startswith("...")}


@lru_cache(maxsize=256)
def _solved(
    left: Side, right: Side, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...], text: str
) -> tuple[Mapping[str, int], tuple[str, ...], tuple[str, ...]]:
    """The sizes of all axes and their order on both sides; every block of a model asks the same."""
    solved = solve([left], [shape], dict(sizes), text)
    if not all(solved.values()):
        raise AxesError(f"an axis of {text!r} is empty", found=shape)
    return solved, tuple(_elements(left, solved)), tuple(_elements(right, solved))


def _open(side: Side) -> bool:
    return any(group == ("...",) for group in side.groups)


def _elements(side: Side, solved: Mapping[str, int]) -> list[str]:
    dots = sorted(name for name in solved if name.startswith("...") and name != "...")
    return [axis for group in side.groups for name in group for axis in (dots if name == "..." else [name])]


def _regroup(
    inputs: Sequence[Lazy], come: list[str], go: list[str], right: Side, solved: Mapping[str, int], into: int | None
) -> list[Lazy]:
    """Tensors cut, permuted and joined; byte ranges where the order of the elements stays."""
    groups = _shape(right, solved)
    count = 1 if into == 1 else groups[0]
    shape = groups if into == 1 else groups[1:]
    whole = concat([reshape(x, (prod(x.shape),)) for x in inputs])
    if count * prod(shape) != whole.shape[0]:
        raise AxesError("an axes pattern loses or makes elements", found=whole.shape[0], expected=count * prod(shape))
    outer = 0
    if into != 1:
        while outer < len(go) and prod(solved[a] for a in go[:outer]) < count and go[outer] == come[outer]:
            outer += 1
        outer = outer if prod(solved[a] for a in go[:outer]) == count else 0
    if come == go:
        return [reshape(part, shape) for part in split(whole, [prod(shape)] * count)]
    pieces = split(whole, [prod(whole.shape) // count] * count) if outer else [whole]
    come, go = come[outer:], go[outer:]
    dims = [solved[axis] for axis in come]
    order = [come.index(axis) for axis in go]

    def moved(array: np.ndarray) -> np.ndarray:
        return array.reshape(dims).transpose(order)

    if outer or count == 1:
        return [computed(shape, piece.dtype, lambda a: moved(a).reshape(shape), [piece]) for piece in pieces]
    return [
        computed(shape, whole.dtype, lambda a, n=n: moved(a).reshape(count, *shape)[n], [whole]) for n in range(count)
    ]


def _shape(side: Side, solved: Mapping[str, int]) -> tuple[int, ...]:
    shape: list[int] = []
    for group in side.groups:
        if group == ("...",):
            shape += [solved[name] for name in sorted(n for n in solved if n.startswith("...") and n != "...")]
        else:
            shape.append(prod(solved[name] for name in group))
    return tuple(shape)


def solve(
    sides: Sequence[Side], shapes: Sequence[tuple[int, ...]], sizes: Mapping[str, int], text: str
) -> dict[str, int]:
    """The size of every elementary axis of tensors with these shapes.

    Raises:
        AxesError: where the number of axes differs, a product does not divide, or a size stays open.
    """
    solved: dict[str, int] = {}
    sums: list[tuple[Group, int]] = []
    for side, shape in zip(sides, shapes, strict=True):
        for group, size in _pairs(side, shape, text):
            if side.joined is not None and group is side.groups[side.joined]:
                sums.append((group, size))
            else:
                _solve_product(group, size, solved, sizes, text)
    for group, size in sums:
        _solve_sum(group, size, solved, sizes, text)
    alike(solved, text)
    return solved


def alike(solved: Mapping[str, int], text: str) -> None:
    """Raises AxesError where axes that differ only in a trailing digit differ in size."""
    for name, size in solved.items():
        root = name.rstrip("0123456789")
        if name.startswith("...") or root == name:
            continue
        for other in (root, root + "1"):
            if solved.get(other, size) != size:
                raise AxesError(f"axes {other} and {name} of {text!r} differ", found=(solved[other], size))


def _pairs(side: Side, shape: tuple[int, ...], text: str) -> list[tuple[Group, int]]:
    groups = list(side.groups)
    if _open(side):
        at = groups.index(("...",))
        extra = len(shape) - len(groups) + 1
        if extra < 0:
            raise AxesError(f"a tensor has too few axes for {text!r}", found=shape)
        groups[at : at + 1] = [(f"...{n}",) for n in range(extra)]
    if len(groups) != len(shape):
        raise AxesError(f"a tensor has {len(shape)} axes where {text!r} has {len(groups)}", found=shape)
    return list(zip(groups, shape, strict=True))


def _solve_sum(group: Group, size: int, solved: dict[str, int], sizes: Mapping[str, int], text: str) -> None:
    told = {**sizes, **solved}
    roots = {name: told[root] for name in group if (root := name.rstrip("0123456789")) != name and root in told}
    known = {**roots, **{name: sizes[name] for name in group if name in sizes}}
    unknown = [name for name in group if name not in known]
    rest = size - sum(known.values())
    alike_parts = len({name.rstrip("0123456789") for name in unknown}) == 1 and rest % len(unknown) == 0
    if (unknown and not alike_parts) or rest < 0 or (not unknown and rest):
        raise AxesError(f"the parts of a joined axis of {text!r} are not known", found=size, expected=known)
    solved.update({name: known[name] if name in known else rest // len(unknown) for name in group})


def _solve_product(group: Group, size: int, solved: dict[str, int], sizes: Mapping[str, int], text: str) -> None:
    known = {name: solved.get(name, sizes.get(name)) for name in group}
    if len(group) == 1 and group[0] not in solved:
        known = {group[0]: None}
        if group[0] in sizes and sizes[group[0]] != size:
            raise AxesError(f"axis {group[0]} of {text!r} has another size", found=size, expected=sizes[group[0]])
    given = {name: value for name, value in known.items() if value is not None}
    unknown = [name for name, value in known.items() if value is None]
    rest, odd = divmod(size, max(1, prod(given.values())))
    if odd or (not unknown and rest != 1):
        raise AxesError(f"an axis of {text!r} does not fit", found=size, expected=given or 1)
    roots = {name.rstrip("0123456789") for name in unknown}
    solved.update(given)
    if len(unknown) == 2 and len(roots) == 1 and isqrt(rest) ** 2 == rest:
        solved.update(dict.fromkeys(unknown, isqrt(rest)))
    elif len(unknown) > 1:
        raise AxesError(f"{' and '.join(unknown)} of {text!r} cannot be told from the shape", found=size)
    elif unknown:
        solved[unknown[0]] = rest
