"""Asking the weights of a file what its names and shapes leave open: heads, order of q/k/v, transposes, positions.

Source: docs/evidence.md, where the laws and their limits are measured.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from anyvit import (
    evidence,
    evidence_groups,
    evidence_layout,
    evidence_order,
    evidence_rotary,
    evidence_tables,
    resample,
)
from anyvit.conform import depth_of
from anyvit.containers.stream import chunks, room
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import AnyvitError
from anyvit.evidence import Attention, Verdict
from anyvit.evidence_norms import Norms
from anyvit.evidence_order import Deviation
from anyvit.lazy import Lazy, split
from anyvit.reading import Reading
from anyvit.report import Finding
from anyvit.side_by_side import mapped
from anyvit.spec import Fact, Rope, Spec
from anyvit.survey import fact, floats, fresh, survey, told

if TYPE_CHECKING:
    import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

FAR = 40.0
"""Nats from which a layout of the whole file that is not the named one stops a load."""

BUDGET = 1 << 23
"""Weights that a load reads to ask them: all blocks of a ViT-S, three of larger ones."""

ORDER, TURNS, GRID = "order of q, k, v", "transposes", "grid of the position table"
"""Names of facts that no field of the Spec holds."""


def _quietly(function: F) -> F:
    """Values that are NaN, infinite or none at all are told of by others; numpy need not warn of them here."""

    @wraps(function)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        import numpy as np

        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return cast(F, quiet)


@_quietly
def settle(found: Reading, *, layout: bool = True, strict: bool = True) -> Reading:
    """Measures what a load would otherwise assume, at a bounded cost, and says what contradicts the names.

    A few blocks are read (`BUDGET`). The head count is measured before it is assumed. Order and transposes of q, k, v
    and out are asked where a glance does not show them to be as named; a layout of all blocks that is another one is
    fatal, a single odd block is a finding.

    Arguments:
        found: a reading that can be loaded.
        layout: whether to look at order and transposes, and whether the weights were ever trained.
        strict: whether another layout of the whole file is fatal; not where the caller named the dialect.
    """
    spec = found.spec
    if spec is None or found.match is None:
        return found
    found = _author(found)
    assert found.spec is not None
    fact = found.spec.facts.get("num_heads")
    if fact is None or (fact.how == "measured" and not layout):
        return found
    depths = depth_of(found.tensors)
    numbers = [depths[n] for n in evidence.sample(spec.depth, spec.embed_dim, BUDGET)]
    blocks = attentions(found.tensors, numbers)
    if not layout:
        return _heads(found, blocks)
    odd: Sequence[Deviation] = ()
    if evidence_order.glance(blocks, bool(spec.qk_norm)):
        blocks, odd, facts = _layout(blocks)
        found = replace(found, spec=replace(found.spec, facts={**found.spec.facts, **facts}))
    found = _rotary(_heads(found, blocks), blocks)
    still = _never_trained(found.tensors, numbers)
    return replace(found, findings=(*found.findings, *_said(odd, numbers, strict), *still))


@_quietly
def ask(found: Reading) -> Reading:
    """Everything that the weights decide, and every contradiction, block by block; reads the blocks one by one."""
    spec = found.spec
    if spec is None or found.match is None or found.report().error() is not None:
        return found
    found = _author(found)
    numbers = depth_of(found.tensors)
    blocks, odd, facts = _layout(attentions(found.tensors, numbers))
    found = _heads(found, blocks)
    assert found.spec is not None
    found = _rotary(found, blocks)
    assert found.spec is not None
    more, grid = _tables(found.tensors, found.spec)
    seen, values = told(survey(found.tensors), found.tensors)
    spec = replace(found.spec, facts={**found.spec.facts, **facts, **grid, **values})
    findings = (*found.findings, *_said(odd, numbers, True), *more, *seen)
    return replace(found, spec=spec, findings=findings)


@_quietly
def odd_blocks(tensors: Mapping[str, Lazy], spec: Spec, spare: int = 0) -> tuple[Finding, ...]:
    """Odd blocks among those that `settle` did not read; for whoever reads every byte anyway.

    Arguments:
        tensors: canonical name → tensor, as the file has them.
        spec: the architecture.
        spare: processors that are left to others.
    """
    numbers = depth_of(tensors)
    seen = {numbers[n] for n in evidence.sample(len(numbers), spec.embed_dim, BUDGET)}
    if len(seen) == len(numbers):
        return ()
    blocks = attentions(tensors, numbers, spare)
    if not any(evidence_order.glance([b], bool(spec.qk_norm)) for b in blocks):
        return ()
    new = {f"blocks.{n}" for n in numbers if n not in seen}
    return tuple(_said([d for d in _layout(blocks)[1] if d.name in new], numbers, False))


def attentions(tensors: Mapping[str, Lazy], numbers: Sequence[int], spare: int = 0) -> list[Attention]:
    """The norms of the attention weights of some blocks; blocks that cannot be read are left out."""

    def attention(i: int) -> Attention | None:
        names = [f"blocks.{i}.attn.{part}.weight" for part in ("q", "k", "v", "out")]
        if not all(name in tensors and len(tensors[name].shape) == 2 for name in names):
            return None
        buffer = room(tensors[name] for name in names)
        q, k, v, out = (_norms(tensors[name], buffer) for name in names)
        if q is None or k is None or v is None or out is None:
            return None
        return Attention(q, k, v, out, f"blocks.{i}", *(_bias(tensors, i, part) for part in "qk"))

    each = sum(t.nbytes for n, t in tensors.items() if n.startswith(f"blocks.{min(numbers, default=0)}.attn."))
    return [found for found in mapped(attention, numbers, each * len(numbers), spare) if found is not None]


def _norms(lazy: Lazy, buffer: memoryview) -> Norms | None:
    """The norms of a matrix, which is read a few rows at a time; None where it cannot be read."""
    import numpy as np

    row = max(1, lazy.shape[1] * ITEMSIZE[lazy.dtype])
    step = len(buffer) // row * row
    if not lazy.pieces or not step or any(piece.size % row for piece in lazy.pieces):
        array = floats(lazy)
        return None if array is None else Norms.of(array)
    found = []
    try:
        for part in chunks(lazy, step, buffer):
            found.append(Norms.of(np.frombuffer(part, np.uint8).view(np_dtype(lazy.dtype)).reshape(-1, lazy.shape[1])))
    except AnyvitError:
        return None
    return Norms(np.concatenate([n.rows for n in found]), np.sum([n.columns for n in found], 0))


def _bias(tensors: Mapping[str, Lazy], block: int, part: str) -> np.ndarray | None:
    lazy = tensors.get(f"blocks.{block}.attn.{part}.bias")
    return None if lazy is None else floats(lazy)


def _heads(found: Reading, blocks: Sequence[Attention]) -> Reading:
    """The head count that the weights show, set against what was believed."""
    spec = found.spec
    assert spec is not None
    grouped = [b for block in blocks if (b := evidence_groups.once(block, spec.heads_dim))]
    verdict = evidence_groups.grouped_heads(grouped) if grouped else evidence.heads(blocks)
    fact = spec.facts["num_heads"]
    said = f"the weights: {verdict.text}"
    if verdict.value is None:
        return _with_fact(found, "num_heads", Fact(fact.value, fact.how, f"{fact.source}; {said}"))
    # keys that were repeated for a head count cannot be counted anew here: the caller says heads=
    if verdict.value == fact.value or (fact.how == "assumed" and not grouped):
        source = said if fact.how == "assumed" else f"{said}; {fact.source} agrees"
        new = spec.with_facts("measured", source, num_heads=int(verdict.value))
        findings = tuple(f for f in found.findings if not (f.kind == "assumed" and f.names == ("num_heads",)))
        if verdict.value != fact.value:
            cause = (
                f"the weights show {verdict.value} heads ({verdict.text}), not the {fact.value} that {fact.source} has"
            )
            findings += (Finding("measured", ("num_heads",), cause, f"heads={fact.value} insists on the other value"),)
        return replace(found, spec=new, findings=findings)
    found = _with_fact(
        found,
        "num_heads",
        Fact(fact.value, fact.how, f"{fact.source}; the weights show {verdict.value}: {verdict.text}"),
    )
    cause = f"num_heads {fact.value} is given by {fact.source}, but the weights show {verdict.value}: {verdict.text}"
    finding = Finding("differs", ("num_heads",), cause, f"heads={verdict.value}")
    return replace(found, findings=(*found.findings, finding))


PAIRS = "rotary pairs"


def _rotary(found: Reading, blocks: Sequence[Attention]) -> Reading:
    """Which channels the weights show to be rotated together, set against the way the model rotates them."""
    spec = found.spec
    assert spec is not None
    verdict = evidence_rotary.rotary_pairs(blocks, spec.num_heads) if blocks and not spec.qk_norm else None
    if verdict is None or (verdict.value is None and spec.rope is None):
        return found
    own = None
    if spec.rope is not None:
        own = "interleaved" if spec.rope.layout == "interleaved" else "half" if _whole(spec.rope) else "axes"
    found = _with_fact(found, PAIRS, fact(verdict, own, verdict.value))
    if verdict.value in (None, own):
        return found
    ways = evidence_rotary.WAYS
    expected = f"the model rotates {ways[own]}" if own else "the model has no rotary positions"
    cause = f"rotary pairs: the weights show {ways[verdict.value]} turned together ({verdict.text}), but {expected}"
    remedy = "usual cause: rows of q and k permuted for another library's rotation; compare with the original: "
    finding = Finding("differs", ("rope",), cause, remedy + "anyvit verify FILE ORIGINAL")
    return replace(found, findings=(*found.findings, finding))


def _whole(rope: Rope) -> bool:
    return rope.span == "head" or rope.mixed


def _with_fact(found: Reading, name: str, fact: Fact) -> Reading:
    assert found.spec is not None
    return replace(found, spec=replace(found.spec, facts={**found.spec.facts, name: fact}))


def _author(found: Reading) -> Reading:
    """Sin-cos tables tell who computed them: MAE counts columns first, MoCo v3 rows first."""
    spec = found.spec
    assert spec is not None
    table = found.tensors.get("embed.pos")
    if table is None or spec.grid is None or spec.facts["pos_embed"].value not in ("learned", "sincos"):
        return found
    values = floats(table) if _begins_at_zero(table) else None
    author = None if values is None else resample.sincos_author(values, *spec.grid)
    if author is None:
        return found
    words = {"mae": "columns first, as MAE", "moco": "rows first, as MoCo v3", "big_vision": "as big_vision"}
    why = f"the position table is sin-cos, {words.get(author, author)} computes it"
    spec = spec.with_facts("measured", why, pos_embed="sincos")
    heads = spec.facts["num_heads"]
    if author == "moco" and spec.embed_dim == 384 and heads.how == "assumed" and heads.value == 6:
        spec = spec.with_facts("assumed", f"{why}; MoCo v3's ViT-S has 12 heads at width 384", num_heads=12)
    if spec.facts["resample"].how == "assumed" and spec.resample in ("dino", "timm") and author in ("mae", "moco"):
        spec = spec.with_facts("assumed", why, resample="mae" if spec.resample == "dino" else spec.resample)
    return replace(found, spec=spec)


def _begins_at_zero(table: Lazy) -> bool:
    """Whether the first row is sines and cosines of 0, as in every sin-cos table; a learned one is told by that row alone."""
    width = table.shape[1]
    kind = {"float32": "f", "float64": "d"}.get(table.dtype)
    first = split(table, [1, table.shape[0] - 1])[0]
    if kind is None or first.pieces is None or width % 4:
        return True
    try:
        data = b"".join(piece.source.read(piece.offset, piece.size) for piece in first.pieces)
    except AnyvitError:
        return True
    row = struct.unpack(f"<{width}{kind}", data)
    zeros_and_ones = ([0.0] * (width // 4) + [1.0] * (width // 4)) * 2
    return all(abs(value - wanted) <= 1e-3 for value, wanted in zip(row, zeros_and_ones, strict=True))


def _layout(blocks: Sequence[Attention]) -> tuple[list[Attention], list[Deviation], dict[str, Fact]]:
    """The blocks as they are to be read, what deviates from the names, and the facts."""
    turned = evidence_order.transposed(blocks)
    odd = list(turned.value or ())
    straight = _reread(blocks, odd)
    others = [b for b in straight if b.name not in {d.name for d in odd}]
    order = evidence_order.order(others, num_heads=evidence.heads(straight).value)
    found = [d for d in order.value or () if d.name.startswith("all ") or d.name not in {o.name for o in odd}]
    straight = _reread(straight, found)
    if not odd and not found and order.value is None and turned.value is None:
        both = evidence_layout.joint_layout(blocks)
        if both.value is not None and both.value.turned and both.value.v != 2:
            what = f"order of q, k, v and out: {both.value}"
            found = [Deviation(f"all {len(blocks)} blocks", what, both.nats, both.value)]
            straight, order = [evidence_order.reread(b, both.value) for b in blocks], replace(both, value=tuple(found))
    return straight, [*odd, *found], {ORDER: _fact(order), TURNS: _fact(turned)}


def _reread(blocks: Sequence[Attention], odd: Sequence[Deviation]) -> list[Attention]:
    """All blocks as a deviation of the whole file says, single ones as theirs."""
    out = list(blocks)
    for deviation in odd:
        whole = deviation.name.startswith("all ")
        out = [evidence_order.reread(b, deviation.reading) if whole or b.name == deviation.name else b for b in out]
    return out


USUAL = {
    "transposed": "a conversion that transposed twice, or not at all",
    "interleaved": "a fused tensor of another layout (Megatron, some JAX ports) taken for q, k, v one after the other",
    "swapped": "a conversion that fused them in another order",
}
"""Kind of finding → usual cause."""


def _said(odd: Sequence[Deviation], numbers: Sequence[int], strict: bool) -> list[Finding]:
    findings = []
    for d in odd:
        whole = d.name.startswith("all ")
        kind = "transposed" if d.reading.turned and d.reading.v == 2 else "swapped"
        kind = "interleaved" if d.reading.axes != "3 h d" else kind
        sure = f" ({d.nats:.0f} nats)" if math.isfinite(d.nats) else ""
        remedy = f"usual cause: {USUAL[kind]}; compare with the original: anyvit verify FILE ORIGINAL"
        fatal = strict and whole and d.nats >= FAR
        if fatal:
            remedy += "; anyvit.load(path, dialect=…) takes it as it is named all the same"
        names = tuple(f"blocks.{i}" for i in numbers) if whole else (d.name,)
        findings.append(Finding(kind, names, f"{d.name}: {d.what}{sure}", remedy, fatal))
    return findings


def _fact(verdict: Verdict) -> Fact:
    if verdict.value is None:
        return Fact("as named", "assumed", verdict.text)
    value = "as named" if verdict.value == () else "; ".join(map(str, verdict.value))
    return Fact(value, "measured", verdict.text)


def _tables(tensors: Mapping[str, Lazy], spec: Spec) -> tuple[list[Finding], dict[str, Fact]]:
    """The grid and the prefix rows that a learned position table shows."""
    table, prefix = tensors.get("embed.pos"), tensors.get("embed.pos_prefix")
    if table is None or spec.grid is None or spec.pos_embed.startswith("sincos"):
        return [], {}
    import numpy as np

    parts = [floats(t) for t in (prefix, table) if t is not None]
    if any(p is None for p in parts):
        return [], {}
    whole, believed = np.concatenate([p for p in parts if p is not None]), (spec.pos_prefix, *spec.grid)
    counts = {0, spec.num_cls, spec.num_cls + int(spec.dist_token), spec.num_prefix, believed[0]}
    verdict = evidence_tables.positions(whole, [g for g in evidence_tables.grids(len(whole)) if g[0] in counts])
    if verdict.value is None:
        return [], {GRID: Fact(believed, "assumed", verdict.text)}
    told = fact(verdict, believed, verdict.value)
    if tuple(verdict.value) in (believed, (believed[0], believed[2], believed[1])):
        facts = {GRID: replace(told, value=believed)}
        for name, value in (("grid", spec.grid), ("pos_prefix", spec.pos_prefix)):
            if name in spec.facts and "the weights:" not in spec.facts[name].source:
                facts[name] = Fact(value, "measured", f"{spec.facts[name].source}; {told.source}")
        return [], facts
    _, height, width = verdict.value
    cause = f"the position table is read as {believed[0]} + {spec.grid[0]} × {spec.grid[1]}, but {verdict.text}"
    return [Finding("differs", table.origin, cause, f"grid=({height}, {width})")], {GRID: told}


def _never_trained(tensors: Mapping[str, Lazy], numbers: Sequence[int]) -> list[Finding]:
    """A finding where some blocks are as they were initialised; the first norm's gain decides whether more is read."""
    gain = tensors.get(f"blocks.{numbers[0]}.norm1.weight") if numbers else None
    values = None if gain is None else floats(gain)
    if values is None or not values.size or not (values == values[0]).all():
        return []
    wanted = tuple(f"blocks.{i}." for i in numbers[:2])
    some = {name: t for name, t in tensors.items() if name.startswith(wanted) and ".adaln." not in name}
    return fresh(survey(some).traces)
