"""Whether two models compute the same function, layer by layer: the first divergence, its cause, the tolerance."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anyvit.errors import BadArgument, NotAViT
from anyvit.report import Finding, order
from anyvit.spec import Spec, pair
from anyvit.tolerance import LayerDiff, Noise
from anyvit.torch_io import require_torch

if TYPE_CHECKING:
    from torch import Tensor

    from anyvit.causes import Cause
    from anyvit.sides import Side
    from anyvit.watching import Trace

PICTURES = 2
SEED = 0
FACTS = ("num_heads", "eps", "act")
"""Facts that a live module tells and its tensors do not."""


@dataclass(frozen=True)
class Verification:
    """The result of a comparison of a and b.

    Arguments:
        ok: whether all layers and outputs that both have agree within the tolerance.
        layers: the differences in the order of computing.
        first: the first layer that differs, None where none does.
        cause: why, where it was found out.
        remedy: the line to type.
        tolerance: how much rounding may do, and how that is known.
        findings: what else to know: facts in which the models differ, what was left out of the comparison.
        a, b: what was compared.
        pixels: shape (B, C, H, W) of the pictures.
    """

    ok: bool
    layers: tuple[LayerDiff, ...]
    first: str | None
    cause: str | None
    remedy: str | None
    tolerance: str
    findings: tuple[Finding, ...]
    a: str
    b: str
    pixels: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """The result as plain values; what is not finite is None."""
        numbers = ("max_abs", "relative_rms", "cosine", "tolerance")
        layers = [{**vars(layer), **{n: _finite(getattr(layer, n)) for n in numbers}} for layer in self.layers]
        findings = [
            {"kind": f.kind, "names": list(f.names), "cause": f.cause, "remedy": f.remedy} for f in self.findings
        ]
        return {**vars(self), "layers": layers, "findings": findings, "pixels": list(self.pixels)}

    def to_json(self, **options: Any) -> str:
        """The result as a JSON text; `options` go to json.dumps."""
        return json.dumps(self.as_dict(), **options)

    def __str__(self) -> str:
        head = "the same function" if self.ok else f"not the same function: they part at {self.first}"
        lines = [head, f"  a: {self.a}", f"  b: {self.b}", f"  on pictures {' × '.join(map(str, self.pixels))}", ""]
        lines += [f"{'layer':<12} {'max |Δ|':>10} {'tolerance':>10} {'rms Δ/b':>10} {'cosine':>11}"]
        lines += [_row(layer) for layer in _shown(self.layers, self.first)]
        texts = {"cause": self.cause, "try": self.remedy, "tolerance": self.tolerance}
        for label, text in texts.items():
            lines += ["", *_wrapped(f"{label}: {text}")] if text else []
        findings = [line for finding in self.findings for line in str(finding).splitlines()]
        room = 40 - len(lines)
        if len(findings) > room:
            findings = [*findings[: room - 1], f"… {len(findings) - room + 1} more lines in .findings"]
        return "\n".join(lines + findings)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _row(layer: LayerDiff | None) -> str:
    if layer is None:
        return "…"
    mark = "" if layer.ok else "  ✘"
    return (
        f"{layer.name:<12} {layer.max_abs:>10.2e} {layer.tolerance:>10.2e} "
        f"{layer.relative_rms:>10.2e} {layer.cosine:>11.8f}{mark}"
    )


def _shown(layers: Sequence[LayerDiff], first: str | None) -> list[LayerDiff | None]:
    """At most 16 rows: the first ones, those around the divergence, the last ones; None for what is left out."""
    if len(layers) <= 16:
        return list(layers)
    at = next((i for i, layer in enumerate(layers) if layer.name == first), 0)
    keep = sorted({0, 1, 2, at - 1, at, at + 1, at + 2, *range(len(layers) - 6, len(layers))} & set(range(len(layers))))
    rows: list[LayerDiff | None] = []
    for before, i in zip([-1, *keep], keep, strict=False):
        rows += [None] if i - before > 1 else []
        rows.append(layers[i])
    return rows


def verify(
    a: Any,
    b: Any,
    *,
    images: Tensor | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Verification:
    """Runs two models on the same pictures and says where they part and why.

    Arguments:
        a, b: each a path, a mapping name → tensor, a `ViT`, or any module (timm, transformers, open_clip, dinov2, your
            own); modules stay as they are: hooks are removed, training mode is put back.
        images: (B, C, H, W) normalised pixels; None draws two of normal noise, always the same.
        image_size: pixels, int or (height, width); None takes the native size.

    Returns:
        A Verification; `str` of it is a table.

    Raises:
        FileError, NotAViT, Incomplete: a or b cannot be loaded.
        BadArgument: a or b cannot be run on pictures of this size.

    Example:
        >>> from anyvit.model import ViT
        >>> from anyvit.spec import Spec
        >>> vit = ViT(Spec(embed_dim=16, depth=2, num_heads=2, mlp_dim=32, image_size=32))
        >>> result = verify(vit, vit)
        >>> result.ok, [layer.name for layer in result.layers], max(layer.max_abs for layer in result.layers)
        (True, ['embed', 'blocks.0', 'blocks.1', 'tokens', 'pooled'], 0.0)
    """
    require_torch("to run models")
    from anyvit.sides import open_side

    return _compare(open_side("a", a), open_side("b", b), images, image_size)


def _compare(a: Side, b: Side, images: Tensor | None, size: int | tuple[int, int] | None) -> Verification:
    from anyvit.watching import run

    channels = _channels(a, b)
    if isinstance(channels, str):
        return Verification(False, (), None, channels, None, "not needed", (), a.title, b.title, ())
    pixels = _pictures(images, _size(a, b, size), channels)
    condition, notes = _condition(a, b, len(pixels))
    traces = run(a, pixels, condition), run(b, pixels, condition)
    findings = [*a.own, *b.own, *notes, *_facts(a, b), *_sizes(a, b, pixels)]
    traces, more = _alike(a, b, *traces)
    findings += more
    noise = Noise(a, b, traces, pixels, condition)
    traces, more = _in_order(*traces, noise)
    noise.traces = traces
    findings += more
    names = [name for name in traces[0] if name in traces[1] and name != "normed"]
    if not names:
        raise NotAViT(
            "the two models have no layer and no output in common", found=f"{list(traces[0])}, {list(traces[1])}"
        )
    layers = tuple(noise.layer(name, *(trace[name] for trace in traces)) for name in names)
    if not all(layer.ok for layer in layers):
        findings += noise.measure()
        layers = tuple(noise.layer(name, *(trace[name] for trace in traces)) for name in names)
    result = Verification(
        True, layers, None, None, None, noise.text, order(findings), a.title, b.title, tuple(pixels.shape)
    )
    return _explained(result, noise)


def _channels(a: Side, b: Side) -> int | str:
    """Channels of the pictures, or why none suit both."""
    counts = [side.spec.in_chans for side in (a, b) if side.spec]
    if len(set(counts)) > 1:
        return f"a takes pictures of {counts[0]} channels, b of {counts[1]}"
    return counts[0] if counts else 3


def _size(a: Side, b: Side, asked: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the pictures: what is asked for, else a size that one of them must have."""
    if asked is not None:
        return pair(asked)
    sides = sorted((a, b), key=lambda side: side.known)  # a module may take its native size only, our ViT takes any
    natives = (pair(s.spec.image_size) for s in sides if s.spec is not None and s.spec.image_size is not None)
    height, width = next(natives, (224, 224))
    patches = [side.spec.patch for side in sides if side.spec] or [(16, 16)]
    rows, columns = (math.lcm(*sizes) for sizes in zip(*patches, strict=True))  # whole patches on both sides
    return (height // rows or 1) * rows, (width // columns or 1) * columns


def _pictures(images: Tensor | None, size: tuple[int, int], channels: int) -> Tensor:
    import torch

    if images is None:
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(PICTURES, channels, *size, generator=generator)
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise BadArgument(
            "images is a batch of normalised pixels", found=found, expected=f"floating point, (B, {channels}, H, W)",
            remedy="images=vit.preprocess(picture)",
        )  # fmt: skip
    return images


def _condition(a: Side, b: Side, count: int) -> tuple[Tensor | None, list[Finding]]:
    """The same seeded condition for both where both take one; else no modulation, and a note."""
    import torch

    from anyvit.watching import takes_condition

    conditioned = [side for side in (a, b) if side.spec and side.spec.condition]
    if not conditioned:
        return None, []
    spec = conditioned[0].spec
    if len(conditioned) == 2 and all(takes_condition(side) for side in (a, b)) and spec:
        generator = torch.Generator().manual_seed(SEED + 1)
        return torch.randn(count, spec.embed_dim, generator=generator), []
    who = " and ".join(side.name for side in (a, b) if side not in conditioned or not takes_condition(side))
    cause = f"{who} takes no condition that verify knows how to give: both are compared without modulation"
    return None, [Finding("condition", (), cause)]


def _facts(a: Side, b: Side) -> list[Finding]:
    """Facts that differ, whether or not these pictures show it."""
    if a.spec is None or b.spec is None:
        return []
    found = []
    for name in FACTS:
        one, two = getattr(a.spec, name), getattr(b.spec, name)
        if one == two or (name == "act" and a.spec.ffn != "mlp" != b.spec.ffn):
            continue
        cause = f"{name} is {_fact(a.spec, name)} in a and {_fact(b.spec, name)} in b"
        found.append(Finding("differs", (name,), cause))
    return found


def _fact(spec: Spec, name: str) -> str:
    fact = spec.facts.get(name)
    return f"{getattr(spec, name)} ({fact.how})" if fact else str(getattr(spec, name))


def _sizes(a: Side, b: Side, pixels: Tensor) -> list[Finding]:
    """Sides whose position tables are resized for these pictures."""
    size = tuple(pixels.shape[-2:])
    found = []
    for side in (a, b):
        native = side.spec.image_size if side.spec else None
        if native is not None and pair(native) != size:
            cause = (
                f"{side.name} is made for pictures of {pair(native)} and is run at {size}: its positions are resized"
            )
            found.append(Finding("resized", (), cause))
    return found


def _alike(a: Side, b: Side, one: Trace, two: Trace) -> tuple[tuple[Trace, Trace], list[Finding]]:
    """Outputs of one name that mean different things are made to mean the same, or left out."""
    one, two, findings = dict(one), dict(two), []
    raw = [_before_norm(trace) for trace in (one, two)]
    if "tokens" in one and "tokens" in two and raw[0] != raw[1]:
        before, after = ("a", "b") if raw[0] else ("b", "a")
        cause = f"the feature function of {before} gives tokens before the final norm, that of {after} after it"
        mine = one if raw[0] else two
        if "normed" in mine:
            mine["tokens"] = mine["normed"]
        else:
            del one["tokens"], two["tokens"]
        findings.append(Finding("differs", ("tokens_normed",), cause))
    dense = [bool(side.spec and side.spec.pre_logits_dim) for side in (a, b)]
    if "pooled" in one and "pooled" in two and dense[0] != dense[1]:
        del one["pooled"], two["pooled"]
        cause = (
            f"{'a' if dense[0] else 'b'} has a dense layer (pooler, pre-logits) after pooling: pooled is not compared"
        )
        findings.append(Finding("differs", ("pooled",), cause))
    for name in ("logits", "embedding"):
        if name in one and name in two and one[name].shape != two[name].shape:
            cause = f"{name} are {one[name].shape[1]} in a and {two[name].shape[1]} in b: not compared"
            del one[name], two[name]
            findings.append(Finding("differs", (name,), cause))
    return (one, two), findings


def _before_norm(trace: Trace) -> bool:
    import torch

    last = [value for name, value in trace.items() if name.startswith("blocks.")]
    return bool(last) and "tokens" in trace and torch.equal(last[-1], trace["tokens"])


def _in_order(one: Trace, two: Trace, noise: Noise) -> tuple[tuple[Trace, Trace], list[Finding]]:
    """b's tokens in a's order, where they are the same tokens in another."""
    import torch

    if "embed" not in one or "embed" not in two or one["embed"].shape != two["embed"].shape:
        return (one, two), []
    x, y = one["embed"], two["embed"]
    limit = noise.tolerance("embed", x, y)
    if float((x - y).abs().max()) <= limit or not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        return (one, two), []
    far = torch.cdist(x[0], y[0], compute_mode="donot_use_mm_for_euclid_dist")  # (N, N)
    nearest = far.argmin(1)
    if len(set(nearest.tolist())) < len(nearest) or float((x - y[:, nearest]).abs().max()) > limit:
        return (one, two), []
    count = x.shape[1]
    turned = {n: v[:, nearest] if v.ndim == 3 and v.shape[1] == count else v for n, v in two.items()}
    moved = int((nearest != torch.arange(count)).sum())
    cause = f"b has the tokens in another order ({moved} of {count} moved, a's first stands at {int(nearest[0])})"
    return (one, turned), [Finding("differs", ("tokens",), cause, "mind it where you cut off cls and registers")]


def _explained(result: Verification, noise: Noise) -> Verification:
    """The result with its first divergence and the cause of it."""
    (a, b), traces, pixels, condition = noise.sides, noise.traces, noise.pixels, noise.condition
    depths = len(a.blocks), len(b.blocks)
    first = next((layer for layer in result.layers if not layer.ok), None)
    if first is None and depths[0] == depths[1]:
        return result
    from anyvit.causes import depth_cause, find
    from anyvit.sides import coarsest

    if first is None or (all(depths) and depths[0] != depths[1] and first.name in ("tokens", "pooled", "logits")):
        name = f"blocks.{min(depths)}" if all(depths) else None
        if first is None and not all(depths):
            note = Finding("note", (), "the blocks of one side were not found: only what both show was compared")
            return replace(result, findings=order((*result.findings, note)))
        return replace(result, ok=False, first=name, cause=depth_cause(*depths), remedy=None)
    cause = find(a, b, traces, first, pixels, condition)
    if cause.rounding and (eased := _eased(result, cause, noise, coarsest(a.stored, b.stored))).ok:
        return eased
    findings = order((*result.findings, *cause.findings))
    return replace(result, ok=False, first=first.name, cause=cause.text, remedy=cause.remedy, findings=findings)


def _eased(result: Verification, cause: Cause, noise: Noise, stored: str) -> Verification:
    """The result at the tolerance of 16-bit weights, where the file stores such and nothing else differs."""
    noise.dtype = stored
    layers = tuple(noise.layer(layer.name, *(trace[layer.name] for trace in noise.traces)) for layer in result.layers)
    finding = Finding("rounded", (), f"{cause.text}; allowed for, because {stored} is what is stored")
    findings = order((finding, *cause.findings, *result.findings))
    return replace(result, ok=all(layer.ok for layer in layers), layers=layers, tolerance=noise.text, findings=findings)
