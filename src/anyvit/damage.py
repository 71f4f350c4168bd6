"""What damage leaves in values, each with its place: NaN, lone huge values, gaps, blocks that are unlike all others.

Nothing here is a proof but for equal checksums: these are findings, and a load goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Any

from anyvit.lazy import Lazy
from anyvit.provenance import Use
from anyvit.report import Finding, fold
from anyvit.scan import SHARE, Seen

TIMES, TIMES_VECTOR = 30.0, 100.0
"""How many times larger a block's matrix, or vector, is than those of all other blocks to be out of scale.

Source: measured on DINOv2-small and on the packaged ViT of digits: 1.2 at most for matrices, 3.5 for vectors (LayerScale).
"""
NEGATIVE = 0.95
"""Share of a norm's gains below zero that is worth saying; training moves them away from 1 and hardly below 0."""
SOME = 32
"""Values that a share is counted over at least."""


def told(tensors: Mapping[str, Lazy], met: Mapping[str, Seen], uses: Mapping[str, Use]) -> tuple[Finding, ...]:
    """Findings for what was met in values, each with its place.

    Arguments:
        tensors: name → tensor.
        met: name → what `scan.Look` met.
        uses: name → what it is in the model; a weight matrix is never constant.
    """
    bad, lone, constant, gaps, tiny, wild = [], [], [], [], [], []
    for name, seen in met.items():
        shape = tensors[name].shape
        count = prod(shape)
        if seen.wild:
            wild.append((name, f"{name}: {seen.wild}"))
        elif seen.bad:
            many, first, value = seen.bad
            bad.append((name, f"{place(name, shape, first)} = {value} ({many} of {count} values)"))
        for at, value in seen.lone if not seen.wild else ():
            lone.append((name, f"{place(name, shape, at)} = {value:.3g}"))
        matrix = name in uses and uses[name].matrix
        if matrix and seen.constant is not None and count > 1:
            constant.append((name, f"all {count} values of {name} are {seen.constant:g}"))
        elif matrix and seen.gaps:
            gaps.append((name, f"{seen.gaps[0]} pages of zeros from {place(name, shape, seen.gaps[1])}"))
        if seen.tiny > SHARE * count and not seen.wild:
            tiny.append((name, f"{seen.tiny} of {count} values of {name}"))
    again = "compare with the original: a damaged copy, or training that diverged"
    cut = "compare with the original: part of the file was never filled, or the weights were set to zero on purpose"
    slow = "torch.set_flush_denormal(True) where the processor is slow"
    return tuple(
        Finding(kind, fold(dict.fromkeys(name for name, _ in found)), f"{what}: {_listed(found)}", remedy)
        for kind, found, what, remedy in (
            ("scrambled", wild, "values of no one size, as bytes in a wrong order or place are", again),
            ("nan", bad, "NaN or infinite values", again),
            ("outlier", lone, "a lone value of implausible magnitude, as a flipped bit makes it", again),
            ("constant", constant, "a weight matrix that is constant", cut),
            ("constant", gaps, "gaps in a weight matrix", cut),
            ("denormal", tiny, "values below the smallest normal number", slow),
        )
        if found
    )


def _listed(found: list[tuple[str, str]]) -> str:
    more = f", and {len(found) - 4} more" if len(found) > 4 else ""
    return "; ".join(text for _, text in found[:4]) + more


def place(name: str, shape: tuple[int, ...], flat: int) -> str:
    """Where a value lies.

    Example:
        >>> place("a.weight", (2, 3), 4)
        'a.weight[1, 1]'
    """
    at = []
    for size in reversed(shape):
        flat, index = divmod(flat, size)
        at.append(str(index))
    return f"{name}[{', '.join(reversed(at))}]" if at else name


def unlike(
    tensors: Mapping[str, Lazy], met: Mapping[str, Seen], uses: Mapping[str, Use], tied: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Findings for tensors of a block that are unlike those of all others, or the very same.

    Arguments:
        tensors: name → tensor.
        met: name → what was met in it.
        uses: name → what it is in the model.
        tied: names that share their bytes with others on purpose.
    """
    families: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name in met:
        if name in uses and uses[name].block is not None:
            families[uses[name].kind, tensors[name].shape].append(name)
    own = {name: seen for name, seen in met.items() if name not in tied}
    again = "compare with the original: anyvit verify FILE ORIGINAL"
    found = (
        ("repeated", list(_repeated(own, uses)), "blocks with the very same weights", again),
        ("scale", list(_out_of_scale(families, met, uses)), "weights out of scale with those of all other blocks", again),
        ("sign", list(_turned_over(families, met)), "gains of a norm below zero, unlike those of all other blocks", again),
        ("rounded", list(_rounded(met, uses)), "a part of the matrices was rounded to a narrower type, the rest was not",
         "load the part from where it has its full precision, or give both one type: dtype="),
    )  # fmt: skip
    return tuple(
        Finding(kind, fold(dict.fromkeys(name for name, _ in names)), f"{what}: {_listed(names)}", remedy)
        for kind, names, what, remedy in found
        if names
    )


def _repeated(met: Mapping[str, Seen], uses: Mapping[str, Use]) -> Iterator[tuple[str, str]]:
    """Matrices that are bit for bit those of another block."""
    first: dict[tuple[str, str], str] = {}
    for name, seen in met.items():
        use = uses.get(name)
        if use is None or not use.matrix or use.block is None or seen.constant is not None or not seen.digest:
            continue
        other = first.setdefault((use.kind, seen.digest), name)
        if other != name:
            yield name, f"{name} is {other}"


def _out_of_scale(
    families: Mapping[Any, Sequence[str]], met: Mapping[str, Seen], uses: Mapping[str, Use]
) -> Iterator[tuple[str, str]]:
    for names in families.values():
        sizes = sorted((met[name].size, name) for name in names if met[name].size > 0 and not met[name].wild)
        if len(sizes) < 3:
            continue
        (next_size, _), (size, name) = sizes[-2:]
        if size > (TIMES if uses[name].matrix else TIMES_VECTOR) * next_size:
            yield (
                name,
                f"{name} has values of {size:.3g} (root mean square), the next largest of its kind {next_size:.3g}",
            )


def _turned_over(families: Mapping[Any, Sequence[str]], met: Mapping[str, Seen]) -> Iterator[tuple[str, str]]:
    for (kind, shape), names in families.items():
        if kind.endswith(("norm1.weight", "norm2.weight")) and prod(shape) >= SOME:
            odd = [name for name in names if met[name].negative > NEGATIVE]
            rest = [name for name in names if met[name].negative < 0.5]
            if len(odd) < len(rest) and len(odd) + len(rest) == len(names):
                yield from ((name, f"{met[name].negative:.0%} of {name}") for name in odd)


def _rounded(met: Mapping[str, Seen], uses: Mapping[str, Use]) -> Iterator[tuple[str, str]]:
    looked = {
        name: seen.narrow
        for name, seen in met.items()
        if name in uses and uses[name].matrix and seen.narrow is not None
    }
    narrow = [name for name, kind in looked.items() if kind]
    if 0 < len(narrow) < len(looked):
        yield from ((name, f"{name} holds {looked[name]} values") for name in narrow)
