"""A draft dialect for names that nobody has described yet: from the words in names and from shapes, never from order.

What words and shapes leave open is not guessed: such a tensor gets no row, so that a load names it. Where a row rests on
a convention (the order of q, k and v in a fused matrix, the layout of linear patches) its `why` says what to check, and
so does the report of what is read by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt, prod

from anyvit import discover_blocks
from anyvit.discover_parts import BIASES, NORM, POSITION, Part, Shape, find_stack, parent, parts, says
from anyvit.lazy import Lazy
from anyvit.recognise import OPTIMIZER, unwrapped
from anyvit.rules import CHECK, Dialect, Rule

SOURCE = "drafted from names and shapes"


def draft(tensors: Mapping[str, Lazy], name: str = "draft") -> Dialect:
    """A table for names that no dialect knows, as far as words and shapes tell.

    Arguments:
        tensors: flat name → tensor; only shapes are looked at.
        name: what to call it.

    Returns:
        A dialect without the rows that words and shapes do not settle; no rows at all where there are no blocks.
    """
    shapes = {n: t.shape for n, t in unwrapped(tensors)[0].items() if not OPTIMIZER.search(n)}
    stack = find_stack(shapes)
    if stack is None:
        return Dialect(name, (), SOURCE, "a draft: no blocks were found")
    around = {n: s for n, s in shapes.items() if not n.startswith(stack.head)}
    rules = [*_outside(around, stack.home, stack.width), *discover_blocks.rules(stack)]
    shared = _shared([rule.theirs for rule in rules])
    rules = tuple(Rule(rule.theirs[len(shared) :], rule.ours, rule.axes, rule.why) for rule in rules)
    sizes = {"c": 3} if any("p1 p2 c)" in (rule.axes or "") for rule in rules) else {}
    return Dialect(name, rules, SOURCE, "a draft: read its rows before you trust it", sizes=sizes)


def _shared(names: list[str]) -> str:
    """The components that all names begin with."""
    first = names[0] if len(names) > 1 else ""
    shared = first[: max(first.rfind("."), first.rfind("/")) + 1]
    while "{" in shared or not all(name.startswith(shared) for name in names):
        shared = parent(shared)
    return shared


def _outside(shapes: Mapping[str, Shape], home: str, width: int) -> list[Rule]:
    """The rows outside the blocks: patches, tokens, positions, norms, a classifier."""
    rules: list[Rule] = []
    near = {n: s for n, s in shapes.items() if n.startswith(_tower(shapes, home, width))}
    # tokens and a classifier may stand above the tower's own module
    for some in (near, shapes):
        have = {rule.ours for rule in rules}
        for make in (_patches, _tokens, _norms, _classifier):
            rules += [rule for rule in make(some, width) if rule.ours not in have]
    return rules


def _tower(shapes: Mapping[str, Shape], home: str, width: int) -> str:
    """The module of the tower: as far above the blocks as a patch kernel is found."""
    while home and not any(part.path.startswith(home) and list(_patch(part, width)) for part in parts(shapes)):
        home = parent(home)
    return home


def _patches(shapes: Mapping[str, Shape], width: int) -> list[Rule]:
    """The rows of a patch embedding, where there is one only."""
    made = [rule for part in parts(shapes) for rule in _patch(part, width)]
    return made if len({rule.ours for rule in made}) == len(made) else []


def _patch(part: Part, width: int) -> Iterator[Rule]:
    shape, why, axes = part.shape, "", None
    if len(shape) == 4 and shape[3] == width and min(shape[:2]) > 1 and part.main == "kernel":
        axes = "h w i o -> o i h w"
    elif len(shape) == 2 and part.has(r"\w*patch\w*") and _makes_patches(shape, width):
        why = f"{CHECK}a patch is taken to be rows of pixels of three channels each"
        axes = "(p1 p2 c) o -> o c p1 p2" if part.main == "kernel" else "o (p1 p2 c) -> o c p1 p2"
    elif len(shape) != 4 or shape[0] != width or min(shape[2:]) < 2:
        return
    yield Rule(part.path + part.main, "embed.patch.weight", axes, why)
    for name in part.biases:
        yield Rule(part.path + name, "embed.patch.bias")


def _makes_patches(shape: Shape, width: int) -> bool:
    """Whether a matrix makes tokens of square patches of three channels."""
    inner = shape[0] if shape[1] == width else shape[1]
    return width in shape and inner % 3 == 0 and isqrt(inner // 3) ** 2 == inner // 3


def _tokens(shapes: Mapping[str, Shape], width: int) -> Iterator[Rule]:
    """The rows of the class token, of registers, of the mask token and of the position table."""
    wide = {n: s for n, s in shapes.items() if s[-1:] == (width,) and not n.endswith(("bias", "kernel"))}
    tables = [n for n, s in wide.items() if prod(s) > 3 * width and len(s) > 1 and says(n, POSITION)]
    if len(tables) == 1:
        flat = len(shapes[tables[0]]) < 4
        ones = "1 " * (len(shapes[tables[0]]) - 2)
        ours, axes = (
            ("embed.[pos_prefix|pos]", f"{ones}(k+n) d -> k d, n d")
            if flat
            else ("embed.pos", "1 gh gw d -> (gh gw) d")
        )
        yield Rule(tables[0], ours, axes)
    for ours, pattern, letters in (
        ("embed.cls", r"cls\w*|class\w*", "t d"), ("embed.reg", r"reg\w*|storage\w*", "r d"), ("embed.mask", r"mask\w*", "d"),
    ):  # fmt: skip
        hits = [n for n, s in wide.items() if prod(s) <= 64 * width and says(n, pattern)]
        hits = [n for n in hits if not says(n, rf"{NORM}|{POSITION}|\w*head\w*|classifier")]
        if len(hits) == 1:
            yield Rule(hits[0], ours, _token_axes(len(shapes[hits[0]]), letters))


def _token_axes(rank: int, letters: str) -> str | None:
    """The layout of a token of some rank as `letters`.

    Example:
        >>> _token_axes(3, "t d"), _token_axes(1, "t d"), _token_axes(2, "t d"), _token_axes(2, "d")
        ('1 t d -> t d', 'd -> 1 d', None, '1 d -> d')
    """
    missing = rank - len(letters.split())
    if missing == 0:
        return None
    return f"{'1 ' * missing}{letters} -> {letters}" if missing > 0 else "d -> 1 d"


def _norms(shapes: Mapping[str, Shape], width: int) -> Iterator[Rule]:
    """The rows of the norm behind the blocks and of the one before them."""
    norms = [p for p in parts(shapes) if p.shape == (width,) and (p.has(NORM) or len(p.shapes) == 2)]
    before = [p for p in norms if p.has(r"pre\w*|\w*_pre|\w*patch\w*|\w*embed\w*")]
    after = [p for p in norms if p not in before]
    telling = [p for p in after if p.has(r"final\w*|post\w*|last\w*|\w*_post|encoder_norm|ln_f|norm_f")] or after
    for role, found in (("norm", telling), ("embed.norm", [p for p in before if p.has(r"pre\w*|\w*_pre")])):
        if len(found) == 1:
            yield from (
                Rule(found[0].path + n, f"{role}.{'bias' if n in BIASES else 'weight'}") for n in found[0].shapes
            )


def _classifier(shapes: Mapping[str, Shape], width: int) -> list[Rule]:
    """The rows of a linear head."""
    heads = [p for p in parts(shapes) if len(p.shape) == 2 and width in p.shape and p.has(r"\w*head\w*|classifier|fc")]
    if len(heads) != 1 or heads[0].main not in ("weight", "kernel"):
        return []
    part, axes = heads[0], "i o -> o i" if heads[0].main == "kernel" else None
    return [Rule(part.path + part.main, "head.weight", axes), *(Rule(part.path + n, "head.bias") for n in part.biases)]
