"""Asking the weights of a file what its names and shapes leave open: heads, order of q/k/v, transposes, positions.

Source: docs/evidence.md, where the laws and their limits are measured.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from anyvit import evidence, evidence_layout, evidence_tables, resample
from anyvit.conform import depth_of
from anyvit.errors import AnyvitError
from anyvit.evidence import Attention, Verdict
from anyvit.lazy import Lazy, split
from anyvit.reading import Reading
from anyvit.report import Finding
from anyvit.spec import Fact, Spec

if TYPE_CHECKING:
    import numpy as np

FAR = 40.0
"""Nats from which the weights' word on heads stands against a given value in a finding."""


def settle(found: Reading) -> Reading:
    """Measures what a load would otherwise assume, at a bounded cost: heads from a few blocks, the author of sin-cos tables.

    Arguments:
        found: a reading that can be loaded.
    """
    spec = found.spec
    if spec is None or found.match is None:
        return found
    found = _author(found)
    fact = spec.facts.get("num_heads")
    if fact is None or fact.how == "measured":
        return found
    return _heads(found, evidence.sample(spec.depth, spec.embed_dim, 1 << 22))


def ask(found: Reading) -> Reading:
    """Everything that the weights decide, and every contradiction, block by block."""
    spec = found.spec
    if spec is None or found.match is None or found.report().error() is not None:
        return found
    found = _heads(_author(found), evidence.sample(spec.depth, spec.embed_dim))
    blocks = attentions(found.tensors, depth_of(found.tensors))
    assert found.spec is not None
    findings, facts = _layout(blocks, found.spec)
    more, told = _tables(found.tensors, found.spec)
    spec = replace(found.spec, facts={**found.spec.facts, **facts, **told})
    return replace(found, spec=spec, findings=(*found.findings, *findings, *more, *_fresh(found.tensors)))


def attentions(tensors: Mapping[str, Lazy], numbers: Sequence[int]) -> list[Attention]:
    """The attention weights of some blocks, read as float32; blocks that cannot be read are left out."""
    blocks = []
    for i in numbers:
        names = [f"blocks.{i}.attn.{part}.weight" for part in ("q", "k", "v", "out")]
        if not all(name in tensors for name in names):
            continue
        arrays = [_float(tensors[name]) for name in names]
        if any(a is None for a in arrays):
            continue
        q, k, v, out = (a for a in arrays if a is not None)
        blocks.append(Attention(q, k, v, out, f"blocks.{i}", *(_bias(tensors, i, part) for part in "qk")))
    return blocks


def _float(lazy: Lazy) -> np.ndarray | None:
    import numpy as np

    try:
        return lazy.read().astype(np.float32)
    except AnyvitError:
        return None


def _bias(tensors: Mapping[str, Lazy], block: int, part: str) -> np.ndarray | None:
    lazy = tensors.get(f"blocks.{block}.attn.{part}.bias")
    return None if lazy is None else _float(lazy)


def _heads(found: Reading, numbers: Sequence[int]) -> Reading:
    """The head count that the weights show, set against what was believed."""
    spec = found.spec
    assert spec is not None
    verdict = evidence.heads(attentions(found.tensors, [depth_of(found.tensors)[n] for n in numbers]))
    fact = spec.facts["num_heads"]
    if verdict.value is None:
        note = Fact(fact.value, fact.how, f"{fact.source}; the weights: {verdict.text}")
        return replace(found, spec=replace(spec, facts={**spec.facts, "num_heads": note}))
    if verdict.value == fact.value or fact.how == "assumed":
        new = spec.with_facts("measured", f"the weights: {verdict.text}", num_heads=int(verdict.value))
        findings = tuple(f for f in found.findings if not (f.kind == "assumed" and f.names == ("num_heads",)))
        if verdict.value != fact.value:
            cause = (
                f"the weights show {verdict.value} heads ({verdict.text}), not the {fact.value} that {fact.source} has"
            )
            findings += (Finding("measured", ("num_heads",), cause, f"heads={fact.value} insists on the other value"),)
        return replace(found, spec=new, findings=findings)
    cause = f"num_heads {fact.value} is given by {fact.source}, but the weights show {verdict.value}: {verdict.text}"
    finding = Finding("differs", ("num_heads",), cause, f"heads={verdict.value}")
    return replace(found, findings=(*found.findings, finding)) if verdict.nats > FAR else found


def _author(found: Reading) -> Reading:
    """Sin-cos tables tell who computed them: MAE counts columns first, MoCo v3 rows first."""
    spec = found.spec
    assert spec is not None
    table = found.tensors.get("embed.pos")
    if table is None or spec.grid is None or spec.facts["pos_embed"].value not in ("learned", "sincos"):
        return found
    values = _float(table) if _begins_at_zero(table) else None
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


def _layout(blocks: Sequence[Attention], spec: Spec) -> tuple[list[Finding], dict[str, Fact]]:
    findings: list[Finding] = []
    facts: dict[str, Fact] = {}
    for name, verdict, usual in (
        (
            "order of q, k, v",
            evidence_layout.order(blocks, num_heads=spec.num_heads),
            "a conversion that fused them in another order",
        ),
        ("transposes", evidence_layout.transposed(blocks), "a conversion that transposed twice, or not at all"),
    ):
        facts[name] = _fact(verdict)
        for deviation in verdict.value or ():
            remedy = f"usual cause: {usual}; compare with the original: anyvit verify FILE ORIGINAL"
            findings.append(
                Finding("swapped", (deviation.name,), f"{deviation.what} ({deviation.nats:.0f} nats)", remedy)
            )
    return findings, facts


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

    parts = [_float(t) for t in (prefix, table) if t is not None]
    if any(p is None for p in parts):
        return [], {}
    verdict = evidence_tables.positions(np.concatenate([p for p in parts if p is not None]))
    believed = (spec.pos_prefix, *spec.grid)
    if verdict.value is None:
        return [], {"grid of the position table": Fact(believed, "assumed", verdict.text)}
    if tuple(verdict.value) in (believed, (believed[0], believed[2], believed[1])):
        return [], {"grid of the position table": Fact(believed, "measured", verdict.text)}
    count, height, width = verdict.value
    cause = f"the position table is read as {believed[0]} + {spec.grid[0]} × {spec.grid[1]}, but {verdict.text}"
    finding = Finding("differs", table.origin, cause, f"grid=({height}, {width})")
    return [finding], {"grid of the position table": Fact((count, height, width), "measured", verdict.text)}


def _fresh(tensors: Mapping[str, Lazy]) -> list[Finding]:
    """Groups of tensors that never left their initial values: a model, a head or a modulation that was not trained."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, lazy in tensors.items():
        if name.startswith("embed."):
            continue
        group = "AdaLN modulation" if ".adaln." in name else name.split(".")[0]
        values = _float(lazy)
        if values is not None:
            groups.setdefault("the blocks" if group == "blocks" else group, {})[name] = values
    findings = []
    for group, arrays in groups.items():
        verdict = evidence_tables.untrained(arrays)
        if verdict.value:
            names = (group,) if group[0].isupper() or " " in group else tuple(arrays)[:4]
            cause = f"{group}: {verdict.text}"
            findings.append(
                Finding("untrained", names, cause, "if it was meant to be trained, the wrong thing was saved")
            )
    return findings
