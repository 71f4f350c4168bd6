"""Values that no training makes: NaN, lone huge values, constant matrices, gaps, denormals; each with its place."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from anyvit.lazy import Lazy
from anyvit.report import Finding, fold
from anyvit.scan import SHARE, Seen


def told(tensors: Mapping[str, Lazy], met: Mapping[str, Seen], matrices: Mapping[str, bool]) -> tuple[Finding, ...]:
    """Findings for what was met in values, each with its place.

    Arguments:
        tensors: name → tensor.
        met: name → what `scan` met.
        matrices: name → whether it is a weight matrix, which is never constant.
    """
    bad, lone, constant, gaps, tiny = [], [], [], [], []
    for name, seen in met.items():
        shape = tensors[name].shape
        count = prod(shape)
        if seen.bad:
            many, first, value = seen.bad
            bad.append((name, f"{place(name, shape, first)} = {value} ({many} of {count} values)"))
        for at, value in seen.lone:
            lone.append((name, f"{place(name, shape, at)} = {value:.3g}"))
        if matrices.get(name) and seen.constant is not None and count > 1:
            constant.append((name, f"all {count} values of {name} are {seen.constant:g}"))
        elif matrices.get(name) and seen.gaps:
            gaps.append((name, f"{seen.gaps[0]} pages of zeros from {place(name, shape, seen.gaps[1])}"))
        if seen.tiny > SHARE * count:
            tiny.append((name, f"{seen.tiny} of {count} values of {name}"))
    again = "compare with the original: a damaged copy, or training that diverged"
    cut = "compare with the original: part of the file was never filled, or the weights were set to zero on purpose"
    slow = "torch.set_flush_denormal(True) where the processor is slow"
    return tuple(
        Finding(kind, fold(dict.fromkeys(name for name, _ in found)), f"{what}: {_listed(found)}", remedy)
        for kind, found, what, remedy in (
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
